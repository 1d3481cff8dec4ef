//! The integral of power beside an expensive counter, and what it may be off by.
//!
//! Power is the driver's samples where there are some, else what was polled. Its error between two moments has these
//! parts, with U the time between two values and p their powers (95 % half-widths, in quadrature):
//! - *Between values*: [`HALF_WIDTH`]·U·√(κ·Σ(pᵢ₊₁ − pᵢ)²). A change of power lies anywhere between two values, which
//!   for a single one is κ = 1/12; for power that is drawn anew at each value, κ = 1/2. See [`KAPPA`].
//! - *Times*: a value may stand for any part of the time since the one before, and its clock is known to
//!   [`CLOCK_ERROR`], so the range of p at both ends times U/2 and that.
//! - *Unread*: after the last sample power is taken to stay; the range of p in the last second times that time. The same
//!   before the first sample, with what was polled there.
//! - *Hidden*, of polled power: a short look once an update shows the same part of a load that keeps step with it. The
//!   one-second averages see all of the time. Let d be what they differ by from the readings around an end: where the
//!   readings show the highest (or lowest) power of each period, all of the d·U that they miss of one lies anywhere in
//!   it. A load that is nearly in step wanders through its period, and d with it: half of what d changes by between the
//!   ends, for all of the time.
//!
//! A short time bounds them: power is off by no more than its range, and of polled power a swing that is shorter than
//! [`LOOK`] shows lower than it is, by as much as it is shorter.
//!
//! The counter and power may differ in their gain, too ([`crate::readings::history::missed`]).

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::history::missed::Part;
use crate::readings::history::{History, Point};
use crate::readings::order::{max, min};
use crate::readings::samples::Samples;
use crate::sensors::sensor::{AVERAGE_DELAY, PowerSource};

/// From a standard deviation to a 95 % half-width.
const HALF_WIDTH: f64 = 1.96;

/// How much of the squared steps between samples is error: between a change of power that the samples resolve (1/12)
/// and power without memory (1/2).
const KAPPA: f64 = 0.25;

/// Power that is polled shows a quarter of the time: steps of training are drawn anew at each update.
const KAPPA_POLLED: f64 = 0.5;

/// Instant power is the mean over this long (Yang et al.: 25 ms of each 100 on an A100 and an H100).
const LOOK: Seconds = Seconds(0.025);

/// Power is read in whole milliwatts.
const POWER_RESOLUTION: Watts = Watts(1e-3);

/// The driver's clock is mapped to the monotonic one to this.
const CLOCK_ERROR: Seconds = Seconds(2e-3);

/// Power of this long before the last sample tells what may come after it.
pub(crate) const RECENT: Seconds = Seconds(1.0);

/// Power that is polled is this long apart where no update has been seen.
pub(crate) const POLLED: Seconds = Seconds(0.1);

impl History {
    /// The integral of power up to `t`.
    pub(crate) fn shape_at(&self, t: MonotonicNs) -> Joules {
        let Some(samples) = self.samples() else { return self.polled_at(t) };
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return self.polled_at(t) };
        if t < first.t {
            first.energy - (self.polled_at(first.t) - self.polled_at(t))
        } else if t <= last.t {
            samples.energy_at(t)
        } else if t.since(last.t) <= samples.period() * 4.0 {
            last.energy + last.power * t.since(last.t)
        } else {
            last.energy + (self.polled_at(t) - self.polled_at(last.t))
        }
    }

    /// Powers that were polled from one moment to another, and next to them.
    fn polled_within(&self, from: MonotonicNs, to: MonotonicNs) -> impl Iterator<Item = Watts> {
        let points = self.points();
        let first = points.partition_point(|point| point.t < from).saturating_sub(1);
        let last = (points.partition_point(|point| point.t <= to) + 1).min(points.len());
        points.range(first..last.max(first)).filter_map(|point| point.power.or(point.average))
    }

    /// The integral of power that was polled. Before the first reading and after the last, power is what they are: a
    /// counter's first value is of a tick before anything was read.
    pub(crate) fn polled_at(&self, t: MonotonicNs) -> Joules {
        let sums = self.sums_at(t);
        let is_instant = self.channels().power.is_some();
        let power =
            |point: &Point| if is_instant { point.power } else { point.average }.unwrap_or(Watts::ZERO);
        let (first, last) = (self.points().front(), self.points().back());
        let before = first.map_or(Joules::ZERO, |first| power(first) * min(first.t.since(t), RECENT));
        let after = last.map_or(Joules::ZERO, |last| power(last) * min(t.since(last.t), POLLED));
        (if is_instant { sums.integral } else { sums.average }) - before + after
    }

    /// Time between two values of what carries power.
    pub(crate) fn shape_update(&self) -> Seconds {
        self.samples().map_or_else(|| max(self.power_period().unwrap_or(POLLED), POLLED), Samples::period)
    }

    /// Power between two moments.
    pub(crate) fn part(&self, from: MonotonicNs, to: MonotonicNs) -> Part {
        let energy = self.shape_at(to) - self.shape_at(from);
        Part { length: to.since(from), energy, error: self.power_error(from, to) }
    }

    /// What the integral of power between two moments may be off by as the counter would have it, with a share by which
    /// the two may differ: a 95 % half-width.
    pub(crate) fn shape_error(&self, from: MonotonicNs, to: MonotonicNs, gain: f64) -> Joules {
        let Part { energy, error, .. } = self.part(from, to);
        Joules(error.get().hypot(energy.get() * gain))
    }

    /// The same without what the gains of the two differ by.
    pub(crate) fn power_error(&self, from: MonotonicNs, to: MonotonicNs) -> Joules {
        let reach = self.shape_update() * 1.5;
        match self.samples().filter(|samples| samples.last().is_some_and(|last| from <= last.t.after(reach)))
        {
            Some(samples) => self.sampled_error(samples, from, to),
            None => self.polled_error(from, to),
        }
    }

    fn sampled_error(&self, samples: &Samples, from: MonotonicNs, to: MonotonicNs) -> Joules {
        let reach = self.shape_update() * 1.5;
        let length = to.since(from);
        let (first, last) = (from.before(reach), to.after(reach));
        let mut local = Local::default();
        if length <= RECENT {
            samples.around(first, last).for_each(|sample| local.add(sample.power));
        } else {
            local.steps_w2 = samples.steps_at(last) - samples.steps_at(first);
            // Both ends are off by the same time, so what counts is how power differs between them.
            let mut edges = Local::default();
            for (first, last) in [(first, from.after(reach)), (to.before(reach), last)] {
                samples.around(first, last).for_each(|sample| edges.add(sample.power));
            }
            local.widen(&edges);
        }
        let mut unread = Joules::ZERO;
        if let Some(first) = samples.first().filter(|first| first.t > from) {
            let mut early = Local::default();
            self.polled_within(from, first.t).for_each(|power| early.add(power));
            samples.around(first.t, first.t.after(RECENT)).for_each(|sample| early.add(sample.power));
            unread = early.range() * min(first.t.since(from), length);
        }
        if let Some(last) = samples.last().filter(|last| last.t < to) {
            let mut recent = Local::default();
            samples.around(last.t.before(RECENT), last.t).for_each(|sample| recent.add(sample.power));
            unread += recent.range() * min(to.since(last.t), length);
        }
        let error = self.seen_error(&local, KAPPA, length).get().hypot(unread.get());
        // Over a short time it cannot be off by more than all that power may have changed by.
        let most = (local.range() * length + POWER_RESOLUTION * length).get().max(unread.get());
        Joules(if length <= RECENT { error.min(most) } else { error })
    }

    fn polled_error(&self, from: MonotonicNs, to: MonotonicNs) -> Joules {
        let update = self.shape_update();
        let reach = update * 1.5;
        let length = to.since(from);
        let mut local = Local::default();
        self.polled_within(from.before(reach), to.after(reach)).for_each(|power| local.add(power));
        // A short look once an update can show the same twice of a load that changes all the time.
        let mut wide = Local::default();
        self.polled_within(from.before(RECENT), to.after(RECENT)).for_each(|power| wide.add(power));
        local.widen(&wide);
        let (at_from, at_to) = (self.hidden(from), self.hidden(to));
        let hidden = Watts(at_from.get().abs().max(at_to.get().abs())) * update;
        let wander = Watts((at_to - at_from).get().abs() * 0.5) * length;
        let seen = self.seen_error(&local, KAPPA_POLLED, length);
        let error = seen.get().hypot(hidden.get()).hypot(wander.get());
        // A swing that is shorter than the look at it shows lower than it is, by as much as it is shorter.
        let most = local.range() * (length + LOOK) + hidden + wander;
        Joules(error.min(most.get()).min((local.highest() * length).get()))
    }

    /// The error of values that power goes between.
    fn seen_error(&self, local: &Local, kappa: f64, length: Seconds) -> Joules {
        let update = self.shape_update();
        let between = HALF_WIDTH * update.get() * (kappa * local.steps_w2).sqrt();
        let times = local.range() * (update * 0.5 + CLOCK_ERROR);
        let resolution = POWER_RESOLUTION * length;
        Joules(between.hypot(times.get()).hypot(resolution.get()))
    }

    /// How much more or less is drawn around `t` than instant power shows, by one-second averages; zero where there are
    /// none.
    fn hidden(&self, t: MonotonicNs) -> Watts {
        let channels = self.channels();
        let (Some(first), Some(last)) = (self.points().front(), self.points().back()) else {
            return Watts::ZERO;
        };
        let to = t.after(RECENT).min(last.t.before(AVERAGE_DELAY));
        let from = to.before(RECENT * 2.0).max(first.t);
        if !channels.average || channels.power != Some(PowerSource::Instant) || to <= from {
            return Watts::ZERO;
        }
        let averaged = |t: MonotonicNs| self.sums_at(t.after(AVERAGE_DELAY)).average;
        let shown = self.polled_at(to) - self.polled_at(from);
        let apart = averaged(to) - averaged(from) - shown;
        apart / to.since(from)
    }
}

/// How power went around a stretch.
#[derive(Default)]
struct Local {
    last: Option<Watts>,
    steps_w2: f64,
    range: Option<(Watts, Watts)>,
}

impl Local {
    fn add(&mut self, power: Watts) {
        if let Some(last) = self.last {
            self.steps_w2 += (power - last).get().powi(2);
        }
        self.last = Some(power);
        let (low, high) = self.range.unwrap_or((power, power));
        self.range = Some((min(low, power), max(high, power)));
    }

    fn range(&self) -> Watts {
        self.range.map_or(Watts::ZERO, |(low, high)| high - low)
    }

    fn highest(&self) -> Watts {
        self.range.map_or(Watts::ZERO, |(_, high)| high)
    }

    /// Takes over the range of another place if it is wider.
    fn widen(&mut self, other: &Self) {
        if other.range() > self.range() {
            self.range = other.range;
        }
    }
}
