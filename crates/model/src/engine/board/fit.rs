//! Whether an engine fits a board's memory, and the largest micro-batch that does.
//!
//! All of this is arithmetic but for [`Fit::is_fused`]. A library's plan for attention takes up to seconds to make, so
//! it is made once, for the size that was asked for, and only if that size may fit.

use wattle_ops::board::{Board, BoardError, DevicePtr, Elem};

use super::DeviceEngineOptions;
use super::engine::Memory;
use super::error::EngineError;
use crate::engine::MemoryPlan;
use crate::engine::layout::Layout;
use crate::engine::network::Network;

/// Bytes that are left to the libraries: workspace of matrix products, recorded steps.
pub(super) const RESERVE: u64 = 256 << 20;

/// An engine that is to be made on a board.
#[derive(Clone, Copy)]
pub(super) struct Fit<'a> {
    pub(super) board: &'a dyn Board,
    pub(super) network: &'a Network,
    pub(super) layout: &'a Layout,
    pub(super) options: &'a DeviceEngineOptions,
}

impl Fit<'_> {
    /// Bytes that are free on the board.
    pub(super) fn free(&self) -> Result<u64, EngineError> {
        Ok(self.board.memory()?.free)
    }

    /// What an engine with micro-batches of this size would take.
    pub(super) fn plan(&self, micro_batch: usize, is_fused: bool) -> MemoryPlan {
        let options = DeviceEngineOptions { micro_batch, ..*self.options };
        Memory::cut(DevicePtr::NULL, self.network, self.layout, &options, is_fused).1
    }

    /// Refuses what is too large for `free` bytes. Attention is taken to be fused if it may be, which takes less.
    pub(super) fn refuse_what_cannot_fit(&self, free: u64) -> Result<(), EngineError> {
        let is_fused = self.may_be_fused();
        match self.plan(self.options.micro_batch, is_fused).total() + RESERVE <= free {
            true => Ok(()),
            false => Err(self.refusal(is_fused, free)),
        }
    }

    /// Whether the board's own attention is used: it is for bf16, and drops nothing. Makes it ready.
    pub(super) fn is_fused(&self, free: u64) -> Result<bool, EngineError> {
        if !self.asks_for_fused() {
            return Ok(false);
        }
        let shape = self.network.sizes.fused_attention(self.options.micro_batch);
        match self.board.fused_attention().and_then(|fused| fused.prepare(&shape)) {
            Ok(()) => Ok(true),
            Err(BoardError::OutOfMemory { .. }) => Err(self.refusal(true, free)),
            Err(error) => {
                tracing::warn!("attention is made of products and a softmax: {error}");
                Ok(false)
            }
        }
    }

    /// What there is to say if an engine does not fit into `free` bytes.
    pub(super) fn refusal(&self, is_fused: bool, free: u64) -> EngineError {
        let asked = self.options.micro_batch;
        EngineError::DoesNotFit {
            device: self.board.name(),
            needed: self.needed(asked, is_fused),
            free,
            micro_batch: asked,
            largest: self.largest(is_fused, free),
            recompute: self.options.recompute,
        }
    }

    /// The most sequences, fewer than were asked for, that fit into `free` bytes. More never take less.
    fn largest(&self, is_fused: bool, free: u64) -> Option<usize> {
        let fits = |micro_batch: usize| self.needed(micro_batch, is_fused) + RESERVE <= free;
        let (mut fitting, mut too_many) = (0, self.options.micro_batch);
        while fitting + 1 < too_many {
            let middle = fitting.midpoint(too_many);
            if fits(middle) { fitting = middle } else { too_many = middle }
        }
        (fitting > 0).then_some(fitting)
    }

    /// Bytes of an engine and of attention's workspace.
    fn needed(&self, micro_batch: usize, is_fused: bool) -> u64 {
        let shape = self.network.sizes.fused_attention(micro_batch);
        let workspace = match self.board.fused_attention() {
            Ok(fused) if is_fused => fused.workspace_bytes(&shape),
            _ => 0,
        };
        self.plan(micro_batch, is_fused).total() + workspace
    }

    fn may_be_fused(&self) -> bool {
        self.asks_for_fused() && self.board.fused_attention().is_ok()
    }

    fn asks_for_fused(&self) -> bool {
        self.options.elem == Elem::Bf16 && self.options.dropout <= 0.0
    }
}
