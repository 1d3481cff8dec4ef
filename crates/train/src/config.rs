//! The sections of a configuration that say how to train.

use candle_core::DType;
use serde::{Deserialize, Serialize};
use wattle_model::Recompute;
use wattle_ops::adamw::Hyperparameters;

/// The `optimizer` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The algorithm.
    pub kind: OptimizerKind,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// Decoupled weight decay, on tensors of two or more dimensions alone.
    pub weight_decay: f64,
}

/// An optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Adam: as AdamW, with `weight_decay` 0.
    Adam,
}

impl Default for OptimizerConfig {
    /// nanoGPT's values for small models on a CPU (its README and `train.py`).
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
        }
    }
}

impl OptimizerConfig {
    /// The numbers that all updates of a run share.
    pub fn hyperparameters(&self) -> Hyperparameters {
        let &Self { beta1, beta2, eps, weight_decay, .. } = self;
        Hyperparameters { beta1, beta2, eps, weight_decay }
    }
}

/// The `schedule` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The curve after warmup.
    pub kind: ScheduleKind,
    /// Steps over which the learning rate rises from zero.
    pub warmup_steps: u64,
    /// Learning rate at the end of a decay, the peak at most. Absent, it is the smaller of 1e-4 and a tenth of the
    /// peak; see [`ScheduleConfig::settle`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_learning_rate: Option<f64>,
    /// Share of all steps that `wsd` decays over.
    pub decay_fraction: f64,
}

/// A learning-rate schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// The peak throughout.
    Constant,
    /// Half a cosine from the peak to the minimum.
    Cosine,
    /// Warmup, stable, decay: the peak, then a straight line to the minimum.
    Wsd,
}

impl Default for ScheduleConfig {
    /// nanoGPT's curve; `decay_fraction` from Hu et al., *MiniCPM*, 2024, section 4.
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_steps: 100, min_learning_rate: None, decay_fraction: 0.1 }
    }
}

/// The `train` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Sequences of one step.
    pub batch_size: usize,
    /// Sequences of one forward and backward pass; 0 takes the whole batch at once.
    pub micro_batch_size: usize,
    /// Steps at most; 0 for no limit.
    pub max_steps: u64,
    /// Passes over the training data at most; 0 for no limit.
    pub epochs: u64,
    /// Largest global norm of a gradient; 0 clips nothing.
    pub clip_norm: f64,
    /// Threads for computation on a CPU; 0 takes every processor that the process may use.
    pub threads: usize,
    /// Every how many steps an event is written.
    pub log_every: u64,
    /// What computes gradients and updates.
    pub engine: EngineChoice,
    /// What the explicit engine does not keep for the backward pass but computes again: memory for time.
    pub recompute: Recompute,
}

/// What computes gradients and updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The explicit engine where there is one, else candle's autograd.
    #[default]
    Auto,
    /// candle's autograd: the reference, slower and larger.
    Autograd,
    /// Forward and backward written out, for wattle's own families: in `f32` on a CPU, in `f32` or bf16 on a GPU.
    Explicit,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            batch_size: 12,
            micro_batch_size: 0,
            max_steps: 0,
            epochs: 3,
            clip_norm: 1.0,
            threads: 0,
            log_every: 1,
            engine: EngineChoice::default(),
            recompute: Recompute::default(),
        }
    }
}

/// The `evaluate` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Every how many steps, besides the end of each epoch; 0 for epochs alone.
    pub every_steps: u64,
    /// Batches of `train.batch_size` in an evaluation, spread over the split; 0 for the whole split.
    pub batches: usize,
}

/// The `early_stop` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStopConfig {
    /// Evaluations without a new lowest loss after which training stops; 0 for never.
    pub patience: u64,
    /// Validation loss at which training stops.
    pub target_loss: Option<f64>,
}

/// The `precision` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrecisionConfig {
    /// Type of activations and matrix products. Parameters, their gradients' sums and moments stay in `f32`.
    pub dtype: Precision,
}

/// A floating-point type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    F32,
    /// 16 bits with the exponent of `f32`.
    Bf16,
}

impl Default for PrecisionConfig {
    fn default() -> Self {
        Self { dtype: Precision::F32 }
    }
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// The `checkpoint` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Every how many steps; 0 for never.
    pub every_steps: u64,
    /// Every how many epochs; 0 for never. The end of training always leaves one.
    pub every_epochs: u64,
    /// How many of the newest stay, the best by validation loss besides; 0 keeps all.
    pub keep: usize,
    /// Whether training goes on while a checkpoint is written, from a copy of weights and moments in the host's memory.
    pub background: bool,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_steps: 0, every_epochs: 1, keep: 3, background: true }
    }
}

impl OptimizerConfig {
    /// Everything that is wrong with it, each a sentence that starts with the key.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |fine: bool, key: &str, value: f64, expected: &str| {
            if !fine {
                faults.push(format!("optimizer.{key} = {value}: expected {expected}"));
            }
        };
        let finite_positive = |x: f64| x.is_finite() && x > 0.0;
        expect(finite_positive(self.learning_rate), "learning_rate", self.learning_rate, "a number above 0");
        expect((0.0..1.0).contains(&self.beta1), "beta1", self.beta1, "at least 0 and below 1");
        expect((0.0..1.0).contains(&self.beta2), "beta2", self.beta2, "at least 0 and below 1");
        expect(finite_positive(self.eps), "eps", self.eps, "a number above 0");
        let decay = self.weight_decay;
        expect(decay.is_finite() && decay >= 0.0, "weight_decay", decay, "at least 0");
        if self.kind == OptimizerKind::Adam && decay != 0.0 {
            faults.push(format!(
                "optimizer.weight_decay = {decay}: plain Adam has none; set it to 0 or optimizer.kind to \"adamw\""
            ));
        }
        faults
    }
}

/// The largest `min_learning_rate` that is taken where none is given: nanoGPT's.
const LARGEST_DEFAULT_MIN: f64 = 1e-4;

impl ScheduleConfig {
    /// The learning rate at the end of a decay from `peak`.
    pub fn min_learning_rate(&self, peak: f64) -> f64 {
        match self.min_learning_rate {
            Some(min) => min.min(peak),
            None => (peak / 10.0).min(LARGEST_DEFAULT_MIN),
        }
    }

    /// Writes down the minimum that applies beside `optimizer`. Returns a sentence if a larger one was asked for.
    pub fn settle(&mut self, optimizer: &OptimizerConfig) -> Option<String> {
        let peak = optimizer.learning_rate;
        if !(peak.is_finite() && peak > 0.0) {
            return None;
        }
        let settled = self.min_learning_rate(peak);
        let asked = self.min_learning_rate.replace(settled);
        let asked = asked.filter(|&min| min > peak && self.kind != ScheduleKind::Constant)?;
        Some(format!(
            "schedule.min_learning_rate = {asked} is above optimizer.learning_rate = {peak}, so {peak} is used"
        ))
    }

    /// Everything that is wrong with it, each a sentence that starts with the key.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(min) = self.min_learning_rate.filter(|min| !(min.is_finite() && *min >= 0.0)) {
            faults.push(format!("schedule.min_learning_rate = {min}: expected a number of at least 0"));
        }
        if self.kind == ScheduleKind::Wsd && !(0.0..=1.0).contains(&self.decay_fraction) {
            faults.push(format!(
                "schedule.decay_fraction = {}: expected at least 0 and at most 1",
                self.decay_fraction
            ));
        }
        faults
    }
}

/// More sequences than any step has; what a batch takes is counted in 64 bits.
const MAX_BATCH_SIZE: usize = 1 << 28;
/// More threads than any machine runs at once; each of them takes a stack.
const MAX_THREADS: usize = 4096;

impl TrainConfig {
    /// Everything that is wrong with it, each a sentence that starts with the key.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=MAX_BATCH_SIZE).contains(&self.batch_size) {
            faults.push(format!(
                "train.batch_size = {}: expected at least 1 and at most {MAX_BATCH_SIZE}",
                self.batch_size
            ));
        }
        if self.micro_batch_size > self.batch_size {
            faults.push(format!(
                "train.micro_batch_size = {}: expected at most train.batch_size = {}",
                self.micro_batch_size, self.batch_size
            ));
        }
        if self.threads > MAX_THREADS {
            faults.push(format!(
                "train.threads = {}: expected at most {MAX_THREADS}, or 0 for every processor",
                self.threads
            ));
        }
        if self.max_steps == 0 && self.epochs == 0 {
            faults.push(
                "train.max_steps = 0 and train.epochs = 0: training would never end; set one".to_owned(),
            );
        }
        if !(self.clip_norm.is_finite() && self.clip_norm >= 0.0) {
            faults
                .push(format!("train.clip_norm = {}: expected at least 0 (0 clips nothing)", self.clip_norm));
        }
        if self.log_every == 0 {
            faults.push("train.log_every = 0: expected at least 1".to_owned());
        }
        faults
    }

    /// Sequences of one forward and backward pass.
    pub fn micro_batch(&self) -> usize {
        if self.micro_batch_size == 0 { self.batch_size } else { self.micro_batch_size }
    }
}

impl EarlyStopConfig {
    /// Everything that is wrong with it, each a sentence that starts with the key.
    pub fn faults(&self) -> Vec<String> {
        match self.target_loss {
            Some(target) if !(target.is_finite() && target > 0.0) => {
                vec![format!("early_stop.target_loss = {target}: expected a number above 0")]
            }
            _ => Vec::new(),
        }
    }
}
