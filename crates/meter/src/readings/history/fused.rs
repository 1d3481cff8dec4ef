//! One energy out of an expensive counter and of power: what had been drawn up to a moment.
//!
//! The counter says exactly what was drawn up to each tick at which it was read ([`crate::readings::ticks`]), and power
//! says how the energy of the time between two such ticks lies in it: by the driver's samples where there are some, else
//! by power that was polled. So the energy up to t, between the ticks k and n with the counter's Cₖ and Cₙ, is
//!
//! E(t) = Cₖ + S(k, t) + b·(Cₙ − Cₖ − S(k, n))
//!
//! where S is the integral of power ([`crate::readings::history::shape`]) and b the share of what power missed that lies
//! before t ([`crate::readings::history::missed`]). After the last tick there is Cₖ + S(k, t) with the error of S.
//!
//! A tick is known to some milliseconds, and all ticks are off by the same: between two edges at the same power that
//! cancels. So an estimate holds it apart, as its lag.
//!
//! Estimates that a window has stated are pinned: whatever is read later, windows that share an edge add up.

use std::collections::VecDeque;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::readings::history::History;
use crate::readings::history::missed::{GAIN, Missed};
use crate::readings::history::shape::{POLLED, RECENT};
use crate::readings::order::{max, min};
use crate::readings::samples::Samples;
use crate::readings::ticks::{DRIFT, TickValue, Ticks};
use crate::sensors::sensor::{Advance, Channels, CounterReading, CounterSpec, CounterValue, PowerSample};

/// A tick comes when a timer of the driver runs: not always at once.
const JITTER: Seconds = Seconds(5e-4);

/// Ticks younger than this move when the phase becomes better known.
const MOVES_FOR: Seconds = Seconds(20.0);

/// Ticks older than this are written to the trace.
const TRACED_AFTER: Seconds = Seconds(2.5);

/// A counter that repeats its value over more than this, while power was drawn, is stuck.
const STUCK_AFTER: Seconds = Seconds(0.5);
const STUCK_ENERGY: Joules = Joules(1.0);

/// The counter carries a moment that is no further from a tick that was read.
const NEAR_TICK: Seconds = Seconds(0.5);

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
    /// 95 % half-width of the share by which power and the counter differ here.
    gain: f64,
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
        let bridge =
            || (self.shape_at(t) - self.shape_at(last.t), self.shape_error(last.t, t, GAIN).get().powi(2));
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
        let begun = self.points().front().map(|point| point.t);
        // A driver keeps samples from before anything was metered: the last of them tell of its beginning.
        let from = begun.map_or(MonotonicNs(u64::MAX), |begun| begun.before(RECENT));
        let is_first = own.last().is_none();
        for sample in samples.iter().filter(|sample| !is_first || sample.t >= from) {
            own.push(*sample, |since, to| {
                self.polled_at(to) - since.or(begun).map_or(Joules::ZERO, |since| self.polled_at(since))
            });
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
            let with_gain = self.shape_error(start, end, from.gain.max(to.gain));
            if fused.knots.is_empty() { by_power } else { max(Joules(whole), with_gain) }
        } else if knots_before(start) == knots_before(end) {
            // Without a tick in between, both ends share their errors but for what power says of the time itself.
            min(Joules(whole), self.shape_error(start, end, from.gain.max(to.gain)))
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
        let parts = [self.part(before.t, t), self.part(t, after.t)];
        let divided = Missed::divide(missed, parts, self.shape_update());
        let part = divided.before;
        let near = if part < 0.5 { before } else { after };
        let (lag, own) = self.lag(near);
        Estimate {
            energy: before.sum + to_t + missed * part,
            spread: Joules(divided.half_width.get().hypot(own.get())),
            gain: divided.gain,
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
        let error = self.shape_error(from, to, GAIN);
        let by_counter = to.since(from) <= NEAR_TICK;
        // Far from any tick the error is no longer this moment's alone: it grows with the time.
        let (spread, bridged) = if by_counter { (error, 0.0) } else { (Joules::ZERO, error.get().powi(2)) };
        let (lag, own) = self.lag(knot);
        let bridged_j2 = if t < knot.t { knot.bridged_j2 - bridged } else { knot.bridged_j2 + bridged };
        Estimate {
            energy,
            spread: Joules(spread.get().hypot(own.get())),
            lag,
            gain: GAIN,
            by_counter,
            bridged_j2,
            resets: knot.resets,
            stuck: knot.stuck,
        }
    }

    /// Before the counter's ticks are known, or without a counter.
    fn provisional(&self, t: MonotonicNs) -> Estimate {
        Estimate { energy: self.shape_at(t), gain: GAIN, ..Estimate::default() }
    }

    /// What the time of a tick may put the energy off by: together with every other tick, and alone.
    fn lag(&self, knot: &Knot) -> (Joules, Joules) {
        let half = knot.error + POLLED * 0.1;
        let (from, to) = (knot.t.before(half), knot.t.after(half));
        let mean = (self.shape_at(to) - self.shape_at(from)) / to.since(from);
        let (error, own) = (mean * knot.error, mean * JITTER);
        if knot.is_shared { (error, own) } else { (Joules::ZERO, error) }
    }
}
