//! What one sensor has said so far, as running sums.
//!
//! Each reading becomes a point that holds the energy up to it, once by the counter and once by the trapezoid
//! of power. The energy between any two moments is then a difference, so adjacent stretches add up exactly, and
//! old points can be thinned without changing any sum. Memory is bounded however long a run is.

pub(crate) mod fused;
mod missed;
mod shape;

use std::collections::VecDeque;
use std::time::Duration;

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::{Baseline, ClockRecord};
use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::clock_history::ClockHistory;
use crate::readings::history::fused::Fused;
use crate::readings::order::max;
use crate::sensors::sensor::{AVERAGE_DELAY, Advance, Channels, Clocks, CounterValue, Reading, Survey};

/// Points kept at most. At 20 readings a second, the last six minutes at least are kept whole.
const MAX_POINTS: usize = 16_384;

/// Surveys kept at most: half a day of them.
const MAX_SURVEYS: usize = 4_096;

/// A counter that stands still for longer is stuck: NVML's move every 10 to 100 ms, RAPL's every millisecond.
const STUCK_AFTER: Seconds = Seconds(2.0);

/// Less energy than this by the integral is not enough to call a counter stuck.
const STUCK_ENERGY: Joules = Joules(1.0);

/// More than so many intervals without a reading are a gap, unless that is shorter than [`SHORTEST_GAP`].
pub(crate) const GAP_INTERVALS: f64 = 2.5;

/// The shortest time without a reading that is a gap.
const SHORTEST_GAP: Seconds = Seconds(0.25);

/// A counter's slope over this time is the power that is shown now.
const RECENT: Seconds = Seconds(0.5);

/// The readings of one sensor.
pub struct History {
    info: SensorInfo,
    channels: Channels,
    interval: Seconds,
    points: VecDeque<Point>,
    sums: Sums,
    counter: Option<LastCounter>,
    power: Option<(MonotonicNs, Watts)>,
    average: Option<(MonotonicNs, Watts)>,
    surveys: VecDeque<(MonotonicNs, Survey)>,
    baseline: Option<Baseline>,
    counter_changes: Changes,
    power_changes: Changes,
    last_asked: Option<MonotonicNs>,
    lost_since: Option<MonotonicNs>,
    /// An expensive counter and the driver's samples, of sensors that have either.
    pub(crate) fused: Option<Fused>,
    clocks: ClockHistory,
}

/// The sums at one reading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) t: MonotonicNs,
    pub(crate) sums: Sums,
    /// Power at the reading.
    pub(crate) power: Option<Watts>,
    /// Averaged power at the reading.
    pub(crate) average: Option<Watts>,
    /// Whether the counter was read.
    pub(crate) has_counter: bool,
    /// Highest power since the point before.
    pub(crate) max_power: Option<Watts>,
    /// Longest time between readings since the point before.
    pub(crate) max_gap: Seconds,
}

/// What has come together since the first reading.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) counter: Joules,
    pub(crate) integral: Joules,
    pub(crate) average: Joules,
    pub(crate) readings: u64,
    pub(crate) power_readings: u64,
    pub(crate) power_w: f64,
    pub(crate) power_w2: f64,
    /// Sum of the squares of what power changed by from one reading to the next.
    pub(crate) steps_w2: f64,
    pub(crate) resets: u32,
    pub(crate) stuck: u32,
    pub(crate) lost: u32,
    /// Readings that lack the counter though the sensor has one.
    pub(crate) counter_missing: u32,
    /// Sum of the squares of times without power between two readings of it, where those are gaps, in s².
    pub(crate) power_gaps_s2: f64,
}

struct LastCounter {
    value: CounterValue,
    changed: MonotonicNs,
    integral_at_change: Joules,
}

/// How often a reading changes: its update period, or the sampling interval where that is longer.
#[derive(Default)]
struct Changes {
    last: Option<MonotonicNs>,
    /// Sum of the times between two changes, and of their squares.
    total: Seconds,
    squares: f64,
}

impl History {
    /// A history without readings, of a sensor that is asked every `interval`.
    pub fn new(info: SensorInfo, channels: Channels, interval: Duration) -> Self {
        Self {
            info,
            channels,
            interval: Seconds(interval.as_secs_f64()),
            points: VecDeque::new(),
            sums: Sums::default(),
            counter: None,
            power: None,
            average: None,
            surveys: VecDeque::new(),
            baseline: None,
            counter_changes: Changes::default(),
            power_changes: Changes::default(),
            last_asked: None,
            lost_since: None,
            fused: Fused::new(channels),
            clocks: ClockHistory::default(),
        }
    }

    /// The sensor.
    pub fn info(&self) -> &SensorInfo {
        &self.info
    }

    /// What the sensor supports.
    pub fn channels(&self) -> Channels {
        self.channels
    }

    /// Time between two readings, as asked for.
    pub fn interval(&self) -> Seconds {
        self.interval
    }

    /// From now on the sensor is asked every `interval`.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = Seconds(interval.as_secs_f64());
    }

    /// A longer time between two readings is a gap.
    pub(crate) fn longest_step(&self) -> Seconds {
        max(self.interval * GAP_INTERVALS, SHORTEST_GAP)
    }

    /// When the sensor was last asked, whether or not it answered.
    pub fn last_asked(&self) -> Option<MonotonicNs> {
        self.last_asked
    }

    /// Adds a reading. One that is no later than the last is passed over.
    pub fn push(&mut self, reading: &Reading) {
        let t = reading.t;
        if self.last_asked.is_some_and(|last| t <= last) {
            return;
        }
        self.last_asked = Some(t);
        if reading.power.is_lost() || reading.counter.is_lost() {
            self.sums.lost += 1;
            self.lost_since.get_or_insert(t);
        }
        let power = reading.power.measured().copied();
        let average = reading.average.measured().copied();
        let counter = reading.counter.measured().copied();
        if power.is_none() && average.is_none() && counter.is_none() {
            return;
        }
        self.lost_since = None;
        if let Some(power) = power {
            self.add_power(t, power);
        }
        if let Some(average) = average {
            if let Some((last_t, last)) = self.average {
                self.sums.average += (last + average) * 0.5 * t.since(last_t);
            }
            self.average = Some((t, average));
        }
        if let Some(counter) = counter {
            self.add_counter(t, counter);
        }
        self.sums.counter_missing += u32::from(self.channels.counter.is_some() && counter.is_none());
        self.sums.readings += 1;
        let max_gap = self.points.back().map_or(Seconds::ZERO, |last| t.since(last.t));
        self.points.push_back(Point {
            t,
            sums: self.sums,
            power,
            average,
            has_counter: counter.is_some(),
            max_power: power,
            max_gap,
        });
    }

    fn add_power(&mut self, t: MonotonicNs, power: Watts) {
        if let Some((last_t, last)) = self.power {
            let time = t.since(last_t);
            self.sums.integral += (last + power) * 0.5 * time;
            if time > self.longest_step() {
                self.sums.power_gaps_s2 += time.get().powi(2);
            }
            self.sums.steps_w2 += (power - last).get().powi(2);
            if power != last {
                self.power_changes.add(t);
            }
        }
        self.power = Some((t, power));
        self.sums.power_readings += 1;
        self.sums.power_w += power.get();
        self.sums.power_w2 += power.get().powi(2);
    }

    fn add_counter(&mut self, t: MonotonicNs, value: CounterValue) {
        let integral = self.sums.integral;
        let (Some(spec), Some(last)) = (self.channels.counter, &mut self.counter) else {
            self.counter = Some(LastCounter { value, changed: t, integral_at_change: integral });
            return;
        };
        if value == last.value {
            let drew = self.channels.power.is_none() || integral - last.integral_at_change > STUCK_ENERGY;
            if t.since(last.changed) > STUCK_AFTER && drew {
                self.sums.stuck += 1;
            }
            return;
        }
        match spec.advance(last.value, value) {
            Advance::By(energy) => self.sums.counter += energy,
            Advance::Reset(energy) => {
                self.sums.counter += energy;
                self.sums.resets += 1;
            }
        }
        *last = LastCounter { value, changed: t, integral_at_change: integral };
        self.counter_changes.add(t);
    }

    /// Energy since the first reading, by the counter where there is one that can be trusted.
    pub fn energy(&self) -> Joules {
        let fused = self.last_asked.and_then(|last| self.fused_energy(last));
        fused.unwrap_or_else(|| self.best_of(&self.sums))
    }

    /// Energy up to `t` since the first reading.
    pub(crate) fn energy_at(&self, t: MonotonicNs) -> Joules {
        self.fused_energy(t).unwrap_or_else(|| self.best_of(&self.sums_at(t)))
    }

    pub(crate) fn best_of(&self, sums: &Sums) -> Joules {
        let trusted = self.sums.resets == 0 && self.sums.stuck == 0 && self.sums.counter_missing == 0;
        let by_counter = self.channels.counter.is_some() && (trusted || self.channels.power.is_none());
        match by_counter {
            true => sums.counter,
            false if self.channels.average => sums.average,
            false => sums.integral,
        }
    }

    /// Power now: the last reading, or the counter's slope over the last half second.
    pub fn recent_power(&self) -> Option<Watts> {
        let last = self.points.back()?;
        if self.lost_since.is_some() {
            return None;
        }
        if self.channels.power.is_some() {
            return last.power;
        }
        let before = self.points.iter().rev().find(|point| last.t.since(point.t) >= RECENT)?;
        Some((last.sums.counter - before.sums.counter) / last.t.since(before.t))
    }

    /// What the sensor drew idle, if that was measured.
    pub fn baseline(&self) -> Option<Baseline> {
        self.baseline
    }

    /// Keeps what the sensor drew idle beside all that follows.
    pub fn set_baseline(&mut self, baseline: Baseline) {
        self.baseline = Some(baseline);
    }

    /// Notes the device's clock.
    pub fn note_clocks(&mut self, clocks: Clocks) {
        self.clocks.push(clocks);
    }

    /// The device's clock over a time; `None` where it does not tell.
    pub(crate) fn clocks(&self, start: MonotonicNs, end: MonotonicNs) -> Option<ClockRecord> {
        self.clocks.between(start, end)
    }

    /// Notes what a survey said.
    pub fn note(&mut self, t: MonotonicNs, survey: Survey) {
        if self.surveys.len() == MAX_SURVEYS {
            self.surveys.pop_front();
        }
        self.surveys.push_back((t, survey));
    }

    /// The surveys that speak for the time from `start` to `end`: those within, and the last one before.
    pub(crate) fn surveys(&self, start: MonotonicNs, end: MonotonicNs) -> impl Iterator<Item = &Survey> {
        let first = self.surveys.partition_point(|(t, _)| *t <= start).saturating_sub(1);
        self.surveys.range(first..).take_while(move |(t, _)| *t <= end).map(|(_, survey)| survey)
    }

    pub(crate) fn points(&self) -> &VecDeque<Point> {
        &self.points
    }

    pub(crate) fn lost_since(&self) -> Option<MonotonicNs> {
        self.lost_since
    }

    /// Time between two changes of the counter, as a moment picked at random meets it: the longer the time, the
    /// likelier that an edge falls into it.
    pub(crate) fn counter_step(&self) -> Option<Seconds> {
        self.counter_changes.period().or_else(|| self.ticks()?.period())
    }

    /// Time between two changes of the power reading.
    pub(crate) fn power_period(&self) -> Option<Seconds> {
        self.power_changes.period()
    }

    /// The sums at `t`: energies interpolated between the readings around it, held before the first and after
    /// the last; counts as of the next reading.
    pub(crate) fn sums_at(&self, t: MonotonicNs) -> Sums {
        let next = self.points.partition_point(|point| point.t < t);
        let (before, after) = match (next.checked_sub(1).map(|i| &self.points[i]), self.points.get(next)) {
            (Some(before), Some(after)) => (before, after),
            (Some(only), None) | (None, Some(only)) => return only.sums,
            (None, None) => return Sums::default(),
        };
        let part = t.since(before.t) / after.t.since(before.t);
        let between = |from: Joules, to: Joules| from + (to - from) * part;
        Sums {
            counter: between(before.sums.counter, after.sums.counter),
            integral: between(before.sums.integral, after.sums.integral),
            average: between(before.sums.average, after.sums.average),
            ..after.sums
        }
    }

    /// Drops what neither a stretch from `t` on nor the power that is shown needs.
    pub fn forget_before(&mut self, t: MonotonicNs) {
        if let Some(fused) = &mut self.fused {
            fused.forget_before(t);
        }
        self.clocks.forget_before(t);
        let Some(last) = self.points.back() else { return };
        let t = t.min(last.t.before(RECENT));
        let keep_from = self.points.partition_point(|point| point.t <= t).saturating_sub(1);
        self.points.drain(..keep_from);
    }

    /// Drops every second of the older half of the points once there are too many. Those next to a moment in
    /// `edges` stay, so that energies up to it stay what they were.
    pub fn thin(&mut self, edges: &[MonotonicNs]) {
        if let Some(fused) = &mut self.fused {
            fused.thin();
        }
        if self.points.len() <= MAX_POINTS {
            return;
        }
        let mut pinned: Vec<usize> = Vec::with_capacity(4 * edges.len());
        // An average speaks for an edge only some time after it.
        let later = edges.iter().map(|edge| edge.after(AVERAGE_DELAY));
        for edge in edges.iter().copied().chain(later) {
            let next = self.points.partition_point(|point| point.t < edge);
            pinned.extend([next.saturating_sub(1), next]);
        }
        pinned.sort_unstable();
        let mut kept = VecDeque::with_capacity(MAX_POINTS);
        let mut dropped: Option<Point> = None;
        for (i, mut point) in self.points.drain(..).enumerate() {
            let old = i < MAX_POINTS / 2;
            if old && i % 2 == 1 && pinned.binary_search(&i).is_err() {
                dropped = Some(point);
                continue;
            }
            if let Some(dropped) = dropped.take() {
                point.absorb(&dropped);
            }
            kept.push_back(point);
        }
        self.points = kept;
    }
}

impl Point {
    /// Takes over what the point before, which is dropped, knew of its own stretch.
    fn absorb(&mut self, before: &Self) {
        if before.max_gap > self.max_gap {
            self.max_gap = before.max_gap;
        }
        if before.max_power > self.max_power {
            self.max_power = before.max_power;
        }
    }
}

impl Changes {
    fn add(&mut self, t: MonotonicNs) {
        if let Some(last) = self.last
            && t.since(last) <= STUCK_AFTER
        {
            let time = t.since(last);
            self.total += time;
            self.squares += time.get().powi(2);
        }
        self.last = Some(t);
    }

    fn period(&self) -> Option<Seconds> {
        (self.total > Seconds::ZERO).then(|| Seconds(self.squares / self.total.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::sensor::tests::{BOARD, board_info, reading};
    use crate::sensors::sensor::{Missing, Quantity};

    fn ms(t: u64) -> MonotonicNs {
        MonotonicNs(t * 1_000_000)
    }

    fn history() -> History {
        History::new(board_info(), BOARD, Duration::from_millis(50))
    }

    #[test]
    fn a_ramp_has_the_integral_of_a_triangle() {
        let mut history = history();
        // 0 W to 100 W within 10 s, then back: 1000 J.
        for i in 0..=200u64 {
            let watts = if i <= 100 { i as f64 } else { 200.0 - i as f64 };
            history.push(&reading(ms(i * 100), Some(Watts(watts)), Some(5_000)));
        }
        let whole = history.stretch(ms(0), ms(20_000));
        assert!((whole.integral.unwrap() - Joules(1000.0)).get().abs() < 1e-9);
        assert_eq!((whole.readings, whole.max_power), (201, Some(Watts(100.0))));
        assert_eq!(whole.max_gap, Seconds(0.1));
        assert!(whole.stuck, "20 s and 1000 J without a change");
        assert_eq!(whole.update, Seconds(0.1));
        let half = history.stretch(ms(5_000), ms(10_000)).integral.unwrap();
        assert!((half - Joules(375.0)).get().abs() < 1e-9, "{half:?}");
    }

    #[test]
    fn counters_are_unwrapped_and_their_step_is_seen() {
        let mut history = history();
        for i in 0..=100u64 {
            // 300 W, read every 50 ms, counted every 100 ms.
            history.push(&reading(ms(i * 50), Some(Watts(300.0)), Some(1_000 + i / 2 * 30_000)));
        }
        let stretch = history.stretch(ms(0), ms(5_000));
        assert_eq!(stretch.counter, Some(Joules(1500.0)));
        assert!((stretch.counter_step.unwrap().get() - 0.1).abs() < 1e-9);
        assert!(!stretch.stuck && !stretch.reset && !stretch.lost);
        history.push(&reading(ms(5_050), Some(Watts(300.0)), Some(500)));
        assert!(history.stretch(ms(5_000), ms(5_050)).reset);
        assert!(!history.stretch(ms(0), ms(5_000)).reset);
    }

    #[test]
    fn a_lost_device_is_known_to_be_lost_and_the_time_since_to_be_unobserved() {
        let mut history = history();
        for i in 0..=10 {
            history.push(&reading(ms(i * 100), Some(Watts(100.0)), Some(i * 10_000)));
        }
        for i in 11..=20 {
            let lost = Quantity::Missing(Missing::DeviceLost);
            let counter = Quantity::Missing(Missing::DeviceLost);
            history.push(&Reading { t: ms(i * 100), power: lost, average: Quantity::Unsupported, counter });
        }
        let stretch = history.stretch(ms(500), ms(2_000));
        assert!(stretch.lost && !history.stretch(ms(0), ms(900)).lost);
        assert_eq!(stretch.counter, Some(Joules(50.0)));
        assert_eq!(stretch.unobserved, Seconds(1.0));
        assert!((stretch.max_gap.get() - 0.1).abs() < 1e-9);
        assert_eq!(stretch.usual_power, Some(Watts(100.0)));
        assert_eq!(history.recent_power(), None);
    }

    #[test]
    fn power_by_a_counter_is_shown_also_just_after_what_came_before_is_forgotten() {
        let mut history =
            History::new(board_info(), Channels { power: None, ..BOARD }, Duration::from_millis(50));
        for i in 0..=100 {
            // 200 W.
            history.push(&reading(ms(i * 50), None, Some(i * 10_000)));
            if i % 30 == 20 {
                history.forget_before(ms(i * 50));
            }
            let shown = history.recent_power().map(Watts::get);
            assert_eq!(shown, (i >= 10).then_some(200.0), "reading {i}");
        }
        assert!(history.points.len() <= 32, "{}", history.points.len());
    }

    #[test]
    fn thinning_and_forgetting_change_no_sum() {
        let mut long = history();
        let mut thinned = history();
        let edges = [ms(10_025), ms(100_010)];
        for i in 0..60_000u64 {
            let watts = Watts(200.0 + (i % 17) as f64);
            let next = reading(ms(i * 50), Some(watts), Some(i * 10_000));
            long.push(&next);
            thinned.push(&next);
            thinned.thin(&edges);
        }
        assert!(thinned.points.len() <= MAX_POINTS + edges.len() * 4);
        let (a, b) = (long.stretch(edges[0], edges[1]), thinned.stretch(edges[0], edges[1]));
        assert_eq!((a.counter, a.integral), (b.counter, b.integral));
        assert_eq!((a.max_power, a.max_gap), (b.max_power, b.max_gap));
        let a = long.stretch(edges[1], ms(2_999_950));
        thinned.forget_before(edges[1]);
        let b = thinned.stretch(edges[1], ms(2_999_950));
        assert_eq!((a.counter, a.integral, a.readings), (b.counter, b.integral, b.readings));
        assert_eq!((a.max_power, a.max_gap), (b.max_power, b.max_gap));
    }
}
