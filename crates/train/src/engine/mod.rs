//! What makes the steps: one interface, and the engines behind it.
//!
//! - `autograd`: candle's autograd and tensors: any model, any device, any dtype; the specification
//! - `optimizer`: its updates
//! - `cpu`: explicit passes over flat buffers, in `f32` on a CPU
//! - `board`: whole steps, queued on a board where all state lies
//! - [`snapshot`]: a copy of weights and moments from which a checkpoint is written while training goes on
//! - `slowest`: how long a board waited for other ranks
//! - `host_clock`: when the parts of a step ended, for engines whose work the host waits for
//!
//! [`choose`] is the one place that decides between them.

mod autograd;
mod board;
mod cpu;
mod host_clock;
mod optimizer;
mod slowest;
pub mod snapshot;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use wattle_data::Batch;
use wattle_model::engine::LossSum;
use wattle_model::{
    LanguageModel, MatrixUpdate, MemoryPlan, Moments, Parameter, StepResult, abridged, is_block_matrix,
    is_first_factor,
};
use wattle_ops::board::select::Measured;
use wattle_ops::board::{Board, HostMemory};
use wattle_runlog::{MonotonicNs, Span};

use crate::config::{EngineChoice, OptimizerKind};
use crate::engine::snapshot::{Snapshot, TakeMemory};
use crate::error::TrainError;
use crate::kernels::Kernels;
use crate::options::TrainerOptions;

pub use board::refuse_what_cannot_fit;

/// Trains one model, step by step. Each engine proves before its first update that every parameter receives a gradient.
///
/// The model's parameters are tensors that anybody can read. While an engine trains, they are as they were when
/// [`StepEngine::export`] was last called.
pub trait StepEngine {
    /// Makes one update, or queues it: loss and gradients of a batch, clipping, the optimizer. A step whose loss or gradient
    /// is not finite makes no update, and neither do those after it.
    ///
    /// # Errors
    /// If a parameter receives no gradient (before the first update), the batch does not fit, or the device fails.
    fn step(&mut self, step: &Step<'_>) -> Result<(), TrainError>;

    /// Queued steps that are not known to have ended.
    fn n_in_flight(&self) -> usize {
        0
    }

    /// What steps said that have ended since this was last asked for. Does not wait.
    ///
    /// # Errors
    /// If the device fails.
    fn poll(&mut self) -> Result<Finished, TrainError>;

    /// Waits for all work, then [`StepEngine::poll`].
    ///
    /// # Errors
    /// If the device fails.
    fn drain(&mut self) -> Result<Finished, TrainError>;

    /// The losses of some sequences, without dropout. Weights, gradients and moments stay as they are.
    ///
    /// # Errors
    /// If the batch is larger than a micro-batch, or a tensor operation fails.
    fn evaluate(&mut self, batch: &Batch) -> Result<LossSum, TrainError>;

    /// How matrices of blocks are updated, which says what moments there are.
    fn matrices(&self) -> MatrixUpdate;

    /// Takes over the values of the model's parameters, and `moments` of their shapes, which are named as
    /// [`MatrixUpdate::moment_names`] says.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn load(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), TrainError>;

    /// Gives the model's parameters the values of the weights. Of several ranks, all make this call together.
    ///
    /// # Errors
    /// If a tensor operation fails, or the ranks have parted.
    fn export(&mut self) -> Result<(), TrainError>;

    /// Writes the moments that [`StepEngine::load`] takes to a safetensors file.
    ///
    /// # Errors
    /// If the file cannot be written; what was written of it is left for the caller to remove.
    fn write_moments(&self, path: &Path) -> Result<(), TrainError>;

    /// Bytes of host memory that a snapshot takes.
    fn snapshot_bytes(&self) -> u64;

    /// What takes the memory for [`StepEngine::snapshot`].
    fn snapshot_memory(&self) -> TakeMemory;

    /// A copy of weights and moments as they are between two steps, in memory that [`StepEngine::snapshot_memory`] took.
    /// Until it is written, neither [`StepEngine::export`] nor another snapshot may be asked for. Once it is, the model's
    /// parameters have the values of its weights.
    ///
    /// # Errors
    /// If the device or a tensor operation fails.
    fn snapshot(&mut self, memory: HostMemory) -> Result<Snapshot, TrainError>;

    /// Takes part in the snapshot of the leading rank, which makes the call [`StepEngine::snapshot`].
    ///
    /// # Errors
    /// If the ranks have parted.
    fn join_snapshot(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    /// The gradients of the step that ended last, in the model's order, before clipping; `None` where a later step may
    /// have taken their place.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn gradients(&self) -> Result<Option<Vec<Tensor>>, TrainError>;

    /// The model that it trains.
    fn model(&self) -> &dyn LanguageModel;

    /// What it is, for a person: how it computes, on what.
    fn describe(&self) -> String;

    /// What it takes of memory, where that is planned.
    fn memory(&self) -> Option<MemoryPlan> {
        None
    }

    /// Which kernels it takes, where there is a choice.
    fn kernels(&self) -> Option<Kernels> {
        None
    }

    /// What was chosen by measuring when it was made.
    fn measured(&self) -> &[Measured] {
        &[]
    }

    /// Takes now all memory of this process that training takes; with a batch it also computes that batch's gradients,
    /// for the memory of its threads. Returns whether the process then has what training takes.
    ///
    /// # Errors
    /// If a parameter receives no gradient.
    fn rehearse(&mut self, _batch: Option<&Batch>) -> Result<bool, TrainError> {
        Ok(false)
    }
}

/// What one step is told.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which update it is, counted from 1.
    pub number: u64,
    /// η
    pub learning_rate: f64,
    /// Its sequences.
    pub batch: &'a Batch,
    /// When the host began to read the batch.
    pub began: MonotonicNs,
}

/// Steps that have ended.
#[derive(Debug, Default)]
pub struct Finished {
    /// When their parts ended, in the order of the steps.
    pub spans: Vec<Span>,
    /// What they said, in their order.
    pub results: Vec<StepResult>,
}

/// The engine for `model`. With [`EngineChoice::Auto`] it is the explicit one where the model's family has one for the
/// device and type: on a board, or in `f32` on a CPU. Products in eight bits are for explicit engines alone.
///
/// # Errors
/// If the explicit engine is asked for and there is none, it does not fit the board's memory, or a tensor operation
/// fails.
pub fn choose<'a>(
    model: &'a dyn LanguageModel,
    board: Option<Arc<dyn Board>>,
    options: &TrainerOptions,
) -> Result<Box<dyn StepEngine + 'a>, TrainError> {
    if options.optimizer.kind == OptimizerKind::Muon {
        refuse_without_matrices(model)?;
    }
    let (world, leaves) = (options.ranks.share().world, options.train.reduce_leaves);
    let is_over_ranks = world > 1 || leaves > 1;
    if is_over_ranks && options.train.engine == EngineChoice::Autograd {
        return Err(no_leaves(options));
    }
    if board.is_some() && leaves > 1 && leaves != world {
        return Err(TrainError::NoLeavesOnBoard { leaves });
    }
    let explicit = match options.train.engine {
        EngineChoice::Autograd => None,
        EngineChoice::Auto | EngineChoice::Explicit => explicit(model, board, options)?,
    };
    match explicit {
        Some(engine) => Ok(engine),
        None if is_over_ranks => Err(no_leaves(options)),
        None if options.fp8.is_some() => Err(TrainError::NoFp8),
        None if options.moments != Moments::F32 => Err(TrainError::NoBf16Moments),
        None if options.train.engine == EngineChoice::Explicit => Err(TrainError::NoEngine),
        None if model.adapter().is_some_and(|adapter| adapter.dropout > 0.0) => {
            Err(TrainError::NoLoraDropout)
        }
        None => Ok(Box::new(autograd::Autograd::new(model, options)?)),
    }
}

fn refuse_without_matrices(model: &dyn LanguageModel) -> Result<(), TrainError> {
    let is_matrix = |Parameter { name, var }: &Parameter| is_block_matrix(name, var.dims());
    match model.parameters().iter().any(is_matrix) {
        true => Ok(()),
        false => Err(TrainError::NoMatrices),
    }
}

fn no_leaves(options: &TrainerOptions) -> TrainError {
    let what = match options.ranks.share().world {
        1 => format!("train.reduce_leaves = {}", options.train.reduce_leaves),
        world => format!("{world} ranks"),
    };
    TrainError::NotOverRanks { what }
}

fn explicit<'a>(
    model: &'a dyn LanguageModel,
    board: Option<Arc<dyn Board>>,
    options: &TrainerOptions,
) -> Result<Option<Box<dyn StepEngine + 'a>>, TrainError> {
    match board {
        Some(board) => board::OnBoard::for_model(model, board, options),
        None if model.device().is_cpu() && (options.dtype == DType::F32 || options.fp8.is_some()) => {
            cpu::OnCpu::for_model(model, options)
        }
        None => Ok(None),
    }
}

/// Where a model's parameters belong: on the host if a board trains, since the board has the only copy that is
/// trained; else on the device that trains.
pub fn home_of_parameters(device: &Device, board: Option<&Arc<dyn Board>>) -> Device {
    if board.is_some() { Device::Cpu } else { device.clone() }
}

/// A gradient of zeros can be chance, so it is no error. That of an adapter's first factor is zero at the start, since the
/// second is.
fn warn_of_zero_gradients(names: &[String]) {
    let names: Vec<&String> = names.iter().filter(|name| !is_first_factor(name)).collect();
    if !names.is_empty() {
        tracing::warn!("the first gradient of {} is zero throughout", abridged(&names));
    }
}

/// Whether a step may make its update.
pub(crate) fn is_finite(result: &StepResult) -> bool {
    result.loss.is_finite() && result.grad_norm.is_finite()
}
