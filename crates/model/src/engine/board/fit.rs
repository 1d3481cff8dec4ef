//! Whether an engine fits a board's memory, and the largest micro-batch that does.
//!
//! All of this is arithmetic but for [`Fit::attention`]. A library's plan for attention takes up to seconds to make, so
//! it is made once for each size that is used, and only if these may fit. What it decides is handed on: the plan of
//! memory has room for attention's workspace, and the passes do as the plan says.

use std::collections::BTreeSet;

use wattle_ops::board::{Board, BoardError, DevicePtr, Elem};

use super::DeviceEngineOptions;
use super::activations::{AttentionPlan, Passes};
use super::error::EngineError;
use super::memory::Memory;
use super::shards::Shards;
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
    pub(super) passes: Passes,
}

impl Fit<'_> {
    /// Bytes that are free on the board.
    pub(super) fn free(&self) -> Result<u64, EngineError> {
        Ok(self.board.memory()?.free)
    }

    /// What an engine with micro-batches of this size would take.
    pub(super) fn plan(&self, micro_batch: usize, attention: AttentionPlan) -> MemoryPlan {
        let options = DeviceEngineOptions { micro_batch, ..*self.options };
        let shards = match self.passes {
            Passes::Both => Shards::of(self.board, self.layout),
            Passes::Forward => Shards::whole(self.layout),
        };
        let at = DevicePtr::new(0);
        Memory::cut(at, self.network, self.layout, &shards, &options, attention, self.passes).1
    }

    /// Refuses what is too large for `free` bytes. Attention is taken to be fused if it may be, which takes less.
    pub(super) fn refuse_what_cannot_fit(&self, free: u64) -> Result<(), EngineError> {
        let is_fused = self.may_be_fused();
        match self.needed(self.options.micro_batch, is_fused) + RESERVE <= free {
            true => Ok(()),
            false => Err(self.refusal(is_fused, free)),
        }
    }

    /// How attention is computed: by the board's own in bf16, if it drops nothing. The library makes its plans here.
    pub(super) fn attention(&self, free: u64) -> Result<AttentionPlan, EngineError> {
        if !self.asks_for_fused() {
            return Ok(AttentionPlan::Products);
        }
        match self.prepare() {
            Ok(workspace_bytes) => Ok(AttentionPlan::Fused { workspace_bytes }),
            Err(BoardError::OutOfMemory { .. }) => Err(self.refusal(true, free)),
            Err(error) => {
                tracing::warn!("attention is made of products and a softmax: {error}");
                Ok(AttentionPlan::Products)
            }
        }
    }

    /// Makes the board's own attention ready for every micro-batch; returns the largest workspace.
    fn prepare(&self) -> Result<usize, BoardError> {
        let fused = self.board.fused_attention()?;
        let sizes: BTreeSet<usize> = self.options.micro_batches().map(|sequences| sequences.len()).collect();
        sizes.into_iter().try_fold(0, |most: usize, b| {
            Ok(most.max(fused.prepare(&self.network.sizes.fused_attention(b))?))
        })
    }

    /// What there is to say if an engine does not fit into `free` bytes.
    pub(super) fn refusal(&self, is_fused: bool, free: u64) -> EngineError {
        let asked = self.options.micro_batch;
        if self.passes == Passes::Forward {
            return EngineError::EvaluationDoesNotFit {
                device: self.board.name(),
                needed: self.needed(asked, is_fused),
                free,
                context: self.network.sizes.t,
            };
        }
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

    /// Bytes of an engine, attention's workspace by arithmetic among them.
    fn needed(&self, micro_batch: usize, is_fused: bool) -> u64 {
        let shape = self.network.sizes.fused_attention(micro_batch);
        let attention = match self.board.fused_attention() {
            Ok(fused) if is_fused => {
                AttentionPlan::Fused { workspace_bytes: fused.workspace_bytes(&shape) as usize }
            }
            _ => AttentionPlan::Products,
        };
        self.plan(micro_batch, attention).total()
    }

    fn may_be_fused(&self) -> bool {
        self.asks_for_fused() && self.board.fused_attention().is_ok()
    }

    fn asks_for_fused(&self) -> bool {
        self.options.elem == Elem::Bf16 && self.options.dropout <= 0.0 && !self.options.masks.documents
    }
}
