//! What the trainer was doing, from when to when.

use serde::{Deserialize, Serialize};

use crate::clock::MonotonicNs;

/// A part of a run's work that energy is attributed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Everything before the first step: preparing data, building the model.
    Setup,
    /// Fetching a batch.
    Data,
    /// Loss and gradients of a step.
    ForwardBackward,
    /// Clipping and the update of the parameters.
    Optimizer,
    /// Waiting, with a step's gradients made, for the slowest of several ranks.
    Wait,
    /// Gradients and weights between ranks.
    Exchange,
    /// Loss on held-out data.
    Evaluate,
    /// Writing a checkpoint.
    Checkpoint,
    /// Waiting for cleaner electricity, with nothing to do.
    Paused,
    /// What no span covers.
    Other,
}

impl Phase {
    /// Every phase, in the order in which a run meets them.
    pub const ALL: [Phase; 10] = [
        Phase::Setup,
        Phase::Data,
        Phase::ForwardBackward,
        Phase::Optimizer,
        Phase::Wait,
        Phase::Exchange,
        Phase::Evaluate,
        Phase::Checkpoint,
        Phase::Paused,
        Phase::Other,
    ];
}

/// Which clock a span was timed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanClock {
    /// The host's monotonic clock.
    Host,
    /// Device events, mapped to the host's clock by an anchor.
    Device,
}

/// One phase of one step. Spans of a segment do not overlap unless they say so; device spans may be reported late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The run's segment.
    pub segment: u32,
    /// The step being worked on, counted from 1; 0 before the first.
    pub step: u64,
    /// What was done.
    pub phase: Phase,
    /// Start, host monotonic time.
    pub start_ns: MonotonicNs,
    /// End, host monotonic time.
    pub end_ns: MonotonicNs,
    /// What timed it.
    pub clock: SpanClock,
    /// Bound on the error of either end that mapping between clocks adds.
    pub error_ns: u64,
    /// Whether other phases went on at the same time, as steps do while a checkpoint is written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlaps: bool,
}
