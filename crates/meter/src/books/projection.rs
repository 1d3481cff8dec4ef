//! What a run that has begun will come to, with an interval, and whether that fits into a budget.
//!
//! Energy is noted at a row of steps. Between two notes lies a chunk with its energy a step; the first chunk is
//! warm-up and left out. What remains, m steps, is taken to cost the mean of the chunks. With chunks of k steps,
//! a standard deviation s of the energy of a step between them, and n chunks, the error of that has the variance
//! s²·m²·(1/n + k/m): of the mean, and of chunks to come. The half-width is Student's t for n − 1 times its root.

use wattle_runlog::Joules;

/// Fewer chunks after the warm-up tell no spread.
const MIN_CHUNKS: usize = 3;

/// Student's t, two-sided 95 %, for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.2).
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// The energy of a run as it goes on.
#[derive(Clone, Debug)]
pub struct Projector {
    total_steps: u64,
    /// Finished steps and the energy up to then, in order.
    notes: Vec<(u64, Joules)>,
}

/// What a run will come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projection {
    /// Energy at its end.
    pub energy: Joules,
    /// 95 % half-width.
    pub half_width: Joules,
}

/// Whether a projection fits into a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Even the upper end of the interval does.
    Fits,
    /// The limit lies within the interval.
    Unsure,
    /// Even the lower end does not.
    DoesNot,
}

impl Projector {
    /// A run of `total_steps` steps.
    pub fn new(total_steps: u64) -> Self {
        Self { total_steps, notes: Vec::new() }
    }

    /// After `step` finished steps the run had used `energy`, all segments together. Note it at epochs, or every so
    /// many steps. A step that is not after the last one begins the notes anew: the run was resumed from earlier.
    pub fn note(&mut self, step: u64, energy: Joules) {
        if self.notes.last().is_some_and(|(last, _)| step <= *last) {
            self.notes.clear();
        }
        self.notes.push((step, energy));
    }

    /// What the run will come to; `None` until the chunks after the warm-up tell.
    pub fn project(&self) -> Option<Projection> {
        let chunks: Vec<(f64, f64)> = self
            .notes
            .windows(2)
            .skip(1)
            .map(|pair| ((pair[1].0 - pair[0].0) as f64, (pair[1].1 - pair[0].1).get()))
            .collect();
        let (step, used) = *self.notes.last()?;
        let n = chunks.len();
        if n < MIN_CHUNKS {
            return None;
        }
        let steps: f64 = chunks.iter().map(|(steps, _)| steps).sum();
        let mean = chunks.iter().map(|(_, energy)| energy).sum::<f64>() / steps;
        let squares: f64 = chunks.iter().map(|(k, energy)| (energy / k - mean).powi(2) * k).sum();
        let spread = squares * n as f64 / (steps * (n - 1) as f64);
        let left = self.total_steps.saturating_sub(step) as f64;
        let chunk = steps / n as f64;
        let variance = spread * left * left * (1.0 / n as f64 + chunk / left.max(chunk));
        let half_width = Joules(student(n - 1) * variance.sqrt());
        Some(Projection { energy: used + Joules(mean * left), half_width })
    }
}

impl Projection {
    /// Whether it fits into `limit`.
    pub fn against(&self, limit: Joules) -> Fit {
        match () {
            () if self.energy + self.half_width <= limit => Fit::Fits,
            () if self.energy - self.half_width > limit => Fit::DoesNot,
            () => Fit::Unsure,
        }
    }
}

pub(crate) fn student(freedom: usize) -> f64 {
    freedom.checked_sub(1).and_then(|i| STUDENT.get(i)).copied().unwrap_or(1.96)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_run_comes_to_what_it_costs_and_warm_up_is_left_out() {
        let mut projector = Projector::new(1_000);
        projector.note(0, Joules(0.0));
        // The first ten steps compile kernels: five times as dear.
        projector.note(10, Joules(500.0));
        for i in 2..=10u64 {
            assert_eq!(projector.project().is_some(), i > 4, "{i} notes");
            projector.note(i * 10, Joules(400.0 + i as f64 * 100.0));
        }
        let projection = projector.project().unwrap();
        assert!((projection.energy.get() - 10_400.0).abs() < 1e-6 && projection.half_width.get() < 1e-3);
        assert_eq!(projection.against(Joules(10_500.0)), Fit::Fits);
        assert_eq!(projection.against(Joules(10_300.0)), Fit::DoesNot);
    }

    /// Runs of 2,000 steps in chunks of 50 whose energy varies by a fifth, projected after the eighth chunk.
    #[test]
    fn intervals_hold_the_truth_in_nineteen_of_twenty_runs() {
        let mut held = 0;
        for seed in 0..1_000u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut chunk = || {
                // Twelve even numbers (xorshift) add up to all but a normal one.
                let even = |_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 11) as f64 / (1u64 << 53) as f64
                };
                500.0 * (1.0 + 0.2 * ((0..12).map(even).sum::<f64>() - 6.0))
            };
            let mut projector = Projector::new(2_000);
            let (mut energy, mut projection) = (0.0, None);
            for i in 0..=40 {
                projector.note(i * 50, Joules(energy));
                projection = if i == 8 { projector.project() } else { projection };
                energy += if i < 40 { chunk() } else { 0.0 };
            }
            let projection = projection.unwrap();
            held += u32::from((projection.energy.get() - energy).abs() <= projection.half_width.get());
        }
        assert!((935..=975).contains(&held), "{held} of 1000");
    }

    #[test]
    fn a_run_that_went_back_begins_anew() {
        let mut projector = Projector::new(100);
        for step in [0, 10, 20, 30, 40] {
            projector.note(step, Joules(step as f64));
        }
        assert!(projector.project().is_some());
        projector.note(20, Joules(60.0));
        assert_eq!(projector.project(), None);
    }
}
