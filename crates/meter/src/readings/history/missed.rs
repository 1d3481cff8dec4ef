//! How what power missed between two ticks of a counter is divided by a moment between them.
//!
//! The counter says that the integral of power, S over the whole, missed M of the energy. Of the parts before and after
//! the moment, with the energies Sₖ and Sₙ, power is off by e₁ + γ·Sₖ and e₂ + γ·Sₙ: errors of each part's own, with the
//! variances Vₖ and Vₙ, and a share γ that both have in common. Given that the two add up to M, the part before has missed
//! b·M with the variance v:
//!
//! b = (Vₖ + g·Sₖ·S)/W, v = (Vₖ·Vₙ + g·(Vₖ·Sₙ² + Vₙ·Sₖ²))/W, W = Vₖ + Vₙ + g·S²
//!
//! where g is the variance of γ. That is [`GAIN`]'s, by which counter and power differ on steady loads; but where M is
//! more than this and Vₖ and Vₙ explain, power has missed something all along, and g is what M tells it to be. Readings
//! that keep step with a load do so: each shows the same part of a step of training, and M/S tells the rest. The energy
//! that they miss once an update lies anywhere in it, so it is added to Vₖ and Vₙ: M's excess over the whole time, times
//! an update.

use wattle_runlog::{Joules, Seconds};

use crate::readings::order::{max, min};

/// The counter and the integral of power differ by no more than this on steady loads (0.2 % on an H100).
pub(crate) const GAIN: f64 = 0.01;

/// A numerical zero, in J².
const NOTHING_J2: f64 = 1e-12;

/// Power between a tick and a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) length: Seconds,
    pub(crate) energy: Joules,
    /// 95 % half-width of the error that no other part has.
    pub(crate) error: Joules,
}

/// What power missed before and after a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Missed {
    /// The share that lies before.
    pub(crate) before: f64,
    /// 95 % half-width of what that comes to.
    pub(crate) half_width: Joules,
    /// 95 % half-width of the share of its energy that power misses everywhere.
    pub(crate) gain: f64,
}

impl Missed {
    /// Divides what was missed of two parts; `update` is the time between two values of power.
    pub(crate) fn divide(missed: Joules, [before, after]: [Part; 2], update: Seconds) -> Self {
        let whole = (before.energy + after.energy).get().max(NOTHING_J2);
        let time = max(before.length + after.length, update);
        let square = |part: &Part| part.error.get().powi(2).max(NOTHING_J2);
        let usual = GAIN.powi(2);
        let explained = square(&before) + square(&after) + usual * whole.powi(2);
        let excess = (missed.get().powi(2) - explained).max(0.0);
        let variance = |part: &Part| {
            let hidden = Joules(excess.sqrt() * (update / time));
            square(part) + min(hidden, part.energy).get().powi(2)
        };
        let g = usual + excess / whole.powi(2);
        let (v_before, v_after) = (variance(&before), variance(&after));
        let (s_before, s_after) = (before.energy.get(), after.energy.get());
        let all = v_before + v_after + g * whole.powi(2);
        let left = v_before * v_after + g * (v_before * s_after.powi(2) + v_after * s_before.powi(2));
        Self {
            before: (v_before + g * s_before * whole) / all,
            half_width: Joules((left / all).sqrt()),
            gain: g.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(length_s: f64, energy_j: f64, error_j: f64) -> Part {
        Part { length: Seconds(length_s), energy: Joules(energy_j), error: Joules(error_j) }
    }

    #[test]
    fn what_is_missed_lies_where_power_is_uncertain() {
        let missed = Missed::divide(Joules(1.0), [part(0.1, 30.0, 0.0), part(0.3, 90.0, 5.0)], Seconds(0.1));
        assert!(missed.before < 0.05, "{missed:?}");
        // What the counter and power differ by in the short part: 1 % of 30 J.
        assert!(missed.half_width.get() < 0.31, "{missed:?}");
    }

    #[test]
    fn what_is_missed_all_along_lies_in_proportion_to_energy() {
        // 70 J of 700 within a second, of which power explains 5.
        let missed =
            Missed::divide(Joules(-70.0), [part(0.1, 70.0, 3.0), part(0.9, 630.0, 4.0)], Seconds(0.1));
        assert!((missed.before - 0.1).abs() < 0.02, "{missed:?}");
        // An update's worth of it may lie on either side: 7 J.
        assert!((6.0..8.5).contains(&missed.half_width.get()), "{missed:?}");
        assert!((missed.gain - 0.1).abs() < 0.01, "{missed:?}");
    }

    #[test]
    fn without_an_error_nothing_is_missed() {
        let missed = Missed::divide(Joules::ZERO, [part(0.0, 0.0, 0.0), part(0.0, 0.0, 0.0)], Seconds(0.1));
        assert!(missed.half_width.get() < 1e-5 && missed.before.is_finite(), "{missed:?}");
    }
}
