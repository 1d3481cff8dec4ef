//! Steps by candle's autograd over a model's own operations.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use wattle_data::Batch;
use wattle_model::engine::LossSum;
use wattle_model::hugging_face::write_safetensors;
use wattle_model::{LanguageModel, Parameter, StepResult, check_moments, moment_names};
use wattle_ops::adamw::{AdamW, FlatAdamW, Hyperparameters, Moments};
use wattle_ops::board::HostMemory;
use wattle_ops::grad_norm::{clip_factor, global_norm};
use wattle_runlog::Phase;

use super::host_clock::HostClock;
use super::snapshot::{Snapshot, SnapshotMoments, TakeMemory, ordinary};
use super::{Finished, Step, StepEngine, is_finite, warn_of_zero_gradients};
use crate::certificate::{all_zero, certify};
use crate::device::keep_layouts;
use crate::error::TrainError;
use crate::gradients::{BatchOptions, batch_gradients, losses};
use crate::options::TrainerOptions;

/// Numbers of a parameter that a snapshot holds: its value and two moments.
const N_COPIES: u64 = 3;

/// Any model, device and dtype. Weights are the model's own tensors.
pub(super) struct Autograd<'a> {
    model: &'a dyn LanguageModel,
    device: Device,
    options: TrainerOptions,
    optimizer: Optimizer,
    /// Of the step that ended last.
    gradients: Vec<Tensor>,
    is_certified: bool,
    finished: Finished,
}

/// AdamW over the model's parameters.
enum Optimizer {
    /// Of each in turn: on a CPU, where memory is what costs time.
    Each(AdamW),
    /// Of all as one: elsewhere, where launches are.
    Together(FlatAdamW),
}

impl Optimizer {
    fn new(model: &dyn LanguageModel, hyperparameters: Hyperparameters) -> Result<Self, TrainError> {
        let together = match model.device().is_cpu() {
            true => None,
            false => FlatAdamW::new(hyperparameters, variables(model))?,
        };
        Ok(match together {
            Some(together) => Self::Together(together),
            None => Self::Each(AdamW::new(hyperparameters, variables(model))?),
        })
    }

    /// The moments of each parameter, in their order.
    fn moments(&self) -> Result<Vec<Moments>, TrainError> {
        match self {
            Self::Each(each) => Ok(each.moments().to_vec()),
            Self::Together(together) => Ok(together.moments()?),
        }
    }
}

impl<'a> Autograd<'a> {
    pub(super) fn new(model: &'a dyn LanguageModel, options: &TrainerOptions) -> Result<Self, TrainError> {
        Ok(Self {
            model,
            device: model.device(),
            options: options.clone(),
            optimizer: Optimizer::new(model, options.optimizer.hyperparameters())?,
            gradients: Vec::new(),
            is_certified: false,
            finished: Finished::default(),
        })
    }

    fn named_moments(&self) -> Result<Vec<(String, Tensor)>, TrainError> {
        let parameters = self.model.parameters().iter().zip(self.optimizer.moments()?);
        let named = |(Parameter { name, .. }, moments): (&Parameter, Moments)| {
            let Moments { mean, mean_square } = moments;
            moment_names(name).into_iter().zip([mean, mean_square])
        };
        Ok(parameters.flat_map(named).collect())
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

fn variables(model: &dyn LanguageModel) -> impl Iterator<Item = &Var> {
    model.parameters().iter().map(|parameter| &parameter.var)
}

impl StepEngine for Autograd<'_> {
    fn step(&mut self, step: &Step<'_>) -> Result<(), TrainError> {
        let mut clock = HostClock::start(self.options.segment, step);
        clock.end(Phase::Data);
        let (loss, accuracy) = self.compute_gradients(step)?;
        clock.end(Phase::ForwardBackward);

        let _kept = keep_layouts(&self.device);
        let flat = match &self.optimizer {
            Optimizer::Each(_) => None,
            Optimizer::Together(together) => Some(together.flatten(&self.gradients)?),
        };
        let norm = global_norm(flat.as_ref().map_or(&self.gradients, std::slice::from_ref))?;
        // One read: on a device each would wait for it.
        let said = Tensor::stack(&[loss, accuracy, norm.to_dtype(DType::F32)?], 0)?.to_vec1::<f32>()?;
        let result = StepResult { loss: said[0], accuracy: said[1], grad_norm: said[2] };
        if is_finite(&result) {
            let clip_norm = self.options.train.clip_norm;
            let factor = if clip_norm > 0.0 { Some(clip_factor(&norm, clip_norm)?) } else { None };
            let Step { number, learning_rate, .. } = *step;
            let (variables, factor) = (variables(self.model), factor.as_ref());
            match (&mut self.optimizer, &flat) {
                (Optimizer::Together(together), Some(flat)) => {
                    together.step(variables, flat, factor, number, learning_rate)?;
                }
                (Optimizer::Each(each), _) => {
                    each.step(variables, &self.gradients, factor, number, learning_rate)?;
                }
                (Optimizer::Together(_), None) => unreachable!("it was flattened above"),
            }
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

    fn load(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        check_moments(self.model.parameters(), moments).map_err(candle_core::Error::Msg)?;
        let of_parameter = |Parameter { name, .. }: &Parameter| {
            let [mean, mean_square] = moment_names(name).map(|name| moments[&name].clone());
            Moments { mean, mean_square }
        };
        let moments = self.model.parameters().iter().map(of_parameter).collect();
        match &mut self.optimizer {
            Optimizer::Each(each) => each.set_moments(moments),
            Optimizer::Together(together) => together.set_moments(moments)?,
        }
        Ok(())
    }

    fn export(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    fn write_moments(&self, path: &Path) -> Result<(), TrainError> {
        Ok(write_safetensors(path, &self.named_moments()?)?)
    }

    fn snapshot_bytes(&self) -> u64 {
        N_COPIES * self.model.n_parameters() * size_of::<f32>() as u64
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
