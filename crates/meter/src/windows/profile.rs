//! How the energy of a window came together: its sum at a row of moments, all sensors together.
//!
//! A moment is one at which the finest sensor said something new. Between two of them the sum is a straight line.

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::history::History;
use crate::readings::order::max;
use crate::windows::stretch::SLOWEST_UPDATE;

/// Moments kept at most; a longer window has them further apart.
const MAX_MOMENTS: usize = 16_384;

/// The sum of energy over a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// Moments in order, each with the energy since the window's start.
    pub moments: Vec<(MonotonicNs, Joules)>,
    /// By so much a moment may be off: the longest update of any sensor.
    pub resolution: Seconds,
    /// The highest power that can have been drawn, as far as was read.
    pub highest: Watts,
}

impl Profile {
    /// The profile of these sensors from `start` to `end`.
    pub(crate) fn of(histories: &[&History], start: MonotonicNs, end: MonotonicNs) -> Self {
        let resolutions = histories.iter().map(|history| resolution(history));
        let resolution = resolutions.fold(Seconds::ZERO, |a, b| if b > a { b } else { a });
        let highest = histories.iter().map(|history| highest(history, start, end)).sum();
        let Some(finest) = histories.iter().max_by_key(|history| history.kept()) else {
            return Self { moments: Vec::new(), resolution, highest };
        };
        let times = finest.times(start, end);
        let every = times.len().div_ceil(MAX_MOMENTS).max(1);
        let energy = |t: MonotonicNs| {
            let since = |history: &&History| history.energy_at(t) - history.energy_at(start);
            histories.iter().map(since).sum::<Joules>()
        };
        let moments = times.into_iter().step_by(every).map(|t| (t, energy(t))).collect();
        Self { moments, resolution, highest }
    }

    /// Energy from one moment to another; beyond the first and the last moment there is none.
    pub fn between(&self, from: MonotonicNs, to: MonotonicNs) -> Joules {
        self.at(to) - self.at(from)
    }

    fn at(&self, t: MonotonicNs) -> Joules {
        let next = self.moments.partition_point(|(moment, _)| *moment < t);
        match (next.checked_sub(1).map(|i| self.moments[i]), self.moments.get(next)) {
            (Some((t0, e0)), Some((t1, e1))) => e0 + (*e1 - e0) * (t.since(t0) / t1.since(t0)),
            (Some((_, energy)), None) => energy,
            (None, Some((_, energy))) => *energy,
            (None, None) => Joules::ZERO,
        }
    }
}

fn resolution(history: &History) -> Seconds {
    // Samples tell when what a counter counts was drawn.
    if let Some(samples) = history.samples() {
        return samples.period() * 2.0;
    }
    let step = history.counter_step().unwrap_or(SLOWEST_UPDATE);
    if step > history.interval() { step } else { history.interval() }
}

/// A sensor's highest power: as read, or twice its mean where it tells none.
fn highest(history: &History, start: MonotonicNs, end: MonotonicNs) -> Watts {
    let within = history.points().iter().filter(|point| (start..=end).contains(&point.t));
    let sampled = history.samples().and_then(|samples| samples.highest(start, end));
    let read = within.filter_map(|point| point.max_power).chain(sampled).reduce(max);
    read.unwrap_or_else(|| {
        let energy = history.energy_at(end) - history.energy_at(start);
        let time = end.since(start);
        if time > Seconds::ZERO { energy * 2.0 / time } else { Watts::ZERO }
    })
}
