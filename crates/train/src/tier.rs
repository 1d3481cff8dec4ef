//! The engine tier that trains: how a batch becomes gradients, and gradients an update.

use std::path::Path;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use wattle_data::{Batch, TokenStore};
use wattle_model::engine::{EngineOptions, LossSum};
use wattle_model::{Engine, LanguageModel, MemoryPlan, TrainingPass};
use wattle_ops::adamw::Update;
use wattle_ops::grad_norm::cpu as grad_norm;

use crate::adamw::AdamW;
use crate::certificate::{all_zero, certify, refuse_unreached};
use crate::checkpoint::TrainState;
use crate::clip::{clip_factor, global_norm};
use crate::config::{EngineChoice, OptimizerConfig, TrainConfig};
use crate::error::TrainError;
use crate::evaluate::{EvaluateOptions, Evaluation, evaluate, evaluate_explicitly};
use crate::gradients::{BatchOptions, batch_gradients};
use crate::optimizer_state::OptimizerState;

/// What trains a model.
pub(crate) enum Tier {
    /// candle's autograd and tensors: any model, any device, any dtype.
    Autograd {
        /// Its moments.
        optimizer: AdamW,
        /// Those of the step being made.
        gradients: Vec<Tensor>,
    },
    /// Explicit passes over flat buffers. The model's tensors are as they were when last published.
    Explicit {
        /// The family's engine.
        engine: Box<dyn Engine>,
        /// The update's numbers.
        optimizer: OptimizerConfig,
        /// Whether the model's tensors have the weights.
        is_published: bool,
        /// Whether every parameter was seen to get a gradient.
        is_certified: bool,
    },
}

/// What one batch says. Scalars stay on the device until they are asked for.
pub(crate) struct BatchLoss {
    /// Mean cross-entropy in nats a token.
    pub loss: Tensor,
    /// Share of next tokens that were the model's first choice.
    pub accuracy: Tensor,
}

impl Tier {
    /// The tier that trains `model`: the one place where that is decided. `Auto` takes the explicit engine where
    /// there is one, which is for some families in `f32` on a CPU.
    ///
    /// # Errors
    /// If the explicit engine is asked for and there is none, or a tensor operation fails.
    pub fn choose(
        model: &dyn LanguageModel,
        device: &Device,
        dtype: DType,
        train: &TrainConfig,
        optimizer: &OptimizerConfig,
    ) -> Result<Self, TrainError> {
        let can_be_explicit = device.is_cpu() && dtype == DType::F32;
        let engine = match train.engine {
            EngineChoice::Autograd => None,
            EngineChoice::Auto | EngineChoice::Explicit if can_be_explicit => model
                .engine(EngineOptions { micro_batch: train.micro_batch(), recompute: train.recompute })?,
            EngineChoice::Auto | EngineChoice::Explicit => None,
        };
        match engine {
            Some(engine) => Ok(Self::Explicit {
                engine,
                optimizer: optimizer.clone(),
                is_published: true,
                is_certified: false,
            }),
            None if train.engine == EngineChoice::Explicit => Err(TrainError::NoEngine),
            None => {
                let optimizer = AdamW::new(optimizer, model.parameters())?;
                Ok(Self::Autograd { optimizer, gradients: Vec::new() })
            }
        }
    }

    /// What the explicit engine takes of memory.
    pub fn memory(&self) -> Option<MemoryPlan> {
        match self {
            Self::Autograd { .. } => None,
            Self::Explicit { engine, .. } => Some(engine.memory()),
        }
    }

    /// Takes all memory of the plan now, instead of as training comes by it.
    pub fn touch(&mut self) {
        if let Self::Explicit { engine, .. } = self {
            engine.touch();
        }
    }

    /// Reads a checkpoint.
    pub fn load(
        &mut self,
        checkpoint: &Path,
        model: &dyn LanguageModel,
        device: &Device,
    ) -> Result<TrainState, TrainError> {
        match self {
            Self::Autograd { optimizer, .. } => TrainState::load(checkpoint, model, optimizer, device),
            Self::Explicit { engine, is_published, .. } => {
                let state = TrainState::load(checkpoint, model, engine.state_mut(), device)?;
                engine.state_mut().take(model.parameters())?;
                *is_published = true;
                Ok(state)
            }
        }
    }

    /// Computes the gradients of the mean loss over all tokens of `batch`, which replace those before.
    ///
    /// # Errors
    /// If a parameter gets no gradient, or a tensor operation fails.
    pub fn compute_gradients(
        &mut self,
        model: &dyn LanguageModel,
        batch: &Batch,
        options: BatchOptions,
        device: &Device,
    ) -> Result<BatchLoss, TrainError> {
        match self {
            Self::Autograd { gradients, .. } => {
                gradients.clear();
                let result = batch_gradients(model, batch, options, device)?;
                *gradients = certify(model.parameters(), result.gradients)?;
                Ok(BatchLoss { loss: result.loss, accuracy: result.accuracy })
            }
            Self::Explicit { engine, is_certified, .. } => {
                if *is_certified {
                    engine.state_mut().zero_gradients();
                } else {
                    engine.state_mut().mark_gradients();
                }
                let sum = accumulate_gradients(engine.as_mut(), batch, options);
                if !*is_certified {
                    refuse_unreached(engine.state_mut().take_marks())?;
                    *is_certified = true;
                }
                let mean = |sum: f64| Tensor::new((sum / batch.targets.len() as f64) as f32, device);
                Ok(BatchLoss { loss: mean(sum.loss)?, accuracy: mean(sum.n_correct as f64)? })
            }
        }
    }

    /// Names of parameters whose gradient is zero in every element.
    pub fn zero_gradient_names<'a>(&'a self, model: &'a dyn LanguageModel) -> TensorResult<Vec<&'a str>> {
        match self {
            Self::Autograd { gradients, .. } => all_zero(model.parameters(), gradients),
            Self::Explicit { engine, .. } => Ok(engine.state().zero_gradient_names()),
        }
    }

    /// The gradients as tensors, in the model's order.
    pub fn gradients(&self) -> TensorResult<Vec<Tensor>> {
        match self {
            Self::Autograd { gradients, .. } => Ok(gradients.clone()),
            Self::Explicit { engine, .. } => engine.state().gradient_tensors(),
        }
    }

    /// The Euclidean norm of all gradients together, a scalar.
    pub fn grad_norm(&self) -> TensorResult<Tensor> {
        match self {
            Self::Autograd { gradients, .. } => global_norm(gradients),
            Self::Explicit { engine, .. } => Tensor::new(engine.state().grad_norm(), &Device::Cpu),
        }
    }

    /// Makes update number `step`, counted from 1, with gradients clipped to `clip_norm` unless that is 0.
    pub fn update(
        &mut self,
        model: &dyn LanguageModel,
        grad_norm: &Tensor,
        clip_norm: f64,
        step: u64,
        learning_rate: f64,
    ) -> TensorResult<()> {
        match self {
            Self::Autograd { optimizer, gradients } => {
                let factor = if clip_norm > 0.0 { Some(clip_factor(grad_norm, clip_norm)?) } else { None };
                optimizer.step(model.parameters(), gradients, factor.as_ref(), step, learning_rate)
            }
            Self::Explicit { engine, optimizer, is_published, .. } => {
                let norm = grad_norm.to_scalar::<f64>()?;
                let OptimizerConfig { beta1, beta2, eps, weight_decay, .. } = *optimizer;
                let gradient_factor =
                    if clip_norm > 0.0 { grad_norm::clip_factor(norm, clip_norm) } else { 1.0 };
                engine.state_mut().update(&Update {
                    beta1,
                    beta2,
                    eps,
                    weight_decay,
                    learning_rate,
                    step,
                    gradient_factor,
                });
                *is_published = false;
                Ok(())
            }
        }
    }

    /// Sees to it that the model's tensors have the weights.
    pub fn publish(&mut self, model: &dyn LanguageModel) -> TensorResult<()> {
        match self {
            Self::Explicit { engine, is_published, .. } if !*is_published => {
                engine.state().publish(model.parameters())?;
                *is_published = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What a checkpoint stores.
    pub fn optimizer_state(&self) -> &dyn OptimizerState {
        match self {
            Self::Autograd { optimizer, .. } => optimizer,
            Self::Explicit { engine, .. } => engine.state(),
        }
    }

    /// Evaluates the model.
    pub fn evaluate(
        &mut self,
        model: &dyn LanguageModel,
        store: &TokenStore,
        options: EvaluateOptions,
        device: &Device,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Evaluation, TrainError> {
        match self {
            Self::Autograd { .. } => evaluate(model, store, options, device, progress),
            Self::Explicit { engine, .. } => {
                evaluate_explicitly(engine.as_mut(), store, model.context(), options, progress)
            }
        }
    }
}

fn accumulate_gradients(engine: &mut dyn Engine, batch: &Batch, options: BatchOptions) -> LossSum {
    let scale = 1.0 / batch.targets.len() as f32;
    let mut sum = LossSum::default();
    for first_sequence in (0..batch.batch_size).step_by(options.micro_batch) {
        let end = batch.batch_size.min(first_sequence + options.micro_batch);
        let tokens = first_sequence * batch.context..end * batch.context;
        let pass = TrainingPass { first_sequence, ..options.pass };
        let (inputs, targets) = (&batch.inputs[tokens.clone()], &batch.targets[tokens]);
        sum += engine.accumulate_gradients(inputs, targets, pass, scale);
    }
    sum
}
