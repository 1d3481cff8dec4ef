//! What one sensor said between two moments, and how power went within and around them.

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::history::{GAP_INTERVALS, History, Point, Sums};
use crate::readings::order::{max, min};
use crate::sensors::sensor::{AVERAGE_DELAY, AVERAGE_SPAN, PowerSource};

/// A board's power is renewed no slower than this (Yang et al.). What changes less often has not changed.
pub(crate) const SLOWEST_UPDATE: Seconds = Seconds(0.1);

/// Power this long before and after an edge says what was drawn at it.
const CLOSE: Seconds = Seconds(0.25);

/// A counter's slope over this long before and after an edge says the same where there is no power.
const SLOPE: Seconds = Seconds(0.5);

/// What a sensor said between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// Its length.
    pub duration: Seconds,
    /// Energy by the counter; `None` if the sensor has none, or did not give it at both ends.
    pub counter: Option<Joules>,
    /// Energy by the trapezoid of power, corrected for its delay where that is an average; `None` if the sensor
    /// gives no power, or did not at both ends.
    pub integral: Option<Joules>,
    /// Energy by the averages beside the power, corrected for their delay; `None` if the sensor gives none, or did
    /// not at both ends.
    pub average: Option<Joules>,
    /// The most that any of the three saw of the stretch, and for how long that one saw nothing at the ends.
    pub seen: (Joules, Seconds),
    /// Readings taken within.
    pub readings: u64,
    /// How power went.
    pub swing: Swing,
    /// Power around the start.
    pub at_start: EdgePower,
    /// Power around the end.
    pub at_end: EdgePower,
    /// Highest power read within.
    pub max_power: Option<Watts>,
    /// Longest time between two readings.
    pub max_gap: Seconds,
    /// Gaps together, as the root of the sum of their squares.
    pub gaps: Seconds,
    /// Time before the first or after the last reading ever: nothing is known of it.
    pub unobserved: Seconds,
    /// Mean power over all readings so far.
    pub usual_power: Option<Watts>,
    /// Highest power of any reading that is still kept.
    pub highest_power: Option<Watts>,
    /// Time between two changes of the counter.
    pub counter_step: Option<Seconds>,
    /// Time between two updates of the power reading.
    pub update: Seconds,
    /// Whether the counter started again within.
    pub reset: bool,
    /// Whether the counter stood still though power was drawn.
    pub stuck: bool,
    /// Whether the device stopped answering.
    pub lost: bool,
}

/// How power went within a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Swing {
    /// Standard deviation of the readings.
    pub deviation: Watts,
    /// Root of the sum of the squares of the changes from one reading to the next.
    pub steps: Watts,
    /// How often power went from well above its mean to well below it, or back.
    pub turns: u32,
    /// Lowest and highest reading.
    pub range: PowerRange,
}

/// Power around an edge.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EdgePower {
    /// Within a quarter of a second, or what a few readings take.
    pub close: PowerRange,
    /// Within what an averaged reading smears.
    pub wide: PowerRange,
    /// An edge at times a and b from the readings around it: a·b/(a+b). Zero at a reading.
    pub apart: Seconds,
}

/// The lowest and the highest power of some readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PowerRange {
    /// The lowest.
    pub low: Watts,
    /// The highest.
    pub high: Watts,
}

impl PowerRange {
    /// From lowest to highest.
    pub fn width(&self) -> Watts {
        self.high - self.low
    }

    fn of(powers: impl Iterator<Item = Watts>) -> Option<Self> {
        powers.fold(None, |range, power| {
            let range = range.unwrap_or(Self { low: power, high: power });
            Some(Self { low: min(range.low, power), high: max(range.high, power) })
        })
    }
}

impl History {
    /// What was said from `start` to `end`.
    pub fn stretch(&self, start: MonotonicNs, end: MonotonicNs) -> Stretch {
        let (from, to) = (self.sums_at(start), self.sums_at(end));
        let points = self.points();
        let first = points.partition_point(|point| point.t < start);
        let last = points.partition_point(|point| point.t <= end);
        let within = points.range(first..last.max(first));
        let before = first.checked_sub(1).map_or_else(Sums::default, |i| points[i].sums);
        let until = last.checked_sub(1).map_or(before, |i| points[i].sums);
        let (max_gap, gaps) = self.gaps(start, end);
        let without_power = Seconds((to.power_gaps_s2 - from.power_gaps_s2).max(0.0).sqrt());
        let channels = self.channels();
        let spans = |has: fn(&Point) -> bool| self.is_known_at(start, has) && self.is_known_at(end, has);
        Stretch {
            duration: end.since(start),
            counter: (channels.counter.is_some() && spans(|point| point.has_counter))
                .then(|| to.counter - from.counter),
            integral: channels.power.filter(|_| spans(|point| point.power.is_some())).map(|source| {
                match source {
                    PowerSource::Instant => to.integral - from.integral,
                    PowerSource::Average => self.delayed(start, end, |s| s.integral, |p| p.power),
                }
            }),
            average: (channels.average && spans(|point| point.average.is_some()))
                .then(|| self.delayed(start, end, |s| s.average, |p| p.average)),
            seen: seen(&from, &to, within.clone(), start, end),
            readings: until.readings.saturating_sub(before.readings),
            swing: swing(&before, &until, within.clone()),
            at_start: self.edge_power(start),
            at_end: self.edge_power(end),
            max_power: within.filter_map(|point| point.max_power).reduce(max),
            max_gap,
            gaps: max(gaps, without_power),
            unobserved: self.unobserved(start, end),
            usual_power: self.usual_power(),
            highest_power: points.iter().filter_map(|point| point.max_power).reduce(max),
            counter_step: self.counter_step(),
            update: self.update(),
            reset: to.resets > from.resets,
            stuck: to.stuck > from.stuck,
            lost: to.lost > from.lost || self.lost_since().is_some_and(|since| since <= end),
        }
    }

    /// Whether the readings around `t`, of those there are, hold a quantity.
    fn is_known_at(&self, t: MonotonicNs, has: fn(&Point) -> bool) -> bool {
        let points = self.points();
        let next = points.partition_point(|point| point.t < t);
        let is_exact = points.get(next).is_some_and(|point| point.t == t);
        let first = if is_exact { next } else { next.saturating_sub(1) };
        points.range(first..(next + 1).min(points.len())).all(has)
    }

    /// The difference of a sum of averaged power, read [`AVERAGE_DELAY`] later. What has not been read yet is
    /// taken to go on as it was.
    fn delayed(
        &self,
        start: MonotonicNs,
        end: MonotonicNs,
        sum: impl Fn(&Sums) -> Joules,
        power: impl Fn(&Point) -> Option<Watts>,
    ) -> Joules {
        let last = self.points().iter().rev().find_map(|point| Some((point.t, power(point)?)));
        let at = |t: MonotonicNs| {
            let later = t.after(AVERAGE_DELAY);
            let held = last.map_or(Joules::ZERO, |(t, power)| {
                let unread = later.since(t);
                power * if unread > AVERAGE_DELAY { AVERAGE_DELAY } else { unread }
            });
            sum(&self.sums_at(later)) + held
        };
        at(end) - at(start)
    }

    /// Time between two updates of the power reading: as seen, but no slower than boards are.
    fn update(&self) -> Seconds {
        let slowest = max(SLOWEST_UPDATE, self.interval());
        self.power_period().map_or(slowest, |seen| min(seen, slowest))
    }

    fn edge_power(&self, t: MonotonicNs) -> EdgePower {
        let points = self.points();
        let next = points.partition_point(|point| point.t < t);
        let apart = match (next.checked_sub(1).map(|i| &points[i]), points.get(next)) {
            (Some(before), Some(after)) => {
                let (a, b) = (t.since(before.t), after.t.since(t));
                Seconds(a.get() * b.get() / (a + b).get().max(f64::MIN_POSITIVE))
            }
            _ => Seconds::ZERO,
        };
        let few_readings = self.update() * GAP_INTERVALS;
        EdgePower {
            close: self.around(t, max(CLOSE, few_readings), |_| None),
            // An average tells of power before the first reading, too.
            wide: self.around(t, AVERAGE_SPAN + few_readings, |point| point.average),
            apart,
        }
    }

    /// Power up to `reach` before and after `t`; of the readings next to it where there are none.
    fn around(&self, t: MonotonicNs, reach: Seconds, beside: impl Fn(&Point) -> Option<Watts>) -> PowerRange {
        let points = self.points();
        let first = points.partition_point(|point| point.t < t.before(reach));
        let end = points.partition_point(|point| point.t <= t.after(reach));
        let next = points.partition_point(|point| point.t < t);
        let (first, end) = (first.min(next.saturating_sub(1)), end.max((next + 1).min(points.len())));
        let powers = points
            .range(first..end)
            .flat_map(|point| [point.power, point.max_power, beside(point)])
            .flatten();
        PowerRange::of(powers).unwrap_or_else(|| self.slope(t))
    }

    /// The counter's slope around `t`, for a sensor that tells no power.
    fn slope(&self, t: MonotonicNs) -> PowerRange {
        let (Some(first), Some(last)) = (self.points().front(), self.points().back()) else {
            return PowerRange::default();
        };
        let from = t.before(SLOPE).max(first.t);
        let to = t.after(SLOPE).min(last.t);
        let time = to.since(from);
        let usual = || self.usual_power().unwrap_or(Watts::ZERO);
        let slope = match time > Seconds::ZERO {
            true => (self.sums_at(to).counter - self.sums_at(from).counter) / time,
            false => usual(),
        };
        PowerRange { low: slope, high: slope }
    }

    /// The longest time between two readings, and all that are gaps together.
    fn gaps(&self, start: MonotonicNs, end: MonotonicNs) -> (Seconds, Seconds) {
        let allowed = self.longest_step();
        let (mut longest, mut squares) = (Seconds::ZERO, 0.0);
        let mut last: Option<MonotonicNs> = None;
        for point in self.points() {
            if let Some(last) = last
                && point.t > start
                && last < end
            {
                // A thinned stretch still knows its longest gap; one at an edge counts as far as it reaches in.
                let inside = point.t.min(end).since(last.max(start));
                let gap = min(point.max_gap, inside);
                longest = max(longest, gap);
                if gap > allowed {
                    squares += gap.get().powi(2);
                }
            }
            last = Some(point.t);
        }
        (longest, Seconds(squares.sqrt()))
    }

    fn unobserved(&self, start: MonotonicNs, end: MonotonicNs) -> Seconds {
        match (self.points().front(), self.points().back()) {
            (Some(first), Some(last)) => first.t.min(end).since(start) + end.since(last.t.max(start)),
            _ => end.since(start),
        }
    }

    fn usual_power(&self) -> Option<Watts> {
        let (first, last) = (self.points().front()?, self.points().back()?);
        let observed = last.t.since(first.t);
        (observed > Seconds::ZERO).then(|| (self.energy_at(last.t) - self.energy_at(first.t)) / observed)
    }
}

/// The most energy that any quantity saw between two sums, and for how long that one saw nothing at the ends. `within`
/// are the readings from `start` to `end`.
fn seen<'a>(
    from: &Sums,
    to: &Sums,
    within: impl DoubleEndedIterator<Item = &'a Point> + Clone,
    start: MonotonicNs,
    end: MonotonicNs,
) -> (Joules, Seconds) {
    type Quantity = (fn(&Sums) -> Joules, fn(&Point) -> bool);
    let quantities: [Quantity; 3] = [
        (|sums| sums.counter, |point| point.has_counter),
        (|sums| sums.integral, |point| point.power.is_some()),
        (|sums| sums.average, |point| point.average.is_some()),
    ];
    let of_quantity = |(sum, has): Quantity| {
        let mut read = within.clone().filter(|point| has(point)).map(|point| point.t);
        let first = read.next();
        let last = read.next_back().or(first);
        let unseen = first.unwrap_or(end).since(start) + end.since(last.unwrap_or(start));
        (sum(to) - sum(from), min(unseen, end.since(start)))
    };
    let most = quantities.map(of_quantity).into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a });
    most.unwrap_or_default()
}

/// How power went between two sums, at the points between them.
fn swing<'a>(from: &Sums, to: &Sums, points: impl Iterator<Item = &'a Point> + Clone) -> Swing {
    let n = to.power_readings.saturating_sub(from.power_readings) as f64;
    let powers = points.flat_map(|point| [point.power, point.max_power]).flatten();
    let Some(range) = PowerRange::of(powers.clone()).filter(|_| n >= 2.0) else {
        return Swing::default();
    };
    let mean = (to.power_w - from.power_w) / n;
    let deviation = ((to.power_w2 - from.power_w2) / n - mean * mean).max(0.0).sqrt();
    let mut above: Option<bool> = None;
    let mut turns = 0;
    for power in powers.map(Watts::get).filter(|power| (power - mean).abs() > 0.5 * deviation) {
        turns += u32::from(above.is_some_and(|above| above != (power > mean)));
        above = Some(power > mean);
    }
    let steps = Watts((to.steps_w2 - from.steps_w2).max(0.0).sqrt());
    Swing { deviation: Watts(deviation), steps, turns, range }
}
