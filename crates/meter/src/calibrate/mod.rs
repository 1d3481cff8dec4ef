//! Sensors held against a wall meter: gain, offset and lag with intervals.
//!
//! A wall meter sees the whole machine behind its power supply. What rises and falls with a sensor at the wall, times the
//! share of it that the supply passes on, is what the sensor should have said; what does not is the rest of the machine,
//! and tells nothing of the sensor. So a gain can be found only where the load changes and the supply's efficiency is
//! known, and an offset of the sensor cannot be found at all: it is part of the base.

pub mod curve;
pub mod fit;
pub mod log;

mod clock;

use wattle_runlog::clock::file_stamp;
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{MonotonicNs, WallAnchor};

use crate::calibrate::curve::{Curve, RunCurves};
use crate::calibrate::fit::{Fitted, Interval, NoFit, Problem};
use crate::calibrate::log::WallLog;
use crate::error::MeterError;
use crate::sensors::calibrations::{CalibratedFrom, Calibration, is_known_again};

/// A sensor has to rise and fall by so much, and by so much of its highest power.
const SWING_W: f64 = 10.0;
const SWING_SHARE: f64 = 0.1;
/// It has to go from low to high or back so often: one step cannot be told from a change of the rest of the machine.
const CHANGES: usize = 4;
/// A gain beyond this is no sensor's.
const GAINS: std::ops::RangeInclusive<f64> = 0.5..=2.0;
/// A gain that is known no better is not kept.
const WIDEST: f64 = 0.1;

/// What is known besides the run and the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// The share of a watt more at the wall that reaches the sensors, with its 95 % half-width; `None` if unknown.
    pub psu_efficiency: Option<Interval>,
    /// Bound on the wall meter's own error, as a share.
    pub meter_accuracy: f64,
    /// Lags are looked for up to this, either way.
    pub max_lag_s: f64,
}

/// What came of holding a run against a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The fit. Its sensors are those of `sensors` that vary, in their order.
    pub fitted: Fitted,
    /// Every measured sensor.
    pub sensors: Vec<Compared>,
}

/// One sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// The sensor, as it is without a calibration.
    pub info: SensorInfo,
    /// Its low and its high power: the 5th and the 95th percentile.
    pub range_w: (f64, f64),
    /// Watts at the wall for each of its watts; `None` where it does not vary.
    pub wall_per_sensor: Option<Interval>,
    /// What its readings are to be multiplied by, with everything in its half-width; `None` where that is not known.
    pub gain: Option<Interval>,
    /// Why there is no calibration of it.
    pub why_not: Option<String>,
}

/// Holds a run against a log.
///
/// # Errors
/// If the load was steady, the clock is wrong, or the log does not follow the run. The message says what to do.
pub fn compare(run: &RunCurves, log: &WallLog, given: &Given) -> Result<Comparison, MeterError> {
    let refuse = |reason: String| MeterError::NotCalibrated { reason };
    let readings: Vec<(f64, f64)> = log
        .readings
        .iter()
        .map(|(ns, watts)| (ns.saturating_sub(run.origin_ns) as f64 / 1e9, *watts))
        .collect();
    let loads: Vec<Load> = run.sensors.iter().map(|(_, curve)| Load::of(curve)).collect();
    if !loads.iter().any(|load| load.changes >= CHANGES) {
        return Err(refuse(steady(run, &loads)));
    }
    let varying: Vec<usize> = (0..loads.len()).filter(|i| loads[*i].varies()).collect();
    let curves = varying.iter().map(|i| &run.sensors[*i].1).collect();
    let problem = Problem { curves, readings: &readings };
    if problem.are_alike() {
        return Err(refuse(no_fit(NoFit::Alike)));
    }
    let found = clock::lag(&problem, given.max_lag_s)?;
    let fitted = problem.fit(&found).map_err(|error| refuse(no_fit(error)))?;
    let mut sensors: Vec<Compared> = run
        .sensors
        .iter()
        .zip(&loads)
        .map(|((info, _), load)| Compared {
            info: info.clone(),
            range_w: (load.low, load.high),
            wall_per_sensor: None,
            gain: None,
            why_not: Some("its power did not change; it is part of the base".to_owned()),
        })
        .collect();
    for (i, per_sensor) in varying.iter().zip(&fitted.per_sensor) {
        let sensor = &mut sensors[*i];
        sensor.wall_per_sensor = Some(*per_sensor);
        sensor.gain = given.psu_efficiency.map(|psu| gain(per_sensor, &psu, given.meter_accuracy));
        sensor.why_not = why_not(sensor, loads[*i].changes);
    }
    Ok(Comparison { fitted, sensors })
}

/// The gain of a sensor whose watts are so many at the wall.
fn gain(per_sensor: &Interval, psu: &Interval, meter_accuracy: f64) -> Interval {
    let value = per_sensor.value * psu.value;
    let share = |interval: &Interval| interval.half_width / interval.value;
    Interval { value, half_width: value.abs() * share(per_sensor).hypot(share(psu)).hypot(meter_accuracy) }
}

fn why_not(sensor: &Compared, changes: usize) -> Option<String> {
    if changes < CHANGES {
        return Some(format!(
            "its power went from low to high or back {changes} times, and {CHANGES} are needed"
        ));
    }
    let Some(gain) = sensor.gain else {
        return Some("the power supply's efficiency is not given (--psu-efficiency)".to_owned());
    };
    if !GAINS.contains(&gain.value) {
        return Some(format!(
            "a gain of {:.3} is no sensor's: is the log of this machine alone, and in watts (--watts-per-unit)?",
            gain.value
        ));
    }
    if gain.half_width > WIDEST * gain.value {
        let percent = 100.0 * gain.half_width / gain.value;
        return Some(format!(
            "± {percent:.0} % is too wide to keep; a longer run with more load steps narrows it"
        ));
    }
    (!is_known_again(&sensor.info)).then(|| "the board does not tell a UUID to know it by".to_owned())
}

impl Comparison {
    /// The calibrations to keep.
    pub fn calibrations(&self, run: &RunCurves, log: &str, given: &Given) -> Vec<Calibration> {
        let now = WallAnchor { monotonic: MonotonicNs(0), ..WallAnchor::now() };
        let stamp = file_stamp();
        let kept = self.sensors.iter().filter(|sensor| sensor.why_not.is_none());
        kept.filter_map(|sensor| {
            let (gain, per_sensor, psu) = (sensor.gain?, sensor.wall_per_sensor?, given.psu_efficiency?);
            Some(Calibration {
                id: format!("{stamp}/{}", sensor.info.id),
                sensor: sensor.info.id.clone(),
                systematic_id: sensor.info.systematic_id.clone(),
                made_at: now.rfc3339_at(MonotonicNs(0)),
                gain: gain.value,
                gain_uncertainty: gain.half_width / gain.value,
                from: CalibratedFrom {
                    run_id: run.run_id.clone(),
                    log: log.to_owned(),
                    readings: self.fitted.readings,
                    wall_per_sensor: per_sensor.value,
                    wall_per_sensor_uncertainty: per_sensor.half_width,
                    psu_efficiency: psu.value,
                    psu_uncertainty: psu.half_width,
                    meter_accuracy: given.meter_accuracy,
                },
            })
        })
        .collect()
    }
}

/// How a sensor's power goes up and down.
struct Load {
    low: f64,
    high: f64,
    changes: usize,
}

impl Load {
    fn of(curve: &Curve) -> Self {
        let seconds = (curve.end_s() - curve.start_s) as usize;
        let at = |second: usize| curve.start_s + second as f64;
        let powers: Vec<f64> = (0..seconds).map(|second| curve.mean(at(second), at(second + 1))).collect();
        let mut sorted = powers.clone();
        sorted.sort_by(f64::total_cmp);
        let percentile =
            |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(0.0);
        let (low, high) = (percentile(0.05), percentile(0.95));
        let level = |power: &f64| match (power - low) / (high - low) {
            share if share < 0.2 => Some(false),
            share if share > 0.4 => Some(true),
            _ => None,
        };
        let mut levels: Vec<bool> = powers.iter().filter_map(level).collect();
        levels.dedup();
        let load = Self { low, high, changes: 0 };
        Self { changes: if load.varies() { levels.len().saturating_sub(1) } else { 0 }, ..load }
    }

    fn varies(&self) -> bool {
        self.high - self.low >= SWING_W.max(SWING_SHARE * self.high)
    }
}

/// What is said of a run whose load did not change.
fn steady(run: &RunCurves, loads: &[Load]) -> String {
    let ranges: Vec<String> = run
        .sensors
        .iter()
        .zip(loads)
        .map(|((info, _), load)| {
            format!("{} {:.0} to {:.0} W, changes: {}", info.id, load.low, load.high, load.changes)
        })
        .collect();
    format!(
        "the load was too steady to tell a sensor from the rest of the machine ({}): {CHANGES} changes between low and \
         high power are needed. Meter minutes of load and rest in turn, and log the wall meter meanwhile: wattle meter \
         --trace steps.trace -- sh -c 'for i in 1 2 3 4 5 6; do timeout 60 LOAD; sleep 60; done'",
        ranges.join("; ")
    )
}

fn no_fit(error: NoFit) -> String {
    match error {
        NoFit::Alike => {
            "the sensors rise and fall together, so the wall meter cannot tell them apart; calibrate by a \
                         run that loads one of them at a time"
                .to_owned()
        }
        NoFit::TooShort { needed_s } => format!(
            "the log and the run have too little in common: about {:.0} minutes are needed, because the rest of the \
             machine changes slowly or the meter is read seldom",
            (needed_s / 60.0).ceil()
        ),
    }
}
