//! Steps by explicit passes on a CPU.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use wattle_data::Batch;
use wattle_model::engine::{EngineOptions, LossSum};
use wattle_model::{Engine, Fp8Options, LanguageModel, MemoryPlan, StepResult, TrainingPass};
use wattle_ops::adamw::{Hyperparameters, Update};
use wattle_ops::board::HostMemory;
use wattle_ops::grad_norm::cpu::clip_factor;
use wattle_runlog::Phase;

use super::host_clock::HostClock;
use super::snapshot::{Snapshot, SnapshotMoments, TakeMemory, ordinary};
use super::{Finished, Step, StepEngine, is_finite, warn_of_zero_gradients};
use crate::certificate::refuse_unreached;
use crate::error::TrainError;
use crate::gradients::{BatchOptions, MicroBatch, micro_batches, sequences};
use crate::options::TrainerOptions;

/// Weights, gradients and moments are the engine's flat buffers.
pub(super) struct OnCpu<'a> {
    model: &'a dyn LanguageModel,
    engine: Box<dyn Engine>,
    options: TrainerOptions,
    hyperparameters: Hyperparameters,
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
        let engine_options =
            EngineOptions { micro_batch, recompute, fp8: options.fp8, moments: options.moments };
        let Some(engine) = model.engine(engine_options)? else { return Ok(None) };
        Ok(Some(Box::new(Self {
            model,
            engine,
            options: options.clone(),
            hyperparameters: options.optimizer.hyperparameters(),
            is_exported: true,
            is_certified: false,
            finished: Finished::default(),
        })))
    }

    /// The gradients of the mean loss over all tokens of `batch`, in place of those before.
    fn compute_gradients(&mut self, batch: &Batch, number: u64) -> Result<LossSum, TrainError> {
        if self.is_certified {
            self.engine.state_mut().zero_gradients();
            return Ok(self.accumulate_gradients(batch, number));
        }
        self.engine.state_mut().mark_gradients();
        let sum = self.accumulate_gradients(batch, number);
        refuse_unreached(self.engine.state_mut().take_marks())?;
        warn_of_zero_gradients(&self.engine.state().zero_gradient_names());
        self.is_certified = true;
        Ok(sum)
    }

    fn accumulate_gradients(&mut self, batch: &Batch, number: u64) -> LossSum {
        let BatchOptions { micro_batch, pass, .. } = BatchOptions::of_step(&self.options, number);
        let scale = 1.0 / sequences(batch).weight() as f32;
        let mut sum = LossSum::default();
        for MicroBatch { first_sequence, sequences, .. } in micro_batches(batch, micro_batch) {
            let pass = TrainingPass { first_sequence, ..pass };
            sum += self.engine.accumulate_gradients(sequences, pass, scale);
        }
        sum
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

impl StepEngine for OnCpu<'_> {
    fn step(&mut self, step: &Step<'_>) -> Result<(), TrainError> {
        let mut clock = HostClock::start(self.options.segment, step);
        clock.end(Phase::Data);
        let sum = self.compute_gradients(step.batch, step.number)?;
        clock.end(Phase::ForwardBackward);

        let norm = self.engine.state().grad_norm();
        let sequences = sequences(step.batch);
        let result = StepResult {
            loss: (sum.loss / sequences.weight()) as f32,
            accuracy: (sum.n_correct as f64 / sequences.n_counted() as f64) as f32,
            grad_norm: norm as f32,
        };
        if is_finite(&result) {
            self.update(norm, step);
            clock.end(Phase::Optimizer);
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
        let state = self.engine.state().snapshot(memory);
        Ok(Snapshot { weights, moments: SnapshotMoments::Flat { state, unpublished: Vec::new() } })
    }

    fn gradients(&self) -> Result<Option<Vec<Tensor>>, TrainError> {
        Ok(Some(self.engine.state().gradient_tensors()?))
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
        format!("explicit engine on the CPU{products}")
    }

    fn memory(&self) -> Option<MemoryPlan> {
        Some(self.engine.memory())
    }

    fn rehearse(&mut self, batch: Option<&Batch>) -> Result<bool, TrainError> {
        self.engine.touch();
        batch.map(|batch| self.compute_gradients(batch, 1)).transpose()?;
        Ok(true)
    }
}
