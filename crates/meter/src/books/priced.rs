//! Records' emissions, and what a record says of the intensity that they were priced by.

use wattle_runlog::grid::GridShares;
use wattle_runlog::record::{Carbon, Cost, Cumulative};
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules, WallAnchor};

use crate::books::ledger::Ledger;
use crate::books::pricing::{Rates, facility};
use crate::windows::window::{WindowEnergy, share};

impl Ledger {
    fn rates(&self, segment: u32) -> Rates<'_> {
        let options = &self.options;
        let intensity = options.carbon.intensity_g_per_kwh;
        Rates { pue: options.pue, intensity, table: self.table.as_ref(), grid: self.grids.get(&segment) }
    }

    /// Emissions of a window of a segment, and by which intensity.
    pub(crate) fn price(
        &self,
        window: &WindowEnergy,
        segment: u32,
        anchor: WallAnchor,
    ) -> (GramsCo2e, Carbon) {
        let between = |from, to| window.between(from, to);
        let rates = self.rates(segment);
        let emissions = rates.emissions(anchor, (window.start, window.end), window.energy, &between);
        let carbon = match (rates.grid, rates.table) {
            (Some(grid), _) => {
                let shares = emissions.by_grid.shares(grid.origin().clone(), window.energy);
                let kwh = facility(window.energy, rates.pue).kwh();
                self.gridded(shares, emissions.grams, kwh, share(emissions.tabled, window.energy))
            }
            (None, Some(_)) => {
                let fraction = 1.0 - share(emissions.uncovered, window.energy);
                self.tabled(emissions.grams, window.energy, fraction)
            }
            (None, None) => self.options.carbon.clone(),
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
            grid: None,
        }
    }

    /// What is said of a price by the grid's figures: the mean intensity that it came to, how much of the energy each
    /// kind of figure covered, and what priced the rest. `tabled` is the share that the table priced.
    fn gridded(&self, shares: GridShares, grams: GramsCo2e, facility_kwh: f64, tabled: f64) -> Carbon {
        let carbon = &self.options.carbon;
        let has_energy = facility_kwh > 0.0;
        let origin = &shares.origin;
        let mut parts: Vec<String> = [
            ("live", shares.live_fraction),
            ("estimated", shares.estimated_fraction),
            ("forecast", shares.forecast_fraction),
            ("held", shares.held_fraction),
            ("by carbon.table", tabled),
        ]
        .into_iter()
        .filter(|(_, fraction)| *fraction > 0.0)
        .map(|(name, fraction)| format!("{:.1} % {name}", fraction * 100.0))
        .collect();
        let rest = 1.0 - shares.known_fraction() - tabled;
        if has_energy && rest > NOTHING {
            parts.push(format!(
                "{:.1} % by {} of {} ({})",
                rest * 100.0,
                carbon.basis,
                carbon.region,
                carbon.source
            ));
        }
        Carbon {
            intensity_g_per_kwh: match has_energy {
                true => GramsPerKwh(grams.get() / facility_kwh),
                false => carbon.intensity_g_per_kwh,
            },
            region: origin.zone.clone(),
            source: origin.provider.clone(),
            year: None,
            basis: format!("{}, by the moment of use: {}", origin.counts, parts.join(", ")),
            table_fraction: self.table.is_some().then_some(tabled),
            grid: Some(shares),
        }
    }

    /// By which intensity the whole run was priced.
    pub(crate) fn whole_carbon(&self) -> Carbon {
        let Cumulative { energy_j, emissions_g, .. } = self.totals.cumulative;
        match (self.totals.rates.carbons.as_slice(), &self.table) {
            ([first, second, ..], _) => self.mixed(first, second),
            ([Carbon { grid: Some(shares), .. }], _) => {
                let shares = self.totals.by_grid.shares(shares.origin.clone(), energy_j);
                let tabled = share(self.totals.tabled, energy_j);
                self.gridded(shares, emissions_g, self.totals.facility_kwh, tabled)
            }
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
        let asked = carbons.iter().find_map(|carbon| carbon.grid.as_ref());
        let grid = asked.map(|shares| self.totals.by_grid.shares(shares.origin.clone(), energy_j));
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
            grid,
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

/// A smaller share of the energy is what rounding leaves.
const NOTHING: f64 = 1e-9;

/// The region of a run whose segments were priced by those of several.
const MIXED: &str = "mixed";

/// An intensity for a list of several.
fn described(carbon: &Carbon) -> String {
    match (&carbon.grid, carbon.table_fraction) {
        (Some(grid), _) => format!("the grid's figures ({} {})", grid.origin.provider, grid.origin.zone),
        (None, Some(_)) => carbon.source.clone(),
        (None, None) => format!("{} g/kWh ({})", carbon.intensity_g_per_kwh.get(), carbon.region),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::ledger::tests::{entry, options};
    use wattle_runlog::MonotonicNs;
    use wattle_runlog::grid::{GridBasis, GridOrigin, Intensities, Row};
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

    fn grid(rows: &[(u64, u64, f64, GridBasis)]) -> Intensities {
        let [provider, zone, counts] = ["uk", "GB", "direct CO2"].map(str::to_owned);
        let mut known = Intensities::new(GridOrigin { provider, zone, counts });
        for (from, to, g, basis) in rows {
            let [from, to] = [from, to].map(|s| MonotonicNs(s * 1_000_000_000));
            known.insert(Row { from, to, intensity: GramsPerKwh(*g), basis: *basis });
        }
        known
    }

    #[test]
    fn each_joule_has_the_grids_price_of_its_moment_and_the_record_says_by_what_kind_of_figure() {
        let mut ledger = Ledger::new(options(0));
        ledger.set_grid(0, grid(&[(0, 10, 100.0, GridBasis::Live), (10, 20, 300.0, GridBasis::Forecast)]));
        let hour = ledger.record(entry(RecordKind::Epoch, 0, 20, 3.6e6, 0));
        assert!((hour.emissions_g.get() - 200.0 * 1.5).abs() < 1e-6, "{hour:?}");
        assert!((hour.carbon.intensity_g_per_kwh.get() - 200.0).abs() < 1e-6);
        let shares = hour.carbon.grid.clone().unwrap();
        assert_eq!((shares.live_fraction, shares.forecast_fraction), (0.5, 0.5));
        assert_eq!((hour.carbon.source.as_str(), hour.carbon.region.as_str()), ("uk", "GB"));
        assert_eq!(hour.carbon.basis, "direct CO2, by the moment of use: 50.0 % live, 50.0 % forecast");
        // The provider falls silent: the last figure holds for another ten seconds, then 400 g/kWh are as given.
        let silent = ledger.record(entry(RecordKind::Epoch, 20, 40, 3.6e6, 0));
        let shares = silent.carbon.grid.clone().unwrap();
        assert_eq!((shares.held_fraction, shares.known_fraction()), (0.5, 0.5));
        assert!((silent.emissions_g.get() - 350.0 * 1.5).abs() < 1e-6, "{silent:?}");
        assert!(
            silent
                .carbon
                .basis
                .ends_with("50.0 % held, 50.0 % by as given of custom (carbon.intensity_g_per_kwh)"),
            "{}",
            silent.carbon.basis
        );
        let run = ledger.whole_run(true, Resources::default(), Overhead::default());
        let shares = run.carbon.grid.clone().unwrap();
        assert_eq!((shares.live_fraction, shares.held_fraction, shares.known_fraction()), (0.25, 0.25, 0.75));
        assert_eq!(run.emissions_g, hour.emissions_g + silent.emissions_g);
        assert!((run.carbon.intensity_g_per_kwh.get() - 275.0).abs() < 1e-6);
        // A process that resumes it and asks nobody has a price of its own beside that.
        let records = [hour, silent];
        let mut later = Ledger::resume(options(1), &records);
        later.record(entry(RecordKind::Epoch, 0, 20, 3.6e6, 0));
        let mixed = later.whole_run(true, Resources::default(), Overhead::default()).carbon;
        assert!(mixed.basis.contains("the grid's figures (uk GB) and 400 g/kWh (custom)"), "{}", mixed.basis);
        assert!((mixed.grid.unwrap().known_fraction() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_the_grid_does_not_tell_a_table_does() {
        let text = "timestamp,g_per_kwh\n2026-09-21T14:13:30Z,700\n2026-09-21T14:13:40Z,700\n";
        let table = crate::books::intensity_table::tests::table(text).unwrap();
        let mut ledger = Ledger::new(options(0)).with_table(Some(table));
        ledger.set_grid(0, grid(&[(0, 5, 100.0, GridBasis::Estimated)]));
        let record = ledger.record(entry(RecordKind::Epoch, 0, 20, 3.6e6, 0));
        assert_eq!(record.carbon.table_fraction, Some(0.5));
        assert_eq!(
            record.carbon.basis,
            "direct CO2, by the moment of use: 25.0 % estimated, 25.0 % held, 50.0 % by carbon.table"
        );
        assert!((record.emissions_g.get() - 400.0 * 1.5).abs() < 1e-6, "{record:?}");
    }
}
