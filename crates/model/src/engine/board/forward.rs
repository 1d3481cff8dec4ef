//! The forward pass of a micro-batch.

use std::ops::Range;

use wattle_ops::board::{Board, BoardError, DevicePtr, Elem};

use super::DeviceEngineOptions;
use super::activations::{Activations, Hidden, Kept, Normed};
use super::inputs::Slot;
use super::linear::Products;
use super::network::{Linear, MlpKind, Network, Norm, NormKind, Sizes};
use super::results::RowLosses;
use super::state::State;
use super::step::StepLaunches;

/// A micro-batch, and where everything is that it needs.
#[derive(Clone, Copy)]
pub(super) struct Forward<'a> {
    pub(super) board: &'a dyn Board,
    pub(super) network: &'a Network,
    pub(super) options: &'a DeviceEngineOptions,
    pub(super) state: &'a State,
    /// With the micro-batch's tokens.
    pub(super) slot: Slot,
    pub(super) activations: &'a Activations,
    /// Position of its first sequence in the step's batch; `None` where nothing is dropped.
    pub(super) dropped_from: Option<usize>,
    /// Sequences.
    pub(super) b: usize,
}

impl<'a> Forward<'a> {
    /// A pass that drops.
    pub(super) fn training(step: &StepLaunches<'a>, slot: &Slot, sequences: Range<usize>) -> Self {
        let &StepLaunches { board, network, options, state, activations, .. } = step;
        let dropped_from = (options.dropout > 0.0).then_some(sequences.start);
        let b = sequences.len();
        Self { board, network, options, state, slot: *slot, activations, dropped_from, b }
    }

    /// A pass that does not.
    pub(super) fn evaluation(
        board: &'a dyn Board,
        network: &'a Network,
        options: &'a DeviceEngineOptions,
        state: &'a State,
        slot: &Slot,
        activations: &'a Activations,
        b: usize,
    ) -> Self {
        Self { board, network, options, state, slot: *slot, activations, dropped_from: None, b }
    }

    /// The rows of the last block, normalized.
    pub(super) fn run(&self) -> Result<(), BoardError> {
        let Network { blocks, final_norm, .. } = self.network;
        let Activations { x, norms, kept, hidden, .. } = self.activations;
        self.embed(x[0])?;
        self.norm(&norms.at(0).attention, x[0], &blocks[0].attention_norm)?;
        for (layer_idx, block) in blocks.iter().enumerate() {
            let (kept, hidden, normed) = (kept.at(layer_idx), hidden.at(layer_idx), norms.at(layer_idx));
            self.attend(layer_idx, &normed.attention, kept)?;
            let site = Site::attention_out(layer_idx);
            self.residual_norm(kept.middle, &normed.mlp, x[layer_idx], &block.attention_out, site, &block.mlp_norm)?;
            self.expand(layer_idx, &normed.mlp, hidden)?;
            self.products().fwd(self.activations.branch, hidden.after, &block.mlp_out, false)?;
            let (next, norm) = match blocks.get(layer_idx + 1) {
                Some(block) => (&norms.at(layer_idx + 1).attention, &block.attention_norm),
                None => (&self.activations.final_norm, final_norm),
            };
            let site = Site::mlp_out(layer_idx);
            self.residual_norm(x[layer_idx + 1], next, kept.middle, &block.mlp_out, site, norm)?;
        }
        Ok(())
    }
}
