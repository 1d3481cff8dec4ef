//! What can go wrong with a session.

use std::io;
use std::path::PathBuf;

use wattle_data::DataError;
use wattle_meter::MeterError;
use wattle_model::ModelError;
use wattle_report::ReportError;
use wattle_runlog::RunlogError;
use wattle_train::TrainError;

/// A fault that keeps a session from starting, or ends it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The configuration is wrong, or does not fit the data, the weights or the stored run.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// There is less memory than the work needs.
    #[error("{0}")]
    Memory(String),
    /// A path does not lead to a checkpoint.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The path.
        path: PathBuf,
        /// What is wrong and what to do about it.
        reason: String,
    },
    /// The data are not those that the run began with.
    #[error(
        "the data have changed since the run began (sha256 {then} then, {now} now): restore data.input or data.dir, \
         or start anew with another --out"
    )]
    OtherData {
        /// SHA-256 of the run's data.
        then: String,
        /// SHA-256 of the data that are there now.
        now: String,
    },
    /// The model cannot be built.
    #[error("the model cannot be built: {0}")]
    Build(candle_core::Error),
    /// A file or folder beside the run's own cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, or on which file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The data cannot be read or prepared.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model cannot be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The run directory cannot be read or written.
    #[error(transparent)]
    Runlog(#[from] RunlogError),
    /// Nothing can be metered. A run goes on without figures; what is there for them alone does not.
    #[error("metering: {0}")]
    Meter(#[from] MeterError),
    /// Something is wrong on some ranks, which the text names.
    #[error("{0}")]
    Ranks(String),
    /// Something is wrong on some rank, and the leading one has said it.
    #[error("the run cannot go on; rank 0 says what is wrong")]
    ToldByLeader {
        /// Whether it is the configuration.
        is_usage: bool,
    },
    /// The report cannot be made.
    #[error(transparent)]
    Report(#[from] ReportError),
}

impl SessionError {
    /// One fault of the configuration.
    pub fn config(fault: impl Into<String>) -> Self {
        Self::Config(vec![fault.into()])
    }
}
