//! Which part of the host's processor time the metered processes took.

use std::collections::VecDeque;

use wattle_runlog::{MonotonicNs, Seconds};

use crate::sensors::workload::{Workload, host_busy_time};

/// Moments kept at most.
const MAX_MOMENTS: usize = 4_096;

/// The kernel counts the host's time in hundredths of a second: looking more often would show steps.
const SPACING: Seconds = Seconds(0.5);

/// Processor time at a row of moments.
pub(crate) struct Activity {
    workload: Workload,
    moments: VecDeque<Moment>,
}

#[derive(Clone, Copy)]
struct Moment {
    t: MonotonicNs,
    workload: Seconds,
    host: Seconds,
}

impl Activity {
    pub(crate) fn new(workload: Workload) -> Self {
        Self { workload, moments: VecDeque::new() }
    }

    /// Notes the present moment, if the last one is long enough ago.
    pub(crate) fn note(&mut self) {
        let t = MonotonicNs::now();
        if self.moments.back().is_some_and(|last| t.since(last.t) < SPACING) {
            return;
        }
        if let Some(host) = host_busy_time() {
            self.push(Moment { t, workload: self.workload.cpu_time(), host });
        }
    }

    fn push(&mut self, moment: Moment) {
        self.moments.push_back(moment);
        if self.moments.len() > MAX_MOMENTS {
            let mut i = 0;
            self.moments.retain(|_| {
                i += 1;
                i % 2 == 1 || i > MAX_MOMENTS / 2
            });
        }
    }

    /// The workload's share of the host's busy time between two moments; `None` where that is not known.
    pub(crate) fn share(&self, start: MonotonicNs, end: MonotonicNs) -> Option<f64> {
        let (from, to) = (self.at(start)?, self.at(end)?);
        let host = to.host - from.host;
        (host > Seconds::ZERO).then(|| ((to.workload - from.workload) / host).clamp(0.0, 1.0))
    }

    fn at(&self, t: MonotonicNs) -> Option<Moment> {
        let next = self.moments.partition_point(|moment| moment.t < t);
        let before = next.checked_sub(1).and_then(|i| self.moments.get(i));
        let (before, after) = match (before, self.moments.get(next)) {
            (Some(before), Some(after)) => (before, after),
            (only, other) => return only.or(other).copied(),
        };
        let part = t.since(before.t) / after.t.since(before.t);
        let between = |from: Seconds, to: Seconds| from + (to - from) * part;
        Some(Moment {
            t,
            workload: between(before.workload, after.workload),
            host: between(before.host, after.host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_time_in_between() {
        let mut activity = Activity::new(Workload::ThisProcess);
        assert_eq!(activity.share(MonotonicNs(0), MonotonicNs(1)), None);
        for i in 0..10_000u64 {
            // Half of the host's time, and all of it from moment 5000 on.
            let workload = if i < 5_000 { i as f64 } else { 5_000.0 + (i - 5_000) as f64 * 2.0 };
            activity.push(Moment {
                t: MonotonicNs(i * 1_000),
                workload: Seconds(workload),
                host: Seconds(i as f64 * 2.0),
            });
        }
        assert!(activity.moments.len() <= MAX_MOMENTS + 1);
        let share = |start: u64, end: u64| activity.share(MonotonicNs(start), MonotonicNs(end)).unwrap();
        assert!((share(1_000_000, 4_000_500) - 0.5).abs() < 1e-9);
        assert!((share(6_000_000, 9_000_000) - 1.0).abs() < 1e-9);
        assert!((share(4_000_000, 6_000_000) - 0.75).abs() < 1e-3);
    }

    #[test]
    fn this_process_has_a_share_of_this_host() {
        let mut activity = Activity::new(Workload::ThisProcess);
        activity.note();
        let first = activity.moments[0];
        activity.note();
        assert_eq!(activity.moments.len(), 1, "too soon for another");
        assert!(first.host > Seconds::ZERO && first.workload > Seconds::ZERO);
    }
}
