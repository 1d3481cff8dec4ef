//! What can go wrong with reading runs.

use std::path::{Path, PathBuf};

use wattle_meter::MeterError;
use wattle_runlog::RunlogError;

/// A fault in a run's files, or in a table given beside them.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of the run could not be read.
    #[error(transparent)]
    Runlog(#[from] RunlogError),
    /// The power trace could not be read.
    #[error(transparent)]
    Meter(#[from] MeterError),
    /// There is no run.
    #[error("{}: expected a run directory, which holds a manifest.json; wattle train --out makes one", path.display())]
    NotARun {
        /// What was given.
        path: PathBuf,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        reason: String,
    },
}

impl ReportError {
    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}
