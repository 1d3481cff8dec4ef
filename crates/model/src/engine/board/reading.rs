//! A network that is read and not trained: weights, and the activations of a forward pass.

use std::sync::Arc;

use wattle_ops::Store;
use wattle_ops::adamw::Hyperparameters;
use wattle_ops::board::{Board, BoardError, DevicePtr, Elem};

use super::activations::{AttentionPlan, Passes};
use super::error::EngineError;
use super::fit::RESERVE;
use super::forward::MicroBatch;
use super::memory::Memory;
use super::shards::Shards;
use super::{DeviceEngineOptions, Masks, state};
use crate::engine::layout::Layout;
use crate::engine::network::Network;
use crate::engine::{GradientType, MemoryPlan, Moments, Recompute};
use crate::moments::MatrixUpdate;
use crate::parameter::Parameter;

/// Weights on a board, in the type of activations, and memory for passes.
pub(super) struct Reading {
    pub(super) board: Arc<dyn Board>,
    pub(super) network: Network,
    pub(super) memory: Memory,
    pub(super) plan: MemoryPlan,
    options: DeviceEngineOptions,
}

/// The options of passes of at most `micro_batch` sequences.
pub(super) fn options(micro_batch: usize, elem: Elem) -> DeviceEngineOptions {
    DeviceEngineOptions {
        batch_size: micro_batch,
        micro_batch,
        recompute: Recompute::Block,
        elem,
        fp8: None,
        gradients: GradientType::F32,
        moments: Moments::F32,
        seed: 0,
        dropout: 0.0,
        clip_norm: 0.0,
        hyperparameters: Hyperparameters { beta1: 0.0, beta2: 0.0, eps: 0.0, weight_decay: 0.0 },
        matrices: MatrixUpdate::AdamW,
        masks: Masks::default(),
        selects: false,
    }
}

impl Reading {
    /// Takes the memory, and a copy of `parameters`. `refusal` says that the bytes needed, its first, are more
    /// than those free.
    pub(super) fn new(
        board: Arc<dyn Board>,
        network: Network,
        layout: &Layout,
        parameters: &[Parameter],
        options: DeviceEngineOptions,
        attention: AttentionPlan,
        refusal: &dyn Fn(u64, u64) -> EngineError,
    ) -> Result<Self, EngineError> {
        let shards = Shards::whole(layout);
        let cut = |base| Memory::cut(base, &network, layout, &shards, &options, attention, Passes::Forward);
        let plan = cut(DevicePtr::new(0)).1;
        let free = board.memory()?.free;
        if plan.total() + RESERVE > free {
            return Err(refusal(plan.total(), free));
        }
        let base = board.allocate(plan.total() as usize).map_err(|error| match error {
            BoardError::OutOfMemory { .. } => refusal(plan.total(), free),
            other => other.into(),
        })?;
        let (memory, _) = cut(base);
        state::write_parameters(board.as_ref(), memory.state.working, layout, parameters)?;
        Ok(Self { board, network, memory, plan, options })
    }

    /// `b` sequences, told of by the slot for evaluations or, where there is a cache, by that.
    pub(super) fn pass(&self, b: usize) -> MicroBatch<'_> {
        let Memory { state, eval, activations, product, .. } = &self.memory;
        MicroBatch {
            board: self.board.as_ref(),
            network: &self.network,
            options: &self.options,
            state,
            fp8: None,
            slot: *eval,
            activations,
            first_sequence: 0,
            is_dropping: false,
            is_training: false,
            product: *product,
            exchange: None,
            b,
            by_rows: false,
            store: Store::Overwrite,
        }
    }

    /// Refuses tokens that the model does not have.
    pub(super) fn check_tokens<'t>(
        &self,
        tokens: impl IntoIterator<Item = &'t u32>,
    ) -> Result<(), EngineError> {
        let n_vocab = self.network.sizes.v;
        match tokens.into_iter().find(|&&token| token as usize >= n_vocab) {
            Some(&token) => Err(EngineError::Token { token, n_vocab }),
            None => Ok(()),
        }
    }
}
