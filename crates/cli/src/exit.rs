//! How the process ends.

use std::process::ExitCode;

#[cfg(feature = "train")]
use wattle_dist::DistError;
#[cfg(feature = "train")]
use wattle_session::SessionError;
#[cfg(feature = "train")]
use wattle_train::TrainError;

use crate::terminal::StdoutError;

/// Why a command ended otherwise than by an error of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well, or a budget ended it, or there was nothing left to do.
    Done,
    /// A signal asked for it, and a checkpoint stands: run it again with `--resume`.
    #[cfg_attr(not(feature = "train"), expect(dead_code, reason = "training alone leaves checkpoints"))]
    Requeue,
    /// The metered command ended with this status.
    Child(u8),
}

/// The command line or the configuration is wrong: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{}", faults.join("\n"))]
pub struct BadUsage {
    /// Everything that is wrong.
    pub faults: Vec<String>,
}

#[cfg(feature = "train")]
impl BadUsage {
    /// One fault.
    pub fn new(fault: impl Into<String>) -> Self {
        Self { faults: vec![fault.into()] }
    }
}

/// The process's exit status for a command's outcome; an error is printed.
pub fn status(outcome: Result<Exit, anyhow::Error>) -> ExitCode {
    match outcome {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        // EX_TEMPFAIL of sysexits.h: batch systems requeue on it.
        Ok(Exit::Requeue) => ExitCode::from(75),
        Ok(Exit::Child(status)) => ExitCode::from(status),
        Err(error) => failure(&error),
    }
}

fn failure(error: &anyhow::Error) -> ExitCode {
    if let Some(faults) = faults(error) {
        for fault in faults {
            tracing::error!("{fault}");
        }
        if faults.len() > 1 {
            tracing::error!("{} faults; nothing was started", faults.len());
        }
        return ExitCode::from(2);
    }
    #[cfg(feature = "train")]
    if let Some(parting) = error.downcast_ref().and_then(Parting::of) {
        match parting.is_said_here {
            true => tracing::error!("{error:#}"),
            // A launcher ends all ranks as soon as one fails: let the other finish its sentence.
            false => std::thread::sleep(crate::ranks::SENTENCE),
        }
        return ExitCode::from(parting.status);
    }
    if error.downcast_ref().is_some_and(StdoutError::is_closed_pipe) {
        // 128 + SIGPIPE: how a program ends that leaves the signal to the system.
        return ExitCode::from(141);
    }
    tracing::error!("{error:#}");
    ExitCode::FAILURE
}

/// How a rank ends that cannot go on because of others, or after another has said why.
#[cfg(feature = "train")]
struct Parting {
    status: u8,
    is_said_here: bool,
}

/// Ranks have parted; the run goes on with `--resume`.
#[cfg(feature = "train")]
const PARTED: u8 = wattle_dist::EXIT_PARTED;

#[cfg(feature = "train")]
impl Parting {
    fn of(error: &SessionError) -> Option<Self> {
        match error {
            SessionError::ToldByLeader { is_usage } => {
                Some(Self { status: if *is_usage { 2 } else { 1 }, is_said_here: false })
            }
            SessionError::Train(TrainError::Ranks(source)) => {
                // Before the first step, a rank that has ended has said why.
                let is_said_here =
                    !crate::ranks::is_follower() && !matches!(**source, DistError::Gone { .. });
                Some(Self { status: PARTED, is_said_here })
            }
            _ => None,
        }
    }
}

/// What is wrong with the command line or the configuration, if that is what ended the process.
fn faults(error: &anyhow::Error) -> Option<&[String]> {
    if let Some(BadUsage { faults }) = error.downcast_ref() {
        return Some(faults);
    }
    #[cfg(feature = "train")]
    if let Some(wattle_session::SessionError::Config(faults)) = error.downcast_ref() {
        return Some(faults);
    }
    None
}
