//! Records' emissions, and what a record says of the intensity that they were priced by.

use wattle_runlog::record::{Carbon, Cost, Cumulative};
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules, WallAnchor};

use crate::books::ledger::Ledger;
use crate::books::pricing::{Rates, facility};
use crate::windows::window::{WindowEnergy, share};

impl Ledger {
    fn rates(&self) -> Rates<'_> {
        let options = &self.options;
        let intensity = options.carbon.intensity_g_per_kwh;
        Rates { pue: options.pue, intensity, table: self.table.as_ref() }
    }

    /// Emissions of a window, and by which intensity.
    pub(crate) fn price(&self, window: &WindowEnergy, anchor: WallAnchor) -> (GramsCo2e, Carbon) {
        let between = |from, to| window.between(from, to);
        let emissions = self.rates().emissions(anchor, (window.start, window.end), window.energy, between);
        let carbon = match self.table {
            Some(_) => {
                let fraction = 1.0 - share(emissions.uncovered, window.energy);
                self.tabled(emissions.grams, window.energy, fraction)
            }
            None => self.options.carbon.clone(),
        };
        (emissions.grams, carbon)
    }

    /// What is said of a price by the table: the mean intensity that it came to, and how much it covered.
    fn tabled(&self, grams: GramsCo2e, energy: Joules, fraction: f64) -> Carbon {
        let carbon = &self.options.carbon;
        let kwh = facility(energy, self.options.pue).kwh();
        let mean = if kwh > 0.0 { GramsPerKwh(grams.get() / kwh) } else { carbon.intensity_g_per_kwh };
        let table = self.table.as_ref().map_or(String::new(), |table| table.path().display().to_string());
        let basis = match fraction {
            _ if fraction >= 1.0 => "table by the moment of use".to_owned(),
            _ => format!(
                "table by the moment of use for {:.1} % of the energy; {} of {} ({}) for the rest",
                fraction * 100.0,
                carbon.basis,
                carbon.region,
                carbon.source
            ),
        };
        Carbon {
            intensity_g_per_kwh: mean,
            region: carbon.region.clone(),
            source: format!("carbon.table {table}"),
            year: None,
            basis,
            table_fraction: Some(fraction),
        }
    }

    /// By which intensity the whole run was priced.
    pub(crate) fn whole_carbon(&self) -> Carbon {
        let Cumulative { energy_j, emissions_g, .. } = self.totals.cumulative;
        match (self.totals.rates.carbons.as_slice(), &self.table) {
            ([first, second, ..], _) => self.mixed(first, second),
            ([one], _) if one.table_fraction.is_none() => one.clone(),
            (_, Some(_)) => self.tabled(emissions_g, energy_j, share(self.totals.tabled, energy_j)),
            (_, None) => self.options.carbon.clone(),
        }
    }

    /// What is said of a run whose segments were priced by several intensities: the mean that they came to.
    fn mixed(&self, first: &Carbon, second: &Carbon) -> Carbon {
        let Cumulative { energy_j, emissions_g, .. } = self.totals.cumulative;
        let carbons = &self.totals.rates.carbons;
        let kwh = self.totals.facility_kwh;
        let region =
            if carbons.iter().all(|carbon| carbon.region == first.region) { &first.region } else { MIXED };
        let is_tabled = carbons.iter().any(|carbon| carbon.table_fraction.is_some());
        let of_segments: Vec<String> = carbons.iter().map(described).collect();
        Carbon {
            intensity_g_per_kwh: match kwh > 0.0 {
                true => GramsPerKwh(emissions_g.get() / kwh),
                false => second.intensity_g_per_kwh,
            },
            region: region.to_owned(),
            source: "each segment's own".to_owned(),
            year: None,
            basis: format!("the mean of segments with {}", of_segments.join(" and ")),
            table_fraction: is_tabled.then(|| share(self.totals.tabled, energy_j)),
        }
    }

    /// The building's factor over the whole run.
    pub(crate) fn whole_pue(&self) -> f64 {
        let (energy_kwh, facility_kwh) = (self.totals.cumulative.energy_j.kwh(), self.totals.facility_kwh);
        match self.totals.rates.pues.as_slice() {
            [] => self.options.pue,
            [one] => *one,
            [.., _] if energy_kwh > 0.0 => facility_kwh / energy_kwh,
            [.., last] => *last,
        }
    }

    /// The cost of the whole run, or of as much of it as had a tariff; `None` if no part had one.
    pub(crate) fn whole_cost(&self) -> Option<Cost> {
        let Cumulative { cost, cost_fraction, energy_j, .. } = self.totals.cumulative;
        let rates = &self.totals.rates;
        match (cost, &rates.currency) {
            (Some(value), Some(currency)) => Some(Cost {
                value,
                currency: currency.clone(),
                tariff_per_kwh: rates.tariff(value)?,
                energy_fraction: cost_fraction,
            }),
            _ => {
                let nothing_of = (energy_j > Joules::ZERO).then_some(0.0);
                let cost = self.options.tariff.as_ref()?.cost(0.0);
                Some(Cost { energy_fraction: nothing_of, ..cost })
            }
        }
    }
}

/// The region of a run whose segments were priced by those of several.
const MIXED: &str = "mixed";

/// An intensity for a list of several.
fn described(carbon: &Carbon) -> String {
    match carbon.table_fraction {
        Some(_) => carbon.source.clone(),
        None => format!("{} g/kWh ({})", carbon.intensity_g_per_kwh.get(), carbon.region),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::ledger::tests::{entry, options};
    use wattle_runlog::record::{Overhead, RecordKind, Resources};

    #[test]
    fn with_a_table_each_joule_has_its_price_and_the_rest_is_said() {
        // The anchor is 14:13:20; the table begins ten seconds after it and has ten-second intervals.
        let text = "timestamp,g_per_kwh\n2026-09-21T14:13:30Z,100\n2026-09-21T14:13:40Z,300\n";
        let table = crate::books::intensity_table::tests::table(text).unwrap();
        let mut ledger = Ledger::new(options(0)).with_table(Some(table));
        let hour = ledger.record(entry(RecordKind::Epoch, 10, 30, 3.6e6, 0));
        // A kilowatt-hour evenly over both, times the PUE.
        assert!((hour.emissions_g.get() - 200.0 * 1.5).abs() < 1e-6, "{hour:?}");
        assert_eq!((hour.carbon.table_fraction, hour.carbon.year), (Some(1.0), None));
        let half = ledger.record(entry(RecordKind::Epoch, 30, 50, 3.6e6, 0));
        assert_eq!(half.carbon.table_fraction, Some(0.0));
        assert!((half.emissions_g.get() - 400.0 * 1.5).abs() < 1e-6, "{half:?}");
        assert!(half.carbon.basis.contains("0.0 % of the energy"), "{}", half.carbon.basis);
        let run = ledger.whole_run(true, Resources::default(), Overhead::default());
        assert_eq!(run.carbon.table_fraction, Some(0.5));
        assert!((run.carbon.intensity_g_per_kwh.get() - 300.0).abs() < 1e-6);
        assert_eq!(run.emissions_g, hour.emissions_g + half.emissions_g);
    }
}
