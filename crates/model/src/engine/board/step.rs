//! One optimizer update: every launch, in order.

use std::ops::Range;

use wattle_ops::Store;
use wattle_ops::adamw::board as adamw;
use wattle_ops::board::{Board, Elem, Job, Way};

use super::DeviceEngineOptions;
use super::activations::Activations;
use super::error::EngineError;
use super::forward::MicroBatch;
use super::fp8::Fp8;
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
    pub(super) fp8: Option<&'a Fp8>,
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
        let first = self.first_store()?;
        self.zero_gradients(first)?;
        self.gradients(first)?;
        self.update()
    }

    /// Whether the first micro-batch adds its gradients to zeros, or writes them. It is one choice for all of them, since
    /// what is not written has to be zeroed before: `added` zeroes all, `written` the tables alone.
    pub(super) fn first_store(&self) -> Result<Store, EngineError> {
        let nothing = || Ok(());
        let ways = ["added", "written"].map(|name| Way::new(name, &nothing));
        let job = Job::new("gradients", self.options.elem, &[("n", self.layout.len())]);
        let is_written = self.board.choices().pick(&job, &ways)?.name == "written";
        Ok(if is_written { Store::Overwrite } else { Store::Accumulate })
    }

    /// Zeroes what the first micro-batch adds to: all, or the tables of which it reaches some rows only. The output head
    /// is written; if it is the token table too, that is added to after.
    fn zero_gradients(&self, first: Store) -> Result<(), EngineError> {
        let &Network { token_table, head, .. } = self.network;
        let zero = |start: usize, len: usize| {
            let at = self.state.gradients.add(start).bytes();
            self.board.zero(at, len * Elem::F32.bytes())
        };
        if first == Store::Accumulate {
            return Ok(zero(0, self.layout.len())?);
        }
        let tables = [(token_table != head).then_some(token_table), self.network.position_table()];
        let entries = self.layout.entries();
        tables.into_iter().flatten().try_for_each(|start| {
            let entry = entries.iter().find(|entry| entry.range.start == start);
            let range = &entry.expect("a table is a parameter").range;
            Ok(zero(range.start, range.len())?)
        })
    }

    /// The batch is there.
    pub(super) fn begin(&self) -> Result<(), EngineError> {
        Ok(self.board.mark(self.first_edge + 1)?)
    }

    /// The batch's gradients: the first micro-batch stores them as `first` says, the others add theirs.
    pub(super) fn gradients(&self, first: Store) -> Result<(), EngineError> {
        self.options.micro_batches().try_for_each(|sequences| {
            let store = if sequences.start == 0 { first } else { Store::Accumulate };
            self.micro_batch(sequences, store)
        })
    }

    /// The passes of the micro-batches that differ in shape or in how they store gradients: the first two, and the last
    /// where it has fewer sequences.
    pub(super) fn every_shape(&self) -> Result<(), EngineError> {
        let (all, store): (Vec<_>, _) = (self.options.micro_batches().collect(), self.first_store()?);
        let of_first_shape = all.iter().filter(|sequences| sequences.len() == all[0].len());
        let last = all.last().filter(|last| last.len() < all[0].len());
        // The second adds its gradients, whatever the first does.
        let stores = [store, Store::Accumulate];
        of_first_shape
            .zip(stores)
            .try_for_each(|(sequences, store)| self.micro_batch(sequences.clone(), store))?;
        last.map_or(Ok(()), |sequences| self.micro_batch(sequences.clone(), Store::Accumulate))
    }

    /// Clips and updates.
    pub(super) fn update(&self) -> Result<(), EngineError> {
        self.board.mark(self.first_edge + 2)?;
        self.adamw()?;
        Ok(self.board.mark(self.first_edge + 3)?)
    }

    fn micro_batch(&self, sequences: Range<usize>, store: Store) -> Result<(), EngineError> {
        let t = self.network.sizes.t;
        let results = self.results.rows().from(sequences.start * t);
        // With weights, each target has its share of the batch's.
        let weight = if self.options.masks.weights { 1.0 } else { (self.options.batch_size * t) as f32 };
        let scale = 1.0 / weight;
        let &Self { board, network, options, state, fp8, slot, activations, .. } = self;
        let micro_batch = MicroBatch {
            board,
            network,
            options,
            state,
            fp8,
            slot: slot.from(sequences.start * t),
            activations,
            dropped_from: (options.dropout > 0.0).then_some(sequences.start),
            b: sequences.len(),
            by_rows: false,
            store,
        };
        micro_batch.forward()?;
        micro_batch.losses_and_gradients(results, scale)?;
        Ok(micro_batch.backward()?)
    }

    fn adamw(&self) -> Result<(), EngineError> {
        let DeviceEngineOptions { clip_norm, hyperparameters, elem, moments, .. } = *self.options;
        let &State { weights, working, gradients, mean, mean_square } = self.state;
        let (n, n_decaying, state) = (self.layout.len(), self.layout.n_decaying(), self.slot.state);
        self.results.store(self.board, gradients, n, clip_norm, state)?;
        let working = (elem != Elem::F32).then_some(working);
        let norm = self.results.norm;
        let step = adamw::Step {
            weights,
            mean,
            mean_square,
            seed: moments.seed(),
            working,
            gradients,
            n,
            n_decaying,
            hyperparameters,
            state,
            norm,
        };
        adamw::step(self.board, &step)?;
        match self.fp8 {
            Some(fp8) => Ok(fp8.quantize_weights(self.board, weights)?),
            None => Ok(()),
        }
    }
}
