//! The explicit engine on a GPU: all families that are made of the same blocks.
//!
//! One allocation holds weights, gradients, moments and activations. A step is the same launches with the same
//! arguments each time: what differs lies in device memory (`inputs`), so that it is recorded once and replayed.
//! Nothing is allocated within a step. Losses and norms go to a ring on the device (`results`). Before a step takes
//! over its place for a batch, the host waits for the step before the last, whose place it is. So the queue is never
//! longer than two steps, and the device always has a whole step ahead; what finished steps said is read beside the
//! work under way, which does not stop for it.
//!
//! - `cutter`, `state`, `activations`, `memory`: what lies where
//! - `shapes`: the network's sizes as the operations take them
//! - `forward`, `backward`, `linear`, `gelu`, `fp8`, `adapters`: the passes of a micro-batch
//! - `step`: all of one optimizer update
//! - `inputs`, `results`, `timeline`: what goes to the device, and what comes back
//! - `fit`: whether it all fits
//! - `recorded`: launches that are made again and again
//! - `shards`: what each of several ranks keeps, and what they exchange
//! - `engine`: the whole
//! - `reading`, `evaluator`, `cache`, `decoder`: the forward pass alone, of a network that is not trained: losses, and
//!   predictions for texts that grow

mod activations;
mod adapters;
mod backward;
mod cache;
mod cutter;
mod decoder;
mod engine;
mod error;
mod evaluator;
mod fit;
mod forward;
mod fp8;
mod gelu;
mod inputs;
mod linear;
mod memory;
mod reading;
mod recorded;
mod results;
mod shapes;
mod shards;
mod state;
mod step;
mod timeline;

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Tensor;
use wattle_ops::adamw::Hyperparameters;
use wattle_ops::board::select::Measured;
use wattle_ops::board::{Elem, HostMemory};

use super::{FlatSnapshot, Fp8Options, LossSum, MemoryPlan, Moments, Recompute, Sequences};
use crate::moments::MatrixUpdate;
use crate::parameter::Parameter;

pub use decoder::{BoardDecoder, DecoderOptions};
pub use engine::BoardEngine;
pub use error::{AttentionMemory, EngineError};
pub use evaluator::{BoardEvaluator, EvaluatorOptions};
pub use shards::share_of;
pub use timeline::{DeviceSpan, StepPart};

/// Most steps whose results may wait on the device.
pub const MAX_PENDING_STEPS: usize = 1000;

/// Trains one model with everything it takes on a device, where steps are queued.
///
/// A model's [`Parameter`]s are candle tensors that anybody can read. While an engine trains, they are as they
/// were when [`DeviceEngine::publish`] was last called.
pub trait DeviceEngine: Send {
    /// Queues one update: loss and gradients of a batch, clipping, AdamW. The host does not wait for it, except in an
    /// engine's first step, where it looks at all gradients before the update.
    /// [`DeviceEngine::drain`] is to be called before there are more than [`MAX_PENDING_STEPS`].
    ///
    /// # Shapes
    /// As many sequences as the engine was made for. Of several ranks, all make the same steps.
    ///
    /// # Errors
    /// If the batch has another size, the device fails, or no gradient reached a parameter in the first step; no update
    /// is made then.
    fn step(&mut self, step: StepInputs<'_>) -> Result<(), EngineError>;

    /// Chooses, by doing it, the fastest way for each job of a step for which the board has no choice yet. To be called
    /// before the first step; weights and moments stay as they are.
    ///
    /// # Errors
    /// If the device fails.
    fn select(&mut self) -> Result<Vec<Measured>, EngineError>;

    /// Queued steps that are not known to be finished: two at most.
    fn n_in_flight(&self) -> usize;

    /// What finished steps said, and when their parts were done, since this was last asked for. Work under way goes
    /// on, and steps in flight are left for the next call: nothing waits. Ask at most once after each
    /// [`DeviceEngine::step`].
    ///
    /// # Errors
    /// If the device fails.
    fn poll(&mut self, host_ns: &dyn Fn() -> u64) -> Result<FinishedSteps, EngineError>;

    /// What the steps said that were queued since this was last asked for, in their order. Waits for them.
    ///
    /// # Errors
    /// If the device fails.
    fn drain(&mut self) -> Result<Vec<StepResult>, EngineError>;

    /// The losses of some sequences, without dropout; gradients, weights and moments stay as they are.
    ///
    /// # Shapes
    /// At most a micro-batch's sequences.
    ///
    /// # Errors
    /// If there are more, or the device fails.
    fn evaluate(&mut self, sequences: Sequences<'_>) -> Result<LossSum, EngineError>;

    /// Waits for all work, ties the device's clock to the host's, which `host_ns` reads, and gives the spans of
    /// the steps since that was last done.
    ///
    /// # Errors
    /// If the device fails.
    fn synchronize(&mut self, host_ns: &dyn Fn() -> u64) -> Result<Vec<DeviceSpan>, EngineError>;

    /// Gives `parameters` the values of the weights. Of several ranks, all make this call together.
    ///
    /// # Errors
    /// If the device or a tensor operation fails.
    fn publish(&self, parameters: &[Parameter]) -> Result<(), EngineError>;

    /// Takes over the values of `parameters`; updates are made again if it was halted.
    ///
    /// # Errors
    /// If the device or a tensor operation fails.
    fn take(&mut self, parameters: &[Parameter]) -> Result<(), EngineError>;

    /// The gradients of the last step, before clipping, in the model's order, on the CPU. Of several ranks each has the
    /// sums of its own part, and anything elsewhere.
    ///
    /// # Errors
    /// If the device or a tensor operation fails.
    fn gradient_tensors(&self) -> Result<Vec<Tensor>, EngineError>;

    /// Names of parameters whose gradient in the first step was zero in every element.
    fn zero_gradient_names(&self) -> &[String];

    /// The moments under their [names](crate::MatrixUpdate::moment_names). Of several ranks, all make this call together.
    ///
    /// # Errors
    /// If the device or a tensor operation fails.
    fn moments(&self) -> Result<Vec<(String, Tensor)>, EngineError>;

    /// Numbers of host memory that [`DeviceEngine::snapshot`] takes.
    fn snapshot_len(&self) -> usize;

    /// A copy of weights and moments in `memory`, once all work before is done. The other ranks, if there are any, make the
    /// call [`DeviceEngine::join_snapshot`].
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If `memory` has not room for [`DeviceEngine::snapshot_len`] numbers.
    fn snapshot(&self, memory: HostMemory) -> Result<FlatSnapshot, EngineError>;

    /// Gives the rank that takes a snapshot what this one keeps.
    ///
    /// # Errors
    /// If the device fails.
    fn join_snapshot(&self) -> Result<(), EngineError>;

    /// Takes over moments as [`DeviceEngine::moments`] gives them: see [`moment_faults`](crate::moment_faults).
    ///
    /// # Errors
    /// If one is missing, extra or of another shape, and nothing is changed then; or if the device or a tensor operation
    /// fails.
    fn set_moments(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), EngineError>;

    /// Whether a step's loss or gradient was not finite. From that step on no update is made: the weights are those
    /// that it began with.
    ///
    /// # Errors
    /// If the device fails.
    fn is_halted(&self) -> Result<bool, EngineError>;

    /// What it takes of the device's memory.
    fn memory(&self) -> MemoryPlan;

    /// What it is, for a person: device, type, how steps are launched.
    fn describe(&self) -> String;
}

/// How to build an engine on a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeviceEngineOptions {
    /// Sequences of a step; of several ranks, of this one's part of it.
    pub batch_size: usize,
    /// Most sequences of one forward and backward pass.
    pub micro_batch: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Type of activations and of the weights that passes read.
    pub elem: Elem,
    /// Which products are in eight bits, their arguments rounded from `elem`, their weights from the masters.
    pub fp8: Option<Fp8Options>,
    /// In which type moments are kept.
    pub moments: Moments,
    /// The run's seed.
    pub seed: u64,
    /// Share of elements that are dropped in training.
    pub dropout: f32,
    /// Gradients are clipped to this norm; 0 clips nothing.
    pub clip_norm: f64,
    /// AdamW's.
    pub hyperparameters: Hyperparameters,
    /// How matrices of blocks are updated.
    pub matrices: MatrixUpdate,
    /// What batches may say beside their tokens.
    pub masks: Masks,
    /// Whether [`DeviceEngine::select`] will choose kernels, so that memory is planned for what it tries.
    pub selects: bool,
}

/// What batches may say beside their tokens. Room for it is planned, so an engine is told before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// Weights of targets.
    pub weights: bool,
    /// Where documents start. Attention is then not the board's own.
    pub documents: bool,
}

impl DeviceEngineOptions {
    /// The sequences of each micro-batch; the last may have fewer.
    fn micro_batches(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { batch_size, micro_batch, .. } = *self;
        (0..batch_size).step_by(micro_batch).map(move |first| first..batch_size.min(first + micro_batch))
    }
}

/// What one step is told.
#[derive(Clone, Copy, Debug)]
pub struct StepInputs<'a> {
    /// The whole batch; of several ranks, this one's part of it.
    pub sequences: Sequences<'a>,
    /// What the targets of the whole batch count.
    pub counts: Counts,
    /// Which update it is, counted from 1.
    pub step: u64,
    /// η
    pub learning_rate: f64,
}

/// What some targets count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// The sum of their weights.
    pub weight: f64,
    /// Those whose weight is above 0.
    pub n_counted: usize,
}

impl From<Sequences<'_>> for Counts {
    fn from(sequences: Sequences<'_>) -> Self {
        Self { weight: sequences.weight(), n_counted: sequences.n_counted() }
    }
}

/// Steps that are over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FinishedSteps {
    /// When their parts were done, in the order of the steps.
    pub spans: Vec<DeviceSpan>,
    /// What they said, in their order.
    pub results: Vec<StepResult>,
}

/// What one step said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepResult {
    /// Mean cross-entropy in nats a token.
    pub loss: f32,
    /// Share of next tokens that were the model's first choice.
    pub accuracy: f32,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f32,
}
