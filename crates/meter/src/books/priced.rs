//! Records' emissions, and what a record says of the intensity that they were priced by.

use wattle_runlog::record::{Carbon, Cumulative};
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
        match self.table {
            Some(_) => self.tabled(emissions_g, energy_j, share(self.totals.tabled, energy_j)),
            None => self.options.carbon.clone(),
        }
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
