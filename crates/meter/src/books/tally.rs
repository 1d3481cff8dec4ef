//! What a segment has used so far, between two records: for the terminal and for budgets.

use wattle_runlog::grid::Intensities;
use wattle_runlog::{GramsCo2e, Joules, MonotonicNs};

use crate::books::pricing::{Pricing, Tariff, facility_kwh};

/// A running sum of energy, emissions and cost. Each joule is priced when it is seen, some twenty times a second
/// or once a step; the records price them again from the trace.
#[derive(Clone, Debug)]
pub struct Tally {
    pricing: Pricing,
    /// What earlier segments used.
    carried: Used,
    energy: Joules,
    emissions: GramsCo2e,
    at: MonotonicNs,
}

/// What a run has used so far, over all its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Energy of all sensors.
    pub energy: Joules,
    /// Energy of the building.
    pub facility_kwh: f64,
    /// Emissions.
    pub emissions: GramsCo2e,
    /// Cost, if there is a tariff.
    pub cost: Option<f64>,
    /// The energy that `cost` covers: all of it, unless the run had no tariff for a part.
    pub priced: Joules,
}

impl Tally {
    /// Nothing yet, after what earlier segments used.
    pub fn new(pricing: Pricing, carried: Used) -> Self {
        let (energy, emissions) = (Joules::ZERO, GramsCo2e::ZERO);
        Self { pricing, carried, energy, emissions, at: MonotonicNs::now() }
    }

    /// By `now` the segment has used `energy`.
    pub fn see(&mut self, now: MonotonicNs, energy: Joules) {
        let part = energy - self.energy;
        self.emissions += self.price(self.at, now, part);
        (self.energy, self.at) = (energy, now);
    }

    /// What is known of the grid from now on: what was seen before keeps its price.
    pub fn set_grid(&mut self, grid: &Intensities) {
        self.pricing.grid = Some(grid.clone());
    }

    /// The run so far.
    pub fn used(&self) -> Used {
        let Pricing { pue, tariff, .. } = &self.pricing;
        let kwh = facility_kwh(self.energy, *pue);
        let cost = |tariff: &Tariff| self.carried.cost.unwrap_or(0.0) + tariff.cost(kwh).value;
        Used {
            energy: self.carried.energy + self.energy,
            facility_kwh: self.carried.facility_kwh + kwh,
            emissions: self.carried.emissions + self.emissions,
            cost: tariff.as_ref().map(cost),
            priced: self.carried.priced + self.energy,
        }
    }

    /// Emissions of a part, taken to be used evenly.
    fn price(&self, from: MonotonicNs, to: MonotonicNs, part: Joules) -> GramsCo2e {
        let rates = self.pricing.rates();
        if from >= to {
            return rates.at_mean(part);
        }
        let between = |begin: MonotonicNs, end: MonotonicNs| part * (end.since(begin) / to.since(from));
        rates.emissions(self.pricing.anchor, (from, to), part, &between).grams
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::intensity_table::IntensityTable;
    use wattle_runlog::{GramsPerKwh, WallAnchor};

    fn tally(table: Option<&str>) -> Tally {
        let table = table.map(|text| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            IntensityTable::open(file.path()).unwrap()
        });
        let anchor = WallAnchor { wall_ns: 0, monotonic: MonotonicNs(0) };
        let tariff = Some(Tariff { per_kwh: 0.5, currency: "EUR".to_owned() });
        let pricing = Pricing { pue: 2.0, grid: None, intensity: GramsPerKwh(100.0), table, tariff, anchor };
        let mut tally = Tally::new(pricing, Used { cost: Some(1.0), ..Used::default() });
        tally.at = MonotonicNs(0);
        tally
    }

    #[test]
    fn energy_is_priced_at_the_building() {
        let mut tally = tally(None);
        tally.see(MonotonicNs(1_000_000_000), Joules(1.8e6));
        tally.see(MonotonicNs(2_000_000_000), Joules(3.6e6));
        let used = tally.used();
        assert!((used.emissions.get() - 200.0).abs() < 1e-9 && (used.facility_kwh - 2.0).abs() < 1e-12);
        assert_eq!(used.cost, Some(2.0));
    }

    #[test]
    fn each_joule_is_priced_at_its_moment_and_by_the_mean_where_the_table_ends() {
        let hours = "timestamp,g_per_kwh\n1970-01-01T00:00:00Z,10\n1970-01-01T01:00:00Z,30\n";
        let mut tally = tally(Some(hours));
        // Three hours at an even kilowatt-hour an hour: by the table, by the table, by the mean.
        tally.see(MonotonicNs(3 * 3_600_000_000_000), Joules(3.0 * 3.6e6));
        let emissions = tally.used().emissions;
        assert!((emissions.get() - 2.0 * (10.0 + 30.0 + 100.0)).abs() < 1e-6, "{emissions:?}");
    }
}
