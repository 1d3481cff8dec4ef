//! The energy between two moments: the best figure, how far it may be off, and what to know about it.
//!
//! A counter's difference comes first. Its random error is that of its step τ: each end falls anywhere within
//! a step, so that σ = P·τ/√6. Where the counter started again or stood still, or there is none, the trapezoid
//! of power is taken: with power that varies by s and is seen anew every τᵤ, σ = s·√(τᵤ·T) over a time T.
//! What was not observed at all is allowed for with the sensor's usual power. Half-widths are 1.96 σ (95 %).
//!
//! Gain and model errors are systematic and stated apart, in every sensor's record.

use wattle_runlog::record::{Flag, Method, SensorKind, SensorRecord};
use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::history::{History, Stretch};
use crate::sensor::PowerSource;

/// From a standard deviation to a 95 % half-width.
const HALF_WIDTH: f64 = 1.96;

/// Counter and integral may differ by so much on top of their random errors: what is seen on steady loads.
const AGREEMENT: f64 = 0.03;

/// Where nothing has changed yet, readings are taken to be renewed this often: the slowest period that NVIDIA's
/// boards were seen to have (Yang et al.).
const UNKNOWN_PERIOD: Seconds = Seconds(0.1);

/// A stretch shorter than so many update periods is short.
const SHORT_PERIODS: f64 = 10.0;

/// An averaged power reading lags, and smears, by this much.
const AVERAGE_SPAN: Seconds = Seconds(1.0);

/// Energy between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowEnergy {
    /// From when.
    pub start: MonotonicNs,
    /// To when.
    pub end: MonotonicNs,
    /// All sensors together.
    pub energy: Joules,
    /// 95 % half-width of the random error of `energy`.
    pub uncertainty: Joules,
    /// Share of `energy` that was measured.
    pub measured_fraction: f64,
    /// Each sensor's part.
    pub sensors: Vec<SensorRecord>,
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
        let sensors: Vec<_> = histories
            .into_iter()
            .map(|history| {
                let mut record = sensor_record(history, &history.stretch(start, end), process_share);
                if edge_missing {
                    record.flags.push(Flag::EdgeMissing);
                }
                record
            })
            .collect();
        Self::sum(start, end, sensors)
    }

    /// A window in which nothing was metered.
    pub fn empty(start: MonotonicNs, end: MonotonicNs) -> Self {
        Self::sum(start, end, Vec::new())
    }

    /// Its length.
    pub fn duration(&self) -> Seconds {
        self.end.since(self.start)
    }

    fn sum(start: MonotonicNs, end: MonotonicNs, sensors: Vec<SensorRecord>) -> Self {
        let energy = sensors.iter().map(|sensor| sensor.energy_j).sum();
        let uncertainty = quadrature(sensors.iter().map(|sensor| sensor.uncertainty_j));
        let measured = sensors.iter().filter(|s| s.method != Method::Estimated).map(|s| s.energy_j).sum();
        let measured_fraction = share(measured, energy);
        Self { start, end, energy, uncertainty, measured_fraction, sensors }
    }
}

/// Independent errors together.
pub(crate) fn quadrature(errors: impl IntoIterator<Item = Joules>) -> Joules {
    Joules(errors.into_iter().map(|error| error.get().powi(2)).sum::<f64>().sqrt())
}

/// A part of a whole; 0 of nothing.
pub(crate) fn share(part: Joules, whole: Joules) -> f64 {
    if whole.get() > 0.0 { part / whole } else { 0.0 }
}

fn sensor_record(history: &History, stretch: &Stretch, process_share: Option<f64>) -> SensorRecord {
    let info = history.info();
    let estimated = info.method == Method::Estimated;
    let counter_error = stretch.counter.map(|energy| counter_error(energy, stretch));
    let integral_error = stretch.integral.map(|_| integral_error(history, stretch));
    let trusted = stretch.counter.is_some() && !stretch.reset && !stretch.stuck;
    let (energy, error, measured_by) = match (stretch.counter, stretch.integral) {
        (Some(energy), _) if trusted || stretch.integral.is_none() => {
            (energy, counter_error, Method::Counter)
        }
        (_, Some(energy)) => (energy, integral_error, Method::PowerIntegral),
        (_, None) => (Joules::ZERO, None, info.method),
    };
    let unobserved = stretch.usual_power.unwrap_or(Watts::ZERO) * stretch.unobserved;
    let method = if estimated { Method::Estimated } else { measured_by };
    let seen = stretch.readings > 0 && stretch.duration > Seconds::ZERO;
    SensorRecord {
        id: info.id.clone(),
        kind: info.kind,
        method,
        energy_j: energy,
        uncertainty_j: quadrature([error.filter(|_| !estimated).unwrap_or(Joules::ZERO), unobserved]),
        systematic_fraction: info.systematic_fraction,
        systematic_id: info.systematic_id.clone(),
        counter_j: stretch.counter.filter(|_| !estimated),
        integral_j: stretch.integral.filter(|_| !estimated),
        process_share_j: process_share
            .filter(|_| info.kind == SensorKind::Cpu && !estimated)
            .map(|share| energy * share),
        samples: stretch.readings,
        max_gap_ms: stretch.max_gap.get() * 1e3,
        mean_w: seen.then(|| energy / stretch.duration),
        max_w: stretch.max_power,
        flags: flags(history, stretch, method, counter_error, integral_error),
    }
}

/// Half-width of a counter's difference: σ = P·τ/√6.
fn counter_error(energy: Joules, stretch: &Stretch) -> Joules {
    if stretch.duration <= Seconds::ZERO {
        return Joules::ZERO;
    }
    let step = stretch.counter_step.unwrap_or(UNKNOWN_PERIOD);
    energy / stretch.duration * step * (HALF_WIDTH / 6f64.sqrt())
}

/// Half-width of a trapezoid: σ = s·√(τᵤ·T), and for averaged power s times what it smears over.
fn integral_error(history: &History, stretch: &Stretch) -> Joules {
    let period = stretch.power_period.unwrap_or(UNKNOWN_PERIOD);
    let spread = Seconds((period.get() * stretch.duration.get()).sqrt());
    let smear = match history.channels().power {
        Some(PowerSource::Average) => AVERAGE_SPAN,
        Some(PowerSource::Instant) | None => Seconds::ZERO,
    };
    quadrature([stretch.power_deviation * spread, stretch.power_deviation * smear]) * HALF_WIDTH
}

fn flags(
    history: &History,
    stretch: &Stretch,
    method: Method,
    counter_error: Option<Joules>,
    integral_error: Option<Joules>,
) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut flag = |flag: Flag, holds: bool| {
        if holds {
            flags.push(flag);
        }
    };
    if let (Some(counter), Some(integral)) = (stretch.counter, stretch.integral) {
        let allowed = counter_error.unwrap_or(Joules::ZERO).get()
            + integral_error.unwrap_or(Joules::ZERO).get()
            + AGREEMENT * counter.get().max(integral.get());
        let agree = (counter - integral).get().abs() <= allowed;
        flag(Flag::Agree, agree && stretch.readings > 1);
        flag(Flag::Disagree, !agree);
    }
    flag(Flag::CounterReset, stretch.reset);
    flag(Flag::CounterStuck, stretch.stuck);
    let longest_gap = (history.interval().get() * 4.0).max(1.0);
    flag(Flag::Gaps, stretch.max_gap.get() > longest_gap || stretch.readings == 0);
    let period = match method {
        Method::Counter => stretch.counter_step.unwrap_or(UNKNOWN_PERIOD),
        Method::PowerIntegral => stretch.power_period.unwrap_or(UNKNOWN_PERIOD),
        Method::Estimated => Seconds::ZERO,
    };
    flag(Flag::ShortWindow, stretch.duration.get() < SHORT_PERIODS * period.get());
    flag(Flag::DeviceLost, stretch.lost);
    flag(Flag::Estimated, method == Method::Estimated);
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::tests::{BOARD, info, reading};
    use crate::sensor::{Channels, CounterSpec};
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
        assert!((record.uncertainty_j.get() - 24.005).abs() < 0.01, "{record:?}");
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
        assert!(record.flags.contains(&Flag::CounterReset), "{record:?}");
        let stuck = steady(60, |i, count| if i < 600 { count } else { 9_001_000 });
        let record = window(&stuck, 0, 60_000);
        assert_eq!((record.energy_j, record.method), (Joules(18_000.0), Method::PowerIntegral));
        assert!(record.flags.contains(&Flag::CounterStuck) && record.flags.contains(&Flag::Disagree));
        assert_eq!(window(&stuck, 0, 29_000).flags, [Flag::Agree]);
    }

    #[test]
    fn a_counter_that_says_something_else_than_power_is_flagged() {
        let record = window(&steady(60, |_, count| count / 2), 0, 60_000);
        assert_eq!(record.energy_j, Joules(9_000.0));
        assert_eq!(record.flags, [Flag::Disagree]);
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

    #[test]
    fn what_was_never_read_is_not_known_to_be_nothing() {
        let record = window(&board(), 0, 1_000);
        assert_eq!((record.samples, record.mean_w), (0, None));
        assert!(record.flags.contains(&Flag::Gaps));
        // A board that fell silent after a second at 300 W: nine more seconds of it are in doubt.
        let history = steady(1, |_, count| count);
        let record = window(&history, 0, 10_000);
        assert_eq!(record.energy_j, Joules(300.0));
        assert!(record.uncertainty_j.get() > 2_600.0, "{record:?}");
    }

    #[test]
    fn estimates_are_called_so_and_not_measured() {
        let channels = Channels { power: None, counter: Some(CounterSpec::MILLIJOULES) };
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
        assert_eq!((package.process_share_j, package.integral_j), (Some(Joules(75.0)), None));
        assert_eq!(window.uncertainty, package.uncertainty_j);
    }
}
