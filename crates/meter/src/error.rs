//! What can go wrong with metering.

use std::io;
use std::path::{Path, PathBuf};

use wattle_runlog::RunlogError;
use wattle_runlog::error::remedy;

/// A fault in metering. None of them is a reason to stop what is being metered.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// A file of the run could not be read or written.
    #[error(transparent)]
    Runlog(#[from] RunlogError),
    /// The trace could not be read or written.
    #[error("cannot {action} the power trace {}: {source}{}", path.display(), remedy(source))]
    Trace {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The trace.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no power trace that this version reads.
    #[error("{}: {reason}", path.display())]
    NotATrace {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        reason: String,
    },
    /// There is no NVML, or it does not answer.
    #[error("NVML ({library}): {reason}")]
    Nvml {
        /// The library that was tried.
        library: String,
        /// What it said.
        reason: String,
    },
    /// A board's limits cannot be told or set.
    #[error("{reason}")]
    Limit {
        /// What is refused, by which board, and the remedy.
        reason: String,
    },
    /// `carbon.region` is not in the table.
    #[error(
        "carbon.region = {got:?}: expected a country by its ISO 3166-1 code (DE, DEU) or name, perhaps {nearest}"
    )]
    UnknownRegion {
        /// What was given.
        got: String,
        /// The names nearest to it.
        nearest: String,
    },
    /// The table has no intensity for the country that `carbon.region` names.
    #[error(
        "carbon.region = {got:?}: there is no figure for {name}; name a neighbour with a similar grid, or give the \
         figure itself by carbon.intensity_g_per_kwh"
    )]
    NoIntensity {
        /// What was given.
        got: String,
        /// The country.
        name: String,
    },
    /// `energy.gpus` names boards that are not there.
    #[error("energy.gpus names board {}: {why}", numbers(boards))]
    NoSuchBoard {
        /// The boards that are not there, by NVML's numbers.
        boards: Vec<u32>,
        /// Which boards there are, and what to do.
        why: String,
    },
    /// `carbon.table` is no table of intensities.
    #[error("carbon.table = {}: {reason}", path.display())]
    IntensityTable {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        reason: String,
    },
    /// A table of intensities does not cover the time at which energy was used.
    #[error("{}: there is no intensity from {from} to {to}; add rows for that time", path.display())]
    OutsideTable {
        /// The table.
        path: PathBuf,
        /// Start of what is missing, RFC 3339.
        from: String,
        /// Its end.
        to: String,
    },
    /// Nothing tells when a segment's energy was used.
    #[error("segment {segment} has no wall_anchor in manifest.json that could be read, and no power.trace")]
    NoAnchor {
        /// The segment.
        segment: u32,
    },
    /// A file of calibrations cannot be read or written.
    #[error("calibrations {}: {reason}", path.display())]
    Calibrations {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        reason: String,
    },
    /// A wall meter's log is not understood.
    #[error("{}{}: {reason}", path.display(), line.map_or(String::new(), |line| format!(", line {line}")))]
    WallLog {
        /// The file.
        path: PathBuf,
        /// Where in it, counted from 1; `None` where it is about the whole.
        line: Option<usize>,
        /// What was expected and what came.
        reason: String,
    },
    /// A run and a log from which no calibration can be made.
    #[error("{reason}")]
    NotCalibrated {
        /// Why not, and what to do.
        reason: String,
    },
    /// A baseline was asked for while something else ran on a device.
    #[error(
        "{sensor}: another process computes on it, so what it draws is not its idle power; end that process, or set energy.idle_baseline_s = 0"
    )]
    NotIdle {
        /// The sensor.
        sensor: String,
    },
    /// The sampling thread could not be started.
    #[error("cannot start the sampling thread: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The sampling thread did not answer.
    #[error(
        "the sampling thread did not answer within {waited_ms} ms: a reading of a sensor does not end, or other programs take all processor time"
    )]
    Silent {
        /// How long it was waited for.
        waited_ms: u64,
    },
}

/// `0, 7`
fn numbers(boards: &[u32]) -> String {
    let numbers: Vec<_> = boards.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

impl MeterError {
    pub(crate) fn trace(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Trace { action, path, source }
    }
}
