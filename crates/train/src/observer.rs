//! Who is told what happens in training.

use std::path::PathBuf;

use wattle_runlog::{EventBody, MonotonicNs, Span, StopReason};

use crate::error::ObserverError;

/// Listens to training. The command line is one: it writes events, draws bars and reads power.
pub trait Observer {
    /// Something happened at `t`: a step when its work ended on the device, everything else now. Steps may come late
    /// on a GPU (see [`Progress::Told`]), but events come in the order of their times.
    ///
    /// # Errors
    /// Whatever ends the run, such as a full disk.
    fn event(&mut self, t: MonotonicNs, body: EventBody) -> Result<(), ObserverError>;

    /// A phase of a step is over.
    fn span(&mut self, span: Span);

    /// Work is at a boundary and the device has nothing left to do: the moment to read a meter. Training waits.
    fn edge(&mut self, edge: Edge);

    /// Work moved on.
    fn progress(&mut self, progress: Progress);

    /// Asked before each step.
    fn directive(&mut self) -> Directive;

    /// A checkpoint is about to become final; what else belongs into it? Asked on the thread that trains, at the step of
    /// the checkpoint: once its own files are written if training waits for it, before they are written if training
    /// goes on.
    fn before_commit(&mut self, draft: &Draft) -> Vec<ExtraFile>;
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    /// Make the next step.
    Continue,
    /// Wait and ask again.
    Pause,
    /// Leave a checkpoint and end.
    Stop(StopReason),
}

/// A boundary at which the device is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Before the first step of this segment.
    Start,
    /// Before an evaluation.
    EvaluateStart,
    /// After an evaluation.
    EvaluateEnd,
    /// An epoch, or the part of one that is made in this segment, is over.
    Epoch {
        /// Which, counted from 1.
        epoch: u64,
        /// Whether all its batches were seen.
        complete: bool,
        /// Finished updates.
        step: u64,
        /// Tokens trained on so far.
        tokens: u64,
    },
    /// Before a checkpoint within an epoch.
    Checkpoint {
        /// The epoch under way, counted from 1.
        epoch: u64,
        /// Finished updates.
        step: u64,
        /// Tokens trained on so far.
        tokens: u64,
    },
    /// Nothing follows.
    Stop {
        /// Finished updates.
        step: u64,
        /// Tokens trained on so far.
        tokens: u64,
        /// Why.
        reason: StopReason,
    },
}

/// How far work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A step was handed to the device.
    Step {
        /// Updates that were handed over.
        step: u64,
        /// How many of them are not known to have ended.
        in_flight: u64,
    },
    /// Every step that is known to have ended has been told as an event (unless `train.log_every` passes over it).
    Told {
        /// The last of them.
        step: u64,
        /// When it ended.
        t: MonotonicNs,
    },
    /// A batch of an evaluation is done.
    Evaluate {
        /// Batches done.
        done: u64,
        /// Batches in all.
        total: u64,
    },
}

/// A checkpoint about to become final.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Finished updates.
    pub step: u64,
    /// The epoch it belongs to, counted from 1.
    pub epoch: u64,
    /// Whether it stands at the end of that epoch's part of this segment.
    pub ends_epoch: bool,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// The latest validation loss in nats a token.
    pub val_loss: Option<f64>,
    /// Where its files are until it is final.
    pub dir: PathBuf,
}

/// A file that an observer adds to a checkpoint.
#[derive(Clone, Debug)]
pub struct ExtraFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}
