//! What can go wrong with reading runs.

use std::path::{Path, PathBuf};

use wattle_meter::MeterError;
use wattle_runlog::RunlogError;

use crate::join::nearest::{self, listed};

/// A fault in a run's files, or in a table given beside them.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of the run could not be read.
    #[error(transparent)]
    Runlog(#[from] RunlogError),
    /// The power trace could not be read.
    #[error(transparent)]
    Meter(#[from] MeterError),
    /// The directory is not a run's.
    #[error("{}: expected a run directory, which holds a manifest.json; {}", path.display(), listed("it holds", inside))]
    NotARun {
        /// What was given.
        path: PathBuf,
        /// Runs in it.
        inside: Vec<String>,
    },
    /// There is nothing at the path.
    #[error("{}: there is no such run directory; {}", path.display(), listed("did you mean", near))]
    Missing {
        /// What was given.
        path: PathBuf,
        /// Runs beside it with the nearest names, the nearest first.
        near: Vec<String>,
    },
    /// A run was never scored on what runs are to be compared by.
    #[error(
        "{run} has no score of {metric}; {}",
        if known.is_empty() {
            format!("score its checkpoints by wattle evaluate {run}/checkpoints/… --tasks FILE, or set evaluate.tasks")
        } else {
            format!("it has {known}")
        }
    )]
    NoScore {
        /// The run.
        run: String,
        /// What was asked for.
        metric: String,
        /// The scores that it has.
        known: String,
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
    /// The error for a path without a manifest.
    pub(crate) fn no_run(path: &Path) -> Self {
        match path.exists() {
            true => Self::NotARun { path: path.to_owned(), inside: nearest::runs_in(path) },
            false => Self::Missing { path: path.to_owned(), near: nearest::nearest_runs(path) },
        }
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}
