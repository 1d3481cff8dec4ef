//! The energy between two moments: the best figure, how far it may be off, and what to know about it.
//!
//! A counter's difference comes first. Where the counter started again or stood still, or there is none, energy
//! comes from power: from one-second averages where there are some, else from instant power. [`crate::windows::figure`]
//! derives what each may be off by. The other figures stand beside the best one, and where the counter and those
//! from power do not agree, the half-width reaches from the one to the other: nothing here tells which is right.
//!
//! A sensor with an expensive counter or samples of its driver has one estimate out of all of them instead
//! (`readings::history::fused`). It is held against what power says by itself in the same way.
//!
//! Gain and model errors are systematic and stated apart, in every sensor's record.

use std::collections::BTreeSet;

use wattle_runlog::record::{EdgeError, Edges, Flag, Method, SensorKind, SensorRecord};
use wattle_runlog::{Celsius, Joules, MonotonicNs, Seconds, Watts};

use crate::readings::history::History;
use crate::readings::history::fused::{Between, Estimate};
use crate::readings::order::max;
use crate::sensors::sensor::{AVERAGE_SPAN, PowerSource, Survey};
use crate::windows::figure::{Figure, Figures, known_quadrature, quadrature, together};
use crate::windows::profile::Profile;
use crate::windows::stretch::{SLOWEST_UPDATE, Stretch};

/// Counter and integral may differ by so much on top of their random errors: what is seen on steady loads.
const AGREEMENT: f64 = 0.03;

/// Powers that differ by no more than this are the same: on a steady load, a counter's steps put the mean of some
/// seconds that far from the readings.
const SAME_POWER: f64 = 0.01;

/// A stretch shorter than so many update periods is short.
const SHORT_PERIODS: f64 = 10.0;

/// Energy between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowEnergy {
    /// From when.
    pub start: MonotonicNs,
    /// To when.
    pub end: MonotonicNs,
    /// All sensors together.
    pub energy: Joules,
    /// 95 % half-width of the random error of what was measured of `energy`; `None` where nothing was.
    pub uncertainty: Option<Joules>,
    /// Share of `energy` that was measured.
    pub measured_fraction: f64,
    /// Each sensor's part.
    pub sensors: Vec<SensorRecord>,
    /// How the energy came together.
    pub profile: Profile,
    /// Devices that were computed on and that no sensor measured; filled in by whoever knows the devices, see
    /// [`crate::windows::unmetered`].
    pub unmetered_devices: Vec<String>,
}

/// One end of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// When.
    pub t: MonotonicNs,
    /// Whether no reading could be taken in time.
    pub missing: bool,
}

impl Edge {
    /// Time since an earlier edge.
    pub fn since(&self, earlier: &Self) -> Seconds {
        self.t.since(earlier.t)
    }
}

impl WindowEnergy {
    /// The energy from `start` to `end` by these sensors.
    ///
    /// `process_share` is the metered processes' share of the host's processor time; `edge_missing` says that
    /// one of the ends is not a reading.
    pub fn of<'a>(
        histories: impl IntoIterator<Item = &'a History>,
        start: MonotonicNs,
        end: MonotonicNs,
        process_share: Option<f64>,
        edge_missing: bool,
    ) -> Self {
        let histories: Vec<_> = histories.into_iter().collect();
        let sensors: Vec<_> = histories
            .iter()
            .map(|history| {
                let mut record = sensor_record(history, (start, end), process_share);
                if edge_missing {
                    record.flags.push(Flag::EdgeMissing);
                }
                record
            })
            .collect();
        let profile = Profile::of(&histories, start, end);
        Self { profile, ..Self::sum(start, end, sensors) }
    }

    /// A window in which nothing was metered.
    pub fn empty(start: MonotonicNs, end: MonotonicNs) -> Self {
        Self::sum(start, end, Vec::new())
    }

    /// The window with the sensors of other machines, whose profile is taken to be that of this one.
    #[must_use]
    pub fn with_sensors(self, others: Vec<SensorRecord>) -> Self {
        let Self { start, end, sensors, profile, unmetered_devices, .. } = self;
        let sensors = sensors.into_iter().chain(others).collect();
        Self { profile, unmetered_devices, ..Self::sum(start, end, sensors) }
    }

    /// Its length.
    pub fn duration(&self) -> Seconds {
        self.end.since(self.start)
    }

    /// Energy from one moment in it to another, as its profile tells; in proportion to time without one.
    pub fn between(&self, from: MonotonicNs, to: MonotonicNs) -> Joules {
        let whole = self.profile.between(self.start, self.end);
        let duration = self.duration();
        if whole > Joules::ZERO {
            self.energy * (self.profile.between(from, to) / whole)
        } else if duration > Seconds::ZERO {
            self.energy * (to.min(self.end).since(from.max(self.start)) / duration)
        } else {
            Joules::ZERO
        }
    }

    /// Its energy less what the sensors that have a baseline would have drawn idle; `None` if none has.
    pub fn above_idle(&self) -> Option<Joules> {
        let idle = |sensor: &SensorRecord| Some(sensor.baseline?.power_w * self.duration());
        let idle = self.sensors.iter().filter_map(idle).reduce(|a, b| a + b)?;
        Some(self.energy - idle)
    }

    fn sum(start: MonotonicNs, end: MonotonicNs, sensors: Vec<SensorRecord>) -> Self {
        let energy = sensors.iter().map(|sensor| sensor.energy_j).sum();
        let uncertainty = known_quadrature(sensors.iter().map(|sensor| sensor.uncertainty_j));
        let measured = sensors.iter().filter(|s| s.method.is_measured()).map(|s| s.energy_j).sum();
        let measured_fraction = share(measured, energy);
        let profile = Profile::default();
        Self {
            start,
            end,
            energy,
            uncertainty,
            measured_fraction,
            sensors,
            profile,
            unmetered_devices: Vec::new(),
        }
    }
}

/// A part of a whole; 0 of nothing.
pub(crate) fn share(part: Joules, whole: Joules) -> f64 {
    if whole.get() > 0.0 { part / whole } else { 0.0 }
}

fn sensor_record(
    history: &History,
    (start, end): (MonotonicNs, MonotonicNs),
    process_share: Option<f64>,
) -> SensorRecord {
    let info = history.info();
    let stretch = history.stretch(start, end);
    let figures = Figures::of(&stretch, history.channels());
    let fused = history.between(start, end).filter(|fused| fused.is_known);
    let stretch = fused.as_ref().map_or(stretch.clone(), |fused| with_samples(&stretch, fused));
    let best = match &fused {
        Some(fused) => Best::fused(&stretch, &figures, fused),
        None => Best::of(&stretch, &figures),
    };
    let estimated = !info.method.is_measured();
    let method = if estimated { Method::Estimated } else { best.method.unwrap_or(info.method) };
    let energy = best.figure.energy;
    let seen = stretch.readings > 0;
    let measured = |figure: Option<Figure>| figure.map(|figure| figure.energy).filter(|_| !estimated);
    let surveys = || history.surveys(start, end);
    SensorRecord {
        id: info.id.clone(),
        kind: info.kind,
        method,
        energy_j: energy,
        uncertainty_j: (!estimated).then(|| uncertainty(history, &stretch, &best)),
        systematic_fraction: info.systematic_fraction,
        systematic_id: info.systematic_id.clone(),
        counter_j: measured(figures.counter.or(best.counter)),
        integral_j: measured(figures.integral),
        average_j: measured(figures.average),
        samples_j: fused.as_ref().and_then(|fused| fused.samples).map(|(energy, _)| energy),
        edges: fused.as_ref().filter(|fused| fused.by_counter).map(edges),
        process_share_j: process_share
            .filter(|_| info.kind == SensorKind::Cpu && !estimated)
            .map(|share| energy * share),
        samples: stretch.readings,
        max_gap_ms: stretch.max_gap.get().max(stretch.unobserved.get()) * 1e3,
        mean_w: best.mean(&stretch).filter(|_| seen),
        max_w: stretch.max_power,
        baseline: history.baseline(),
        max_temperature_c: surveys().filter_map(|survey| survey.temperature).reduce(hotter),
        throttle: throttle(surveys()),
        clocks: history.clocks(start, end),
        assumption: info.assumption.clone(),
        calibration: info.calibration.clone(),
        flags: flags(history, &stretch, &best, method, surveys().any(|s| s.contended == Some(true))),
    }
}

/// The stretch with what the driver's samples and the ticks of an expensive counter say of it.
fn with_samples(stretch: &Stretch, fused: &Between) -> Stretch {
    Stretch {
        max_power: stretch.max_power.into_iter().chain(fused.highest).reduce(max),
        counter: fused.by_counter.then_some(fused.energy),
        reset: fused.reset,
        stuck: fused.stuck,
        update: fused.update,
        ..stretch.clone()
    }
}

fn edges(fused: &Between) -> Edges {
    let error = |estimate: &Estimate| EdgeError { own_j: estimate.spread, shared_j: estimate.lag };
    Edges { start: error(&fused.start), end: error(&fused.end) }
}

/// The figure that a record states.
struct Best {
    figure: Figure,
    /// The counter's own, of one that is read at its ticks.
    counter: Option<Figure>,
    /// How it was measured; `None` if there is no figure at all.
    method: Option<Method>,
    /// Whether counter and power agree, where both can be believed.
    agreement: Option<bool>,
}

impl Best {
    fn of(stretch: &Stretch, figures: &Figures) -> Self {
        let trusted = figures.counter.filter(|_| !stretch.reset && !stretch.stuck);
        let by_power = figures.by_power();
        let agreement = trusted.zip(by_power).map(|(counter, power)| agree(&counter, &power));
        let (figure, method) = match (trusted, by_power, figures.counter) {
            (Some(counter), ..) => (counter, Some(Method::Counter)),
            (None, Some(power), _) => (power, Some(Method::PowerIntegral)),
            // All that is left: what it lost is not known.
            (None, None, Some(counter)) => {
                (Figure { half_width: counter.half_width + counter.energy, ..counter }, Some(Method::Counter))
            }
            // What any of them saw; the rest is in doubt.
            (None, None, None) => (Figure { energy: stretch.seen.0, half_width: Joules::ZERO }, None),
        };
        let half_width = match (agreement, by_power) {
            (Some(false), Some(power)) => {
                let apart = Joules((figure.energy - power.energy).get().abs());
                apart
                    + if power.half_width > figure.half_width { power.half_width } else { figure.half_width }
            }
            _ => figure.half_width,
        };
        Self { figure: Figure { half_width, ..figure }, counter: None, method, agreement }
    }

    /// The one estimate out of all readings, held against what power says by itself.
    fn fused(stretch: &Stretch, figures: &Figures, fused: &Between) -> Self {
        let mut figure = Figure { energy: fused.energy, half_width: fused.half_width };
        let counter = fused.by_counter.then_some(figure);
        let samples = fused.samples.map(|(energy, half_width)| Figure { energy, half_width });
        let by_power = together([samples, figures.average, figures.integral], agree);
        let agreement = counter.zip(by_power).map(|(counter, power)| agree(&counter, &power));
        if let (Some(false), Some(power)) = (agreement, by_power) {
            let apart = Joules((figure.energy - power.energy).get().abs());
            figure.half_width = apart + max(figure.half_width, power.half_width);
        }
        // Readings that missed the peaks and a counter that is right look the same as a counter that is wrong.
        if let Some(highest) = stretch.max_power {
            let below = figure.energy - highest * stretch.duration;
            figure.half_width = max(figure.half_width, below);
        }
        let method = match (counter, samples) {
            (Some(_), _) => Method::Counter,
            (None, Some(_)) => Method::DriverSamples,
            (None, None) => Method::PowerIntegral,
        };
        Self { figure, counter, method: Some(method), agreement }
    }

    /// Mean power; `None` within no time.
    fn mean(&self, stretch: &Stretch) -> Option<Watts> {
        (stretch.duration > Seconds::ZERO).then(|| self.figure.energy / stretch.duration)
    }
}

/// Whether a mean is above the highest reading, by more than [`SAME_POWER`].
pub(crate) fn is_above(mean: Option<Watts>, highest: Option<Watts>) -> bool {
    mean.zip(highest).is_some_and(|(mean, highest)| mean.get() > highest.get() * (1.0 + SAME_POWER))
}

/// Whether two figures differ by no more than their errors and [`AGREEMENT`].
fn agree(a: &Figure, b: &Figure) -> bool {
    let larger = a.energy.get().max(b.energy.get());
    let allowed = quadrature([a.half_width, b.half_width]).get() + AGREEMENT * larger;
    (a.energy - b.energy).get().abs() <= allowed
}

/// The best figure's error, and all that may have been drawn unobserved: the power that the device is held to, or
/// the highest ever read of it.
fn uncertainty(history: &History, stretch: &Stretch, best: &Best) -> Joules {
    let limit = history.info().limits.map(|limits| limits.enforced_w);
    let known = [stretch.usual_power, stretch.highest_power, limit];
    let highest = known.into_iter().flatten().fold(Watts::ZERO, max);
    let unseen = if best.method.is_none() { stretch.seen.1 } else { Seconds::ZERO };
    best.figure.half_width + highest * max(stretch.unobserved, unseen)
}

fn flags(history: &History, stretch: &Stretch, best: &Best, method: Method, contended: bool) -> Vec<Flag> {
    let longest_gap = (history.interval().get() * 4.0).max(1.0);
    // The silence of a lost device has a flag of its own.
    let silent = if stretch.lost { Seconds::ZERO } else { stretch.unobserved };
    let nothing = stretch.readings == 0 && !stretch.lost;
    let gaps = stretch.max_gap.get() > longest_gap || silent.get() > longest_gap || nothing;
    let period = match method {
        // Power completes a counter that is read at its ticks.
        Method::Counter if best.counter.is_some() => stretch.update,
        Method::Counter => stretch.counter_step.unwrap_or(SLOWEST_UPDATE),
        Method::PowerIntegral if averaged(history) => AVERAGE_SPAN,
        Method::PowerIntegral | Method::DriverSamples => stretch.update,
        Method::Estimated => Seconds::ZERO,
    };
    let channels = history.channels();
    let unread = channels.slow_counter.is_some() && !stretch.reset && !stretch.stuck;
    let counter_missing = (channels.counter.is_some() || unread) && stretch.counter.is_none();
    let known = [
        (Flag::Agree, best.agreement == Some(true) && stretch.readings > 1),
        (Flag::Disagree, best.agreement == Some(false)),
        (Flag::CounterReset, stretch.reset),
        (Flag::CounterStuck, stretch.stuck),
        (Flag::CounterMissing, counter_missing && stretch.readings > 0),
        (Flag::Gaps, gaps),
        (Flag::ShortWindow, stretch.duration.get() < SHORT_PERIODS * period.get()),
        (Flag::Contended, contended),
        (Flag::DeviceLost, stretch.lost),
        (Flag::Estimated, !method.is_measured()),
        (Flag::MeanAboveMax, is_above(best.mean(stretch), stretch.max_power)),
    ];
    let raised = known.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag);
    raised.chain(history.info().flags.iter().copied()).collect()
}

fn hotter(a: Celsius, b: Celsius) -> Celsius {
    if b > a { b } else { a }
}

/// Each reason once.
fn throttle<'a>(surveys: impl Iterator<Item = &'a Survey>) -> Vec<String> {
    let reasons: BTreeSet<_> = surveys.flat_map(|survey| &survey.throttle).collect();
    reasons.into_iter().map(|reason| (*reason).to_owned()).collect()
}

/// Whether power figures of this sensor come from one-second averages.
fn averaged(history: &History) -> bool {
    let channels = history.channels();
    channels.average || channels.power == Some(PowerSource::Average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::sensor::tests::{BOARD, info, reading};
    use crate::sensors::sensor::{Channels, CounterSpec};
    use std::time::Duration;

    fn ms(t: u64) -> MonotonicNs {
        MonotonicNs(t * 1_000_000)
    }

    fn history(kind: SensorKind, method: Method, channels: Channels) -> History {
        History::new(info("x", kind, method), channels, Duration::from_millis(50))
    }

    fn board() -> History {
        history(SensorKind::Gpu, Method::Counter, BOARD)
    }

    /// 300 W for `seconds`, read every 50 ms, counted every 100 ms; `counter` may bend the counter.
    fn steady(seconds: u64, counter: impl Fn(u64, u64) -> u64) -> History {
        let mut history = board();
        for i in 0..=seconds * 20 {
            history.push(&reading(ms(i * 50), Some(Watts(300.0)), Some(counter(i, 1_000 + i / 2 * 30_000))));
        }
        history
    }

    fn window(history: &History, start: u64, end: u64) -> SensorRecord {
        WindowEnergy::of([history], ms(start), ms(end), None, false).sensors.remove(0)
    }

    #[test]
    fn a_steady_minute_is_known_to_a_thousandth() {
        let record = window(&steady(60, |_, count| count), 0, 60_000);
        assert_eq!((record.energy_j, record.method), (Joules(18_000.0), Method::Counter));
        assert_eq!(record.integral_j, Some(Joules(18_000.0)));
        // 1.96 · 300 W · 0.1 s / √6
        assert!((record.uncertainty_j.unwrap().get() - 24.005).abs() < 0.01, "{record:?}");
        assert_eq!(record.flags, [Flag::Agree]);
        assert!((record.mean_w.unwrap().get() - 300.0).abs() < 1e-9);
        assert_eq!(record.max_w, Some(Watts(300.0)));
    }

    #[test]
    fn adjacent_windows_add_up() {
        let history = steady(60, |i, count| count + i * i * 3);
        let parts = [(0, 777), (777, 20_013), (20_013, 20_014), (20_014, 60_000)];
        let sum: Joules = parts.map(|(start, end)| window(&history, start, end).energy_j).into_iter().sum();
        let whole = window(&history, 0, 60_000).energy_j;
        assert!((sum - whole).get().abs() < 1e-3, "{sum:?} and {whole:?}");
    }

    #[test]
    fn a_counter_that_started_again_or_stood_still_gives_way_to_the_integral() {
        let reset = steady(60, |i, count| if i < 600 { count } else { count - 9_000_000 });
        let record = window(&reset, 0, 60_000);
        assert_eq!((record.energy_j, record.method), (Joules(18_000.0), Method::PowerIntegral));
        assert_eq!(record.flags, [Flag::CounterReset]);
        let stuck = steady(60, |i, count| if i < 600 { count } else { 9_001_000 });
        let record = window(&stuck, 0, 60_000);
        assert_eq!((record.energy_j, record.method), (Joules(18_000.0), Method::PowerIntegral));
        assert_eq!(record.flags, [Flag::CounterStuck]);
        assert_eq!(window(&stuck, 0, 29_000).flags, [Flag::Agree]);
    }

    #[test]
    fn a_counter_that_says_something_else_than_power_is_flagged() {
        let record = window(&steady(60, |_, count| count / 2), 0, 60_000);
        assert_eq!(record.energy_j, Joules(9_000.0));
        assert_eq!(record.flags, [Flag::Disagree]);
        // Nothing tells which of the two is right.
        assert!(record.uncertainty_j.unwrap() >= Joules(9_000.0), "{record:?}");
    }

    #[test]
    fn a_mean_above_the_highest_reading_is_flagged() {
        // Bursts of 800 W between readings of 300 W: only the counter sees them.
        let record = window(&steady(60, |_, count| count + count / 50), 0, 60_000);
        assert!(record.mean_w > record.max_w, "{record:?}");
        assert!(record.flags.contains(&Flag::MeanAboveMax), "{record:?}");
        assert!(!window(&steady(60, |_, count| count), 0, 60_000).flags.contains(&Flag::MeanAboveMax));
    }

    #[test]
    fn gaps_short_windows_and_missing_edges_are_flagged() {
        let mut history = board();
        for t in [0, 50, 100, 3_000, 3_050, 3_100] {
            history.push(&reading(ms(t), Some(Watts(300.0)), Some(t * 300)));
        }
        let gap = WindowEnergy::of([&history], ms(0), ms(3_100), None, true);
        assert_eq!(gap.energy, Joules(930.0));
        assert_eq!(gap.sensors[0].flags, [Flag::Agree, Flag::Gaps, Flag::EdgeMissing]);
        assert!((gap.sensors[0].max_gap_ms - 2_900.0).abs() < 1e-6);
        assert!(window(&history, 3_000, 3_100).flags.contains(&Flag::ShortWindow));
    }

    /// 300 W for four seconds; from `fails_at` on, in ms, the counter or the power fields fail.
    fn failing(fails_at: u64, counter_fails: bool, power_fails: bool) -> SensorRecord {
        let mut history = board();
        for i in 0..=80u64 {
            let fails = i * 50 >= fails_at;
            let power = (!(fails && power_fails)).then_some(Watts(300.0));
            let counter = (!(fails && counter_fails)).then_some(1_000 + i / 2 * 30_000);
            history.push(&reading(ms(i * 50), power, counter));
        }
        window(&history, 0, 4_000)
    }

    #[test]
    fn a_quantity_that_fails_gives_way_to_one_that_was_read_all_the_time() {
        for fails_at in [500, 0] {
            let record = failing(fails_at, true, false);
            assert_eq!((record.energy_j, record.method), (Joules(1_200.0), Method::PowerIntegral));
            assert_eq!(record.counter_j, None);
            assert!(record.flags.contains(&Flag::CounterMissing), "{record:?}");
        }
        let record = failing(500, false, true);
        assert_eq!((record.energy_j, record.method), (Joules(1_200.0), Method::Counter));
        assert_eq!((record.integral_j, record.average_j), (None, None));
        assert!(!record.flags.contains(&Flag::Disagree), "{record:?}");
        assert!(record.uncertainty_j.unwrap() < Joules(60.0), "{record:?}");

        // Nothing is left: what was read is stated, and what was not is in doubt.
        let record = failing(500, true, true);
        assert!((record.energy_j.get() - 135.0).abs() <= 15.0, "{record:?}");
        assert!(record.uncertainty_j.unwrap().get() > 3.4 * 300.0, "{record:?}");
    }

    #[test]
    fn a_counter_that_misses_a_reading_within_still_counts() {
        let mut history = board();
        for i in 0..=80u64 {
            let counter = (!(20..60).contains(&i)).then_some(1_000 + i / 2 * 30_000);
            history.push(&reading(ms(i * 50), Some(Watts(300.0)), counter));
        }
        let whole = window(&history, 0, 4_000);
        assert_eq!((whole.energy_j, whole.method), (Joules(1_200.0), Method::Counter));
        // An end within the gap: the counter says nothing of it.
        let part = window(&history, 0, 2_000);
        assert_eq!((part.energy_j, part.method), (Joules(600.0), Method::PowerIntegral));
    }

    #[test]
    fn what_was_never_read_is_not_known_to_be_nothing() {
        let record = window(&board(), 0, 1_000);
        assert_eq!((record.samples, record.mean_w), (0, None));
        assert!(record.flags.contains(&Flag::Gaps));
        // A board that fell silent after a second at 300 W: nine more seconds of it are in doubt.
        let history = steady(1, |_, count| count);
        let record = window(&history, 0, 10_000);
        assert_eq!(record.energy_j, Joules(300.0));
        assert!(record.uncertainty_j.unwrap().get() > 2_600.0, "{record:?}");
    }

    #[test]
    fn estimates_are_called_so_and_not_measured() {
        let channels = Channels { counter: Some(CounterSpec::MILLIJOULES), ..Channels::default() };
        let mut cpu = history(SensorKind::Cpu, Method::Estimated, channels);
        let mut package = history(SensorKind::Cpu, Method::Counter, channels);
        for i in 0..=100 {
            cpu.push(&reading(ms(i * 50), None, Some(i * 1_000)));
            package.push(&reading(ms(i * 50), None, Some(i * 3_000)));
        }
        let window = WindowEnergy::of([&cpu, &package], ms(0), ms(5_000), Some(0.25), false);
        assert_eq!((window.energy, window.measured_fraction), (Joules(400.0), 0.75));
        let [cpu, package] = &window.sensors[..] else { panic!() };
        assert_eq!((cpu.method, cpu.counter_j, cpu.process_share_j), (Method::Estimated, None, None));
        assert_eq!(cpu.flags, [Flag::Estimated]);
        assert_eq!(cpu.uncertainty_j, None, "a model's random error is unknown");
        assert_eq!((package.process_share_j, package.integral_j), (Some(Joules(75.0)), None));
        assert!(window.uncertainty.is_some());
        assert_eq!(window.uncertainty, package.uncertainty_j);
    }
}
