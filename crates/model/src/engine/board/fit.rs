//! Whether an engine fits a board's memory, and the largest micro-batch that does.
//!
//! All of this is arithmetic but for [`Fit::attention`]. A library's plan for attention takes up to seconds to make, so
//! it is made once for each size that is used, and only if these may fit. What it decides is handed on: the plan of
//! memory has room for attention's workspace, and the passes do as the plan says.

use std::collections::BTreeSet;

use wattle_ops::attention::Kind;
use wattle_ops::attention::board::scratch_bytes;
use wattle_ops::board::{AttentionPass, AttentionShape, Board, BoardError, DevicePtr, Elem, Plans};

use super::DeviceEngineOptions;
use super::activations::{AttentionPlan, Passes};
use super::error::{AttentionMemory, EngineError};
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

    /// Refuses what is too large for `free` bytes, or for kernels to count. Attention is taken to be fused if it may be:
    /// of long sequences, products have more scores than any board holds.
    pub(super) fn refuse_what_cannot_fit(&self, free: u64) -> Result<(), EngineError> {
        self.refuse_too_many_rows()?;
        let is_fused = self.may_be_fused();
        match self.fits(self.options.micro_batch, is_fused, free) {
            true => Ok(()),
            false => Err(self.refusal(is_fused, free)),
        }
    }

    /// Kernels count rows, and the heads of rows, in 32 bits; elements in 64.
    fn refuse_too_many_rows(&self) -> Result<(), EngineError> {
        let sizes = &self.network.sizes;
        let rows = self.options.micro_batch.saturating_mul(sizes.t);
        let most_of_row = sizes.n_heads + 2 * sizes.n_kv_heads;
        match rows.saturating_mul(most_of_row) <= i32::MAX as usize {
            true => Ok(()),
            false => Err(EngineError::TooManyRows { rows, most_of_row }),
        }
    }

    /// How attention is computed: by the board's own in bf16, if it drops nothing. The library makes its plans here.
    pub(super) fn attention(&self, free: u64) -> Result<AttentionPlan, EngineError> {
        if !self.asks_for_fused() {
            return Ok(AttentionPlan::Products);
        }
        match self.prepare(free) {
            Ok(workspace_bytes) => Ok(AttentionPlan::Fused { workspace_bytes }),
            Err(BoardError::OutOfMemory { .. }) => Err(self.refusal(true, free)),
            // What was chosen is not replaced by something else.
            Err(error @ BoardError::NoWay { .. }) => Err(error.into()),
            Err(error) if !self.fits(self.options.micro_batch, false, free) => {
                Err(self.refusal_because(false, free, Some(error)))
            }
            Err(error) => {
                tracing::warn!("attention is made of products and a softmax: {error}");
                Ok(AttentionPlan::Products)
            }
        }
    }

    /// Makes the board's own attention ready for every micro-batch; returns the largest workspace.
    fn prepare(&self, free: u64) -> Result<usize, BoardError> {
        let fused = self.board.fused_attention()?;
        let without =
            self.plan(self.options.micro_batch, AttentionPlan::Fused { workspace_bytes: 0 }).total();
        let plans = match self.options.selects {
            true => Plans::Several { room: free.saturating_sub(without + RESERVE) },
            false => Plans::First,
        };
        let sizes: BTreeSet<usize> = self.options.micro_batches().map(|sequences| sequences.len()).collect();
        let shapes = sizes.into_iter().flat_map(|b| self.fused_shapes(b));
        let jobs = shapes.flat_map(|shape| self.attention_passes().iter().map(move |&pass| (shape, pass)));
        jobs.into_iter()
            .try_fold(0, |most: usize, (shape, pass)| Ok(most.max(fused.prepare(&shape, pass, plans)?)))
    }

    /// Attention of `b` sequences, once for each kind that blocks have.
    fn fused_shapes(&self, b: usize) -> Vec<AttentionShape> {
        let kinds = self.network.attention_kinds().into_iter();
        kinds.map(|kind| self.network.sizes.fused_attention(b, kind)).collect()
    }

    fn attention_passes(&self) -> &'static [AttentionPass] {
        match self.passes {
            Passes::Both => &[AttentionPass::Forward, AttentionPass::Backward],
            Passes::Forward => &[AttentionPass::Forward],
        }
    }

    /// What there is to say if an engine does not fit into `free` bytes.
    pub(super) fn refusal(&self, is_fused: bool, free: u64) -> EngineError {
        self.refusal_because(is_fused, free, None)
    }

    /// The same, where attention is not fused for a reason that the library gave.
    fn refusal_because(&self, is_fused: bool, free: u64, not_fused: Option<BoardError>) -> EngineError {
        let asked = self.options.micro_batch;
        let attention = Box::new(self.attention_memory(is_fused, free, not_fused));
        if self.passes == Passes::Forward {
            return EngineError::EvaluationDoesNotFit {
                device: self.board.name(),
                needed: self.needed(asked, is_fused),
                free,
                context: self.network.sizes.t,
                attention,
            };
        }
        EngineError::DoesNotFit {
            device: self.board.name(),
            needed: self.needed(asked, is_fused),
            free,
            micro_batch: asked,
            largest: self.largest(is_fused, free),
            recompute: self.options.recompute,
            attention,
        }
    }

    /// Whether it is for attention's memory that an engine does not fit.
    fn attention_memory(&self, is_fused: bool, free: u64, not_fused: Option<BoardError>) -> AttentionMemory {
        let (sizes, asked) = (&self.network.sizes, self.options.micro_batch);
        let bytes = match is_fused {
            true => self.workspace_bytes(asked),
            false => scratch_bytes(&sizes.attention(1, self.options.elem, Kind::Causal)) as u64,
        };
        if self.needed(asked, is_fused).saturating_sub(bytes) + RESERVE > free {
            return AttentionMemory::Little;
        }
        if is_fused {
            return AttentionMemory::Workspace { bytes, t: sizes.t };
        }
        let why = match not_fused.or_else(|| self.board.fused_attention().err()) {
            _ if self.options.elem != Elem::Bf16 => {
                "it is fused in bfloat16 alone (precision.dtype = \"bf16\", --dtype bf16)".to_owned()
            }
            _ if self.options.dropout > 0.0 => {
                "it is fused without dropout alone (model.dropout = 0)".to_owned()
            }
            _ if self.options.masks.documents => {
                "it is not fused for sequences of several documents".to_owned()
            }
            Some(error) => error.to_string(),
            None => "it was asked for".to_owned(),
        };
        AttentionMemory::Scores { bytes, n_heads: sizes.n_heads, t: sizes.t, why }
    }

    /// The most sequences, fewer than were asked for, that fit into `free` bytes. More never take less.
    fn largest(&self, is_fused: bool, free: u64) -> Option<usize> {
        let fits = |micro_batch: usize| self.fits(micro_batch, is_fused, free);
        let (mut fitting, mut too_many) = (0, self.options.micro_batch);
        while fitting + 1 < too_many {
            let middle = fitting.midpoint(too_many);
            if fits(middle) { fitting = middle } else { too_many = middle }
        }
        (fitting > 0).then_some(fitting)
    }

    fn fits(&self, micro_batch: usize, is_fused: bool, free: u64) -> bool {
        self.needed(micro_batch, is_fused) + RESERVE <= free
    }

    /// Bytes of an engine, attention's workspace by arithmetic among them.
    fn needed(&self, micro_batch: usize, is_fused: bool) -> u64 {
        let attention = match is_fused {
            true => AttentionPlan::Fused { workspace_bytes: self.workspace_bytes(micro_batch) as usize },
            false => AttentionPlan::Products,
        };
        self.plan(micro_batch, attention).total()
    }

    /// Bytes of fused attention's workspace, by arithmetic; 0 on a board without fused attention.
    fn workspace_bytes(&self, micro_batch: usize) -> u64 {
        let Ok(fused) = self.board.fused_attention() else { return 0 };
        let of_shape = |shape: AttentionShape| {
            self.attention_passes().iter().map(move |&pass| fused.workspace_bytes(&shape, pass))
        };
        self.fused_shapes(micro_batch).into_iter().flat_map(of_shape).max().unwrap_or(0)
    }

    fn may_be_fused(&self) -> bool {
        self.asks_for_fused() && self.board.fused_attention().is_ok()
    }

    fn asks_for_fused(&self) -> bool {
        self.options.elem == Elem::Bf16 && self.options.dropout <= 0.0 && !self.options.masks.documents
    }
}
