//! The file in which calibrations are kept, one for each sensor.
//!
//! `$XDG_DATA_HOME/wattle/calibrations.json`, else `~/.local/share/wattle/calibrations.json`, or the file that
//! `energy.calibration` names. A board is known by its UUID, a processor package by its host: a file can hold those of
//! many machines.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wattle_runlog::calibration::AppliedCalibration;
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::SensorKind;
use wattle_runlog::run_dir::write_atomic;

use crate::error::MeterError;

/// Name and version of the format.
pub const CALIBRATIONS_SCHEMA: &str = "wattle.calibrations/1";

/// Every calibration of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibrations {
    schema: String,
    calibrations: Vec<Calibration>,
}

/// What was found of one sensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Its name.
    pub id: String,
    /// The sensor, as records call it.
    pub sensor: String,
    /// The sensor's `systematic_id`, which is its own in all the world.
    pub systematic_id: String,
    /// When it was made, RFC 3339 in UTC.
    pub made_at: String,
    /// What the sensor's readings are to be multiplied by.
    pub gain: f64,
    /// 95 % half-width of the gain as a share of it, everything included.
    pub gain_uncertainty: f64,
    /// What it was made from.
    pub from: CalibratedFrom,
}

/// What a calibration was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibratedFrom {
    /// The run.
    pub run_id: String,
    /// The wall meter's log.
    pub log: String,
    /// Readings of the wall meter that were used.
    pub readings: usize,
    /// Watts at the wall for each watt that the sensor said.
    pub wall_per_sensor: f64,
    /// 95 % half-width of it.
    pub wall_per_sensor_uncertainty: f64,
    /// Share of a watt more at the wall that reaches the board, as it was given.
    pub psu_efficiency: f64,
    /// 95 % half-width of that, as it was given.
    pub psu_uncertainty: f64,
    /// Bound on the wall meter's own error as a share, as it was given.
    pub meter_accuracy: f64,
}

impl Calibrations {
    /// The file that holds calibrations where no other is named; `None` if neither `XDG_DATA_HOME` nor `HOME` is set.
    pub fn default_path() -> Option<PathBuf> {
        let from_env =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = from_env("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let data = data.or_else(|| from_env("HOME").map(|home| home.join(".local/share")))?;
        Some(data.join("wattle/calibrations.json"))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is no file of calibrations.
    pub fn read(path: &Path) -> Result<Self, MeterError> {
        let fault = |reason: String| MeterError::Calibrations { path: path.to_owned(), reason };
        let json = wattle_files::read(path, wattle_files::SMALL).map_err(|error| fault(error.to_string()))?;
        let file: Self = serde_json::from_slice(&json)
            .map_err(|error| fault(format!("it is no file of calibrations: {error}")))?;
        if file.schema != CALIBRATIONS_SCHEMA {
            return Err(fault(format!("expected schema {CALIBRATIONS_SCHEMA:?}, got {:?}", file.schema)));
        }
        let is_sound = |c: &Calibration| {
            c.gain.is_finite() && c.gain > 0.0 && c.gain_uncertainty.is_finite() && c.gain_uncertainty >= 0.0
        };
        match file.calibrations.iter().find(|calibration| !is_sound(calibration)) {
            Some(bad) => Err(fault(format!(
                "{}: expected a gain above 0 and an uncertainty, got {} and {}",
                bad.id, bad.gain, bad.gain_uncertainty
            ))),
            None => Ok(file),
        }
    }

    /// Reads a file that need not be there.
    ///
    /// # Errors
    /// If it is there, and is no file of calibrations.
    pub fn read_or_none(path: &Path) -> Result<Self, MeterError> {
        match path.exists() {
            true => Self::read(path),
            false => Ok(Self { schema: CALIBRATIONS_SCHEMA.to_owned(), calibrations: Vec::new() }),
        }
    }

    /// Puts calibrations in the place of earlier ones of the same sensors.
    pub fn replace(&mut self, new: &[Calibration]) {
        self.calibrations.retain(|old| !new.iter().any(|new| new.systematic_id == old.systematic_id));
        self.calibrations.extend(new.iter().cloned());
    }

    /// Writes the file, and its folder where there is none.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), MeterError> {
        let fault = |reason: String| MeterError::Calibrations { path: path.to_owned(), reason };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| {
                fault(format!("its folder cannot be made: {error}; name another file by --file"))
            })?;
        }
        let json = serde_json::to_string_pretty(self).expect("calibrations are plain data");
        Ok(write_atomic(path, format!("{json}\n").as_bytes())?)
    }

    /// The calibration of a sensor.
    pub fn of(&self, info: &SensorInfo) -> Option<&Calibration> {
        self.calibrations.iter().find(|calibration| calibration.systematic_id == info.systematic_id)
    }
}

impl Calibration {
    /// The sensor as it is with it.
    pub(crate) fn applied_to(&self, info: &SensorInfo, file: &Path) -> SensorInfo {
        let applied = AppliedCalibration {
            id: self.id.clone(),
            made_at: self.made_at.clone(),
            file: file.display().to_string(),
            gain: self.gain,
            systematic_id: info.systematic_id.clone(),
        };
        SensorInfo {
            systematic_fraction: self.gain_uncertainty,
            systematic_id: format!("calibration/{}", self.id),
            calibration: Some(applied),
            ..info.clone()
        }
    }
}

/// Whether a sensor can be known again on another day: a board by its UUID, anything else by its host.
pub fn is_known_again(info: &SensorInfo) -> bool {
    info.kind != SensorKind::Gpu || info.id.starts_with("gpu:GPU-") || info.id.starts_with("gpu:MIG-")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::sensors::sensor::tests::board_info;

    pub(crate) fn calibration(gain: f64) -> Calibration {
        Calibration {
            id: "20261128-061500-x".to_owned(),
            sensor: "gpu:x".to_owned(),
            systematic_id: "gain/gpu:x".to_owned(),
            made_at: "2026-11-28T06:15:00Z".to_owned(),
            gain,
            gain_uncertainty: 0.012,
            from: CalibratedFrom {
                run_id: "run-1".to_owned(),
                log: "plug.csv".to_owned(),
                readings: 600,
                wall_per_sensor: gain / 0.92,
                wall_per_sensor_uncertainty: 0.002,
                psu_efficiency: 0.92,
                psu_uncertainty: 0.01,
                meter_accuracy: 0.005,
            },
        }
    }

    #[test]
    fn a_newer_calibration_takes_the_place_of_the_older_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wattle/calibrations.json");
        let mut file = Calibrations::read_or_none(&path).unwrap();
        let other = Calibration { systematic_id: "gain/gpu:y".to_owned(), ..calibration(0.9) };
        file.replace(&[calibration(1.1), other]);
        file.replace(&[calibration(1.05)]);
        file.write(&path).unwrap();
        let read = Calibrations::read(&path).unwrap();
        assert_eq!((read.calibrations.len(), read.of(&board_info()).unwrap().gain), (2, 1.05));
        let info = read.of(&board_info()).unwrap().applied_to(&board_info(), &path);
        assert_eq!(info.systematic_fraction, 0.012);
        assert_eq!(info.systematic_id, "calibration/20261128-061500-x");
        let applied = info.calibration.unwrap();
        assert_eq!((applied.gain, applied.systematic_id.as_str()), (1.05, "gain/gpu:x"));
    }

    #[test]
    fn what_is_no_file_of_calibrations_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("calibrations.json");
        let mut bad = Calibrations::read_or_none(&path).unwrap();
        bad.replace(&[calibration(0.0)]);
        bad.write(&path).unwrap();
        let error = Calibrations::read(&path).unwrap_err().to_string();
        assert!(error.contains("calibrations.json") && error.contains("a gain above 0"), "{error}");
        for text in ["", "{}", "{\"schema\":\"wattle.calibrations/9\",\"calibrations\":[]}"] {
            std::fs::write(&path, text).unwrap();
            let error = Calibrations::read(&path).unwrap_err().to_string();
            assert!(error.contains("calibrations.json"), "{error}");
        }
    }
}
