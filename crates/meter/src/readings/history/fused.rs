//! One energy out of an expensive counter and of power: what had been drawn up to a moment.
//!
//! The counter says exactly what was drawn up to each tick at which it was read ([`crate::readings::ticks`]), and power
//! says how the energy of the time between two such ticks lies in it: by the driver's samples where there are some, else
//! by power that was polled. So the energy up to t, between the ticks k and n with the counter's Cₖ and Cₙ, is
//!
//! E(t) = Cₖ + S(k, t) + (Cₙ − Cₖ − S(k, n))·Vₖ/(Vₖ + Vₙ)
//!
//! where S is the integral of power, and Vₖ and Vₙ are the variances of its parts before and after t: what power missed
//! lies where power is least certain. Its variance is Vₖ·Vₙ/(Vₖ + Vₙ), enlarged where Cₙ − Cₖ − S is more than the
//! variances explain. After the last tick there is Cₖ + S(k, t) with the variance Vₖ.
//!
//! V has these parts, with U the time between two samples and p their powers (95 % half-widths, in quadrature):
//! - *Between samples*: [`HALF_WIDTH`]·U·√(κ·Σ(pᵢ₊₁ − pᵢ)²). A change of power lies anywhere between two samples, which
//!   for a single one is κ = 1/12; for power that is drawn anew at each sample, κ = 1/2. See [`KAPPA`].
//! - *Times*: a sample may stand for any part of the time since the one before, and its clock is known to
//!   [`CLOCK_ERROR`], so the range of p at both ends times U/2 and that.
//! - *Gain*: the counter and power may differ by [`GAIN`].
//! - *Unread*: after the last sample power is taken to stay; the range of p in the last second times that time.
//!
//! A tick is known to some milliseconds, and all ticks are off by the same: between two edges at the same power that
//! cancels. So an estimate holds it apart, as its lag.
//!
//! Estimates that a window has stated are pinned: whatever is read later, windows that share an edge add up.

use std::collections::VecDeque;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::history::History;
use crate::readings::order::{max, min};
use crate::readings::samples::Samples;
use crate::readings::ticks::{DRIFT, TickValue, Ticks};
use crate::sensors::sensor::{Advance, Channels, CounterReading, CounterSpec, CounterValue, PowerSample};

/// From a standard deviation to a 95 % half-width.
const HALF_WIDTH: f64 = 1.96;

/// How much of the squared steps between samples is error: between a change of power that the samples resolve (1/12)
/// and power without memory (1/2).
const KAPPA: f64 = 0.25;

/// Power that is polled shows a quarter of the time: steps of training are drawn anew at each update.
const KAPPA_POLLED: f64 = 0.5;

/// The counter and the integral of power differ by no more than this on steady loads (0.2 % on an H100).
const GAIN: f64 = 0.01;

/// A tick comes when a timer of the driver runs: not always at once.
const JITTER: Seconds = Seconds(5e-4);

/// Power is read in whole milliwatts.
const POWER_RESOLUTION: Watts = Watts(1e-3);

/// The driver's clock is mapped to the monotonic one to this.
const CLOCK_ERROR: Seconds = Seconds(2e-3);

/// Power of this long before the last sample tells what may come after it.
const RECENT: Seconds = Seconds(1.0);

/// Ticks younger than this move when the phase becomes better known.
const MOVES_FOR: Seconds = Seconds(20.0);

/// Ticks older than this are written to the trace.
const TRACED_AFTER: Seconds = Seconds(2.5);

/// A counter that repeats its value over more than this, while power was drawn, is stuck.
const STUCK_AFTER: Seconds = Seconds(0.5);
const STUCK_ENERGY: Joules = Joules(1.0);

/// The counter carries a moment that is no further from a tick that was read.
const NEAR_TICK: Seconds = Seconds(0.5);

/// Power that is polled is this long apart where no update has been seen.
const POLLED: Seconds = Seconds(0.1);

/// Knots kept at most.
const MAX_KNOTS: usize = 16_384;

/// What an expensive counter and the driver's samples have said.
pub(crate) struct Fused {
    counter: Option<CounterSpec>,
    ticks: Ticks,
    knots: VecDeque<Knot>,
    /// Knots that have been written to the trace.
    traced: usize,
    samples: Option<Samples>,
    pins: Vec<(MonotonicNs, Estimate)>,
}

/// The counter at one of its ticks.
#[derive(Clone, Copy, Debug)]
struct Knot {
    t: MonotonicNs,
    error: Seconds,
    /// Whether `error` is that of every tick: of a phase that is the same for all.
    is_shared: bool,
    value: u64,
    /// Energy up to the tick.
    sum: Joules,
    /// Squared half-width of what power had to bridge so far.
    bridged_j2: f64,
    resets: u32,
    stuck: u32,
}

/// The energy up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Estimate {
    /// Energy since the first reading.
    pub(crate) energy: Joules,
    /// 95 % half-width of what only this moment has.
    pub(crate) spread: Joules,
    /// What it may be off by together with every other moment's: the time of the ticks.
    pub(crate) lag: Joules,
    /// Whether the counter carries it.
    pub(crate) by_counter: bool,
    /// Squared half-width of what power had to bridge up to here.
    bridged_j2: f64,
    resets: u32,
    stuck: u32,
}

/// The energy between two moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Between {
    pub(crate) energy: Joules,
    /// 95 % half-width.
    pub(crate) half_width: Joules,
    pub(crate) start: Estimate,
    pub(crate) end: Estimate,
    /// Whether anything was read that tells it.
    pub(crate) is_known: bool,
    /// Whether the counter carries all of it.
    pub(crate) by_counter: bool,
    pub(crate) reset: bool,
    pub(crate) stuck: bool,
    /// By the driver's samples alone.
    pub(crate) samples: Option<(Joules, Joules)>,
    /// Highest sample.
    pub(crate) highest: Option<Watts>,
    /// Time between two samples, or two updates of power.
    pub(crate) update: Seconds,
}

impl Fused {
    /// For sensors that have an expensive counter or samples, and no others.
    pub(crate) fn new(channels: Channels) -> Option<Self> {
        let any = channels.slow_counter.is_some() || channels.samples;
        any.then(|| Self {
            counter: channels.slow_counter,
            ticks: Ticks::default(),
            knots: VecDeque::new(),
            traced: 0,
            samples: channels.samples.then(Samples::default),
            pins: Vec::new(),
        })
    }

    pub(crate) fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// Moves the ticks of the last seconds to where they are now known to be.
    fn settle(&mut self) {
        let Some(last) = self.knots.back().map(|knot| knot.t) else { return };
        let first = self.knots.partition_point(|knot| last.since(knot.t) > MOVES_FOR).max(self.traced);
        for knot in self.knots.range_mut(first..) {
            if let Some((t, error)) = self.ticks.nearest(knot.t)
                && error < knot.error
            {
                (knot.t, knot.error, knot.is_shared) = (t, error, true);
            }
        }
    }

    /// Drops what was said of ticks shortly before `t`: they were not where they were expected.
    fn doubt(&mut self, t: MonotonicNs) {
        let keep = self.knots.partition_point(|knot| t.since(knot.t) > MOVES_FOR).max(self.traced);
        self.knots.truncate(keep);
    }

    pub(crate) fn forget_before(&mut self, t: MonotonicNs) {
        let keep_from = self.knots.partition_point(|knot| knot.t <= t).saturating_sub(1).min(self.traced);
        self.knots.drain(..keep_from);
        self.traced -= keep_from;
        if let Some(samples) = &mut self.samples {
            samples.forget_before(t.before(RECENT));
        }
        self.pins.retain(|(pin, _)| *pin >= t);
    }

    pub(crate) fn thin(&mut self) {
        if let Some(samples) = &mut self.samples {
            samples.thin();
        }
        if self.knots.len() > MAX_KNOTS {
            let half = (MAX_KNOTS / 2).min(self.traced);
            let mut i = 0;
            self.knots.retain(|_| {
                i += 1;
                i % 2 == 1 || i > half
            });
            self.traced -= half / 2;
        }
    }

    fn untraced(&mut self, now: MonotonicNs, all: bool) -> Vec<TickValue> {
        let end = self.knots.partition_point(|knot| all || now.since(knot.t) > TRACED_AFTER);
        let new = self.knots.range(self.traced.min(end)..end);
        let values: Vec<_> =
            new.map(|knot| TickValue { t: knot.t, error: knot.error, value: knot.value }).collect();
        self.traced = self.traced.max(end);
        values
    }
}

impl History {
    /// Adds a reading of an expensive counter. Returns whether it is known which tick it tells of.
    pub fn push_counter(&mut self, reading: &CounterReading) -> bool {
        let Some(fused) = self.fused.as_mut() else { return false };
        let Some(value) = reading.value.measured() else { return false };
        let contradictions = fused.ticks.contradictions();
        let values = fused.ticks.note(reading.before, reading.after, value.0);
        if fused.ticks.contradictions() > contradictions {
            fused.doubt(reading.before);
        }
        fused.settle();
        let is_clear = !values.is_empty();
        values.into_iter().for_each(|value| self.push_tick(value));
        is_clear
    }

    /// Adds the counter at one of its ticks.
    pub(crate) fn push_tick(&mut self, tick: TickValue) {
        let Some(fused) = &self.fused else { return };
        let Some(spec) = fused.counter else { return };
        let TickValue { t, error, value } = tick;
        let is_shared = fused.ticks.period().is_some();
        let Some(last) = fused.knots.back().copied() else {
            let (sum, bridged_j2) = (self.shape_at(t), 0.0);
            self.add(Knot { t, error, is_shared, value, sum, bridged_j2, resets: 0, stuck: 0 });
            return;
        };
        let apart = fused.ticks.period().map_or(Seconds(1e-3), |period| period * 0.5);
        if t <= last.t.after(apart) {
            return;
        }
        let bridge = || (self.shape_at(t) - self.shape_at(last.t), self.shape_error(last.t, t).get().powi(2));
        let advance = spec.advance(CounterValue(last.value), CounterValue(value));
        let mut knot = Knot { t, error, is_shared, value, ..last };
        match advance {
            Advance::By(energy) if energy > Joules::ZERO => knot.sum += energy,
            Advance::By(_) => {
                let (energy, j2) = bridge();
                if t.since(last.t) <= STUCK_AFTER || energy <= STUCK_ENERGY {
                    return;
                }
                (knot.sum, knot.bridged_j2) = (knot.sum + energy, knot.bridged_j2 + j2);
                knot.stuck += 1;
            }
            Advance::Reset(_) => {
                let (energy, j2) = bridge();
                (knot.sum, knot.bridged_j2) = (knot.sum + energy, knot.bridged_j2 + j2);
                knot.resets += 1;
            }
        }
        self.add(knot);
    }

    fn add(&mut self, knot: Knot) {
        if let Some(fused) = &mut self.fused {
            fused.knots.push_back(knot);
        }
    }

    /// Adds the samples of a driver.
    pub fn push_samples(&mut self, samples: &[PowerSample]) {
        let Some(mut own) = self.fused.as_mut().and_then(|fused| fused.samples.take()) else { return };
        let begun = self.points().front().map_or(MonotonicNs(u64::MAX), |point| point.t);
        // A driver keeps samples from before anything was metered.
        let is_first = own.last().is_none();
        for sample in samples.iter().filter(|sample| !is_first || sample.t >= begun) {
            own.push(*sample, |from, to| self.polled_at(to) - self.polled_at(from));
        }
        if let Some(fused) = &mut self.fused {
            fused.samples = Some(own);
        }
    }

    /// The counter at ticks that no longer move and that have not been returned yet; with `all` at those too that still
    /// may.
    pub(crate) fn untraced(&mut self, now: MonotonicNs, all: bool) -> Vec<TickValue> {
        self.fused.as_mut().map_or_else(Vec::new, |fused| fused.untraced(now, all))
    }

    /// When an expensive counter ticks; `None` without one.
    pub fn ticks(&self) -> Option<&Ticks> {
        let fused = self.fused.as_ref()?;
        fused.counter.map(|_| fused.ticks())
    }

    /// The driver's samples, once there are some.
    pub(crate) fn samples(&self) -> Option<&Samples> {
        let samples = self.fused.as_ref()?.samples.as_ref()?;
        samples.last().map(|_| samples)
    }

    /// How many moments are kept at which something new was said.
    pub(crate) fn kept(&self) -> usize {
        self.points().len().max(self.samples().map_or(0, Samples::len))
    }

    /// The moments from `start` to `end` at which something new was said.
    pub(crate) fn times(&self, start: MonotonicNs, end: MonotonicNs) -> Vec<MonotonicNs> {
        let sampled: Vec<_> =
            self.samples().map_or_else(Vec::new, |samples| samples.times(start, end).collect());
        let polled = self.points().iter().map(|point| point.t).filter(|t| (start..=end).contains(t));
        if sampled.is_empty() { polled.collect() } else { sampled }
    }

    /// Keeps what is known of the energy up to `t`, so that windows which begin or end there add up.
    pub fn pin(&mut self, t: MonotonicNs) {
        let Some(estimate) = self.estimate(t) else { return };
        if let Some(fused) = &mut self.fused
            && fused.pins.iter().all(|(pin, _)| *pin != t)
        {
            fused.pins.push((t, estimate));
        }
    }

    /// Energy between two moments; `None` for a sensor without an expensive counter and samples.
    pub(crate) fn between(&self, start: MonotonicNs, end: MonotonicNs) -> Option<Between> {
        let fused = self.fused.as_ref()?;
        let (from, to) = (self.estimate(start)?, self.estimate(end)?);
        let energy = max(to.energy - from.energy, Joules::ZERO);
        let bridged = to.bridged_j2 - from.bridged_j2;
        let square = |energy: Joules| energy.get().powi(2);
        // Ticks drift either way by what the two clocks differ in, but are never further off than they are known to be.
        let drift = min(energy * (2.0 * DRIFT), from.lag + to.lag);
        let squares = [from.spread, to.spread, to.lag - from.lag, drift].map(square);
        let whole = (squares.into_iter().sum::<f64>() + bridged.max(0.0)).sqrt();
        let by_counter = from.by_counter && to.by_counter && bridged <= 0.0;
        let by_power = self.power_error(start, end);
        let knots_before = |t| fused.knots.partition_point(|knot| knot.t < t);
        let half_width = if !by_counter {
            let with_gain = self.shape_error(start, end);
            if fused.knots.is_empty() { by_power } else { max(Joules(whole), with_gain) }
        } else if knots_before(start) == knots_before(end) {
            // Without a tick in between, both ends share their errors but for what power says of the time itself.
            min(Joules(whole), self.shape_error(start, end))
        } else {
            Joules(whole)
        };
        let samples = self.samples().filter(|samples| {
            let covers = |t: MonotonicNs| {
                samples.first().is_some_and(|first| first.t <= t.after(POLLED))
                    && samples.last().is_some_and(|last| last.t >= t.before(POLLED))
            };
            covers(start) && covers(end)
        });
        Some(Between {
            energy,
            half_width,
            start: from,
            end: to,
            is_known: !fused.knots.is_empty() || samples.is_some(),
            by_counter,
            reset: to.resets > from.resets,
            stuck: to.stuck > from.stuck,
            samples: samples.map(|_| (self.shape_at(end) - self.shape_at(start), by_power)),
            highest: self.samples().and_then(|samples| samples.highest(start, end)),
            update: self.shape_update(),
        })
    }

    /// The energy up to `t`, with what power missed in proportion to power: close to the estimate, and cheap enough for
    /// every round and for thousands of moments.
    pub(crate) fn fused_energy(&self, t: MonotonicNs) -> Option<Joules> {
        let fused = self.fused.as_ref()?;
        let shape = self.shape_at(t);
        let next = fused.knots.partition_point(|knot| knot.t <= t);
        let before = next.checked_sub(1).map(|i| (fused.knots[i].sum, self.shape_at(fused.knots[i].t)));
        let after = fused.knots.get(next).map(|knot| (knot.sum, self.shape_at(knot.t)));
        Some(match (before, after) {
            (Some((sum, from)), Some((until, to))) if to > from => {
                sum + (until - sum) * ((shape - from) / (to - from))
            }
            (Some((sum, from)), _) | (None, Some((sum, from))) => sum + (shape - from),
            (None, None) => shape,
        })
    }

    /// The energy up to `t`; `None` for a sensor without an expensive counter and samples.
    pub(crate) fn estimate(&self, t: MonotonicNs) -> Option<Estimate> {
        let fused = self.fused.as_ref()?;
        if let Some((_, pinned)) = fused.pins.iter().find(|(pin, _)| *pin == t) {
            return Some(*pinned);
        }
        let next = fused.knots.partition_point(|knot| knot.t <= t);
        let before = next.checked_sub(1).map(|i| fused.knots[i]);
        let after = fused.knots.get(next).copied();
        Some(match (before, after) {
            (Some(before), Some(after)) => self.inside(&before, t, &after),
            (Some(knot), None) | (None, Some(knot)) => self.outside(&knot, t),
            (None, None) => self.provisional(t),
        })
    }

    /// Between two ticks that were read.
    fn inside(&self, before: &Knot, t: MonotonicNs, after: &Knot) -> Estimate {
        let (to_t, from_t) =
            (self.shape_at(t) - self.shape_at(before.t), self.shape_at(after.t) - self.shape_at(t));
        let missed = after.sum - before.sum - to_t - from_t;
        let variance = |from, to| self.shape_error(from, to).get().powi(2).max(1e-12);
        let (v_before, v_after) = (variance(before.t, t), variance(t, after.t));
        let part = v_before / (v_before + v_after);
        let unexplained = (missed.get().powi(2) / (v_before + v_after)).max(1.0);
        let near = if part < 0.5 { before } else { after };
        let (lag, own) = self.lag(near);
        Estimate {
            energy: before.sum + to_t + missed * part,
            spread: Joules((unexplained * part * v_after).sqrt().hypot(own.get())),
            lag,
            by_counter: after.resets == before.resets && after.stuck == before.stuck,
            bridged_j2: before.bridged_j2,
            resets: if part < 0.5 { before.resets } else { after.resets },
            stuck: if part < 0.5 { before.stuck } else { after.stuck },
        }
    }

    /// Before the first tick that was read, or after the last.
    fn outside(&self, knot: &Knot, t: MonotonicNs) -> Estimate {
        let energy = knot.sum + (self.shape_at(t) - self.shape_at(knot.t));
        let (from, to) = (knot.t.min(t), knot.t.max(t));
        let error = self.shape_error(from, to);
        let by_counter = to.since(from) <= NEAR_TICK;
        // Far from any tick the error is no longer this moment's alone: it grows with the time.
        let (spread, bridged) = if by_counter { (error, 0.0) } else { (Joules::ZERO, error.get().powi(2)) };
        let (lag, own) = self.lag(knot);
        let bridged_j2 = if t < knot.t { knot.bridged_j2 - bridged } else { knot.bridged_j2 + bridged };
        Estimate {
            energy,
            spread: Joules(spread.get().hypot(own.get())),
            lag,
            by_counter,
            bridged_j2,
            resets: knot.resets,
            stuck: knot.stuck,
        }
    }

    /// Before the counter's ticks are known, or without a counter.
    fn provisional(&self, t: MonotonicNs) -> Estimate {
        Estimate { energy: self.shape_at(t), ..Estimate::default() }
    }

    /// What the time of a tick may put the energy off by: together with every other tick, and alone.
    fn lag(&self, knot: &Knot) -> (Joules, Joules) {
        let half = knot.error + POLLED * 0.1;
        let (from, to) = (knot.t.before(half), knot.t.after(half));
        let mean = (self.shape_at(to) - self.shape_at(from)) / to.since(from);
        let (error, own) = (mean * knot.error, mean * JITTER);
        if knot.is_shared { (error, own) } else { (Joules::ZERO, error) }
    }

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

    /// The integral of power that was polled, held before the first reading and going on after the last.
    fn polled_at(&self, t: MonotonicNs) -> Joules {
        let sums = self.sums_at(t);
        let (energy, power) = if self.channels().power.is_some() {
            (sums.integral, self.points().back().and_then(|last| last.power))
        } else {
            (sums.average, self.points().back().and_then(|last| last.average))
        };
        let unread = self.points().back().map_or(Seconds::ZERO, |last| t.since(last.t));
        energy + power.unwrap_or(Watts::ZERO) * min(unread, POLLED)
    }

    /// Time between two values of what carries power.
    fn shape_update(&self) -> Seconds {
        self.samples().map_or_else(|| max(self.power_period().unwrap_or(POLLED), POLLED), Samples::period)
    }

    /// What the integral of power between two moments may be off by as the counter would have it: a 95 % half-width.
    fn shape_error(&self, from: MonotonicNs, to: MonotonicNs) -> Joules {
        let energy = self.shape_at(to) - self.shape_at(from);
        Joules(self.power_error(from, to).get().hypot(energy.get() * GAIN))
    }

    /// The same without what the gains of the two differ by.
    fn power_error(&self, from: MonotonicNs, to: MonotonicNs) -> Joules {
        let update = self.shape_update();
        let reach = update * 1.5;
        let length = to.since(from);
        let samples =
            self.samples().filter(|samples| samples.last().is_some_and(|last| from <= last.t.after(reach)));
        let mut local = Local::default();
        let mut unread = Joules::ZERO;
        if let Some(samples) = samples {
            let (first, last) = (from.before(reach), to.after(reach));
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
            if let Some(last) = samples.last().filter(|last| last.t < to) {
                let mut recent = Local::default();
                samples.around(last.t.before(RECENT), last.t).for_each(|sample| recent.add(sample.power));
                unread = recent.range() * min(to.since(last.t), length);
            }
        } else {
            self.polled_within(from.before(reach), to.after(reach)).for_each(|power| local.add(power));
            // A short look once an update can show the same twice of a load that changes all the time.
            let mut wide = Local::default();
            self.polled_within(from.before(RECENT), to.after(RECENT)).for_each(|power| wide.add(power));
            local.widen(&wide);
        }
        let kappa = if samples.is_some() { KAPPA } else { KAPPA_POLLED };
        let between = HALF_WIDTH * update.get() * (kappa * local.steps_w2).sqrt();
        let times = local.range().get() * (update * 0.5 + CLOCK_ERROR).get();
        let resolution = POWER_RESOLUTION.get() * length.get();
        let squares = [between, times, unread.get(), resolution].map(|error| error.powi(2));
        let error = squares.into_iter().sum::<f64>().sqrt();
        // Over a short time it cannot be off by more than all that power may have changed by.
        let most = local.range().get() * length.get() + resolution;
        Joules(if length <= RECENT { error.min(most.max(unread.get())) } else { error })
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

    /// Takes over the range of another place if it is wider.
    fn widen(&mut self, other: &Self) {
        if other.range() > self.range() {
            self.range = other.range;
        }
    }
}
