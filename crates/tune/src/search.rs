//! One race for each thing that may be changed, then the best against what was there.
//!
//! What may be changed is tried one after the other, each with the best of those before it: the number of windows is the
//! sum of the possibilities and not their product. A power limit or a clock is a quantity: after the race of its first
//! values the middles beside the best are tried, until they lie close together.

use crate::goal::Goal;
use crate::race::{Dropped, Entrant, Failure, Gap, Race, Rules};
use crate::way::Way;
use crate::window::Window;

/// A thing that may be changed, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Keys of the configuration.
    Settings {
        /// What is changed, for a person.
        name: String,
        /// The configuration's own values come first.
        values: Vec<Settings>,
    },
    /// The board's power limit.
    PowerLimit {
        /// Milliwatts, rising.
        values_mw: Vec<u32>,
    },
    /// The highest clock of the board's multiprocessors.
    Clock {
        /// MHz, rising.
        values_mhz: Vec<u32>,
    },
}

/// Values of some keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// For a person.
    pub label: String,
    /// What differs from the configuration: keys with values as `--set` takes them. Nothing for its own values.
    pub set: Vec<(String, String)>,
    /// Earlier values of the axis: only if those cannot be taken, these are tried.
    pub instead_of: Option<usize>,
}

impl Axis {
    /// What is changed, for a person.
    pub fn name(&self) -> &str {
        match self {
            Self::Settings { name, .. } => name,
            Self::PowerLimit { .. } => "power limit",
            Self::Clock { .. } => "clock",
        }
    }

    /// What a way of this axis is called in its race.
    pub fn label(&self, way: &Way) -> String {
        match self {
            Self::Settings { values, .. } => {
                let holds = |(key, value): &(String, String)| way.settings.get(key) == Some(value);
                let all = |settings: &&Settings| !settings.set.is_empty() && settings.set.iter().all(holds);
                // The configuration's own values are named by no key.
                let own = values.first().filter(|own| own.set.is_empty());
                values
                    .iter()
                    .filter(all)
                    .max_by_key(|s| s.set.len())
                    .or(own)
                    .map_or_else(String::new, |s| s.label.clone())
            }
            Self::PowerLimit { .. } => {
                way.power_limit_mw.map_or_else(String::new, |mw| format!("{} W", f64::from(mw) / 1e3))
            }
            Self::Clock { .. } => way.clock_mhz.map_or_else(String::new, |mhz| format!("{mhz} MHz")),
        }
    }

    /// `way` with each of the values.
    fn entrants(&self, way: &Way) -> Vec<Entrant> {
        match self {
            Self::Settings { values, .. } => {
                let with = |way: Way, (key, value): &(String, String)| way.with(key, value);
                let entrant = |settings: &Settings| Entrant {
                    way: settings.set.iter().fold(way.clone(), with),
                    instead_of: settings.instead_of,
                };
                values.iter().map(entrant).collect()
            }
            Self::PowerLimit { values_mw: values } | Self::Clock { values_mhz: values } => {
                values.iter().map(|&value| self.at(way, value).into()).collect()
            }
        }
    }

    /// `way` with a value of a quantity.
    fn at(&self, way: &Way, value: u32) -> Way {
        match self {
            Self::Settings { .. } => way.clone(),
            Self::PowerLimit { .. } => Way { power_limit_mw: Some(value), ..way.clone() },
            Self::Clock { .. } => Way { clock_mhz: Some(value), ..way.clone() },
        }
    }

    /// The value of a quantity in `way`.
    fn value_of(&self, way: &Way) -> Option<u32> {
        match self {
            Self::Settings { .. } => None,
            Self::PowerLimit { .. } => way.power_limit_mw,
            Self::Clock { .. } => way.clock_mhz,
        }
    }

    /// Values of a quantity that lie closer together than this are not told apart.
    fn resolution(&self) -> u32 {
        match self {
            Self::Settings { .. } => 0,
            Self::PowerLimit { values_mw: values } | Self::Clock { values_mhz: values } => {
                values.last().map_or(1, |last| last / RESOLUTION)
            }
        }
    }
}

/// A quantity is found to this part of its highest value.
const RESOLUTION: u32 = 40;

/// What is looked for, and where.
#[derive(Clone, Debug)]
pub struct Search {
    /// What is sought.
    pub goal: Goal,
    /// What may be changed, in this order.
    pub axes: Vec<Axis>,
    /// When a race is over.
    pub rules: Rules,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The best way.
    pub best: Way,
    /// What it took, from the last race that it won.
    pub window: Option<Window>,
    /// What the best way saves against the configuration as it is, measured in turns; `None` if that is the best.
    pub saving: Option<Saving>,
}

/// The configuration as it is against the best way.
#[derive(Clone, Debug)]
pub struct Saving {
    /// The configuration as it is.
    pub start: Window,
    /// The best way.
    pub best: Window,
    /// How far the best way is above it in what was sought; negative where it takes less.
    pub of_best: Gap,
}

impl Search {
    /// Looks for the best way. `told` hears of each race that is over.
    ///
    /// # Errors
    /// If `measure` was stopped or is broken, or of some axis no way can be taken.
    pub fn run(
        &self,
        start: &Way,
        measure: &mut dyn FnMut(&Way) -> Result<Window, Failure>,
        told: &mut dyn FnMut(&Axis, &Race),
    ) -> Result<Tuned, Failure> {
        let mut tuned = Tuned { best: start.clone(), window: None, saving: None };
        for axis in &self.axes {
            let entrants = axis.entrants(&tuned.best);
            let mut known: Vec<u32> =
                entrants.iter().filter_map(|entrant| axis.value_of(&entrant.way)).collect();
            let mut race = self.race(entrants, measure)?;
            told(axis, &race);
            loop {
                let winner = race.winner().ok_or_else(|| impossible(axis, &race))?;
                (tuned.best, tuned.window) = (winner.way.clone(), winner.total());
                let between = middles(axis, &tuned.best, &mut known);
                if between.is_empty() {
                    break;
                }
                // The best so far comes first: what is level does not take its place.
                let ways = std::iter::once(tuned.best.clone())
                    .chain(between.into_iter().map(|value| axis.at(&tuned.best, value)));
                race = self.race(ways.map(Entrant::from).collect(), measure)?;
                told(axis, &race);
            }
        }
        tuned.saving = self.saving(start, &tuned.best, measure)?;
        Ok(tuned)
    }

    fn race(
        &self,
        ways: Vec<Entrant>,
        measure: &mut dyn FnMut(&Way) -> Result<Window, Failure>,
    ) -> Result<Race, Failure> {
        Race::run(ways, self.goal, &self.rules, measure)
    }

    /// The configuration as it is beside the best way: whoever was best of many is so by luck too, and owes a measurement.
    fn saving(
        &self,
        start: &Way,
        best: &Way,
        measure: &mut dyn FnMut(&Way) -> Result<Window, Failure>,
    ) -> Result<Option<Saving>, Failure> {
        if start == best {
            return Ok(None);
        }
        let goal = match self.goal {
            Goal::TimeWithin { .. } => Goal::Time,
            goal => goal,
        };
        let both = Race::in_turns([start.clone(), best.clone()], self.rules.min_rounds, measure)?;
        let [start, best] = [&both[0], &both[1]];
        let Some(of_best) = best.above(start, goal) else { return Ok(None) };
        Ok(start.total().zip(best.total()).map(|(start, best)| Saving { of_best, start, best }))
    }
}

/// Why a race has no winner: what kept the first of its ways from being taken.
fn impossible(axis: &Axis, race: &Race) -> Failure {
    let first = race.contenders.first();
    Failure::Impossible(match first.map(|first| (axis.label(&first.way), &first.dropped)) {
        Some((label, Some(Dropped::Impossible(why)))) => format!("{} {label}: {why}", axis.name()),
        _ => axis.name().to_owned(),
    })
}

/// The values halfway between that of the best way and those beside it, unless they are closer than the resolution; they
/// are known from then on.
fn middles(axis: &Axis, best: &Way, known: &mut Vec<u32>) -> Vec<u32> {
    let Some(best) = axis.value_of(best) else { return Vec::new() };
    let below = known.iter().copied().filter(|&value| value < best).max();
    let above = known.iter().copied().filter(|&value| value > best).min();
    let resolution = axis.resolution();
    let middles: Vec<u32> = [below, above]
        .into_iter()
        .flatten()
        .filter(|&beside| beside.abs_diff(best) / 2 >= resolution)
        .map(|beside| beside.midpoint(best))
        .collect();
    known.extend(&middles);
    middles
}

#[cfg(test)]
mod tests {
    use wattle_random::{Purpose, Stream};
    use wattle_runlog::{Joules, Seconds};

    use super::*;

    /// A board that draws 110 W and the cube of its clock above that; of a step, a share waits for memory whatever the
    /// clock. At `limit` watts it takes so many seconds and joules a token.
    fn board(limit: f64, idle: f64, memory: f64) -> (f64, f64) {
        let clock = ((limit - idle) / (700.0 - idle)).cbrt();
        let seconds = (memory + (1.0 - memory) / clock) * 1e-6;
        (seconds, limit * seconds)
    }

    #[test]
    fn the_power_limit_of_a_cubic_board_is_found_within_two_per_cent_of_the_fewest_joules() {
        let axis = Axis::PowerLimit { values_mw: (0..6).map(|i| 200_000 + i * 100_000).collect() };
        let search = Search { goal: Goal::Energy, axes: vec![axis], rules: Rules::default() };
        let (mut n_windows, mut worst) = (0, 0f64);
        for seed in 0..200u64 {
            let (idle, memory) = (70.0 + (seed % 10) as f64 * 8.0, 0.1 + (seed % 7) as f64 * 0.1);
            let mut n = 0;
            let mut measure = |way: &Way| {
                n += 1;
                let mut normal = [0f32; 2];
                Stream::new(seed, Purpose::Sampling, n).fill_normal(0, &mut normal);
                // It warms up by two per cent, and no window is quite like another.
                let off = 1.02 - 0.02 * (-(n as f64) / 10.0).exp() + 0.004 * f64::from(normal[0]);
                let (seconds, joules) =
                    board(f64::from(way.power_limit_mw.unwrap_or(700_000)) / 1e3, idle, memory);
                Ok(Window {
                    tokens: 1_000_000,
                    seconds: Seconds(seconds * 1e6),
                    energy: Joules(joules * 1e6 * off),
                    half_width: Some(Joules(joules * 1e3)),
                    measured_fraction: 1.0,
                })
            };
            let found = search.run(&Way::default(), &mut measure, &mut |_, _| ()).unwrap();
            n_windows += n;
            let least =
                (2000..=7000).map(|w| board(f64::from(w) / 10.0, idle, memory).1).fold(f64::MAX, f64::min);
            let chosen = board(f64::from(found.best.power_limit_mw.unwrap()) / 1e3, idle, memory).1;
            worst = worst.max(chosen / least - 1.0);
            let saving = found.saving.unwrap();
            let truth = chosen / board(700.0, idle, memory).1 - 1.0;
            assert!((saving.of_best.share - truth).abs() < 0.03, "{saving:?}, {truth}");
        }
        assert!(worst < 0.02, "{worst}");
        assert!(n_windows / 200 < 60, "{} windows a search", n_windows / 200);
    }

    #[test]
    fn each_axis_is_tried_with_the_best_of_those_before_it() {
        let axis = |key: &str, values: &[&str]| {
            let set = |value: &str| {
                (value != "own").then(|| (key.to_owned(), value.to_owned())).into_iter().collect()
            };
            let values = values
                .iter()
                .map(|value| Settings { label: (*value).to_owned(), set: set(value), instead_of: None })
                .collect();
            Axis::Settings { name: key.to_owned(), values }
        };
        let search = Search {
            goal: Goal::Time,
            axes: vec![axis("train.micro_batch_size", &["own", "4"]), axis("train.threads", &["own", "2"])],
            rules: Rules::default(),
        };
        let mut measure = |way: &Way| {
            let get = |key: &str| way.settings.get(key).map_or("", String::as_str).to_owned();
            let mut seconds = 1.0;
            seconds *= if get("train.micro_batch_size") == "4" { 0.8 } else { 1.0 };
            seconds *= if get("train.threads") == "2" { 0.6 } else { 1.0 };
            let (energy, half_width) = (Joules(1.0), None);
            Ok(Window { tokens: 10, seconds: Seconds(seconds), energy, half_width, measured_fraction: 0.0 })
        };
        let mut labels = Vec::new();
        let mut told = |axis: &Axis, race: &Race| {
            labels.push(race.contenders.iter().map(|c| axis.label(&c.way)).collect::<Vec<_>>());
        };
        let found = search.run(&Way::default(), &mut measure, &mut told).unwrap();
        assert_eq!(found.best.to_string(), "micro_batch_size 4, threads 2");
        assert_eq!(labels[0], ["own", "4"]);
        assert!((found.saving.unwrap().of_best.share - (0.48 - 1.0)).abs() < 1e-9);
    }
}
