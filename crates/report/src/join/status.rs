//! How a run stands.

use serde::Serialize;
use wattle_runlog::{EventBody, StopReason};

use crate::join::run::Run;

/// How a run stands, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A process is writing to it.
    Running,
    /// All steps were made.
    Done,
    /// A budget of energy, emissions or money was reached.
    Budget,
    /// Validation loss stopped falling, or reached its target.
    EarlyStop,
    /// A signal asked for it.
    Signal,
    /// Something went wrong.
    Error,
    /// The last process ended without saying so.
    Interrupted,
}

impl Status {
    /// The status of a run.
    pub fn of(run: &Run) -> Self {
        if run.is_locked {
            return Self::Running;
        }
        let last = run.manifest.segments.iter().map(|segment| segment.id).max();
        let stop = run.events.iter().rev().find_map(|event| match event.body {
            EventBody::Stop { reason, .. } if Some(event.segment) == last => Some(reason),
            _ => None,
        });
        match stop {
            Some(StopReason::Done) => Self::Done,
            Some(StopReason::Budget) => Self::Budget,
            Some(StopReason::EarlyStop) => Self::EarlyStop,
            Some(StopReason::Signal) => Self::Signal,
            Some(StopReason::Error) => Self::Error,
            None => Self::Interrupted,
        }
    }

    /// The status in a word or two.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Budget => "budget",
            Self::EarlyStop => "early stop",
            Self::Signal => "stopped",
            Self::Error => "failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// The status in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Budget => "stopped: a budget was reached",
            Self::EarlyStop => "stopped early",
            Self::Signal => "stopped by a signal; --resume continues it",
            Self::Error => "failed",
            Self::Interrupted => "interrupted; --resume continues it",
        }
    }
}
