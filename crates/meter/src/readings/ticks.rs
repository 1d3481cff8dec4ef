//! When an energy counter moves.
//!
//! A board's counter moves at a row of moments, its ticks, one period apart: 100.0 ms on an H100. A reading says what
//! had been drawn at the last tick before it, so a reading whose tick is known is exact, whatever the moment at which
//! it was taken.
//!
//! Ticks are learnt in two steps. Readings in short succession, some of which repeat the value before, tell the period
//! and the phase to the distance between two readings. Then pairs of readings narrow the phase: one before the time in
//! which the tick lies, one in its middle. The value is from some moment of the call, so the phase is known to about
//! the duration of a call and no better. Between two pairs the phase is taken to drift by 0.005 % of the time at most.

use wattle_runlog::{MonotonicNs, Seconds};

/// The clock by which a counter ticks and this machine's may differ by this share: crystals are good to 0.005 %.
pub(crate) const DRIFT: f64 = 5e-5;

/// Periods that are looked for: multiples of this, up to a second.
const GRANULE_NS: u64 = 10_000_000;
const LONGEST_NS: u64 = 1_000_000_000;

/// A tick comes when a timer of the driver runs: by so much it may be late.
const LATE_NS: u64 = 500_000;

/// The period of the boards whose counter is known to be expensive. Where it fits it is taken; were it another, that would
/// soon show.
const USUAL_PERIOD_NS: u64 = 100_000_000;

/// A counter whose ticks do not show within so many readings is left alone.
const MOST_TO_LEARN: usize = 40;

/// Fewer changes of the value do not tell a period.
const LEAST_CHANGES: usize = 6;

/// Phases are tried this far apart while ticks are being learnt.
const PHASE_STEP_NS: u64 = 1_000_000;

/// The step of a counter of which no period is known.
const UNKNOWN_STEP: Seconds = Seconds(0.1);

/// A call is taken to last this long before one was made: what it takes on an H100.
const USUAL_CALL: Seconds = Seconds(0.0033);

/// A value of the counter and the moment that it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TickValue {
    /// The tick, or the middle of the time in which it lies.
    pub t: MonotonicNs,
    /// The tick lies no further from `t` than this.
    pub error: Seconds,
    /// The counter.
    pub value: u64,
}

/// What is known of a counter's ticks.
#[derive(Clone, Debug)]
pub struct Ticks {
    state: State,
    /// How long a call usually takes.
    call: Seconds,
    /// How often ticks turned out not to be where they were expected.
    contradictions: u32,
}

#[derive(Clone, Debug)]
enum State {
    /// Readings so far.
    Learning(Vec<Call>),
    Known(Grid),
    /// No period shows. The last reading.
    Unknown(Option<Call>),
}

/// A call and its answer.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Call {
    before: u64,
    after: u64,
    value: u64,
}

/// Ticks one period apart. One of them lies between `low` and `high`.
#[derive(Clone, Debug)]
struct Grid {
    period: u64,
    low: u64,
    high: u64,
    /// When `low` and `high` were last looked at.
    as_of: u64,
    /// The tick that the last reading belongs to, counted from the one between `low` and `high`, and its value.
    last: Option<(i64, u64)>,
    /// Readings that contradicted the grid.
    contradicted: bool,
}

impl Default for Ticks {
    fn default() -> Self {
        Self { state: State::Learning(Vec::new()), call: USUAL_CALL, contradictions: 0 }
    }
}

impl Ticks {
    /// Whether readings in short succession are needed.
    pub fn is_learning(&self) -> bool {
        matches!(self.state, State::Learning(_))
    }

    /// Time between two ticks, once it is known.
    pub fn period(&self) -> Option<Seconds> {
        match &self.state {
            State::Known(grid) => Some(Seconds::from_ns(grid.period)),
            _ => None,
        }
    }

    /// How often ticks turned out not to be where they were expected: what was said of the time before is in doubt.
    pub fn contradictions(&self) -> u32 {
        self.contradictions
    }

    /// How long a call usually takes.
    pub fn call(&self) -> Seconds {
        self.call
    }

    /// The first stretch that ends after `t` and in which a tick lies.
    pub fn next_tick(&self, t: MonotonicNs) -> Option<(MonotonicNs, MonotonicNs)> {
        let State::Known(grid) = &self.state else { return None };
        let (low, high) = grid.widened(t.0);
        let n = (t.0 as i64 - high as i64).div_euclid(grid.period as i64) + 1;
        Some((MonotonicNs(grid.moved(low, n)), MonotonicNs(grid.moved(high, n))))
    }

    /// The tick nearest to `t`, and by how much it may be off.
    pub fn nearest(&self, t: MonotonicNs) -> Option<(MonotonicNs, Seconds)> {
        let State::Known(grid) = &self.state else { return None };
        let (low, high) = grid.widened(t.0);
        let middle = low / 2 + high / 2;
        let period = grid.period as i64;
        let n = (t.0 as i64 - middle as i64 + period / 2).div_euclid(period);
        Some((MonotonicNs(grid.moved(middle, n)), Seconds::from_ns((high - low) / 2)))
    }

    /// Takes a reading, and returns the values whose ticks it settles: of earlier readings too, once the period shows,
    /// and none where the tick cannot be told.
    pub fn note(&mut self, before: MonotonicNs, after: MonotonicNs, value: u64) -> Vec<TickValue> {
        let call = Call { before: before.0, after: after.0.max(before.0), value };
        let took = Seconds::from_ns(call.after - call.before);
        // One slow call in fifty is no reason to plan for slow ones.
        self.call = self.call * 0.9 + if took > self.call * 2.0 { self.call * 2.0 } else { took } * 0.1;
        match &mut self.state {
            State::Learning(calls) => {
                calls.push(call);
                if let Some((grid, values)) = learn(calls) {
                    self.state = State::Known(grid);
                    return values;
                }
                if calls.len() < MOST_TO_LEARN {
                    return Vec::new();
                }
                let values = calls.windows(2).map(|pair| unknown(Some(pair[0]), pair[1])).collect();
                self.state = State::Unknown(calls.last().copied());
                values
            }
            State::Known(grid) => {
                let value = grid.resolve(call);
                if grid.contradicted {
                    self.contradictions += 1;
                    self.state = State::Learning(vec![call]);
                }
                value.into_iter().collect()
            }
            State::Unknown(last) => vec![unknown(last.replace(call), call)],
        }
    }
}

/// What a reading of a counter without known ticks says: its value is as old as a step, or as the reading before that
/// had another.
fn unknown(before: Option<Call>, call: Call) -> TickValue {
    let step = UNKNOWN_STEP.ns();
    let oldest = before.filter(|before| before.value != call.value).map_or(0, |before| before.before);
    let oldest = oldest.max(call.before.saturating_sub(step));
    let error = (call.after - oldest) / 2;
    TickValue { t: MonotonicNs(oldest + error), error: Seconds::from_ns(error), value: call.value }
}

impl Grid {
    /// `low` and `high` at a moment near `t`, as far apart as drift may have taken them.
    fn widened(&self, t: u64) -> (u64, u64) {
        let by = (t.abs_diff(self.as_of) as f64 * DRIFT) as u64;
        (self.low.saturating_sub(by), self.high + by)
    }

    /// `t` moved by `n` periods.
    fn moved(&self, t: u64, n: i64) -> u64 {
        t.saturating_add_signed(n * self.period as i64)
    }

    /// Takes the last tick that is over before `t` as the one between `low` and `high`.
    fn advance(&mut self, t: u64) {
        (self.low, self.high) = self.widened(t);
        self.as_of = t;
        let n = (t as i64 - self.high as i64).div_euclid(self.period as i64);
        (self.low, self.high) = (self.moved(self.low, n), self.moved(self.high, n));
        self.last = self.last.map(|(tick, value)| (tick - n, value));
    }

    fn resolve(&mut self, call: Call) -> Option<TickValue> {
        self.advance(call.before);
        // Drift has left no time that is free of ticks.
        if self.high - self.low >= self.period {
            self.contradicted = true;
            return None;
        }
        let tick = if call.after <= self.moved(self.low, 1) {
            // A powered board draws something from one tick to the next; over more than one, the counter is stuck.
            let repeats = self.last.is_some_and(|(tick, value)| tick == -1 && value == call.value);
            self.contradicted = repeats;
            0
        } else {
            let (_, value) = self.last.filter(|(tick, _)| *tick == 0)?;
            if call.after - call.before >= self.period / 2 {
                return None;
            }
            if value == call.value {
                self.low = self.low.max(call.before.saturating_sub(self.period));
                0
            } else {
                self.high = self.high.min(call.after - self.period);
                1
            }
        };
        self.contradicted |= self.low >= self.high;
        if self.contradicted {
            return None;
        }
        self.last = Some((tick, call.value));
        Some(self.value(tick, call.value))
    }

    fn value(&self, tick: i64, value: u64) -> TickValue {
        let half = (self.high - self.low) / 2;
        TickValue { t: MonotonicNs(self.moved(self.low + half, tick)), error: Seconds::from_ns(half), value }
    }
}

/// Two readings in a row.
struct Pair {
    /// Before the first of them, and after the second.
    outer: (u64, u64),
    /// After the first of them, and before the second.
    inner: (u64, u64),
    changed: bool,
}

/// The grid that fits all readings, and what they say by it.
fn learn(calls: &[Call]) -> Option<(Grid, Vec<TickValue>)> {
    let pair = |pair: &[Call]| Pair {
        outer: (pair[0].before.saturating_sub(LATE_NS), pair[1].after),
        inner: (pair[0].after, pair[1].before.saturating_sub(LATE_NS)),
        changed: pair[0].value != pair[1].value,
    };
    let pairs: Vec<Pair> = calls.windows(2).map(pair).collect();
    let changes = pairs.iter().filter(|pair| pair.changed).count();
    if changes < LEAST_CHANGES || (pairs.len() - changes) * 4 < pairs.len() {
        return None;
    }
    let origin = calls[0].before;
    let periods = (2..=LONGEST_NS / GRANULE_NS).rev().map(|n| n * GRANULE_NS);
    let fitting = |period| Some((period, phases(&pairs, origin, period)?));
    let (period, (low, high)) = match fitting(USUAL_PERIOD_NS) {
        Some(usual) => usual,
        None => {
            let mut fitting = periods.filter_map(fitting);
            // Whole fractions of the true period may fit as well; another one nearby means that more must be seen.
            let longest = fitting.next()?;
            if fitting.next().is_some_and(|(other, _)| other * 3 > longest.0 * 2) {
                return None;
            }
            longest
        }
    };
    let as_of = calls.last()?.before;
    let mut grid = Grid { period, low, high, as_of, last: None, contradicted: false };
    let middle = low as i64 / 2 + high as i64 / 2;
    // The first tick that `pair` can hold.
    let tick_in = |pair: &Pair| (pair.outer.0 as i64 - middle).div_euclid(period as i64) + 1;
    let mut values: Vec<TickValue> = Vec::new();
    let mut tick = pairs.iter().find(|pair| pair.changed).map(|pair| tick_in(pair) - 1)?;
    values.push(grid.value(tick, calls[0].value));
    grid.last = Some((tick, calls[0].value));
    for (pair, call) in pairs.iter().zip(&calls[1..]).filter(|(pair, _)| pair.changed) {
        tick = tick_in(pair);
        // A pair that is further apart than ticks may hold more than one.
        let is_sure = pair.outer.1 - pair.outer.0 < period;
        grid.last = is_sure.then_some((tick, call.value));
        values.extend(is_sure.then(|| grid.value(tick, call.value)));
    }
    Some((grid, values))
}

/// The times in which the first tick from `origin` on can lie if ticks are `period` apart: each change holds one, and
/// no repetition does. `None` where there is no such time, or more than one stretch of them.
fn phases(pairs: &[Pair], origin: u64, period: u64) -> Option<(u64, u64)> {
    let ticks = |(from, to): (u64, u64), first: u64| {
        let until = |t: u64| (t as i64 - first as i64).div_euclid(period as i64);
        until(to) - until(from)
    };
    let fits = |first: u64| {
        pairs.iter().all(|pair| match pair.changed {
            true => ticks(pair.outer, first) > 0,
            false => pair.inner.0 >= pair.inner.1 || ticks(pair.inner, first) == 0,
        })
    };
    let steps = period / PHASE_STEP_NS;
    let fitting: Vec<bool> = (0..steps).map(|step| fits(origin + step * PHASE_STEP_NS)).collect();
    let begins = |step: &usize| fitting[*step] && !fitting[(step + fitting.len() - 1) % fitting.len()];
    let mut beginnings = (0..fitting.len()).filter(begins);
    let first = beginnings.next()?;
    if beginnings.next().is_some() {
        return None;
    }
    let length = (0..fitting.len()).take_while(|i| fitting[(first + i) % fitting.len()]).count() as u64;
    let low = origin + first as u64 * PHASE_STEP_NS;
    Some((low - PHASE_STEP_NS, low + length * PHASE_STEP_NS))
}
