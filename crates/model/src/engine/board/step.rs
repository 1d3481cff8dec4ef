//! One optimizer update: every launch, in order.

use std::ops::Range;

use wattle_ops::Store;
use wattle_ops::adamw::board as adamw;
use wattle_ops::board::{Board, DeviceTensor, Elem, Job, Way};
use wattle_ops::cast::board as cast;
use wattle_ops::muon::board as muon;

use super::DeviceEngineOptions;
use super::activations::Activations;
use super::error::EngineError;
use super::forward::MicroBatch;
use super::fp8::Fp8;
use super::inputs::Slot;
use super::results::Results;
use super::shards::{Exchange, Shard, Shards, UpdatedBy};
use super::state::State;
use crate::engine::layout::Layout;
use crate::engine::network::Network;
use crate::moments::MatrixUpdate;

/// What a step is made of. Nothing in it depends on the step: see [`Slot`].
pub(super) struct StepLaunches<'a> {
    pub(super) board: &'a dyn Board,
    pub(super) network: &'a Network,
    pub(super) layout: &'a Layout,
    pub(super) shards: &'a Shards,
    pub(super) options: &'a DeviceEngineOptions,
    pub(super) state: &'a State,
    pub(super) fp8: Option<&'a Fp8>,
    pub(super) slot: &'a Slot,
    pub(super) results: &'a Results,
    pub(super) activations: &'a Activations,
    /// Memory for updates of matrices, where Muon makes them.
    pub(super) muon: Option<&'a muon::Scratch>,
    /// The mark before the batch is taken over; one more follows for each part.
    pub(super) first_edge: usize,
}

impl StepLaunches<'_> {
    /// Launches it all.
    pub(super) fn issue(&self) -> Result<(), EngineError> {
        self.begin()?;
        let first = self.first_store()?;
        self.zero_gradients(first)?;
        self.gradients(first, self.exchange())?;
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
        if self.network.adapters.is_some() {
            return Ok(());
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

    /// What ranks exchange, where there are several.
    pub(super) fn exchange(&self) -> Option<Exchange<'_>> {
        Exchange::of(self.board, self.shards)
    }

    /// The batch's gradients: the first micro-batch stores them as `first` says, the others add theirs. With `exchange`, the
    /// last one's go out as they are complete.
    pub(super) fn gradients(&self, first: Store, exchange: Option<Exchange<'_>>) -> Result<(), EngineError> {
        self.options.micro_batches().try_for_each(|sequences| {
            let store = if sequences.start == 0 { first } else { Store::Accumulate };
            let is_last = sequences.end == self.options.batch_size;
            self.micro_batch(sequences, store, exchange.filter(|_| is_last))
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
            .try_for_each(|(sequences, store)| self.micro_batch(sequences.clone(), store, None))?;
        last.map_or(Ok(()), |sequences| self.micro_batch(sequences.clone(), Store::Accumulate, None))
    }

    /// Clips and updates.
    pub(super) fn update(&self) -> Result<(), EngineError> {
        self.mark(2)?;
        match self.exchange() {
            None => {
                self.sums()?;
                self.shards.own().try_for_each(|shard| self.update_shard(shard))?;
                self.quantize()?;
                self.mark(3)
            }
            Some(exchange) => {
                exchange.join()?;
                self.sums_of_ranks(&exchange)?;
                self.mark(3)?;
                for (bucket_idx, shards) in self.shards.own_by_bucket().enumerate() {
                    shards.iter().try_for_each(|shard| self.update_shard(shard))?;
                    exchange.gather(self.gathered(), bucket_idx)?;
                }
                self.mark(4)?;
                exchange.join()?;
                self.copy_masters()?;
                self.mark(5)
            }
        }
    }

    fn mark(&self, edge: usize) -> Result<(), EngineError> {
        Ok(self.board.mark(self.first_edge + edge)?)
    }

    fn micro_batch(
        &self,
        sequences: Range<usize>,
        store: Store,
        exchange: Option<Exchange<'_>>,
    ) -> Result<(), EngineError> {
        let (t, share) = (self.network.sizes.t, self.shards.share());
        let results = self.results.rows().from(sequences.start * t);
        let DeviceEngineOptions { batch_size, masks, dropout, .. } = *self.options;
        // With weights, each target has its share of the batch's.
        let weight = if masks.weights { 1.0 } else { (share.world * batch_size * t) as f32 };
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
            dropped_from: (dropout > 0.0).then_some(share.rank * batch_size + sequences.start),
            trained_from: Some(share.rank * batch_size + sequences.start),
            b: sequences.len(),
            by_rows: false,
            store,
            exchange,
        };
        micro_batch.forward()?;
        micro_batch.losses_and_gradients(results, scale)?;
        Ok(micro_batch.backward()?)
    }

    fn sums(&self) -> Result<(), EngineError> {
        let (gradients, n) = (self.state.gradients, self.layout.len());
        self.results.store(self.board, gradients, n, self.options.clip_norm, self.slot.state)
    }

    fn sums_of_ranks(&self, exchange: &Exchange<'_>) -> Result<(), EngineError> {
        let (gradients, clip_norm, state) = (self.state.gradients, self.options.clip_norm, self.slot.state);
        self.results.store_of_ranks(self.board, exchange, gradients, self.shards, clip_norm, state)
    }

    /// The weights that ranks give one another: masters where all have all of them, else those that passes read.
    fn gathered(&self) -> DeviceTensor {
        let State { masters, working, .. } = *self.state;
        if masters.are_whole { masters.at.into() } else { working }
    }

    /// Makes the copies that passes read of whole masters: those are what came.
    pub(super) fn copy_masters(&self) -> Result<(), EngineError> {
        let State { masters, working, .. } = *self.state;
        if masters.are_whole && self.options.elem != Elem::F32 {
            cast::cast(self.board, working, masters.at, self.layout.len())?;
        }
        self.quantize()
    }

    fn update_shard(&self, shard: &Shard) -> Result<(), EngineError> {
        match shard.updated_by {
            UpdatedBy::AdamW { squares } => self.adamw(shard, squares),
            UpdatedBy::Muon { shape } => self.muon(shard, shape),
        }
    }

    fn adamw(&self, shard: &Shard, squares: usize) -> Result<(), EngineError> {
        let DeviceEngineOptions { hyperparameters, elem, moments, .. } = *self.options;
        let State { masters, working, gradients, mean, mean_square, .. } = *self.state;
        let Shard { range, start, .. } = shard;
        let step = adamw::Step {
            weights: masters.of(shard),
            mean: mean.add(*start),
            mean_square: mean_square.add(squares),
            seed: moments.seed(),
            working: (elem != Elem::F32).then(|| working.add(range.start)),
            gradients: gradients.add(range.start),
            n: range.len(),
            first: range.start,
            n_decaying: self.layout.n_decaying().clamp(range.start, range.end) - range.start,
            hyperparameters,
            state: self.slot.state,
            norm: self.results.norm,
        };
        Ok(adamw::step(self.board, &step)?)
    }

    fn muon(&self, shard: &Shard, shape: [usize; 2]) -> Result<(), EngineError> {
        let DeviceEngineOptions { matrices, elem, moments, .. } = *self.options;
        let (MatrixUpdate::Muon(hyperparameters), Some(scratch)) = (matrices, self.muon) else {
            unreachable!("a matrix of Muon's comes with what updates it");
        };
        let State { masters, working, gradients, mean, .. } = *self.state;
        let first = shard.range.start;
        let step = muon::Step {
            weights: masters.of(shard),
            momentum: mean.add(shard.start),
            seed: moments.seed(),
            first,
            working: (elem != Elem::F32).then(|| working.add(first)),
            gradients: gradients.add(first),
            shape,
            hyperparameters,
            state: self.slot.state,
            norm: self.results.norm,
        };
        Ok(muon::step(self.board, &step, scratch)?)
    }

    fn quantize(&self) -> Result<(), EngineError> {
        match self.fp8 {
            Some(fp8) => Ok(fp8.quantize_weights(self.board, self.state.masters.at)?),
            None => Ok(()),
        }
    }
}
