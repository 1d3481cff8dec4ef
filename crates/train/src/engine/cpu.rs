//! Steps by explicit passes on a CPU.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use wattle_data::Batch;
use wattle_model::engine::{EngineOptions, FlatState, LossSum};
use wattle_model::{
    Engine, Fp8Options, LanguageModel, MatrixUpdate, MemoryPlan, Sequences, StepResult, TrainingPass,
};
use wattle_ops::adamw::{Hyperparameters, Update};
use wattle_ops::board::HostMemory;
use wattle_ops::grad_norm::cpu::{clip_factor, norm_of_sums};
use wattle_runlog::Phase;

use super::host_clock::HostClock;
use super::snapshot::{Snapshot, SnapshotMoments, TakeMemory, ordinary};
use super::{Finished, Step, StepEngine, is_finite, warn_of_zero_gradients};
use crate::certificate::refuse_unreached;
use crate::error::TrainError;
use crate::gradients::{BatchOptions, MicroBatch, micro_batches_of, sequences};
use crate::options::TrainerOptions;
use crate::ranks::step::{Between, Worth};
use crate::ranks::tree::LeafTree;

/// Weights, gradients and moments are the engine's flat buffers. Of several ranks each makes the gradients of its part of
/// the batch, and the update of its part of the parameters.
pub(super) struct OnCpu<'a> {
    model: &'a dyn LanguageModel,
    engine: Box<dyn Engine>,
    options: TrainerOptions,
    hyperparameters: Hyperparameters,
    tree: LeafTree,
    between: Between,
    /// The longest time of a step's own gradients so far.
    longest: Duration,
    /// Whether no step was made yet.
    is_first: bool,
    is_exported: bool,
    is_certified: bool,
    finished: Finished,
}

impl<'a> OnCpu<'a> {
    /// `None` if the model's family has no such engine.
    pub(super) fn for_model(
        model: &'a dyn LanguageModel,
        options: &TrainerOptions,
    ) -> Result<Option<Box<dyn StepEngine + 'a>>, TrainError> {
        let (micro_batch, recompute) = (options.train.micro_batch(), options.train.recompute);
        let (matrices, share) = (options.optimizer.matrices(), options.ranks.share());
        let engine_options = EngineOptions {
            micro_batch,
            recompute,
            fp8: options.fp8,
            moments: options.moments,
            matrices,
            share,
        };
        let Some(engine) = model.engine(engine_options)? else { return Ok(None) };
        let between = Between::new(options.ranks.clone(), engine.state().split().clone());
        Ok(Some(Box::new(Self {
            model,
            engine,
            options: options.clone(),
            hyperparameters: options.optimizer.hyperparameters(),
            tree: LeafTree::default(),
            between,
            longest: Duration::ZERO,
            is_first: true,
            is_exported: true,
            is_certified: false,
            finished: Finished::default(),
        })))
    }

    /// The gradients of the mean loss over all tokens of a batch, of which `batch` is this rank's part: this part's terms, in
    /// place of those before. Returns what each leaf was worth.
    fn compute_gradients(&mut self, batch: &Batch, number: u64) -> Result<Vec<Worth>, TrainError> {
        let scale = 1.0 / self.weight(batch)? as f32;
        if self.is_certified {
            return Ok(self.sum_leaves(batch, number, scale, FlatState::zero_gradients));
        }
        let worths = self.sum_leaves(batch, number, scale, FlatState::mark_gradients);
        refuse_unreached(self.engine.state_mut().take_marks())?;
        warn_of_zero_gradients(&self.engine.state().zero_gradient_names());
        self.is_certified = true;
        Ok(worths)
    }

    /// The weight of the whole batch.
    fn weight(&self, batch: &Batch) -> Result<f64, TrainError> {
        let ranks = &self.options.ranks;
        let own = sequences(batch);
        if own.weights.is_none() {
            return Ok(own.weight() * ranks.share().world as f64);
        }
        let leaf = |part| Worth { weight: part_of(batch, part).weight(), ..Worth::default() };
        let own: Vec<Worth> = self.leaves(batch).map(leaf).collect();
        let all = ranks.worths(&own, ranks.within_step(self.longest))?;
        Ok(all.iter().map(|worth| worth.weight).sum())
    }

    /// This rank's leaves, as sequences of its part of a batch. A batch that is shorter, for a rehearsal, is one.
    fn leaves(&self, batch: &Batch) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n_sequences, world) = (batch.batch_size, self.options.ranks.share().world);
        let leaf = self.options.train.batch_size / self.options.train.reduce_leaves;
        let is_whole = n_sequences * world == self.options.train.batch_size;
        let leaf = if is_whole { leaf } else { n_sequences };
        (0..n_sequences).step_by(leaf).map(move |first| first..first + leaf)
    }

    fn sum_leaves(
        &mut self,
        batch: &Batch,
        number: u64,
        scale: f32,
        clear: fn(&mut FlatState),
    ) -> Vec<Worth> {
        let BatchOptions { micro_batch, pass, .. } = BatchOptions::of_step(&self.options, number);
        let first_of_rank = self.options.ranks.share().rank * batch.batch_size;
        let mut worths: Vec<Worth> = Vec::new();
        for part in self.leaves(batch) {
            if !worths.is_empty() {
                self.tree.push(self.engine.state_mut().gradients_mut());
            }
            clear(self.engine.state_mut());
            let sequences = part_of(batch, part.clone());
            let mut worth = Worth {
                weight: sequences.weight(),
                n_counted: sequences.n_counted(),
                sum: LossSum::default(),
            };
            for MicroBatch { first_sequence, sequences, .. } in micro_batches_of(batch, part, micro_batch) {
                let pass = TrainingPass { first_sequence: first_of_rank + first_sequence, ..pass };
                worth.sum += self.engine.accumulate_gradients(sequences, pass, scale);
            }
            worths.push(worth);
        }
        self.tree.finish(self.engine.state_mut().gradients_mut());
        worths
    }

    /// What all ranks' leaves were worth, once this rank's part of the gradients is the sum over all of them.
    fn sum_over_ranks(&mut self, own: &[Worth], clock: &mut HostClock) -> Result<Worth, TrainError> {
        let ranks = self.options.ranks.clone();
        let within = ranks.within_step(self.longest);
        let within = if self.is_first { within.max(ranks.between_steps()) } else { within };
        self.is_first = false;
        let mut all = Worth::default();
        // The first thing that ranks say in a step: whoever comes late is waited for here.
        ranks.worths(own, within)?.into_iter().for_each(|worth| all += worth);
        if ranks.are_several() {
            clock.end(Phase::Wait);
            self.between.sum_gradients(self.engine.state_mut().gradients_mut(), within)?;
        }
        Ok(all)
    }

    fn update(&mut self, norm: f64, step: &Step<'_>) {
        let clip_norm = self.options.train.clip_norm;
        self.engine.state_mut().update(&Update {
            hyperparameters: self.hyperparameters,
            learning_rate: step.learning_rate,
            step: step.number,
            gradient_factor: if clip_norm > 0.0 { clip_factor(norm, clip_norm) } else { 1.0 },
        });
        self.is_exported = false;
    }
}

/// Some of the sequences of a batch.
fn part_of(batch: &Batch, part: Range<usize>) -> Sequences<'_> {
    sequences(batch).rows(part.start * batch.context..part.end * batch.context)
}

impl StepEngine for OnCpu<'_> {
    fn step(&mut self, step: &Step<'_>) -> Result<(), TrainError> {
        let mut clock = HostClock::start(self.options.segment, step);
        let began = Instant::now();
        clock.end(Phase::Data);
        let leaves = self.compute_gradients(step.batch, step.number)?;
        clock.end(Phase::ForwardBackward);
        self.longest = self.longest.max(began.elapsed());

        let worth = self.sum_over_ranks(&leaves, &mut clock)?;
        let within = self.options.ranks.within_step(self.longest);
        let norm = norm_of_sums(&self.between.sums_of_squares(self.engine.state_mut(), within)?);
        let is_over_ranks = self.options.ranks.are_several();
        if is_over_ranks {
            clock.end(Phase::Exchange);
        }
        let result = StepResult {
            loss: (worth.sum.loss / worth.weight) as f32,
            accuracy: (worth.sum.n_correct as f64 / worth.n_counted as f64) as f32,
            grad_norm: norm as f32,
        };
        if is_finite(&result) {
            self.update(norm, step);
            clock.end(Phase::Optimizer);
            if is_over_ranks {
                self.between.gather_weights(self.engine.state_mut().weights_mut(), within)?;
                clock.end(Phase::Exchange);
            }
        }
        self.finished.results.push(result);
        self.finished.spans.extend(clock.spans());
        Ok(())
    }

    fn poll(&mut self) -> Result<Finished, TrainError> {
        Ok(std::mem::take(&mut self.finished))
    }

    fn drain(&mut self) -> Result<Finished, TrainError> {
        self.poll()
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSum, TrainError> {
        Ok(self.engine.evaluate(sequences(batch)))
    }

    fn matrices(&self) -> MatrixUpdate {
        self.options.optimizer.matrices()
    }

    fn load(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        let state = self.engine.state_mut();
        state.take(self.model.parameters())?;
        state.set_moments(moments)?;
        self.is_exported = true;
        Ok(())
    }

    fn export(&mut self) -> Result<(), TrainError> {
        if !self.is_exported {
            self.engine.state().publish(self.model.parameters())?;
            self.is_exported = true;
        }
        Ok(())
    }

    fn write_moments(&self, path: &Path) -> Result<(), TrainError> {
        Ok(self.engine.state().write_moments(path)?)
    }

    fn snapshot_bytes(&self) -> u64 {
        (self.engine.state().snapshot_len() * size_of::<f32>()) as u64
    }

    fn snapshot_memory(&self) -> TakeMemory {
        ordinary(self.engine.state().snapshot_len())
    }

    fn snapshot(&mut self, memory: HostMemory) -> Result<Snapshot, TrainError> {
        self.export()?;
        // Steps change the engine's weights; the parameters stay as they are.
        let weights = self.model.weights()?;
        let mut state = self.engine.state().snapshot(memory);
        self.options.ranks.gather_moments(self.engine.state(), Some(&mut state))?;
        Ok(Snapshot { weights, moments: SnapshotMoments::Flat { state, unpublished: Vec::new() } })
    }

    fn join_snapshot(&mut self) -> Result<(), TrainError> {
        Ok(self.options.ranks.gather_moments(self.engine.state(), None)?)
    }

    fn gradients(&self) -> Result<Option<Vec<Tensor>>, TrainError> {
        match self.options.ranks.are_several() {
            // Of other parts' there are this rank's terms alone.
            true => Ok(None),
            false => Ok(Some(self.engine.state().gradient_tensors()?)),
        }
    }

    fn model(&self) -> &dyn LanguageModel {
        self.model
    }

    fn describe(&self) -> String {
        let products = match self.options.fp8 {
            Some(Fp8Options { head: true }) => ", products and head of numbers rounded to fp8",
            Some(Fp8Options { head: false }) => ", products of blocks of numbers rounded to fp8",
            None => "",
        };
        let ranks = match self.options.ranks.share().world {
            1 => String::new(),
            world => format!(" of each of {world} ranks"),
        };
        format!("explicit engine on the CPU{ranks}{products}")
    }

    fn memory(&self) -> Option<MemoryPlan> {
        let plan = self.engine.memory();
        let own_leaves = self.options.train.reduce_leaves / self.options.ranks.share().world;
        let gradients = plan.gradients * (1 + u64::from(LeafTree::n_buffers(own_leaves)));
        Some(MemoryPlan { gradients, scratch: plan.scratch + self.between.bytes(), ..plan })
    }

    fn rehearse(&mut self, batch: Option<&Batch>) -> Result<bool, TrainError> {
        self.engine.touch();
        batch.map(|batch| self.compute_gradients(batch, 1)).transpose()?;
        Ok(true)
    }
}
