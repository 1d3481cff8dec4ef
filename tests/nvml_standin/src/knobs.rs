//! What the stand-in is told by `NVML_STANDIN_*`. The crate's documentation lists them.

use std::env;
use std::str::FromStr;
use std::time::Duration;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

use crate::limits::Limits;
use crate::power::Power;

/// How the boards behave.
#[derive(Clone, Debug, PartialEq)]
pub struct Knobs {
    /// How many boards there are.
    pub boards: u32,
    /// What each of them draws.
    pub power: Power,
    /// Where limits that are set are kept; without it nobody may set any.
    pub limits: Option<Limits>,
    /// How often the counter moves.
    pub counter_step_ms: u64,
    /// How often power readings move.
    pub update_ms: u64,
    /// How much of the time before an update instant power sees.
    pub window_ms: u64,
    /// How much of it averaged power sees.
    pub average_ms: u64,
    /// When the counter starts again from zero.
    pub reset_at: Option<Seconds>,
    /// When the counter stops.
    pub stuck_at: Option<Seconds>,
    /// When the boards stop answering.
    pub lost_at: Option<Seconds>,
    /// How long a reading takes, asleep.
    pub latency: Duration,
    /// By how much the counter's ticks come after whole steps.
    pub counter_phase_us: u64,
    /// Processor time of a reading of the counter; one in fifty takes five times as long.
    pub counter_spin: Duration,
    /// Processor time of a reading of power.
    pub power_spin: Duration,
    /// How often the driver samples power by itself; 0: it does not.
    pub sample_us: u64,
    /// How much of the time before a sample it sees.
    pub sample_window_us: u64,
    /// By how much the clock of the driver's samples is ahead of the wall clock.
    pub clock_ahead_ms: i64,
    /// The share of time for which the power limit holds clocks back; below 0: that is not counted.
    pub capped: f64,
    /// Clock of the multiprocessors, and the highest; 0: not told.
    pub sm_mhz: u32,
    /// The highest.
    pub max_sm_mhz: u32,
    /// Whether the boards are divided (MIG), each into one instance.
    pub mig: bool,
    /// Processes that compute on each board.
    pub processes: Vec<u32>,
    /// What holds clocks back, in NVML's bits.
    pub throttle: u64,
    /// How hot the boards are.
    pub temperature_c: u32,
    /// Quantities that the boards do not have.
    pub not_supported: Vec<String>,
    /// Quantities that fail from some time on, with code 999.
    pub errors: Vec<From>,
}

/// Something that begins some time after the library was loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct From {
    /// What it is: a quantity, or a function of NVML.
    pub name: String,
    /// When it begins.
    pub since: Seconds,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            boards: 1,
            power: Power::Steady(Watts(300.0)),
            limits: None,
            counter_step_ms: 100,
            update_ms: 100,
            window_ms: 25,
            average_ms: 1_000,
            reset_at: None,
            stuck_at: None,
            lost_at: None,
            latency: Duration::ZERO,
            counter_phase_us: 0,
            counter_spin: Duration::ZERO,
            power_spin: Duration::ZERO,
            sample_us: 0,
            sample_window_us: 10_000,
            clock_ahead_ms: 0,
            capped: -1.0,
            sm_mhz: 0,
            max_sm_mhz: 0,
            mig: false,
            processes: Vec::new(),
            throttle: 0,
            temperature_c: 45,
            not_supported: Vec::new(),
            errors: Vec::new(),
        }
    }
}

impl From {
    /// The comma list `NVML_STANDIN_<knob>` of names, each with `@SECONDS` where it does not begin at once.
    pub(crate) fn list(knob: &str) -> Result<Vec<Self>, String> {
        let name = format!("NVML_STANDIN_{knob}");
        let list = env::var(&name).unwrap_or_default();
        let entry = |entry: &str| {
            let (what, since) = entry.split_once('@').unwrap_or((entry, "0"));
            let since = since.parse().map_err(|error| format!("{name}: {entry:?}: {error}"))?;
            Ok(Self { name: what.to_owned(), since: Seconds(since) })
        };
        list.split(',').filter(|entry| !entry.is_empty()).map(entry).collect()
    }
}

impl Knobs {
    /// An H100 under load, as far as one was measured: a counter that moves every 100.0 ms and takes 3.3 ms to read,
    /// power every 101 ms, the driver's samples every 21 ms.
    pub fn h100() -> Self {
        Self {
            power: Power::Steady(Watts(690.0)),
            counter_phase_us: 67_800,
            update_ms: 101,
            counter_spin: Duration::from_micros(3_300),
            power_spin: Duration::from_micros(10),
            sample_us: 21_000,
            throttle: 4,
            capped: 0.83,
            sm_mhz: 1_735,
            max_sm_mhz: 1_980,
            ..Self::default()
        }
    }

    /// From this process's environment.
    ///
    /// # Errors
    /// If a variable is set to what it cannot be.
    pub fn from_env() -> Result<Self, String> {
        let default = match env::var("NVML_STANDIN_PROFILE").as_deref() {
            Ok("h100") => Self::h100(),
            Ok(other) => return Err(format!("NVML_STANDIN_PROFILE = {other:?}: expected h100")),
            Err(_) => Self::default(),
        };
        let list = env::var("NVML_STANDIN_NOT_SUPPORTED").unwrap_or_default();
        Ok(Self {
            boards: knob("BOARDS")?.unwrap_or(default.boards),
            power: knob("POWER")?.unwrap_or(default.power),
            limits: knob("LIMITS")?
                .map(|path| Ok::<_, String>(Limits::new(path, knob("WORK")?)))
                .transpose()?,
            counter_step_ms: knob("COUNTER_STEP_MS")?.unwrap_or(default.counter_step_ms),
            update_ms: knob("UPDATE_MS")?.unwrap_or(default.update_ms),
            window_ms: knob("WINDOW_MS")?.unwrap_or(default.window_ms),
            average_ms: knob("AVERAGE_MS")?.unwrap_or(default.average_ms),
            reset_at: knob("RESET_AT_S")?.map(Seconds),
            stuck_at: knob("STUCK_AT_S")?.map(Seconds),
            lost_at: knob("LOST_AT_S")?.map(Seconds),
            latency: Duration::from_millis(knob("LATENCY_MS")?.unwrap_or(0)),
            mig: knob::<u8>("MIG")?.is_some_and(|mig| mig != 0),
            processes: processes(&env::var("NVML_STANDIN_PROCESSES").unwrap_or_default())?,
            counter_phase_us: knob("COUNTER_PHASE_US")?.unwrap_or(default.counter_phase_us),
            counter_spin: microseconds("COUNTER_SPIN_US")?.unwrap_or(default.counter_spin),
            power_spin: microseconds("POWER_SPIN_US")?.unwrap_or(default.power_spin),
            sample_us: knob("SAMPLE_US")?.unwrap_or(default.sample_us),
            sample_window_us: knob("SAMPLE_WINDOW_US")?.unwrap_or(default.sample_window_us),
            clock_ahead_ms: knob("CLOCK_AHEAD_MS")?.unwrap_or(default.clock_ahead_ms),
            capped: knob("CAPPED")?.unwrap_or(default.capped),
            sm_mhz: knob("SM_MHZ")?.unwrap_or(default.sm_mhz),
            max_sm_mhz: knob("MAX_SM_MHZ")?.unwrap_or(default.max_sm_mhz),
            throttle: knob("THROTTLE")?.unwrap_or(default.throttle),
            temperature_c: knob("TEMPERATURE_C")?.unwrap_or(default.temperature_c),
            not_supported: list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            errors: From::list("ERROR")?,
        })
    }

    /// Whether the boards have a quantity: `power`, `energy`, `instant`, `average`, `uuid`, `pci` or `limit`.
    pub fn supports(&self, quantity: &str) -> bool {
        !self.not_supported.iter().any(|name| name == quantity)
    }

    /// Whether a quantity fails so long after the library was loaded.
    pub fn fails(&self, quantity: &str, age: Seconds) -> bool {
        self.errors.iter().any(|error| error.name == quantity && age >= error.since)
    }

    /// The counter in millijoules at `t`, of a library that was loaded at `loaded`.
    pub fn counter_mj(&self, loaded: MonotonicNs, t: MonotonicNs) -> u64 {
        let moment = |at: Seconds| MonotonicNs(loaded.0 + (at.get() * 1e9) as u64);
        let t = self.stuck_at.map_or(t, |at| t.min(moment(at)));
        let counted = |t: MonotonicNs| {
            let phase = self.counter_phase_us * 1_000;
            let tick = held(MonotonicNs(t.0.saturating_sub(phase)), self.counter_step_ms);
            self.energy(MonotonicNs(tick.0 + phase))
        };
        let energy = counted(t);
        let reset = self.reset_at.map(moment).filter(|reset| *reset <= t);
        let since = reset.map_or(energy, |reset| energy - counted(reset));
        (since.get() * 1e3).round() as u64
    }

    /// Instant power in milliwatts at `t`: the mean over a short time before the last update.
    pub fn instant_mw(&self, t: MonotonicNs) -> u32 {
        milliwatts(self.mean_before(held(t, self.update_ms), self.window_ms))
    }

    /// Averaged power in milliwatts at `t`: the mean over about a second before the last update.
    pub fn average_mw(&self, t: MonotonicNs) -> u32 {
        milliwatts(self.mean_before(held(t, self.update_ms), self.average_ms))
    }

    /// The driver's samples after one moment and up to another, each with its milliwatts.
    pub fn samples(&self, after: MonotonicNs, until: MonotonicNs) -> Vec<(MonotonicNs, u32)> {
        let period = self.sample_us * 1_000;
        if period == 0 {
            return Vec::new();
        }
        let span = self.sample_window_us * 1_000;
        let sample = |n: u64| {
            let t = MonotonicNs(n * period);
            let power = match span {
                0 => self.power_at(t),
                _ => self.between(MonotonicNs(t.0 - span), t) / Seconds(span as f64 / 1e9),
            };
            (t, milliwatts(power))
        };
        (after.0 / period + 1..=until.0 / period).map(sample).collect()
    }

    /// Energy since boot.
    fn energy(&self, t: MonotonicNs) -> Joules {
        let limited = self.limits.as_ref().and_then(|limits| limits.energy(t));
        limited.unwrap_or_else(|| self.power.energy(t))
    }

    fn between(&self, start: MonotonicNs, end: MonotonicNs) -> Joules {
        self.energy(end) - self.energy(start)
    }

    fn power_at(&self, t: MonotonicNs) -> Watts {
        let limited = self.limits.as_ref().and_then(|limits| limits.power(t));
        limited.unwrap_or_else(|| self.power.at(t))
    }

    fn mean_before(&self, t: MonotonicNs, span_ms: u64) -> Watts {
        if span_ms == 0 {
            return self.power_at(t);
        }
        let before = MonotonicNs(t.0.saturating_sub(span_ms * 1_000_000));
        self.between(before, t) / Seconds(span_ms as f64 / 1e3)
    }
}

/// The last moment at or before `t` at which something that moves every `step_ms` did.
fn held(t: MonotonicNs, step_ms: u64) -> MonotonicNs {
    let step_ns = step_ms.max(1) * 1_000_000;
    MonotonicNs(t.0 / step_ns * step_ns)
}

fn milliwatts(power: Watts) -> u32 {
    (power.get() * 1e3).round() as u32
}

/// A comma list of process numbers; `self` is this process's.
fn processes(list: &str) -> Result<Vec<u32>, String> {
    let number = |name: &str| match name {
        "self" => Ok(std::process::id()),
        _ => name.parse().map_err(|error| format!("NVML_STANDIN_PROCESSES: {name:?}: {error}")),
    };
    list.split(',').filter(|name| !name.is_empty()).map(number).collect()
}

fn microseconds(name: &str) -> Result<Option<Duration>, String> {
    Ok(knob(name)?.map(Duration::from_micros))
}

fn knob<T: FromStr<Err: std::fmt::Display>>(name: &str) -> Result<Option<T>, String> {
    let name = format!("NVML_STANDIN_{name}");
    let Ok(text) = env::var(&name) else { return Ok(None) };
    text.parse().map(Some).map_err(|error| format!("{name} = {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> MonotonicNs {
        MonotonicNs(ms * 1_000_000)
    }

    #[test]
    fn the_counter_steps_resets_and_sticks() {
        let knobs = Knobs::default();
        assert_eq!(knobs.counter_mj(at(0), at(1_099)), 300_000);
        assert_eq!(knobs.counter_mj(at(0), at(1_100)), 330_000);
        let reset = Knobs { reset_at: Some(Seconds(1.0)), ..Knobs::default() };
        assert_eq!(reset.counter_mj(at(0), at(999)), 270_000);
        assert_eq!(reset.counter_mj(at(0), at(1_500)), 150_000);
        let stuck = Knobs { stuck_at: Some(Seconds(1.0)), ..Knobs::default() };
        assert_eq!(stuck.counter_mj(at(500), at(9_000)), 450_000);
    }

    #[test]
    fn power_moves_with_its_update_and_the_average_lags() {
        let knobs = Knobs { power: "square:100:500:4000".parse().unwrap(), ..Knobs::default() };
        assert_eq!([2_000, 2_099, 2_100].map(|ms| knobs.instant_mw(at(ms))), [100_000, 100_000, 500_000]);
        let sharp = Knobs { window_ms: 0, ..knobs.clone() };
        assert_eq!([1_999, 2_000, 2_099].map(|ms| sharp.instant_mw(at(ms))), [100_000, 500_000, 500_000]);
        assert_eq!([2_000, 2_500, 3_000].map(|ms| knobs.average_mw(at(ms))), [100_000, 300_000, 500_000]);
    }
}
