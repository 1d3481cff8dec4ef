//! What is drawn now.

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{Celsius, Joules, Watts};

/// What is drawn now, and has been since sampling began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Live {
    /// Power of all sensors that tell theirs; `None` if none does.
    pub power: Option<Watts>,
    /// Energy of all sensors.
    pub energy: Joules,
    /// Share of `energy` that was measured.
    pub measured_fraction: f64,
}

/// What one sensor says now, and has counted since sampling began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveSensor<'a> {
    /// The sensor.
    pub info: &'a SensorInfo,
    /// Its power; `None` if it tells none, or not any more.
    pub power: Option<Watts>,
    /// Its energy. It may fall by a little where a counter turns out not to be trusted and power is integrated
    /// instead.
    pub energy: Joules,
    /// How hot it is, if it tells.
    pub temperature: Option<Celsius>,
}

impl Live {
    /// Nothing yet.
    pub const ZERO: Self = Self { power: None, energy: Joules::ZERO, measured_fraction: 0.0 };
}
