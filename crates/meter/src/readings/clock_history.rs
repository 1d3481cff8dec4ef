//! A device's clock over time.

use std::collections::VecDeque;

use wattle_runlog::record::ClockRecord;
use wattle_runlog::{MonotonicNs, Seconds};

use crate::sensors::sensor::Clocks;

/// Readings kept at most: two hours of one a second, then fewer.
const MAX_READINGS: usize = 8_192;

/// The readings of one device's clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClockHistory {
    readings: VecDeque<Clocks>,
}

impl ClockHistory {
    pub(crate) fn push(&mut self, clocks: Clocks) {
        if self.readings.back().is_some_and(|last| clocks.t <= last.t) {
            return;
        }
        self.readings.push_back(clocks);
        if self.readings.len() > MAX_READINGS {
            let mut i = 0;
            self.readings.retain(|_| {
                i += 1;
                i % 2 == 1 || i > MAX_READINGS / 2
            });
        }
    }

    pub(crate) fn forget_before(&mut self, t: MonotonicNs) {
        let keep_from = self.readings.partition_point(|clocks| clocks.t <= t).saturating_sub(1);
        self.readings.drain(..keep_from);
    }

    /// The clock from `start` to `end`; `None` where nothing was read around both.
    pub(crate) fn between(&self, start: MonotonicNs, end: MonotonicNs) -> Option<ClockRecord> {
        let last = self.readings.back()?;
        let first = self.readings.partition_point(|clocks| clocks.t <= start).saturating_sub(1);
        let until = self.readings.partition_point(|clocks| clocks.t < end) + 1;
        let within = self.readings.range(first..until.min(self.readings.len()));
        let clocks: Vec<f64> = within.filter_map(|clocks| clocks.sm_mhz).collect();
        let sm_mean_mhz = (!clocks.is_empty()).then(|| clocks.iter().sum::<f64>() / clocks.len() as f64);
        let held_back = last.held_back.iter().filter_map(|(name, _)| {
            let time = self.held_back(name, end)? - self.held_back(name, start)?;
            // A count that went back, or that is longer than the time itself, counts something else.
            let is_sane = time >= Seconds::ZERO && time.get() <= end.since(start).get() * 1.1 + 0.2;
            is_sane
                .then(|| ((*name).to_owned(), if time > end.since(start) { end.since(start) } else { time }))
        });
        Some(ClockRecord { sm_mean_mhz, sm_max_mhz: last.max_sm_mhz, held_back_s: held_back.collect() })
    }

    /// The count of one reason at `t`, between the readings around it.
    fn held_back(&self, name: &str, t: MonotonicNs) -> Option<Seconds> {
        let count = |clocks: &Clocks| clocks.held_back.iter().find(|(own, _)| *own == name).map(|(_, s)| *s);
        let next = self.readings.partition_point(|clocks| clocks.t < t);
        let before = next.checked_sub(1).and_then(|i| self.readings.get(i));
        match (before, self.readings.get(next)) {
            (Some(before), Some(after)) => {
                let part = t.since(before.t) / after.t.since(before.t);
                Some(count(before)? + (count(after)? - count(before)?) * part)
            }
            (Some(only), None) | (None, Some(only)) => count(only),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_share_of_what_was_counted() {
        let mut history = ClockHistory::default();
        for i in 0..=20u64 {
            // Held back from the tenth second on, by a third of its clock.
            let late = i.saturating_sub(10);
            let sm_mhz = Some(if i > 10 { 1_200.0 } else { 1_800.0 });
            let held_back = vec![("sw_power_cap", Seconds(late as f64))];
            let t = MonotonicNs(i * 1_000_000_000);
            history.push(Clocks { t, sm_mhz, max_sm_mhz: Some(1_980.0), held_back });
        }
        let second = |s: f64| MonotonicNs((s * 1e9) as u64);
        let record = history.between(second(8.0), second(12.5)).unwrap();
        assert!((record.held_back_s["sw_power_cap"].get() - 2.5).abs() < 1e-9, "{record:?}");
        assert!((1_400.0..1_700.0).contains(&record.sm_mean_mhz.unwrap()), "{record:?}");
        history.forget_before(second(12.5));
        let record = history.between(second(12.5), second(20.0)).unwrap();
        assert!((record.held_back_s["sw_power_cap"].get() - 7.5).abs() < 1e-9, "{record:?}");
        assert_eq!(ClockHistory::default().between(second(0.0), second(1.0)), None);
    }
}
