//! Ways against each other, until one is ahead by more than the error.
//!
//! In each round every way that is left trains for a moment; every other round goes through them backwards, so that what
//! drifts (a board that warms up, a neighbour that comes) falls on all of them alike. What counts is how a way did
//! against another in the same round.

use wattle_meter::books::projection::student;

use crate::goal::Goal;
use crate::way::Way;
use crate::window::Window;

/// When a race is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Rounds before anything is decided that is close.
    pub min_rounds: usize,
    /// Rounds at most.
    pub max_rounds: usize,
    /// Ways that differ by no more than this share are level.
    pub level: f64,
}

/// A way that took so many times as much as the best so far, in each of the first rounds, drops out early.
const HOPELESS: f64 = 1.5;
/// So many rounds: one alone may have met a hiccup of the machine.
const HOPELESS_ROUNDS: usize = 2;

impl Default for Rules {
    fn default() -> Self {
        Self { min_rounds: 3, max_rounds: 9, level: 0.01 }
    }
}

/// Why a way was not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be taken here: it does not fit into memory, say.
    Impossible(String),
    /// Whoever asked wants no more.
    Stopped,
    /// Nothing more can be measured.
    Broken(String),
}

/// Why a way is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// It cannot be taken.
    Impossible(String),
    /// It is behind by more than the error.
    Behind,
    /// It takes more energy than is allowed.
    OverLimit,
    /// It is for the case that another cannot be taken, and that can.
    NotNeeded,
}

/// Who starts in a race.
#[derive(Clone, Debug, PartialEq)]
pub struct Entrant {
    /// The way.
    pub way: Way,
    /// An earlier entrant: only if that one cannot be taken, this one takes part.
    pub instead_of: Option<usize>,
}

impl From<Way> for Entrant {
    fn from(way: Way) -> Self {
        Self { way, instead_of: None }
    }
}

/// A way in a race.
#[derive(Clone, Debug, PartialEq)]
pub struct Contender {
    /// The way.
    pub way: Way,
    /// What was measured, a window a round.
    pub windows: Vec<Window>,
    /// Why it is out, if it is.
    pub dropped: Option<Dropped>,
    instead_of: Option<usize>,
}

/// How a race ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The best is ahead by more than the error.
    Ahead,
    /// Some are level; of those it is the one that is better in the other quantity, else the first.
    Level,
    /// After all rounds, the error is larger than the difference; it is the one with the best mean.
    Close,
    /// None keeps the limit; it is the one with the least energy.
    OverLimit,
    /// None can be taken.
    Nobody,
}

/// A race that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Race {
    /// The ways, in the order in which they were given.
    pub contenders: Vec<Contender>,
    /// Which of them is the best.
    pub best: Option<usize>,
    /// How it ended.
    pub finish: Finish,
}

/// By how much one way is above another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// As a share: 0.1 for a tenth more.
    pub share: f64,
    /// 95 % half-width of that.
    pub half_width: f64,
}

impl Contender {
    fn new(entrant: Entrant) -> Self {
        let Entrant { way, instead_of } = entrant;
        Self { way, windows: Vec::new(), dropped: None, instead_of }
    }

    /// Whether it is still in the race.
    pub fn is_left(&self) -> bool {
        self.dropped.is_none()
    }

    /// All its windows as one.
    pub fn total(&self) -> Option<Window> {
        self.windows.iter().copied().reduce(|a, b| a.and(&b))
    }

    /// By how much it is above `other` in `value`, from the rounds that both have.
    pub fn above(&self, other: &Self, goal: Goal) -> Option<Gap> {
        let logs: Vec<f64> = self
            .windows
            .iter()
            .zip(&other.windows)
            .map(|(own, its)| (goal.value(own) / goal.value(its)).ln())
            .collect();
        let n = logs.len();
        if n < 2 {
            return None;
        }
        let mean = logs.iter().sum::<f64>() / n as f64;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let scatter = student(n - 1) * (variance / n as f64).sqrt();
        // Rounds may agree by chance; they cannot tell less than the meter's own error.
        let of_meter = |contender: &Self| {
            let errors = contender.windows.iter().take(n).map(|window| goal.relative_error(window).powi(2));
            errors.sum::<f64>().sqrt() / n as f64
        };
        Some(Gap {
            share: mean.exp_m1(),
            half_width: mean.exp() * scatter.max(of_meter(self).hypot(of_meter(other))),
        })
    }

    /// Whether it took far more than `other` in every round.
    fn is_always_above(&self, other: &Self, goal: Goal) -> bool {
        let mut rounds = self.windows.iter().zip(&other.windows);
        rounds.all(|(own, its)| goal.value(own) > HOPELESS * goal.value(its))
    }

    /// Whether it takes more energy than `limit` by more than its error.
    fn exceeds(&self, limit: f64) -> bool {
        self.total().is_some_and(|total| {
            let half_width = total.half_width.unwrap_or_default().get() / total.tokens as f64;
            total.joules_per_token() - half_width > limit
        })
    }
}

impl Race {
    /// One that has not begun.
    fn among(ways: impl IntoIterator<Item = impl Into<Entrant>>) -> Self {
        let contenders = ways.into_iter().map(|way| Contender::new(way.into())).collect();
        Self { contenders, best: None, finish: Finish::Nobody }
    }

    /// Lets `ways` race; `measure` trains in one of them for a moment.
    ///
    /// # Errors
    /// If `measure` was stopped or is broken.
    pub fn run(
        ways: impl IntoIterator<Item = impl Into<Entrant>>,
        goal: Goal,
        rules: &Rules,
        measure: &mut dyn FnMut(&Way) -> Result<Window, Failure>,
    ) -> Result<Self, Failure> {
        let mut race = Self::among(ways);
        for round in 1..=rules.max_rounds.max(1) {
            race.round(round, measure)?;
            if race.is_over(round, goal, rules) {
                break;
            }
        }
        Ok(race)
    }

    /// Measures `ways` in turns, so many rounds, and decides nothing.
    ///
    /// # Errors
    /// As [`Race::run`].
    pub fn in_turns(
        ways: impl IntoIterator<Item = Way>,
        n_rounds: usize,
        measure: &mut dyn FnMut(&Way) -> Result<Window, Failure>,
    ) -> Result<Vec<Contender>, Failure> {
        let mut race = Self::among(ways);
        (1..=n_rounds).try_for_each(|round| race.round(round, measure))?;
        Ok(race.contenders)
    }

    /// The best way.
    pub fn winner(&self) -> Option<&Contender> {
        self.best.map(|best| &self.contenders[best])
    }

    fn left(&self) -> Vec<usize> {
        (0..self.contenders.len()).filter(|&idx| self.contenders[idx].is_left()).collect()
    }

    /// Whether the one that it stands in for cannot be taken.
    fn is_needed(&self, idx: usize) -> bool {
        let other = self.contenders[idx].instead_of.map(|other| &self.contenders[other].dropped);
        other.is_none_or(|dropped| matches!(dropped, Some(Dropped::Impossible(_))))
    }

    fn round(
        &mut self,
        round: usize,
        measure: &mut dyn FnMut(&Way) -> Result<Window, Failure>,
    ) -> Result<(), Failure> {
        let mut order = self.left();
        if round.is_multiple_of(2) {
            order.reverse();
        }
        for idx in order {
            if round == 1 && !self.is_needed(idx) {
                self.contenders[idx].dropped = Some(Dropped::NotNeeded);
                continue;
            }
            let contender = &mut self.contenders[idx];
            match measure(&contender.way) {
                Ok(window) => contender.windows.push(window),
                Err(Failure::Impossible(why)) => contender.dropped = Some(Dropped::Impossible(why)),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Drops what is behind, and says whether the rest is decided.
    fn is_over(&mut self, round: usize, goal: Goal, rules: &Rules) -> bool {
        if !self.keep_limit(goal) {
            return true;
        }
        let Some(best) = self.leader(goal) else {
            self.finish = Finish::Nobody;
            return true;
        };
        let is_early = round < rules.min_rounds;
        let mut level = vec![best];
        let mut is_decided = true;
        for idx in self.left() {
            let contender = &self.contenders[idx];
            let gap = contender.above(&self.contenders[best], goal);
            let is_hopeless =
                round >= HOPELESS_ROUNDS && contender.is_always_above(&self.contenders[best], goal);
            let is_behind = gap.is_some_and(|gap| gap.share - gap.half_width > 0.0);
            if idx == best {
            } else if gap.is_some_and(|gap| gap.share.abs() + gap.half_width <= rules.level) {
                level.push(idx);
            } else if is_hopeless || (is_behind && !is_early) {
                self.contenders[idx].dropped = Some(Dropped::Behind);
            } else {
                is_decided = false;
            }
        }
        let is_alone = self.left().len() == 1;
        level.sort_unstable();
        let is_over = is_alone || (is_decided && !is_early) || round == rules.max_rounds;
        (self.best, self.finish) = match () {
            () if is_alone => (Some(best), Finish::Ahead),
            () if is_decided => (Some(self.better_otherwise(&level, goal, rules)), Finish::Level),
            () => (Some(best), Finish::Close),
        };
        is_over
    }

    /// Drops ways that take more energy than is allowed. False if none keeps the limit.
    fn keep_limit(&mut self, goal: Goal) -> bool {
        let Some(limit) = goal.limit() else { return true };
        let left = self.left();
        let (over, within): (Vec<usize>, Vec<usize>) =
            left.iter().partition(|&&idx| self.contenders[idx].exceeds(limit));
        if within.is_empty() && !left.is_empty() {
            self.best = self.leader(Goal::Energy);
            self.finish = Finish::OverLimit;
            return false;
        }
        over.into_iter().for_each(|idx| self.contenders[idx].dropped = Some(Dropped::OverLimit));
        true
    }

    /// The way with the best mean of those that are left.
    fn leader(&self, goal: Goal) -> Option<usize> {
        let value = |idx: usize| self.contenders[idx].total().map(|total| (goal.value(&total), idx));
        let values = self.left().into_iter().filter_map(value);
        values.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, idx)| idx)
    }

    /// Of ways that are level in what is sought, the one that is better in the other quantity by more than that; else the
    /// first.
    fn better_otherwise(&self, level: &[usize], goal: Goal, rules: &Rules) -> usize {
        let other = match goal {
            Goal::Energy => Goal::Time,
            Goal::Time | Goal::TimeWithin { .. } => Goal::Energy,
        };
        let value = |idx: usize| self.contenders[idx].total().map_or(f64::MAX, |total| other.value(&total));
        level.iter().copied().fold(level[0], |best, idx| {
            if value(idx) < value(best) * (1.0 - rules.level) { idx } else { best }
        })
    }
}

#[cfg(test)]
mod tests {
    use wattle_random::{Purpose, Stream};
    use wattle_runlog::{Joules, Seconds};

    use super::*;

    /// Ways that take so many joules and seconds, each with noise, on a machine that gets slower by `drift` a window.
    fn race(ways: &[(f64, f64)], noise: f64, drift: f64, seed: u64, goal: Goal) -> Race {
        let named: Vec<Way> =
            (0..ways.len()).map(|idx| Way::default().with("way", &idx.to_string())).collect();
        let mut n = 0;
        let mut measure = |way: &Way| {
            let (joules, seconds) = ways[way.settings["way"].parse::<usize>().unwrap()];
            n += 1;
            let mut normal = [0f32; 2];
            Stream::new(seed, Purpose::Sampling, n).fill_normal(0, &mut normal);
            let off = |i: usize| (1.0 + drift * n as f64) * (1.0 + noise * f64::from(normal[i]));
            Ok(window(joules * off(0), seconds * off(1)))
        };
        Race::run(named, goal, &Rules::default(), &mut measure).unwrap()
    }

    fn window(joules: f64, seconds: f64) -> Window {
        Window {
            tokens: 1000,
            seconds: Seconds(seconds),
            energy: Joules(joules),
            half_width: Some(Joules(joules * 1e-3)),
            measured_fraction: 1.0,
        }
    }

    #[test]
    fn the_better_way_is_found_though_the_machine_drifts_by_more_than_the_difference() {
        let mut wrong = 0;
        for seed in 0..300 {
            let race = race(&[(105.0, 1.0), (100.0, 1.0), (103.0, 1.0)], 0.01, 0.002, seed, Goal::Energy);
            wrong += usize::from(race.best != Some(1));
        }
        assert!(wrong <= 9, "{wrong} of 300");
    }

    #[test]
    fn what_is_far_behind_drops_out_early_and_what_is_level_is_called_so() {
        let race = race(&[(100.0, 1.0), (300.0, 1.0), (100.1, 1.0)], 1e-4, 0.0, 1, Goal::Energy);
        assert_eq!((race.best, race.finish), (Some(0), Finish::Level));
        assert_eq!(race.contenders[1].windows.len(), HOPELESS_ROUNDS);
        assert_eq!(race.contenders[1].dropped, Some(Dropped::Behind));
        assert_eq!(race.contenders[0].windows.len(), 3);
    }

    #[test]
    fn of_level_ways_the_one_that_is_better_otherwise_is_taken() {
        let race = race(&[(100.0, 2.0), (100.1, 1.5)], 1e-4, 0.0, 1, Goal::Energy);
        assert_eq!((race.best, race.finish), (Some(1), Finish::Level));
    }

    #[test]
    fn a_difference_within_the_noise_stays_close_after_all_rounds() {
        let races: Vec<Race> =
            (0..50).map(|seed| race(&[(100.0, 1.0), (100.5, 1.0)], 0.05, 0.0, seed, Goal::Energy)).collect();
        let close: Vec<&Race> = races.iter().filter(|race| race.finish == Finish::Close).collect();
        assert!(close.len() >= 35, "{} of 50", close.len());
        assert!(close.iter().all(|race| race.contenders[0].windows.len() == Rules::default().max_rounds));
    }

    #[test]
    fn the_fastest_way_within_a_limit_is_found_and_where_none_is_within_the_most_frugal() {
        let ways = [(120.0, 1.0), (100.0, 1.2), (90.0, 1.5)];
        let within =
            |joules: f64| race(&ways, 1e-3, 0.0, 5, Goal::TimeWithin { joules_per_token: joules / 1000.0 });
        let found = within(110.0);
        assert_eq!((found.best, found.finish), (Some(1), Finish::Ahead));
        assert_eq!(found.contenders[0].dropped, Some(Dropped::OverLimit));
        let none = within(50.0);
        assert_eq!((none.best, none.finish), (Some(2), Finish::OverLimit));
    }

    #[test]
    fn a_way_that_cannot_be_taken_is_out_and_the_others_race_on() {
        let ways = [Way::default(), Way::default().with("train.micro_batch_size", "8")];
        let measure = &mut |way: &Way| match way.settings.is_empty() {
            true => Err(Failure::Impossible("no memory".to_owned())),
            false => Ok(window(1.0, 1.0)),
        };
        let race = Race::run(ways.clone(), Goal::Time, &Rules::default(), measure).unwrap();
        assert_eq!((race.best, race.finish), (Some(1), Finish::Ahead));
        // One that stands in for another takes part where that is out.
        let stands_in_for = |idx: usize| {
            let way = Way::default().with("train.recompute", "block");
            ways.iter().cloned().map(Entrant::from).chain([Entrant { way, instead_of: Some(idx) }])
        };
        let race = Race::run(stands_in_for(0), Goal::Time, &Rules::default(), measure).unwrap();
        assert_eq!(race.contenders[2].dropped, None);
        let race = Race::run(stands_in_for(1), Goal::Time, &Rules::default(), measure).unwrap();
        assert_eq!(race.contenders[2].dropped, Some(Dropped::NotNeeded));
        let nobody = &mut |_: &Way| Err(Failure::Impossible("no memory".to_owned()));
        let race = Race::run(ways.clone(), Goal::Time, &Rules::default(), nobody).unwrap();
        assert_eq!((race.best, race.finish), (None, Finish::Nobody));
        let stopped = &mut |_: &Way| Err(Failure::Stopped);
        assert_eq!(Race::run(ways, Goal::Time, &Rules::default(), stopped), Err(Failure::Stopped));
    }
}
