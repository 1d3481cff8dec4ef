//! Joules to grams: by one intensity for the whole run, or by a table at the moment of each joule's use.

use wattle_runlog::record::{Carbon, Cumulative};
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules, MonotonicNs, WallAnchor};

use crate::books::ledger::{Ledger, LedgerOptions};
use crate::windows::window::{WindowEnergy, share};

impl Ledger {
    /// Emissions of a window, and by which intensity.
    pub(crate) fn price(&self, window: &WindowEnergy, anchor: WallAnchor) -> (GramsCo2e, Carbon) {
        let LedgerOptions { pue, carbon, .. } = &self.options;
        let by_mean = |energy: Joules| carbon.intensity_g_per_kwh * (energy * *pue);
        let Some(table) = &self.table else {
            return (by_mean(window.energy), carbon.clone());
        };
        let moment =
            |wall_ns: i64| MonotonicNs((anchor.monotonic.0 as i64 + wall_ns - anchor.wall_ns) as u64);
        let energy = |from: i64, to: i64| window.between(moment(from), moment(to));
        let (from, to) = (anchor.wall_ns_at(window.start), anchor.wall_ns_at(window.end));
        let priced = table.price(from, to, energy);
        let rest = window.energy - priced.covered;
        let rest = if priced.hole.is_some() && rest > Joules::ZERO { rest } else { Joules::ZERO };
        let grams = priced.grams * *pue + by_mean(rest);
        let fraction = 1.0 - share(rest, window.energy);
        (grams, self.tabled(grams, window.energy, fraction))
    }

    /// What is said of a price by the table: the mean intensity that it came to, and how much it covered.
    fn tabled(&self, grams: GramsCo2e, energy: Joules, fraction: f64) -> Carbon {
        let carbon = &self.options.carbon;
        let kwh = (energy * self.options.pue).kwh();
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
