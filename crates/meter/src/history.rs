//! What one sensor has said so far, as running sums.
//!
//! Each reading becomes a point that holds the energy up to it, once by the counter and once by the trapezoid
//! of power. The energy between any two moments is then a difference, so adjacent stretches add up exactly, and
//! old points can be thinned without changing any sum. Memory is bounded however long a run is.

use std::collections::VecDeque;
use std::time::Duration;

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::sensor::{Advance, Channels, CounterValue, Reading};

/// Points kept at most. At 20 readings a second, the last six minutes at least are kept whole.
const MAX_POINTS: usize = 16_384;

/// A counter that stands still for longer is stuck: NVML's move every 10 to 100 ms, RAPL's every millisecond.
const STUCK_AFTER: Seconds = Seconds(2.0);

/// Less energy than this by the integral is not enough to call a counter stuck.
const STUCK_ENERGY: Joules = Joules(1.0);

/// The readings of one sensor.
pub struct History {
    info: SensorInfo,
    channels: Channels,
    interval: Seconds,
    points: VecDeque<Point>,
    sums: Sums,
    counter: Option<LastCounter>,
    power: Option<(MonotonicNs, Watts)>,
    counter_changes: Changes,
    power_changes: Changes,
    last_asked: Option<MonotonicNs>,
    lost_since: Option<MonotonicNs>,
}

/// The sums at one reading.
#[derive(Clone, Copy, Debug)]
struct Point {
    t: MonotonicNs,
    sums: Sums,
    /// Power at the reading.
    power: Option<Watts>,
    /// Highest power since the point before.
    max_power: Option<Watts>,
    /// Longest time between readings since the point before.
    max_gap: Seconds,
}

/// What has come together since the first reading.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    counter: Joules,
    integral: Joules,
    readings: u64,
    power_readings: u64,
    power_w: f64,
    power_w2: f64,
    resets: u32,
    stuck: u32,
    lost: u32,
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
    total: Seconds,
    count: u32,
}

/// What a sensor said between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// Its length.
    pub duration: Seconds,
    /// Energy by the counter; `None` if the sensor has none.
    pub counter: Option<Joules>,
    /// Energy by the trapezoid of power; `None` if the sensor gives no power.
    pub integral: Option<Joules>,
    /// Readings taken within.
    pub readings: u64,
    /// Standard deviation of the power readings within.
    pub power_deviation: Watts,
    /// Highest power read within.
    pub max_power: Option<Watts>,
    /// Longest time without a reading.
    pub max_gap: Seconds,
    /// Time before the first or after the last reading ever: nothing is known of it.
    pub unobserved: Seconds,
    /// Mean power over all readings so far.
    pub usual_power: Option<Watts>,
    /// Time between two changes of the counter.
    pub counter_step: Option<Seconds>,
    /// Time between two changes of the power reading.
    pub power_period: Option<Seconds>,
    /// Whether the counter started again within.
    pub reset: bool,
    /// Whether the counter stood still though power was drawn.
    pub stuck: bool,
    /// Whether the device stopped answering.
    pub lost: bool,
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
            counter_changes: Changes::default(),
            power_changes: Changes::default(),
            last_asked: None,
            lost_since: None,
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

    /// When the sensor was last asked, whether or not it answered.
    pub fn last_asked(&self) -> Option<MonotonicNs> {
        self.last_asked
    }

    /// The last reading that held a value.
    pub fn last_reading(&self) -> Option<MonotonicNs> {
        self.points.back().map(|point| point.t)
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
        let counter = reading.counter.measured().copied();
        if power.is_none() && counter.is_none() {
            return;
        }
        self.lost_since = None;
        if let Some(power) = power {
            self.add_power(t, power);
        }
        if let Some(counter) = counter {
            self.add_counter(t, counter);
        }
        self.sums.readings += 1;
        let max_gap = self.points.back().map_or(Seconds::ZERO, |last| t.since(last.t));
        self.points.push_back(Point { t, sums: self.sums, power, max_power: power, max_gap });
    }

    fn add_power(&mut self, t: MonotonicNs, power: Watts) {
        if let Some((last_t, last)) = self.power {
            self.sums.integral += (last + power) * 0.5 * t.since(last_t);
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
        self.best_of(&self.sums)
    }

    fn best_of(&self, sums: &Sums) -> Joules {
        let trusted = self.sums.resets == 0 && self.sums.stuck == 0;
        let by_counter = self.channels.counter.is_some() && (trusted || self.channels.power.is_none());
        if by_counter { sums.counter } else { sums.integral }
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
        let before = self.points.iter().rev().find(|point| last.t.since(point.t) >= Seconds(0.5))?;
        Some((last.sums.counter - before.sums.counter) / last.t.since(before.t))
    }

    /// What was said from `start` to `end`.
    pub fn stretch(&self, start: MonotonicNs, end: MonotonicNs) -> Stretch {
        let (from, to) = (self.sums_at(start), self.sums_at(end));
        let first = self.points.partition_point(|point| point.t < start);
        let last = self.points.partition_point(|point| point.t <= end);
        let within = self.points.range(first..last.max(first));
        let before = first.checked_sub(1).map_or_else(Sums::default, |i| self.points[i].sums);
        let until = last.checked_sub(1).map_or(before, |i| self.points[i].sums);
        let max = |a: Watts, b: Watts| if b > a { b } else { a };
        Stretch {
            duration: end.since(start),
            counter: self.channels.counter.map(|_| to.counter - from.counter),
            integral: self.channels.power.map(|_| to.integral - from.integral),
            readings: until.readings.saturating_sub(before.readings),
            power_deviation: deviation(&before, &until),
            max_power: within.filter_map(|point| point.max_power).reduce(max),
            max_gap: self.max_gap(start, end),
            unobserved: self.unobserved(start, end),
            usual_power: self.usual_power(),
            counter_step: self.counter_changes.period(),
            power_period: self.power_changes.period(),
            reset: to.resets > from.resets,
            stuck: to.stuck > from.stuck,
            lost: to.lost > from.lost || self.lost_since.is_some_and(|since| since <= end),
        }
    }

    /// The sums at `t`: energies interpolated between the readings around it, held before the first and after
    /// the last; counts as of the next reading.
    fn sums_at(&self, t: MonotonicNs) -> Sums {
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
            ..after.sums
        }
    }

    fn max_gap(&self, start: MonotonicNs, end: MonotonicNs) -> Seconds {
        let mut longest = self.unobserved(start, end);
        let mut last: Option<MonotonicNs> = None;
        for point in &self.points {
            if let Some(last) = last
                && point.t > start
                && last < end
            {
                // A thinned stretch still knows its longest gap; one at an edge counts as far as it reaches in.
                let inside = point.t.min(end).since(last.max(start));
                let gap = if point.max_gap < inside { point.max_gap } else { inside };
                longest = if gap > longest { gap } else { longest };
            }
            last = Some(point.t);
        }
        longest
    }

    fn unobserved(&self, start: MonotonicNs, end: MonotonicNs) -> Seconds {
        match (self.points.front(), self.points.back()) {
            (Some(first), Some(last)) => {
                let before = first.t.min(end).since(start);
                let after = end.since(last.t.max(start));
                before + after
            }
            _ => end.since(start),
        }
    }

    fn usual_power(&self) -> Option<Watts> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let observed = last.t.since(first.t);
        (observed > Seconds::ZERO).then(|| (self.best_of(&last.sums) - self.best_of(&first.sums)) / observed)
    }

    /// Drops what no stretch from `t` on needs.
    pub fn forget_before(&mut self, t: MonotonicNs) {
        let keep_from = self.points.partition_point(|point| point.t <= t).saturating_sub(1);
        self.points.drain(..keep_from);
    }

    /// Drops every second of the older half of the points once there are too many. Those next to a moment in
    /// `edges` stay, so that energies up to it stay what they were.
    pub fn thin(&mut self, edges: &[MonotonicNs]) {
        if self.points.len() <= MAX_POINTS {
            return;
        }
        let mut pinned: Vec<usize> = Vec::with_capacity(2 * edges.len());
        for edge in edges {
            let next = self.points.partition_point(|point| point.t < *edge);
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
            self.total += t.since(last);
            self.count += 1;
        }
        self.last = Some(t);
    }

    fn period(&self) -> Option<Seconds> {
        (self.count > 0).then(|| self.total * (1.0 / f64::from(self.count)))
    }
}

/// Standard deviation of the power readings between two sums.
fn deviation(from: &Sums, to: &Sums) -> Watts {
    let n = to.power_readings.saturating_sub(from.power_readings) as f64;
    if n < 2.0 {
        return Watts::ZERO;
    }
    let mean = (to.power_w - from.power_w) / n;
    let variance = (to.power_w2 - from.power_w2) / n - mean * mean;
    Watts(variance.max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::tests::{BOARD, board_info, reading};
    use crate::sensor::{Missing, Quantity};

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
        assert!((whole.power_period.unwrap().get() - 0.1).abs() < 1e-9);
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
            history.push(&Reading { t: ms(i * 100), power: lost, counter });
        }
        let stretch = history.stretch(ms(500), ms(2_000));
        assert!(stretch.lost && !history.stretch(ms(0), ms(900)).lost);
        assert_eq!(stretch.counter, Some(Joules(50.0)));
        assert_eq!(stretch.unobserved, Seconds(1.0));
        assert_eq!((stretch.max_gap, stretch.usual_power), (Seconds(1.0), Some(Watts(100.0))));
        assert_eq!(history.recent_power(), None);
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
        assert!(thinned.points.len() <= MAX_POINTS + edges.len() * 2);
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
