//! How fast a run goes and what it draws, over one window of time.
//!
//! A point is a moment at which a step has ended on the device and the meter was read. Every figure of a window comes
//! from its first and its last point, so tokens a second times joules a token are its watts.

use std::cmp::Reverse;
use std::collections::VecDeque;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

/// The window of speed and power.
const RECENT: Seconds = Seconds(30.0);
/// Points that are kept. When there are more, every second one goes.
const MAX_POINTS: usize = 512;
/// A forecast needs a window of this length, or of [`MIN_STEPS`].
const MIN_SECONDS: Seconds = Seconds(1.0);
const MIN_STEPS: u64 = 10;

/// The course of one process.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// In order. The first is the end of the first step, which is slow: kernels are loaded and memory is touched.
    points: VecDeque<Point>,
    /// Before the first step.
    start: Option<Point>,
    /// The newest, which is not kept if it comes too soon after the one before.
    newest: Option<Point>,
    /// The end of the last evaluation or checkpoint: no step was made just before it.
    resumed: Option<Point>,
    /// Least time between points that are kept.
    spacing: Seconds,
    /// What pauses took so far: points are noted as if there had been none.
    paused: (Seconds, Joules),
}

/// A moment between two steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// When.
    pub t: MonotonicNs,
    /// Finished updates.
    pub step: u64,
    /// Energy of this process, if a meter runs.
    pub energy: Option<Joules>,
}

/// What happened between two points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    seconds: Seconds,
    steps: u64,
    energy: Option<Joules>,
}

impl Pace {
    /// Training begins.
    pub fn start(&mut self, point: Point) {
        *self = Self { start: Some(point), ..Self::default() };
    }

    /// Adds a point, which is after the last.
    pub fn note(&mut self, point: Point) {
        let point = self.without_pauses(point);
        self.newest = Some(point);
        if self.points.back().is_some_and(|last| point.t.since(last.t) < self.spacing) {
            return;
        }
        self.points.push_back(point);
        if self.points.len() > MAX_POINTS {
            self.thin();
        }
    }

    /// Steps go on at `t` after an evaluation or a checkpoint, by when the process has used `energy`.
    pub fn resume(&mut self, t: MonotonicNs, energy: Option<Joules>) {
        let resumed = self.newest.map(|Point { step, .. }| Point { t, step, energy });
        self.resumed = resumed.map(|point| self.without_pauses(point));
    }

    /// Steps go on after a pause, in which the process used `energy`.
    pub fn pause(&mut self, time: Seconds, energy: Joules) {
        self.paused.0 += time;
        self.paused.1 += energy;
    }

    fn without_pauses(&self, point: Point) -> Point {
        let (time, energy) = self.paused;
        Point { t: point.t.before(time), energy: point.energy.map(|used| used - energy), ..point }
    }

    /// Speed and power of steps now: over the last half minute, as far as no evaluation or checkpoint came between;
    /// over two points where steps are longer.
    pub fn recent(&self) -> Option<Rate> {
        let newest = self.newest?;
        match self.resumed {
            Some(resumed) if resumed.step == newest.step => None,
            Some(resumed) if newest.t.since(resumed.t) <= RECENT => Some(Rate::between(&resumed, &newest)),
            _ => self.rate_from(|first| newest.t.since(first.t) <= RECENT),
        }
    }

    /// Speed and power of all steps so far, the slow first one included.
    pub fn since_start(&self) -> Option<Rate> {
        let (start, newest) = (self.start?, self.newest?);
        (newest.step > start.step).then(|| Rate::between(&start, &newest))
    }

    /// The rate to forecast by: over the later half of what this process has done, evaluations and checkpoints
    /// included. `None` until there is enough of it.
    pub fn steady(&self) -> Option<Rate> {
        let (first, newest) = (self.points.front()?, self.newest?);
        let middle = first.t.midpoint(newest.t);
        let earlier = self.points.iter().filter(|point| point.step < newest.step);
        // The point nearest to the middle: the next one after it may lie beyond an evaluation.
        let from = earlier.min_by_key(|point| (point.t.0.abs_diff(middle.0), Reverse(point.t)))?;
        let rate = Rate::between(from, &newest);
        (rate.seconds >= MIN_SECONDS || rate.steps >= MIN_STEPS).then_some(rate)
    }

    /// From the earliest point that is `within` the window to the newest; at least from the last one before that.
    fn rate_from(&self, within: impl Fn(&Point) -> bool) -> Option<Rate> {
        let newest = self.newest?;
        let earlier = || self.points.iter().filter(|point| point.step < newest.step);
        let first = earlier().find(|point| within(point)).or_else(|| earlier().next_back())?;
        Some(Rate::between(first, &newest))
    }

    fn thin(&mut self) {
        let mut is_kept = false;
        self.points.retain(|_| {
            is_kept = !is_kept;
            is_kept
        });
        let whole = self.points.back().zip(self.points.front()).map(|(last, first)| last.t.since(first.t));
        self.spacing = whole.map_or(Seconds::ZERO, |whole| Seconds(whole.get() / MAX_POINTS as f64));
    }
}

impl Rate {
    fn between(first: &Point, last: &Point) -> Self {
        Self {
            seconds: last.t.since(first.t),
            steps: last.step - first.step,
            energy: last.energy.zip(first.energy).map(|(last, first)| last - first),
        }
    }

    /// Steps a second.
    pub fn steps_per_s(&self) -> f64 {
        self.steps as f64 / self.seconds.get()
    }

    /// Mean power.
    pub fn power(&self) -> Option<Watts> {
        self.energy.map(|energy| energy / self.seconds)
    }

    /// Energy of a step.
    pub fn energy_per_step(&self) -> Option<Joules> {
        self.energy.map(|energy| energy * (1.0 / self.steps as f64))
    }

    /// What `steps` more take at this rate.
    pub fn time_of(&self, steps: u64) -> Seconds {
        Seconds(steps as f64 / self.steps_per_s())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds: f64, step: u64, joules: f64) -> Point {
        Point { t: MonotonicNs::default().after(Seconds(seconds)), step, energy: Some(Joules(joules)) }
    }

    fn close(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 1e-9
    }

    #[test]
    fn a_forecast_leaves_out_the_slow_start_and_waits_until_it_can_tell() {
        let mut pace = Pace::default();
        // The first step takes 20 s at 100 W, each after it 0.1 s at 700 W; they are told ten at a time.
        pace.start(point(0.0, 0, 0.0));
        pace.note(point(20.0, 1, 2000.0));
        assert_eq!((pace.recent(), pace.steady()), (None, None));
        assert_eq!(pace.since_start().unwrap().energy_per_step(), Some(Joules(2000.0)));
        pace.note(point(20.2, 3, 2140.0));
        assert_eq!(pace.steady(), None, "two steps tell nothing");
        for batch in 1..=20u32 {
            let (s, steps) = (f64::from(batch), u64::from(batch) * 10);
            pace.note(point(20.2 + s, 3 + steps, 2140.0 + 700.0 * s));
        }
        let (recent, steady) = (pace.recent().unwrap(), pace.steady().unwrap());
        for rate in [recent, steady] {
            assert!(close(rate.steps_per_s(), 10.0) && close(rate.power().unwrap().get(), 700.0), "{rate:?}");
            assert!(close(rate.energy_per_step().unwrap().get(), 70.0));
        }
        assert!(close(steady.time_of(120).get(), 12.0), "not the 240 s of the first step's speed");
    }

    #[test]
    fn figures_of_a_window_fit_each_other() {
        let mut pace = Pace::default();
        for s in 0..100u32 {
            // Slower and hungrier from the fiftieth second on.
            let (n, energy) = match s {
                0..50 => (s * 4, f64::from(s) * 100.0),
                _ => (200 + (s - 50) * 2, 5000.0 + f64::from(s - 50) * 300.0),
            };
            pace.note(point(f64::from(s), 1 + u64::from(n), energy));
        }
        let recent = pace.recent().unwrap();
        assert!(close(recent.steps_per_s(), 2.0) && close(recent.power().unwrap().get(), 300.0));
        assert!(close(recent.steps_per_s() * recent.energy_per_step().unwrap().get(), 300.0));
        assert!(close(pace.steady().unwrap().steps_per_s(), 2.0), "the earlier half is forgotten");
    }

    #[test]
    fn an_evaluation_slows_the_forecast_and_not_the_speed() {
        let mut pace = Pace::default();
        (0..=10u32).for_each(|s| pace.note(point(f64::from(s), 1 + u64::from(s), 0.0)));
        let before = pace.recent();
        pace.resume(point(30.0, 0, 0.0).t, Some(Joules(0.0)));
        assert_eq!(pace.recent(), None, "no step since");
        (1..=4u32).for_each(|s| pace.note(point(30.0 + f64::from(s), 11 + u64::from(s), 0.0)));
        assert_eq!(pace.recent().map(|rate| rate.steps_per_s()), before.map(|rate| rate.steps_per_s()));
        assert!(pace.steady().unwrap().steps_per_s() < 0.5);
    }

    #[test]
    fn a_pause_changes_no_speed_and_no_forecast() {
        let (mut with, mut without) = (Pace::default(), Pace::default());
        for s in 0..20u32 {
            let (t, step) = (f64::from(s), 1 + u64::from(s));
            without.note(point(t, step, t * 100.0));
            let waited = if s < 10 { 0.0 } else { 3600.0 };
            if s == 10 {
                with.pause(Seconds(3600.0), Joules(5000.0));
            }
            with.note(point(t + waited, step, t * 100.0 + if s < 10 { 0.0 } else { 5000.0 }));
        }
        assert_eq!((with.recent(), with.steady()), (without.recent(), without.steady()));
    }

    #[test]
    fn long_steps_have_a_rate_and_many_points_are_thinned() {
        let mut pace = Pace::default();
        (1..=4u32).for_each(|n| pace.note(point(f64::from(n) * 100.0, u64::from(n), f64::from(n))));
        assert!(close(pace.recent().unwrap().steps_per_s(), 0.01));
        let mut pace = Pace::default();
        (1..=100_000u32).for_each(|n| pace.note(point(f64::from(n) * 1e-3, u64::from(n), f64::from(n))));
        assert!(pace.points.len() <= MAX_POINTS + 1 && pace.points.len() > MAX_POINTS / 4);
        assert!(close(pace.recent().unwrap().steps_per_s(), 1000.0));
        assert!(close(pace.steady().unwrap().time_of(1000).get(), 1.0));
    }

    #[test]
    fn without_a_meter_there_is_a_speed_alone() {
        let mut pace = Pace::default();
        (1..=3u32).for_each(|n| pace.note(Point { energy: None, ..point(f64::from(n), u64::from(n), 0.0) }));
        let rate = pace.recent().unwrap();
        assert!(close(rate.steps_per_s(), 1.0) && rate.power().is_none() && rate.energy_per_step().is_none());
    }
}
