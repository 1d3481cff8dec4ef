//! The power samples that a driver takes by itself, as running sums.

use std::collections::VecDeque;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::order::max;
use crate::sensors::sensor::PowerSample;

/// Samples kept at most: five minutes of them are kept whole where they are 20 ms apart.
const MAX_SAMPLES: usize = 32_768;

/// Samples further apart than this leave a gap.
const GAP: Seconds = Seconds(0.25);

/// Time between two samples until some have come.
const USUAL_PERIOD: Seconds = Seconds(0.021);

/// The samples of one board.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    samples: VecDeque<SampleSum>,
    /// Times between samples, and how many they are.
    apart: Seconds,
    count: u64,
    /// Times between samples that are gaps.
    gaps: Seconds,
}

/// A sample, and what has come together up to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SampleSum {
    pub(crate) t: MonotonicNs,
    pub(crate) power: Watts,
    /// By the trapezoid; by other readings within gaps.
    pub(crate) energy: Joules,
    /// Sum of the squares of what power changed by from one sample to the next.
    pub(crate) steps_w2: f64,
    /// Highest power since the sample before.
    pub(crate) highest: Watts,
}

impl Samples {
    /// Adds a sample. One that is no later than the last is passed over. `bridge` gives the energy up to a moment, since
    /// another where there is a gap between samples, or since the first reading of anything.
    pub(crate) fn push(
        &mut self,
        sample: PowerSample,
        bridge: impl FnOnce(Option<MonotonicNs>, MonotonicNs) -> Joules,
    ) {
        let PowerSample { t, power } = sample;
        let Some(last) = self.samples.back().copied() else {
            let energy = bridge(None, t);
            self.samples.push_back(SampleSum { t, power, energy, steps_w2: 0.0, highest: power });
            return;
        };
        if t <= last.t {
            return;
        }
        let apart = t.since(last.t);
        let step_w2 = (power - last.power).get().powi(2);
        let (energy, steps_w2) = if apart > GAP {
            self.gaps += apart;
            (bridge(Some(last.t), t), step_w2 * (apart / self.period()))
        } else {
            (self.apart, self.count) = (self.apart + apart, self.count + 1);
            ((last.power + power) * 0.5 * apart, step_w2)
        };
        let (energy, steps_w2) = (last.energy + energy, last.steps_w2 + steps_w2);
        self.samples.push_back(SampleSum { t, power, energy, steps_w2, highest: power });
    }

    /// Time between two samples.
    pub(crate) fn period(&self) -> Seconds {
        if self.count == 0 { USUAL_PERIOD } else { Seconds(self.apart.get() / self.count as f64) }
    }

    pub(crate) fn len(&self) -> usize {
        self.samples.len()
    }

    pub(crate) fn first(&self) -> Option<&SampleSum> {
        self.samples.front()
    }

    pub(crate) fn last(&self) -> Option<&SampleSum> {
        self.samples.back()
    }

    /// Energy up to `t`, which lies between the first sample and the last.
    pub(crate) fn energy_at(&self, t: MonotonicNs) -> Joules {
        let next = self.samples.partition_point(|sample| sample.t < t);
        let (before, after) = match (next.checked_sub(1).map(|i| self.samples[i]), self.samples.get(next)) {
            (Some(before), Some(after)) => (before, after),
            (Some(only), None) => return only.energy,
            (None, Some(only)) => return only.energy,
            (None, None) => return Joules::ZERO,
        };
        let (into, whole) = (t.since(before.t), after.t.since(before.t));
        if whole > GAP {
            return before.energy + (after.energy - before.energy) * (into / whole);
        }
        // Thinned samples still add up to their energy.
        let trapezoid = (before.power + after.power) * 0.5 * whole;
        let power = before.power + (after.power - before.power) * (into / whole);
        let fit = if trapezoid > Joules::ZERO { (after.energy - before.energy) / trapezoid } else { 1.0 };
        before.energy + (before.power + power) * 0.5 * into * fit
    }

    /// Samples from the last one before `from` to the first one after `to`.
    pub(crate) fn around(&self, from: MonotonicNs, to: MonotonicNs) -> impl Iterator<Item = &SampleSum> {
        let first = self.samples.partition_point(|sample| sample.t < from).saturating_sub(1);
        let end = self.samples.partition_point(|sample| sample.t <= to) + 1;
        self.samples.range(first..end.min(self.samples.len()).max(first))
    }

    /// Sum of the squared steps up to `t`.
    pub(crate) fn steps_at(&self, t: MonotonicNs) -> f64 {
        let next = self.samples.partition_point(|sample| sample.t < t);
        let at = self.samples.get(next).or(self.samples.back());
        at.map_or(0.0, |sample| sample.steps_w2)
    }

    /// Highest sample from `start` to `end`.
    pub(crate) fn highest(&self, start: MonotonicNs, end: MonotonicNs) -> Option<Watts> {
        let first = self.samples.partition_point(|sample| sample.t < start);
        let last = self.samples.partition_point(|sample| sample.t <= end);
        self.samples.range(first..last.max(first)).map(|sample| sample.highest).reduce(max)
    }

    /// The times of the samples from `start` to `end`.
    pub(crate) fn times(&self, start: MonotonicNs, end: MonotonicNs) -> impl Iterator<Item = MonotonicNs> {
        let first = self.samples.partition_point(|sample| sample.t < start);
        let last = self.samples.partition_point(|sample| sample.t <= end);
        self.samples.range(first..last.max(first)).map(|sample| sample.t)
    }

    /// Drops what no moment from `t` on needs.
    pub(crate) fn forget_before(&mut self, t: MonotonicNs) {
        let keep_from = self.samples.partition_point(|sample| sample.t <= t).saturating_sub(1);
        self.samples.drain(..keep_from);
    }

    /// Drops every second of the older half of the samples once there are too many. No sum changes.
    pub(crate) fn thin(&mut self) {
        if self.samples.len() <= MAX_SAMPLES {
            return;
        }
        let mut kept = VecDeque::with_capacity(MAX_SAMPLES);
        let mut dropped: Option<Watts> = None;
        for (i, mut sample) in self.samples.drain(..).enumerate() {
            if i < MAX_SAMPLES / 2 && i % 2 == 1 {
                dropped = Some(sample.highest);
                continue;
            }
            if let Some(highest) = dropped.take() {
                sample.highest = max(sample.highest, highest);
            }
            kept.push_back(sample);
        }
        self.samples = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(t: u64) -> MonotonicNs {
        MonotonicNs(t * 1_000_000)
    }

    #[test]
    fn samples_add_up_through_gaps_and_thinning() {
        let mut samples = Samples::default();
        for i in 0..40_000u64 {
            // 20 ms apart at 100 W to 300 W, but for ten seconds at 250 W that only other readings saw.
            let t = i * 20 + if i >= 20_000 { 10_000 } else { 0 };
            let power = Watts(if i % 4 < 2 { 100.0 } else { 300.0 });
            samples.push(PowerSample { t: ms(t), power }, |from, to| {
                Watts(250.0) * to.since(from.unwrap_or(ms(0)))
            });
            samples.thin();
        }
        assert!(samples.samples.len() <= MAX_SAMPLES);
        let energy = samples.energy_at(ms(800_000)) - samples.energy_at(ms(8_000));
        // 782 s at a mean of 200 W, and 10 s at 250 W.
        assert!((energy.get() - (782.0 * 200.0 + 10.0 * 250.0)).abs() < 10.0, "{energy:?}");
        assert_eq!(samples.highest(ms(0), ms(1_000)), Some(Watts(300.0)));
        assert!((samples.period().get() - 0.02).abs() < 1e-9);
    }

    #[test]
    fn between_two_samples_power_is_a_straight_line() {
        let mut samples = Samples::default();
        for (t, watts) in [(0, 100.0), (20, 300.0), (40, 300.0)] {
            samples.push(PowerSample { t: ms(t), power: Watts(watts) }, |_, _| Joules::ZERO);
        }
        // 10 ms at a mean of 150 W.
        assert!((samples.energy_at(ms(10)).get() - 1.5).abs() < 1e-9);
        assert!((samples.energy_at(ms(30)).get() - 7.0).abs() < 1e-9);
    }
}
