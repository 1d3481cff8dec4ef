//! Figures that stand beside a record's energy and are never added to it.

use serde::{Deserialize, Serialize};

use crate::units::{GramsCo2e, Joules, Seconds, Watts};

/// What the whole run was expected to use when the record was made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Projected {
    /// Finished updates that it was made by.
    pub step: u64,
    /// Updates of the whole run.
    pub total_steps: u64,
    /// Energy at the run's end, its last evaluation and its last checkpoint included.
    pub energy_j: Joules,
    /// 95 % half-width of it, if the run goes on as it did.
    pub uncertainty_j: Joules,
    /// What the tightest limit of the budget allows, at the prices so far; null without a budget.
    pub budget_j: Option<Joules>,
    /// Whether the run fits into that; null without a budget.
    pub fits: Option<Fits>,
}

/// Whether a projection fits into a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fits {
    /// Even the upper end of the interval does.
    Yes,
    /// The limit lies within the interval.
    Unsure,
    /// Even the lower end does not.
    No,
}

/// What the user states of the machine besides its prices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Emissions of making it; null where they were not given.
    pub embodied: Option<EmbodiedRate>,
    /// What it draws idle; null where that was not given.
    pub idle_w: Option<Watts>,
}

/// Emissions of making a machine, and for how long it is used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbodiedRate {
    /// `carbon.embodied_g`
    pub machine_g: GramsCo2e,
    /// `carbon.lifetime_h`
    pub lifetime_h: f64,
}

/// A record's share of the emissions of making the machine: by its duration over the machine's lifetime. They are M of
/// the software carbon intensity, and no part of `emissions_g`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embodied {
    /// The share.
    pub emissions_g: GramsCo2e,
    /// What it is a share of; that of the last part of a run in which it changed.
    #[serde(flatten)]
    pub rate: EmbodiedRate,
}

/// What the whole machine would have drawn idle, by a constant that the user states. Sensors measure a part of it, so it
/// is no part of `energy_j` and cannot be added to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineIdle {
    /// `energy.machine_idle_w`; the mean where it changed between segments.
    pub power_w: Watts,
    /// The same over the record's duration.
    pub energy_j: Joules,
    /// `energy_j` times PUE and the record's carbon intensity; no part of `emissions_g`.
    pub emissions_g: GramsCo2e,
}

impl EmbodiedRate {
    /// The share of so much time.
    pub fn over(self, time: Seconds) -> Embodied {
        let share = time.get() / (self.lifetime_h * 3600.0);
        Embodied { emissions_g: GramsCo2e(self.machine_g.get() * share), rate: self }
    }
}

impl Embodied {
    /// Two parts of a run together.
    pub fn and(self, later: Self) -> Self {
        Self { emissions_g: self.emissions_g + later.emissions_g, ..later }
    }
}

impl Machine {
    /// Whether nothing is stated.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousandth_of_its_life_bears_a_thousandth_of_its_making() {
        let rate = EmbodiedRate { machine_g: GramsCo2e(2.5e6), lifetime_h: 35_000.0 };
        let part = rate.over(Seconds(35.0 * 3600.0));
        assert!((part.emissions_g.get() - 2_500.0).abs() < 1e-9);
        let json = serde_json::to_value(part.and(part)).unwrap();
        assert_eq!(json["emissions_g"], 5_000.0);
        assert_eq!((&json["machine_g"], &json["lifetime_h"]), (&2.5e6.into(), &35_000.0.into()));
    }
}
