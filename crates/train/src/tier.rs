//! The engine tier that trains: how a batch becomes gradients, and gradients an update.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use wattle_data::{Batch, TokenStore};
use wattle_model::engine::{EngineOptions, LossSum};
use wattle_model::{
    DeviceEngine, DeviceEngineOptions, DeviceSpan, Engine, FinishedSteps, LanguageModel, MemoryPlan,
    StepInputs, StepResult, TrainingPass,
};
use wattle_ops::adamw::Update;
use wattle_ops::board::{Board, Elem};
use wattle_ops::grad_norm::cpu as grad_norm;
use wattle_runlog::MonotonicNs;

use crate::adamw::AdamW;
use crate::certificate::{all_zero, certify, refuse_unreached};
use crate::checkpoint::TrainState;
use crate::clip::{clip_factor, global_norm};
use crate::config::{EngineChoice, OptimizerConfig};
use crate::error::TrainError;
use crate::evaluate::{EvaluateOptions, Evaluation, evaluate, evaluate_explicitly, evaluate_on_device};
use crate::gradients::{BatchOptions, batch_gradients};
use crate::optimizer_state::OptimizerState;
use crate::trainer::TrainerOptions;

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
    /// Whole steps, queued on a board where all state lives. The model's tensors are as they were when last
    /// published.
    Queued {
        /// The engine.
        engine: Box<dyn DeviceEngine>,
        /// Whether the model's tensors have the weights.
        is_published: bool,
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
    /// there is one: for some families in `f32` on a CPU, and in `f32` or bf16 on a board.
    ///
    /// # Errors
    /// If the explicit engine is asked for and there is none, it does not fit the board's memory, or a tensor
    /// operation fails.
    pub fn choose(
        model: &dyn LanguageModel,
        device: &Device,
        board: Option<Arc<dyn Board>>,
        options: &TrainerOptions,
    ) -> Result<Self, TrainError> {
        let explicit = match options.train.engine {
            EngineChoice::Autograd => None,
            EngineChoice::Auto | EngineChoice::Explicit => Self::explicit(model, device, board, options)?,
        };
        match explicit {
            Some(tier) => Ok(tier),
            None if options.train.engine == EngineChoice::Explicit => Err(TrainError::NoEngine),
            None => {
                let optimizer = AdamW::new(&options.optimizer, model.parameters())?;
                Ok(Self::Autograd { optimizer, gradients: Vec::new() })
            }
        }
    }

    /// The explicit engine for this model, device and type, if there is one.
    fn explicit(
        model: &dyn LanguageModel,
        device: &Device,
        board: Option<Arc<dyn Board>>,
        options: &TrainerOptions,
    ) -> Result<Option<Self>, TrainError> {
        if let Some(board) = board {
            let Some(options) = device_engine_options(options) else { return Ok(None) };
            let engine = model.device_engine(board, options)?;
            return Ok(engine.map(|engine| Self::Queued { engine, is_published: true }));
        }
        if !device.is_cpu() || options.dtype != DType::F32 {
            return Ok(None);
        }
        let (micro_batch, recompute) = (options.train.micro_batch(), options.train.recompute);
        let engine = model.engine(EngineOptions { micro_batch, recompute })?;
        let optimizer = options.optimizer.clone();
        Ok(engine.map(|engine| Self::Explicit { engine, optimizer, is_published: true, is_certified: false }))
    }

    /// Whether steps are made by [`Tier::queue_step`], and not piece by piece.
    pub fn is_queued(&self) -> bool {
        matches!(self, Self::Queued { .. })
    }

    /// What trains, for a person.
    pub fn describe(&self) -> String {
        match self {
            Self::Autograd { .. } => "candle's autograd".to_owned(),
            Self::Explicit { .. } => "explicit engine on the CPU".to_owned(),
            Self::Queued { engine, .. } => format!("explicit engine on {}", engine.describe()),
        }
    }

    /// What the explicit engine takes of memory.
    pub fn memory(&self) -> Option<MemoryPlan> {
        match self {
            Self::Autograd { .. } => None,
            Self::Explicit { engine, .. } => Some(engine.memory()),
            Self::Queued { engine, .. } => Some(engine.memory()),
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
            Self::Queued { engine, is_published } => {
                let state = TrainState::load(checkpoint, model, engine, device)?;
                engine.take(model.parameters())?;
                *is_published = true;
                Ok(state)
            }
        }
    }

    /// Queues a whole step: update number `step`, counted from 1.
    ///
    /// # Errors
    /// If the board fails.
    ///
    /// # Panics
    /// If this tier makes its steps piece by piece.
    pub fn queue_step(&mut self, batch: &Batch, step: u64, learning_rate: f64) -> Result<(), TrainError> {
        let Self::Queued { engine, is_published } = self else { panic!("{PIECEMEAL}") };
        *is_published = false;
        let Batch { inputs, targets, .. } = batch;
        Ok(engine.step(StepInputs { inputs, targets, step, learning_rate })?)
    }

    /// Queued steps that are not known to be finished.
    pub fn n_in_flight(&self) -> usize {
        match self {
            Self::Queued { engine, .. } => engine.n_in_flight(),
            Self::Autograd { .. } | Self::Explicit { .. } => 0,
        }
    }

    /// What queued steps that are finished said, and when their parts were done, since this was last asked for. Does
    /// not wait.
    pub fn poll(&mut self) -> Result<FinishedSteps, TrainError> {
        match self {
            Self::Queued { engine, .. } => Ok(engine.poll(&|| MonotonicNs::now().0)?),
            Self::Autograd { .. } | Self::Explicit { .. } => Ok(FinishedSteps::default()),
        }
    }

    /// What the queued steps said since this was last asked for, in their order; nothing where steps are made
    /// piece by piece.
    pub fn drain(&mut self) -> Result<Vec<StepResult>, TrainError> {
        match self {
            Self::Queued { engine, .. } => Ok(engine.drain()?),
            Self::Autograd { .. } | Self::Explicit { .. } => Ok(Vec::new()),
        }
    }

    /// Whether a queued step was not finite; nothing was updated since then.
    pub fn is_halted(&self) -> Result<bool, TrainError> {
        match self {
            Self::Queued { engine, .. } => Ok(engine.is_halted()?),
            Self::Autograd { .. } | Self::Explicit { .. } => Ok(false),
        }
    }

    /// Waits for queued steps, and says when their parts were done since this was last called.
    pub fn synchronize(&mut self) -> Result<Vec<DeviceSpan>, TrainError> {
        match self {
            Self::Queued { engine, .. } => Ok(engine.synchronize(&|| MonotonicNs::now().0)?),
            Self::Autograd { .. } | Self::Explicit { .. } => Ok(Vec::new()),
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
            Self::Queued { .. } => panic!("{QUEUED}"),
        }
    }

    /// Names of parameters whose gradient is zero in every element.
    pub fn zero_gradient_names(&self, model: &dyn LanguageModel) -> Result<Vec<String>, TrainError> {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        match self {
            Self::Autograd { gradients, .. } => Ok(owned(all_zero(model.parameters(), gradients)?)),
            Self::Explicit { engine, .. } => Ok(owned(engine.state().zero_gradient_names())),
            Self::Queued { engine, .. } => Ok(engine.zero_gradient_names()?),
        }
    }

    /// The gradients as tensors, in the model's order.
    pub fn gradients(&self) -> Result<Vec<Tensor>, TrainError> {
        match self {
            Self::Autograd { gradients, .. } => Ok(gradients.clone()),
            Self::Explicit { engine, .. } => Ok(engine.state().gradient_tensors()?),
            Self::Queued { engine, .. } => Ok(engine.gradient_tensors()?),
        }
    }

    /// The Euclidean norm of all gradients together, a scalar.
    pub fn grad_norm(&self) -> Result<Tensor, TrainError> {
        match self {
            Self::Autograd { gradients, .. } => Ok(global_norm(gradients)?),
            Self::Explicit { engine, .. } => Ok(Tensor::new(engine.state().grad_norm(), &Device::Cpu)?),
            Self::Queued { .. } => panic!("{QUEUED}"),
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
    ) -> Result<(), TrainError> {
        match self {
            Self::Autograd { optimizer, gradients } => {
                let factor = if clip_norm > 0.0 { Some(clip_factor(grad_norm, clip_norm)?) } else { None };
                Ok(optimizer.step(model.parameters(), gradients, factor.as_ref(), step, learning_rate)?)
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
            Self::Queued { .. } => panic!("{QUEUED}"),
        }
    }

    /// Sees to it that the model's tensors have the weights.
    pub fn publish(&mut self, model: &dyn LanguageModel) -> Result<(), TrainError> {
        match self {
            Self::Queued { engine, is_published } if !*is_published => {
                engine.publish(model.parameters())?;
                *is_published = true;
                Ok(())
            }
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
            Self::Queued { engine, .. } => engine,
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
            Self::Queued { engine, .. } => {
                evaluate_on_device(engine.as_mut(), store, model.context(), options, progress)
            }
        }
    }
}

/// Said where a piece of a step is asked of a tier that queues whole ones.
const QUEUED: &str = "this tier queues whole steps";
/// Said where a whole step is asked of a tier that has none.
const PIECEMEAL: &str = "this tier makes its steps piece by piece";

/// `None` for a type that no board's engine has.
pub(crate) fn device_engine_options(options: &TrainerOptions) -> Option<DeviceEngineOptions> {
    let elem = match options.dtype {
        DType::F32 => Elem::F32,
        DType::BF16 => Elem::Bf16,
        _ => return None,
    };
    let TrainerOptions { train, optimizer, .. } = options;
    Some(DeviceEngineOptions {
        batch_size: train.batch_size,
        micro_batch: train.micro_batch(),
        recompute: train.recompute,
        elem,
        seed: options.seed,
        dropout: options.dropout,
        clip_norm: train.clip_norm,
        beta1: optimizer.beta1,
        beta2: optimizer.beta2,
        eps: optimizer.eps,
        weight_decay: optimizer.weight_decay,
    })
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
