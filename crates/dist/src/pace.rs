//! How often to look whether something is done.

use std::thread;
use std::time::{Duration, Instant};

/// Time to wait for other ranks, or for data that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Other ranks may still be computing: almost no CPU time is spent.
    Patient,
    /// All ranks are here and data moves only while somebody looks: the core is offered to others, but kept.
    Eager,
}

/// Looks made before the first pause.
const N_LOOKS: u32 = 30;
/// Looks between two offers of the core to others, while data moves.
const YIELD_EVERY: u32 = 64;
/// After this long without the end of a round, data is no longer on its way.
const EAGER_FOR: Duration = Duration::from_millis(20);
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(1);

/// Pauses between looks.
#[derive(Debug)]
pub(crate) struct Pauses {
    pace: Pace,
    began: Instant,
    n_looks: u32,
}

impl Pauses {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, began: Instant::now(), n_looks: 0 }
    }

    /// Pauses; returns for how long it has been waited in all.
    ///
    /// Sleeps grow with the time waited, so that they add at most a sixteenth to it, and end at a millisecond.
    pub(crate) fn pause(&mut self) -> Duration {
        self.n_looks += 1;
        let waited = self.began.elapsed();
        let is_eager = self.pace == Pace::Eager && waited < EAGER_FOR;
        if is_eager && !self.n_looks.is_multiple_of(YIELD_EVERY) {
            std::hint::spin_loop();
        } else if self.n_looks < N_LOOKS || is_eager {
            thread::yield_now();
        } else {
            thread::sleep((waited / 16).clamp(SHORTEST, LONGEST));
        }
        waited
    }
}
