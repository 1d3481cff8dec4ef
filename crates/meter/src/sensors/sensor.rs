//! What a sensor is: something that can be asked for power, for an energy counter, or for both.
//!
//! A quantity has three states, never one: measured; not supported by this device; supported but missing this
//! time. Missing is not zero.

use serde::{Deserialize, Serialize};
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{Celsius, Joules, MonotonicNs, Seconds, Watts};

/// A source of readings.
pub trait Sensor: Send {
    /// What it is called and what it stands for.
    fn info(&self) -> &SensorInfo;

    /// Which quantities it supports. The answer never changes.
    fn channels(&self) -> Channels;

    /// Takes a reading now. Never fails as a whole: what could not be read is missing.
    fn read(&mut self) -> Reading;

    /// Reads a counter that is expensive to read: one that [`Channels::slow_counter`] names and [`Self::read`] leaves out.
    fn read_counter(&mut self) -> CounterReading {
        let now = MonotonicNs::now();
        CounterReading { before: now, after: now, value: Quantity::Unsupported }
    }

    /// Returns the power samples that the driver took since the last call, in the order of their times.
    fn read_samples(&mut self) -> Vec<PowerSample> {
        Vec::new()
    }

    /// Reads the device's clock and what held it back; `None` where it does not tell.
    fn read_clocks(&mut self) -> Option<Clocks> {
        None
    }

    /// Processor time of threads of its own so far; what it does on its caller's thread is the caller's.
    fn cpu_time(&self) -> Seconds {
        Seconds::ZERO
    }

    /// Looks at what changes seldom and is dear to ask; it is asked every [`SURVEY_EVERY`] at most.
    fn survey(&mut self) -> Survey {
        Survey::default()
    }
}

/// Between two surveys passes at least this long: a list of processes costs milliseconds.
pub const SURVEY_EVERY: Seconds = Seconds(10.0);

/// What a sensor says of its device besides readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Whether processes other than the metered ones compute on the device; `None` where it does not tell.
    pub contended: Option<bool>,
    /// What holds its clocks back, by NVML's names in snake case.
    pub throttle: Vec<&'static str>,
    /// How hot it is; `None` where it does not tell.
    pub temperature: Option<Celsius>,
}

/// What a sensor said at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The middle between the moments before and after it was asked.
    pub t: MonotonicNs,
    /// Power, at the finest that the sensor gives it.
    pub power: Quantity<Watts>,
    /// The mean power over about a second before, of a sensor that gives it beside its instant power.
    pub average: Quantity<Watts>,
    /// The energy counter.
    pub counter: Quantity<CounterValue>,
}

/// What an expensive counter said, and the moments around the call. The value is from some moment between the two.
#[derive(Clone, Debug, PartialEq)]
pub struct CounterReading {
    /// Just before the call.
    pub before: MonotonicNs,
    /// Just after it.
    pub after: MonotonicNs,
    /// The counter.
    pub value: Quantity<CounterValue>,
}

/// A power sample that the driver took by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerSample {
    /// The driver's time of it, on the monotonic clock.
    pub t: MonotonicNs,
    /// Power.
    pub power: Watts,
}

/// A device's clock at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clocks {
    /// When it was read.
    pub t: MonotonicNs,
    /// Clock of the multiprocessors.
    pub sm_mhz: Option<f64>,
    /// The highest that the device allows.
    pub max_sm_mhz: Option<f64>,
    /// For how long each reason has held clocks back so far, by NVML's names in snake case.
    pub held_back: Vec<(&'static str, Seconds)>,
}

/// A quantity in one of its three states.
#[derive(Clone, Debug, PartialEq)]
pub enum Quantity<T> {
    /// It was read.
    Measured(T),
    /// This device does not have it.
    Unsupported,
    /// This device has it, and did not give it this time.
    Missing(Missing),
}

/// Why a quantity is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The device stopped answering for good.
    DeviceLost,
    /// It could not be read this time, for the reason given.
    Refused(String),
}

impl<T> Quantity<T> {
    /// The value, if it was measured.
    pub fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::Unsupported | Self::Missing(_) => None,
        }
    }

    /// The same with the value changed by `change`.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Quantity<U> {
        match self {
            Self::Measured(value) => Quantity::Measured(change(value)),
            Self::Unsupported => Quantity::Unsupported,
            Self::Missing(why) => Quantity::Missing(why),
        }
    }

    /// Whether the device that should have given it stopped answering.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Missing(Missing::DeviceLost))
    }
}

/// Which quantities a sensor supports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// How its power is to be understood, if it gives power.
    pub power: Option<PowerSource>,
    /// Whether it gives averaged power beside its instant power.
    pub average: bool,
    /// How its counter is to be understood, if it has one.
    pub counter: Option<CounterSpec>,
    /// Whether its surveys tell a temperature.
    pub temperature: bool,
    /// How a counter is to be understood that is too expensive to read with every reading. A sensor has this one or
    /// `counter`, never both.
    pub slow_counter: Option<CounterSpec>,
    /// Whether the driver samples power by itself.
    pub samples: bool,
    /// Whether it tells its clock, or what holds that back.
    pub clocks: bool,
}

/// What a power reading stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerSource {
    /// Power at, or some milliseconds before, the reading.
    Instant,
    /// The mean over about a second before the reading.
    Average,
}

/// An averaged reading stands for a mean over this long. NVIDIA states it for `nvmlDeviceGetPowerUsage` on
/// Ampere (GA100 excepted) and newer boards.
pub(crate) const AVERAGE_SPAN: Seconds = Seconds(1.0);

/// By so much the middle of what an averaged reading stands for lies before the reading: half its span, and half
/// the 100 ms for which it is shown.
pub(crate) const AVERAGE_DELAY: Seconds = Seconds(0.55);

/// A counter as the device gives it, in the unit of its [`CounterSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterValue(pub u64);

/// How a counter is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterSpec {
    /// What it counts in.
    pub unit: CounterUnit,
    /// The value after which it starts from zero again; `None` if it never does.
    pub range: Option<u64>,
}

/// What a counter counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterUnit {
    /// mJ, as NVML.
    Millijoules,
    /// µJ, as RAPL.
    Microjoules,
}

/// How a counter went from one reading to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Advance {
    /// By so much.
    By(Joules),
    /// Backwards, which it never does by itself: it started again and has counted so much since.
    Reset(Joules),
}

impl CounterSpec {
    /// A counter of millijoules that never wraps.
    pub const MILLIJOULES: Self = Self { unit: CounterUnit::Millijoules, range: None };

    /// The energy between two values, the first of them earlier.
    pub fn advance(&self, from: CounterValue, to: CounterValue) -> Advance {
        if to.0 >= from.0 {
            return Advance::By(self.joules(to.0 - from.0));
        }
        match self.range {
            Some(range) if range >= from.0 => Advance::By(self.joules(range - from.0 + to.0)),
            _ => Advance::Reset(self.joules(to.0)),
        }
    }

    fn joules(&self, units: u64) -> Joules {
        match self.unit {
            CounterUnit::Millijoules => Joules(units as f64 / 1e3),
            CounterUnit::Microjoules => Joules(units as f64 / 1e6),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use wattle_runlog::record::{Method, SensorKind};

    /// What a board supports.
    pub(crate) const BOARD: Channels = Channels {
        power: Some(PowerSource::Instant),
        average: false,
        counter: Some(CounterSpec::MILLIJOULES),
        temperature: false,
        slow_counter: None,
        samples: false,
        clocks: false,
    };

    pub(crate) fn info(id: &str, kind: SensorKind, method: Method) -> SensorInfo {
        SensorInfo {
            id: id.to_owned(),
            kind,
            method,
            description: "for a test".to_owned(),
            systematic_fraction: 0.05,
            systematic_id: format!("gain/{id}"),
            flags: Vec::new(),
            assumption: None,
            calibration: None,
            limits: None,
        }
    }

    pub(crate) fn board_info() -> SensorInfo {
        info("gpu:x", SensorKind::Gpu, Method::Counter)
    }

    /// A reading of what is given; the rest is unsupported.
    pub(crate) fn reading(t: MonotonicNs, power: Option<Watts>, counter: Option<u64>) -> Reading {
        Reading {
            t,
            power: power.map_or(Quantity::Unsupported, Quantity::Measured),
            average: Quantity::Unsupported,
            counter: counter.map_or(Quantity::Unsupported, |value| Quantity::Measured(CounterValue(value))),
        }
    }

    #[test]
    fn counters_advance_wrap_and_reset() {
        let nvml = CounterSpec::MILLIJOULES;
        assert_eq!(nvml.advance(CounterValue(1000), CounterValue(3500)), Advance::By(Joules(2.5)));
        assert_eq!(nvml.advance(CounterValue(3500), CounterValue(1000)), Advance::Reset(Joules(1.0)));
        let rapl = CounterSpec { unit: CounterUnit::Microjoules, range: Some(10_000_000) };
        assert_eq!(rapl.advance(CounterValue(9_000_000), CounterValue(500_000)), Advance::By(Joules(1.5)));
        assert_eq!(
            rapl.advance(CounterValue(11_000_000), CounterValue(500_000)),
            Advance::Reset(Joules(0.5)),
            "a value beyond the range cannot wrap"
        );
    }

    #[test]
    fn missing_is_not_a_value() {
        assert_eq!(Quantity::Measured(Watts(0.0)).measured(), Some(&Watts(0.0)));
        assert_eq!(Quantity::<Watts>::Unsupported.measured(), None);
        let lost = Quantity::<Watts>::Missing(Missing::DeviceLost);
        assert!(lost.measured().is_none() && lost.is_lost());
    }
}
