//! What a run needs to know.

use candle_core::DType;
use wattle_model::{Fp8Options, GradientType, Masks, Moments};

use crate::config::{EarlyStopConfig, EvaluateConfig, OptimizerConfig, ScheduleConfig, TrainConfig};
use crate::kernels::Kernels;
use crate::ranks::Ranks;

/// What a run needs to know.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// The run's seed.
    pub seed: u64,
    /// The run's segment.
    pub segment: u32,
    /// Share of elements that the model drops in training.
    pub dropout: f32,
    /// Type of activations.
    pub dtype: DType,
    /// Which products are in eight bits; only explicit engines have any. On a CPU all else is in `f32` then, whatever
    /// `dtype`.
    pub fp8: Option<Fp8Options>,
    /// In which type the gradients of blocks' matrices are accumulated; explicit engines alone have another than `f32`, and one
    /// on a board only where it trains alone.
    pub gradients: GradientType,
    /// In which type moments are kept; explicit engines alone keep them in another than `f32`.
    pub moments: Moments,
    /// What batches may say beside their tokens; an engine on a board plans room for it.
    pub masks: Masks,
    /// Which kernels an engine on a board takes; those that this does not name are chosen as `select` says.
    pub kernels: Option<Kernels>,
    /// Whether an engine on a board times the ways of a job for which nothing was chosen, or takes the first.
    pub select: bool,
    /// Who trains together.
    pub ranks: Ranks,
    /// The `optimizer` section.
    pub optimizer: OptimizerConfig,
    /// The `schedule` section.
    pub schedule: ScheduleConfig,
    /// The `train` section.
    pub train: TrainConfig,
    /// The `evaluate` section.
    pub evaluate: EvaluateConfig,
    /// The `early_stop` section.
    pub early_stop: EarlyStopConfig,
    /// Epochs between checkpoints; 0 for never.
    pub checkpoint_every_epochs: u64,
    /// Steps between checkpoints; 0 for never.
    pub checkpoint_every_steps: u64,
    /// Whether steps go on while a checkpoint is written.
    pub checkpoint_in_background: bool,
}

impl Default for TrainerOptions {
    /// Each section's defaults, in `f32`, without dropout or checkpoints before the end, which are written while training waits.
    fn default() -> Self {
        Self {
            seed: 0,
            segment: 0,
            dropout: 0.0,
            dtype: DType::F32,
            fp8: None,
            gradients: GradientType::F32,
            moments: Moments::F32,
            masks: Masks::default(),
            kernels: None,
            select: false,
            ranks: Ranks::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            train: TrainConfig::default(),
            evaluate: EvaluateConfig::default(),
            early_stop: EarlyStopConfig::default(),
            checkpoint_every_epochs: 0,
            checkpoint_every_steps: 0,
            checkpoint_in_background: false,
        }
    }
}
