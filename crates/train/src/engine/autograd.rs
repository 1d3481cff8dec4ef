//! Steps by candle's autograd over a model's own operations.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use wattle_data::Batch;
use wattle_model::engine::LossSum;
use wattle_model::hugging_face::write_safetensors;
use wattle_model::{LanguageModel, MatrixUpdate, StepResult, check_moments};
use wattle_ops::board::HostMemory;
use wattle_ops::grad_norm::{clip_factor, global_norm};
use wattle_runlog::Phase;

use super::host_clock::HostClock;
use super::optimizer::TensorOptimizer;
use super::snapshot::{Snapshot, SnapshotMoments, TakeMemory, ordinary};
use super::{Finished, Step, StepEngine, is_finite, warn_of_zero_gradients};
use crate::certificate::{all_zero, certify};
use crate::device::keep_layouts;
use crate::error::TrainError;
use crate::gradients::{BatchOptions, batch_gradients, losses};
use crate::options::TrainerOptions;

/// Any model, device and dtype. Weights are the model's own tensors.
pub(super) struct Autograd<'a> {
    model: &'a dyn LanguageModel,
    device: Device,
    options: TrainerOptions,
    optimizer: TensorOptimizer,
    /// Of the step that ended last.
    gradients: Vec<Tensor>,
    is_certified: bool,
    finished: Finished,
}

impl<'a> Autograd<'a> {
    pub(super) fn new(model: &'a dyn LanguageModel, options: &TrainerOptions) -> Result<Self, TrainError> {
        Ok(Self {
            model,
            device: model.device(),
            options: options.clone(),
            optimizer: TensorOptimizer::new(model, &options.optimizer)?,
            gradients: Vec::new(),
            is_certified: false,
            finished: Finished::default(),
        })
    }

    fn named_moments(&self) -> Result<Vec<(String, Tensor)>, TrainError> {
        Ok(self.optimizer.named_moments(self.model)?)
    }

    fn compute_gradients(&mut self, step: &Step<'_>) -> Result<(Tensor, Tensor), TrainError> {
        // The old ones first: both at once do not need to fit.
        self.gradients.clear();
        let options = BatchOptions::of_step(&self.options, step.number);
        let result = batch_gradients(self.model, step.batch, options, &self.device)?;
        self.gradients = certify(self.model.parameters(), result.gradients)?;
        if !self.is_certified {
            warn_of_zero_gradients(&all_zero(self.model.parameters(), &self.gradients)?);
            self.is_certified = true;
        }
        Ok((result.loss, result.accuracy))
    }
}

impl StepEngine for Autograd<'_> {
    fn step(&mut self, step: &Step<'_>) -> Result<(), TrainError> {
        let mut clock = HostClock::start(self.options.segment, step);
        clock.end(Phase::Data);
        let (loss, accuracy) = self.compute_gradients(step)?;
        clock.end(Phase::ForwardBackward);

        let _kept = keep_layouts(&self.device);
        let packed = self.optimizer.packed(self.model, &self.gradients)?;
        let norm = global_norm(packed.as_ref().unwrap_or(&self.gradients))?;
        // One read: on a device each would wait for it.
        let said = Tensor::stack(&[loss, accuracy, norm.to_dtype(DType::F32)?], 0)?.to_vec1::<f32>()?;
        let result = StepResult { loss: said[0], accuracy: said[1], grad_norm: said[2] };
        if is_finite(&result) {
            let clip_norm = self.options.train.clip_norm;
            let factor = if clip_norm > 0.0 { Some(clip_factor(&norm, clip_norm)?) } else { None };
            let Step { number, learning_rate, .. } = *step;
            let gradients = (self.gradients.as_slice(), packed.as_deref());
            self.optimizer.step(self.model, gradients, factor.as_ref(), number, learning_rate)?;
            clock.end(Phase::Optimizer);
        }
        self.finished.results.push(result);
        // Elsewhere the host's times say nothing of what the device was doing.
        if self.device.is_cpu() {
            self.finished.spans.extend(clock.spans());
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Finished, TrainError> {
        Ok(std::mem::take(&mut self.finished))
    }

    fn drain(&mut self) -> Result<Finished, TrainError> {
        self.device.synchronize()?;
        self.poll()
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSum, TrainError> {
        Ok(losses(self.model, batch, self.options.dtype, &self.device)?)
    }

    fn matrices(&self) -> MatrixUpdate {
        self.options.optimizer.matrices()
    }

    fn load(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        let parameters = self.model.parameters();
        check_moments(parameters, self.matrices(), moments).map_err(candle_core::Error::Msg)?;
        Ok(self.optimizer.set_moments(self.model, moments)?)
    }

    fn export(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    fn write_moments(&self, path: &Path) -> Result<(), TrainError> {
        Ok(write_safetensors(path, &self.named_moments()?)?)
    }

    fn snapshot_bytes(&self) -> u64 {
        let n_moments = self.optimizer.n_moments(self.model);
        (self.model.n_parameters() + n_moments) * size_of::<f32>() as u64
    }

    /// Tensors are copied to memory of their own.
    fn snapshot_memory(&self) -> TakeMemory {
        ordinary(0)
    }

    fn snapshot(&mut self, memory: HostMemory) -> Result<Snapshot, TrainError> {
        // A step changes weights where they lie. It makes new moments, so the old ones stay as long as they are held, but
        // elsewhere than on a CPU they would take the device's memory.
        let copied = |(name, tensor): (String, Tensor)| {
            let is_here = tensor.device().is_cpu();
            Ok((name, if is_here { tensor.copy()? } else { tensor.to_device(&Device::Cpu)? }))
        };
        let moved = |(name, tensor): (String, Tensor)| Ok((name, tensor.to_device(&Device::Cpu)?));
        let weights = self.model.weights()?.into_iter().map(copied).collect::<Result<_, TrainError>>()?;
        let moments = self.named_moments()?.into_iter().map(moved).collect::<Result<_, TrainError>>()?;
        Ok(Snapshot { weights, moments: SnapshotMoments::Tensors { moments, memory } })
    }

    fn gradients(&self) -> Result<Option<Vec<Tensor>>, TrainError> {
        Ok(Some(self.gradients.clone()))
    }

    fn model(&self) -> &dyn LanguageModel {
        self.model
    }

    fn describe(&self) -> String {
        "candle's autograd".to_owned()
    }
}
