//! When to read a counter that is expensive to read.
//!
//! While its ticks are being learnt, about as often as everything else. Then in pairs that narrow the phase, and once that
//! is as narrow as a call allows, just after a tick every five seconds; each sixth time in a pair, which tells
//! whether the tick still is where it is expected. At an edge at once, unless a tick may fall into the call: then just
//! after it.

use std::time::Duration;

use wattle_runlog::{MonotonicNs, Seconds};

use crate::readings::ticks::Ticks;

/// Time between two readings that no edge asks for.
const READ_EVERY: Seconds = Seconds(5.0);

/// So many readings make one a pair.
const PAIR_EVERY: u32 = 6;

/// A reading after a tick waits so much longer than the tick may take.
const MARGIN: Seconds = Seconds(2e-4);

/// An edge is given up after so many readings that met a tick.
const MOST_UNCLEAR: u32 = 2;

/// Readings from which ticks are learnt are unevenly apart, in rounds: in step with the ticks they would tell little.
const UNEVEN: [f64; 5] = [0.7, 1.0, 0.55, 0.85, 1.15];

/// A phase that is known to so many calls is known well enough.
const NARROW: f64 = 2.2;

/// When a counter is due to be read.
#[derive(Clone, Debug)]
pub struct CounterSchedule {
    due: MonotonicNs,
    next: Next,
    /// Readings since the last pair.
    singles: u32,
    /// Readings while learning.
    learnt: usize,
    /// Readings for the last edge that told nothing.
    unclear: u32,
    interval: Seconds,
}

/// What the next reading is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Learn,
    First,
    Second,
    Single,
    Edge,
}

impl CounterSchedule {
    /// A schedule that begins at `now`, with rounds of readings every `interval`.
    pub fn new(now: MonotonicNs, interval: Duration) -> Self {
        Self {
            due: now,
            next: Next::Learn,
            singles: 0,
            learnt: 0,
            unclear: 0,
            interval: Seconds(interval.as_secs_f64()),
        }
    }

    /// When the counter is to be read.
    pub fn due(&self) -> MonotonicNs {
        self.due
    }

    /// Somebody asked for a reading at `now`: the counter is due as soon as it says something clear.
    pub fn ask(&mut self, ticks: &Ticks, now: MonotonicNs) {
        (self.due, self.next, self.unclear) = (clear(ticks, now), Next::Edge, 0);
    }

    /// Whether a reading that somebody asked for is still to come.
    pub fn is_asked(&self) -> bool {
        self.next == Next::Edge
    }

    /// The counter was read, at `now`; `ticks` knows of it. `is_clear` says whether the reading's tick is known.
    pub fn read(&mut self, ticks: &Ticks, now: MonotonicNs, is_clear: bool) {
        if self.next == Next::Edge && !is_clear && !ticks.is_learning() && self.unclear < MOST_UNCLEAR {
            self.unclear += 1;
            self.due = clear(ticks, now);
            return;
        }
        let Some(period) = ticks.period() else {
            let uneven = UNEVEN[self.learnt % UNEVEN.len()];
            self.learnt += 1;
            let wait = if ticks.is_learning() { self.interval * uneven } else { READ_EVERY };
            (self.due, self.next) = (now.after(wait), Next::Learn);
            return;
        };
        let Some((low, high)) = ticks.next_tick(now) else { return };
        let call = ticks.call();
        let is_narrow = high.since(low) <= call * NARROW;
        match self.next {
            // The second half of a pair: in the middle of the time in which the tick lies, or just after it.
            Next::First if now <= low => {
                let middle = low.midpoint(high).before(call * 0.5);
                self.due = if is_narrow { high.after(MARGIN) } else { middle };
                self.next = Next::Second;
            }
            _ if !is_narrow => self.pair_after(low, high, now, period, call),
            last => {
                self.singles = if last == Next::Second { 0 } else { self.singles + 1 };
                let (low, high) = ticks.next_tick(now.after(READ_EVERY)).unwrap_or((low, high));
                if self.singles + 1 >= PAIR_EVERY {
                    self.pair_after(low, high, now, period, call);
                } else {
                    (self.due, self.next) = (high.after(MARGIN), Next::Single);
                }
            }
        }
    }

    /// Plans a reading that ends before the tick between `low` and `high`, or before the one after it.
    fn pair_after(
        &mut self,
        low: MonotonicNs,
        high: MonotonicNs,
        now: MonotonicNs,
        period: Seconds,
        call: Seconds,
    ) {
        let lead = call * 1.5 + MARGIN;
        // Where the phase leaves no time before the tick, half a period before it is as good as any.
        let lead = if lead < period - high.since(low) { lead } else { period * 0.5 };
        let first = low.before(lead);
        self.due = if first > now { first } else { first.after(period) };
        self.next = Next::First;
    }
}

/// The first moment from `now` on at which a call meets no tick.
fn clear(ticks: &Ticks, now: MonotonicNs) -> MonotonicNs {
    match ticks.next_tick(now) {
        Some((low, high)) if now.after(ticks.call() * 1.5) > low && now < high => high.after(MARGIN),
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter at 300 W that ticks every `period_ms`, `phase_us` after whole periods, read as planned for `seconds`;
    /// each call takes `call_us`. Returns the number of readings and how far ticks are known to be from where they are.
    fn follow(period_ms: u64, phase_us: u64, call_us: u64, seconds: u64) -> (u64, Ticks, f64) {
        let mut ticks = Ticks::default();
        let mut now = MonotonicNs(5_000_000_000);
        let end = MonotonicNs(now.0 + seconds * 1_000_000_000);
        let mut schedule = CounterSchedule::new(now, Duration::from_millis(50));
        let (period, phase) = (period_ms * 1_000_000, phase_us * 1_000);
        let (mut readings, mut worst) = (0, 0.0f64);
        while schedule.due() < end {
            now = MonotonicNs(now.max(schedule.due()).0 + 60_000);
            let after = MonotonicNs(now.0 + call_us * 1_000);
            let count = (now.0 / 2 + after.0 / 2 - phase) / period;
            let values = ticks.note(now, after, count * 30_000);
            for value in values.iter().filter(|_| readings > 40) {
                let tick = value.value / 30_000 * period + phase;
                let off = value.t.0.abs_diff(tick) as f64 / 1e6;
                assert!(off <= value.error.get() * 1e3 + 1e-6, "{off} ms: {value:?}");
                worst = worst.max(off);
            }
            now = after;
            schedule.read(&ticks, now, !values.is_empty());
            readings += 1;
        }
        (readings, ticks, worst)
    }

    #[test]
    fn ticks_are_learnt_and_kept_with_few_readings() {
        for phase_us in [0, 11_300, 49_000, 67_800, 99_900] {
            let (readings, ticks, worst) = follow(100, phase_us, 3_300, 120);
            assert_eq!(ticks.period(), Some(Seconds(0.1)), "phase {phase_us}");
            assert!(readings < 90, "phase {phase_us}: {readings} readings");
            assert!(worst < 3.5, "phase {phase_us}: {worst} ms off");
        }
    }

    #[test]
    fn a_counter_whose_ticks_are_too_fast_to_be_seen_is_read_seldom_all_the_same() {
        let (readings, ticks, _) = follow(20, 3_000, 3_300, 120);
        assert_eq!(ticks.period(), None);
        assert!(readings < 70, "{readings}");
    }

    #[test]
    fn a_reading_for_an_edge_meets_no_tick() {
        let (_, ticks, _) = follow(100, 67_800, 3_300, 10);
        for i in 0..1_000u64 {
            let now = MonotonicNs(15_000_000_000 + i * 1_234_567);
            let mut schedule = CounterSchedule::new(now, Duration::from_millis(50));
            schedule.ask(&ticks, now);
            let (begin, end) = (schedule.due(), schedule.due().after(Seconds(0.0033)));
            assert!(begin.since(now) < Seconds(0.015), "{:?}", begin.since(now));
            let tick = |t: MonotonicNs| (t.0 - 67_800_000) / 100_000_000;
            assert_eq!(tick(begin), tick(end));
        }
    }
}
