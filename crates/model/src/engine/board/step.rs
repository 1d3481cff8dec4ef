//! One optimizer update: every launch, in order.

use std::ops::Range;

use wattle_ops::adamw::board as adamw;
use wattle_ops::board::{Board, Elem};

use super::DeviceEngineOptions;
use super::activations::Activations;
use super::error::EngineError;
use super::forward::MicroBatch;
use super::inputs::Slot;
use super::results::Results;
use super::state::State;
use crate::engine::layout::Layout;
use crate::engine::network::Network;

/// What a step is made of. Nothing in it depends on the step: see [`Slot`].
pub(super) struct StepLaunches<'a> {
    pub(super) board: &'a dyn Board,
    pub(super) network: &'a Network,
    pub(super) layout: &'a Layout,
    pub(super) options: &'a DeviceEngineOptions,
    pub(super) state: &'a State,
    pub(super) slot: &'a Slot,
    pub(super) results: &'a Results,
    pub(super) activations: &'a Activations,
    /// The mark before the batch is taken over; three more follow.
    pub(super) first_edge: usize,
}

impl StepLaunches<'_> {
    /// Launches it all.
    pub(super) fn issue(&self) -> Result<(), EngineError> {
        self.begin()?;
        self.board.zero(self.state.gradients.bytes(), self.layout.len() * Elem::F32.bytes())?;
        self.gradients()?;
        self.update()
    }

    /// The batch is there.
    pub(super) fn begin(&self) -> Result<(), EngineError> {
        Ok(self.board.mark(self.first_edge + 1)?)
    }

    /// Adds the batch's gradients to those that are there.
    pub(super) fn gradients(&self) -> Result<(), EngineError> {
        self.options.micro_batches().try_for_each(|sequences| self.micro_batch(sequences))
    }

    /// The passes of the micro-batches that differ in shape: the first, and the last where it has fewer sequences.
    pub(super) fn every_shape(&self) -> Result<(), EngineError> {
        let all: Vec<_> = self.options.micro_batches().collect();
        let last = all.last().filter(|last| last.len() < all[0].len());
        all.first().into_iter().chain(last).try_for_each(|sequences| self.micro_batch(sequences.clone()))
    }

    /// Clips and updates.
    pub(super) fn update(&self) -> Result<(), EngineError> {
        self.board.mark(self.first_edge + 2)?;
        self.adamw()?;
        Ok(self.board.mark(self.first_edge + 3)?)
    }

    fn micro_batch(&self, sequences: Range<usize>) -> Result<(), EngineError> {
        let t = self.network.sizes.t;
        let results = self.results.rows().from(sequences.start * t);
        // With weights, each target has its share of the batch's.
        let weight = if self.options.masks.weights { 1.0 } else { (self.options.batch_size * t) as f32 };
        let scale = 1.0 / weight;
        let &Self { board, network, options, state, slot, activations, .. } = self;
        let micro_batch = MicroBatch {
            board,
            network,
            options,
            state,
            slot: slot.from(sequences.start * t),
            activations,
            dropped_from: (options.dropout > 0.0).then_some(sequences.start),
            b: sequences.len(),
        };
        micro_batch.forward()?;
        micro_batch.losses_and_gradients(results, scale)?;
        Ok(micro_batch.backward()?)
    }

    fn adamw(&self) -> Result<(), EngineError> {
        let DeviceEngineOptions { clip_norm, hyperparameters, elem, .. } = *self.options;
        let &State { weights, working, gradients, mean, mean_square } = self.state;
        let (n, n_decaying, state) = (self.layout.len(), self.layout.n_decaying(), self.slot.state);
        self.results.store(self.board, gradients, n, clip_norm, state)?;
        let working = (elem != Elem::F32).then_some(working);
        let norm = self.results.norm;
        let step = adamw::Step {
            weights,
            mean,
            mean_square,
            working,
            gradients,
            n,
            n_decaying,
            hyperparameters,
            state,
            norm,
        };
        Ok(adamw::step(self.board, &step)?)
    }
}
