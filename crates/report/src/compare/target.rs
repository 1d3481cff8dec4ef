//! The way to a loss: what a run had cost when its validation loss first fell to it.

use serde::Serialize;
use wattle_runlog::{GramsCo2e, Joules, Seconds};

use crate::compare::measure::Measure;
use crate::join::learning::{Evaluation, Moment};
use crate::join::report::Report;

/// The validation loss to which the way is compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Target {
    /// In the comparison's measure.
    pub loss: f64,
    /// Whether it was chosen here: the worst of the runs' best losses, so that every run reached it.
    pub is_default: bool,
}

/// When a run reached a loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    /// What it had done and spent by then, on a straight line between the evaluations before and after.
    #[serde(flatten)]
    pub at: Moment,
    /// Whether its first evaluation was below the loss already: it was reached by then, and nothing tells when.
    pub is_upper_bound: bool,
}

impl Target {
    /// The requested target, or by default the highest of the best losses of the metered runs (of all runs if none was
    /// metered). `None` if no run has an evaluation.
    pub fn of(reports: &[Report], asked: Option<f64>, measure: Measure) -> Option<Self> {
        if let Some(loss) = asked {
            return Some(Self { loss, is_default: false });
        }
        let best = |metered_alone: bool| {
            let counted = reports.iter().filter(|r| !metered_alone || r.is_metered());
            counted.filter_map(|report| Some(measure.loss(report.learning.best.as_ref()?))).reduce(f64::max)
        };
        best(true).or_else(|| best(false)).map(|loss| Self { loss, is_default: true })
    }
}

impl Reached {
    /// When these evaluations first came down to `loss`; `None` if they did not.
    pub fn of(evaluations: &[Evaluation], loss: f64, measure: Measure) -> Option<Self> {
        let first = evaluations.iter().position(|evaluation| measure.loss(evaluation) <= loss)?;
        let after = &evaluations[first];
        // What is not a number is no point to draw a line from.
        let before = evaluations[..first].iter().rfind(|e| measure.loss(e).is_finite());
        let Some(before) = before else {
            return Some(Self { at: after.at, is_upper_bound: true });
        };
        let (above, below) = (measure.loss(before), measure.loss(after));
        let part = (above - loss) / (above - below);
        Some(Self { at: between(&before.at, &after.at, part), is_upper_bound: false })
    }
}

impl Reached {
    /// Removes energy and emissions: they become NaN, which JSON shows as null.
    pub(super) fn unmetered(self) -> Self {
        let at = Moment { energy_j: Joules(f64::NAN), emissions_g: GramsCo2e(f64::NAN), ..self.at };
        Self { at, ..self }
    }
}

fn between(from: &Moment, to: &Moment, part: f64) -> Moment {
    let line = |from: f64, to: f64| from + (to - from) * part;
    Moment {
        step: line(from.step as f64, to.step as f64).round() as u64,
        tokens: line(from.tokens as f64, to.tokens as f64).round() as u64,
        time_s: Seconds(line(from.time_s.get(), to.time_s.get())),
        energy_j: Joules(line(from.energy_j.get(), to.energy_j.get())),
        emissions_g: GramsCo2e(line(from.emissions_g.get(), to.emissions_g.get())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(step: u64, loss: f64) -> Evaluation {
        let at = Moment { step, tokens: 10 * step, energy_j: Joules(step as f64), ..Moment::default() };
        Evaluation {
            at,
            loss,
            perplexity: loss.exp(),
            bits_per_byte: loss / 2.0,
            accuracy: 0.0,
            sources: Vec::new(),
        }
    }

    #[test]
    fn between_two_evaluations_lies_a_straight_line() {
        let evaluations =
            [evaluation(100, 4.0), evaluation(200, 3.0), evaluation(300, 3.5), evaluation(400, 2.0)];
        let reached = Reached::of(&evaluations, 3.25, Measure::NatsPerToken).unwrap();
        assert_eq!(Reached::of(&evaluations, 1.625, Measure::BitsPerByte), Some(reached));
        assert_eq!((reached.at.step, reached.at.energy_j, reached.at.tokens), (175, Joules(175.0), 1750));
        assert!(!reached.is_upper_bound);
        assert_eq!(Reached::of(&evaluations, 2.0, Measure::NatsPerToken).unwrap().at.step, 400);
        assert_eq!(Reached::of(&evaluations, 1.9, Measure::NatsPerToken), None);
        assert!(Reached::of(&evaluations, 4.5, Measure::NatsPerToken).unwrap().is_upper_bound);
    }
}
