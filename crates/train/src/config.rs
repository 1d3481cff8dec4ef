//! The sections of a configuration that say how to train.

use std::path::PathBuf;

use candle_core::DType;
use wattle_model::{Fp8Options, GradientType, MatrixUpdate, Moments, Recompute};
use wattle_ops::adamw::Hyperparameters;
use wattle_ops::muon;
use wattle_settings::{choices, section};

use crate::prompts::Prompts;

section! {
    /// How parameters are updated.
    #[section(optimizer)]
    pub struct OptimizerConfig {
        /// The algorithm.
        ///
        /// With `"muon"`, `optimizer.beta1`, `beta2` and `eps` are those of the parameters that AdamW updates, and the
        /// learning rate and weight decay are those of all: docs/optimizers.md.
        pub kind: OptimizerKind = OptimizerKind::AdamW;
        /// Peak learning rate.
        pub learning_rate: f64 = 1e-3, expects(above(0.0)), source(NANOGPT);
        /// Decay of the mean of gradients.
        pub beta1: f64 = 0.9, expects(at_least(0.0).below(1.0)), source(NANOGPT);
        /// Decay of the mean of squared gradients.
        pub beta2: f64 = 0.99, expects(at_least(0.0).below(1.0)), source(NANOGPT);
        /// Added to the root of the mean of squares.
        pub eps: f64 = 1e-8, expects(above(0.0)), source("PyTorch's AdamW, as in nanoGPT");
        /// Decoupled weight decay.
        ///
        /// Applies to tensors of two or more dimensions only. Plain Adam has none; with `optimizer.kind = "adam"` the
        /// default is 0.
        pub weight_decay: f64 = 0.1, expects(at_least(0.0)), check(Self::no_decay_in_adam), source(NANOGPT);
        /// Muon's decay of the mean of gradients.
        pub momentum: f64 = 0.95,
            expects(at_least(0.0).below(1.0)),
            idle(unless("optimizer.kind", &["muon"])),
            source(MUON);
        /// Whether Muon's momentum is Nesterov's.
        pub nesterov: bool = true, idle(unless("optimizer.kind", &["muon"])), source(MUON);
        /// Muon's iterations towards orthogonal updates.
        pub ns_steps: usize = 5,
            expects(at_least(1.0).and_at_most(MAX_NS_STEPS)),
            idle(unless("optimizer.kind", &["muon"])),
            source(MUON);
    }
}

/// Where the defaults for small models come from.
const NANOGPT: &str = "nanoGPT for small models on a CPU: its README and `train.py`";
/// Where Muon's defaults come from.
const MUON: &str = "PyTorch's `torch.optim.Muon`";
/// More iterations than change anything; PyTorch's limit too.
const MAX_NS_STEPS: f64 = 99.0;

choices! {
    /// An optimizer.
    pub enum OptimizerKind {
        /// Adam with decoupled weight decay.
        AdamW = "adamw",
        /// Adam: as AdamW, with `weight_decay` 0.
        Adam = "adam",
        /// Muon for the matrices of blocks, whose update is their momentum with all singular values near 1; AdamW for
        /// embeddings, head, norms and biases. Half the memory of the matrices' moments.
        Muon = "muon",
    }
}

impl OptimizerConfig {
    /// The numbers that all updates of a run share.
    pub fn hyperparameters(&self) -> Hyperparameters {
        let &Self { beta1, beta2, eps, weight_decay, .. } = self;
        Hyperparameters { beta1, beta2, eps, weight_decay }
    }

    /// How matrices of blocks are updated.
    pub fn matrices(&self) -> MatrixUpdate {
        let &Self { momentum, nesterov, ns_steps, .. } = self;
        match self.kind {
            OptimizerKind::AdamW | OptimizerKind::Adam => MatrixUpdate::AdamW,
            OptimizerKind::Muon => MatrixUpdate::Muon(muon::Hyperparameters { momentum, nesterov, ns_steps }),
        }
    }

    fn no_decay_in_adam(&self) -> Option<String> {
        let decay = self.weight_decay;
        (self.kind == OptimizerKind::Adam && decay != 0.0).then(|| {
            format!(
                "optimizer.weight_decay = {decay}: plain Adam has none; set it to 0 or optimizer.kind to \"adamw\""
            )
        })
    }
}

section! {
    /// How the learning rate changes over the run.
    #[section(schedule)]
    pub struct ScheduleConfig {
        /// The curve after warmup.
        pub kind: ScheduleKind = ScheduleKind::Cosine, source("nanoGPT");
        /// Steps over which the learning rate rises.
        pub warmup_steps: u64 = 100, unit("steps"), source("nanoGPT for small models");
        /// Learning rate at the end of a decay.
        ///
        /// At most the peak, `optimizer.learning_rate`; a larger value is lowered to it.
        pub min_learning_rate: Option<f64> = None,
            unset("the smaller of 1e-4 and a tenth of the peak"),
            expects(at_least(0.0).number()),
            idle(when("schedule.kind", &["constant"]));
        /// Share of all steps that `wsd` decays over.
        pub decay_fraction: f64 = 0.1,
            expects(at_least(0.0).and_at_most(1.0)),
            checked_if(|schedule| schedule.kind == ScheduleKind::Wsd),
            idle(unless("schedule.kind", &["wsd"])),
            source("Hu et al., *MiniCPM*, 2024, section 4");
    }
}

choices! {
    /// A learning-rate schedule.
    pub enum ScheduleKind {
        /// The peak throughout.
        Constant = "constant",
        /// Half a cosine from the peak to the minimum.
        Cosine = "cosine",
        /// Warmup, stable, decay: the peak, then a straight line to the minimum.
        Wsd = "wsd",
    }
}

section! {
    /// How much and how long to train.
    ///
    /// Training ends at `train.max_steps` or after `train.epochs`, whichever comes first.
    #[section(train)]
    pub struct TrainConfig {
        /// Sequences of one step.
        pub batch_size: usize = 12,
            unit("sequences"),
            expects(at_least(1.0).and_at_most(MAX_BATCH_SIZE)),
            source("nanoGPT for small models on a CPU");
        /// Sequences of one pass; 0: the whole batch.
        ///
        /// Of one forward and backward pass. A smaller micro-batch takes less memory. At most `train.batch_size`.
        pub micro_batch_size: usize = 0, unit("sequences"), check(Self::micro_batch_above_batch);
        /// Steps at most; 0: no limit.
        pub max_steps: u64 = 0, unit("steps"), free_at_resume(), check(Self::no_end);
        /// Passes over the data at most; 0: no limit.
        pub epochs: u64 = 3, free_at_resume();
        /// Largest global gradient norm; 0: no clipping.
        pub clip_norm: f64 = 1.0, expects(at_least(0.0).remark(" (0 clips nothing)")), source("nanoGPT");
        /// Parts of a batch that are summed apart.
        ///
        /// The sums of the parts are added in pairs, so that one rank, and any number of ranks that divides the parts, train
        /// to the same bits. A power of two that divides `train.batch_size`; more takes one buffer of gradients for each
        /// doubling. Where several ranks train and this is 1, each has one part.
        pub reduce_leaves: usize = 1,
            unit("parts"),
            expects(at_least(1.0).and_at_most(MAX_BATCH_SIZE)),
            check(Self::uneven_leaves);
        /// How long a rank waits for others in a step.
        ///
        /// Or twenty times as long as its own steps take, if that is longer; ten times as long for a start, a checkpoint, an
        /// evaluation and the end. A rank that does not answer ends the run with exit code 76.
        pub rank_deadline_s: f64 = 60.0, unit("s"), expects(above(0.0)), free_at_resume();
        /// CPU threads to compute with; 0: all processors.
        ///
        /// All processors that the process may use. The number of threads changes no bit of the result.
        pub threads: usize = 0,
            expects(at_most(MAX_THREADS).remark(", or 0 for every processor")),
            free_at_resume();
        /// Steps from one logged step to the next.
        pub log_every: u64 = 1, unit("steps"), expects(at_least(1.0)), free_at_resume();
        /// What computes gradients and updates.
        pub engine: EngineChoice = EngineChoice::default();
        /// Activations to recompute: less memory, more time.
        ///
        /// What the explicit engine does not keep for the backward pass but computes again. Results are the same to
        /// the bit.
        pub recompute: Recompute = Recompute::default(), idle(when("train.engine", &["autograd"]));
        /// Whether a GPU sums every gradient in one order.
        ///
        /// With `false`, cuDNN may also sum attention's gradients in an order that differs from run to run, which is faster
        /// and takes less memory: two runs are then not the same to the bit, and neither is a resumed one. On a CPU, and
        /// where attention is not cuDNN's, sums are in one order in any case.
        pub deterministic: bool = true, idle(when("train.engine", &["autograd"]));
        /// How kernels are chosen where a GPU has several.
        ///
        /// The choice is kept in `kernels.json`, in the run directory and in checkpoints. A resumed run takes that of
        /// its checkpoint. Two runs are the same to the bit only with equal choices. On a CPU there is none to make.
        pub select: KernelSelection = KernelSelection::default(), idle(when("train.engine", &["autograd"]));
        /// A `kernels.json` whose choices to take.
        ///
        /// It must be from the same kind of GPU with the same versions of driver and libraries. What it does not name is
        /// chosen as `train.select` says. Has no effect on a CPU.
        pub kernels: Option<PathBuf> = None,
            unset("chosen anew"),
            idle(when("train.engine", &["autograd"]));
    }
}

choices! {
    /// How kernels are chosen.
    pub enum KernelSelection (default Measure) {
        /// Each shape's candidates are timed before the first step, and the fastest is taken.
        Measure = "measure",
        /// The first candidate is taken.
        First = "first",
    }
}

/// More sequences than any step has; what a batch takes is counted in 64 bits.
const MAX_BATCH_SIZE: f64 = (1 << 28) as f64;
/// More threads than any machine runs at once; each of them takes a stack.
const MAX_THREADS: f64 = 4096.0;

choices! {
    /// What computes gradients and updates.
    pub enum EngineChoice (default Auto) {
        /// The explicit engine where there is one, else candle's autograd.
        Auto = "auto",
        /// candle's autograd: the reference, slower and larger.
        Autograd = "autograd",
        /// Forward and backward written out, for wattle's own families: in `f32` on a CPU, in `f32` or bf16 on a GPU,
        /// either with products in fp8.
        Explicit = "explicit",
    }
}

impl TrainConfig {
    /// Sequences of one forward and backward pass.
    pub fn micro_batch(&self) -> usize {
        let leaf = self.batch_size / self.reduce_leaves.max(1);
        if self.micro_batch_size == 0 { leaf } else { self.micro_batch_size.min(leaf) }
    }

    /// The same for `world` ranks, each of which has at least one of the parts in which gradients are summed.
    ///
    /// # Errors
    /// If the batch, or the parts that were asked for, cannot be divided among them.
    pub fn over_ranks(&self, world: usize) -> Result<Self, String> {
        let reduce_leaves = if self.reduce_leaves == 1 { world } else { self.reduce_leaves };
        if !self.batch_size.is_multiple_of(world) {
            return Err(format!(
                "train.batch_size = {}: expected a multiple of the number of ranks, {world}",
                self.batch_size
            ));
        }
        if !reduce_leaves.is_multiple_of(world) {
            return Err(format!(
                "train.reduce_leaves = {reduce_leaves}: expected a multiple of the number of ranks, {world}, or 1"
            ));
        }
        Ok(Self { reduce_leaves, ..self.clone() })
    }

    fn uneven_leaves(&self) -> Option<String> {
        let (leaves, batch) = (self.reduce_leaves, self.batch_size);
        (!leaves.is_power_of_two() || !batch.is_multiple_of(leaves)).then(|| {
            format!(
                "train.reduce_leaves = {leaves}: expected a power of two that divides train.batch_size = {batch}"
            )
        })
    }

    fn micro_batch_above_batch(&self) -> Option<String> {
        let (micro, batch) = (self.micro_batch_size, self.batch_size);
        (micro > batch)
            .then(|| format!("train.micro_batch_size = {micro}: expected at most train.batch_size = {batch}"))
    }

    fn no_end(&self) -> Option<String> {
        (self.max_steps == 0 && self.epochs == 0)
            .then(|| "train.max_steps = 0 and train.epochs = 0: training would never end; set one".to_owned())
    }
}

section! {
    /// When to evaluate, besides the end of each epoch, and on what.
    #[section(evaluate)]
    pub struct EvaluateConfig {
        /// Steps from one evaluation to the next; 0: epochs only.
        pub every_steps: u64 = 0,
            unit("steps"),
            idle(when_zero("data.val_fraction").and_without("evaluate.tasks").and_without("evaluate.prompts"));
        /// Batches of an evaluation; 0: the whole split.
        ///
        /// Batches of `train.micro_batch_size` sequences, spread evenly over the split.
        pub batches: usize = 0, unit("batches"), idle(when_zero("data.val_fraction"));
        /// Files of items to score the model on.
        ///
        /// At each evaluation. JSON lines: multiple choice, cloze, or greedy text against an answer, one kind a file. `docs/evaluation.md`
        /// describes them. Training is the same to the bit with and without.
        pub tasks: Vec<PathBuf> = Vec::new(), unset("none"), free_at_resume();
        /// Texts that the model goes on from.
        ///
        /// At each evaluation. A list of texts, or the path of a file with one a line. What the model writes is in `events.jsonl` and on the
        /// report's page. Training is the same to the bit with and without.
        pub prompts: Prompts = Prompts::default(), unset("none"), free_at_resume();
        /// Tokens written after each prompt.
        pub prompt_tokens: usize = 64,
            unit("tokens"),
            expects(at_least(1.0)),
            idle(without("evaluate.prompts")),
            free_at_resume();
        /// Temperature of that text; 0: greedy.
        ///
        /// Above 0, tokens are drawn by `run.seed`, with the same numbers at each evaluation.
        pub prompt_temperature: f64 = 0.0,
            expects(at_least(0.0)),
            idle(without("evaluate.prompts")),
            free_at_resume();
    }
}

section! {
    /// When to stop before the end.
    #[section(early_stop)]
    pub struct EarlyStopConfig {
        /// Evaluations without a new lowest loss to stop after; 0: off.
        pub patience: u64 = 0, unit("evaluations"), idle(when_zero("data.val_fraction"));
        /// Validation loss to stop at.
        pub target_loss: Option<f64> = None,
            unit("nats per token"),
            unset("no target"),
            expects(above(0.0)),
            idle(when_zero("data.val_fraction"));
    }
}

section! {
    /// The floating-point type of the computation.
    #[section(precision)]
    pub struct PrecisionConfig {
        /// Type of activations and matrix products.
        ///
        /// Parameters stay in `f32`.
        pub dtype: Precision = Precision::F32;
        /// Whether the output head's products are in fp8 too.
        pub fp8_head: bool = false, idle(unless("precision.dtype", &["fp8"]));
        /// Type in which gradients of blocks' matrices are summed.
        ///
        /// Those of embeddings, head, norms and biases are in `f32`. On a CPU the numbers are those of the type, and the memory
        /// is that of `f32`.
        pub gradients: GradientType = GradientType::default();
        /// Type in which the optimizer's moments are kept.
        pub moments: MomentType = MomentType::F32;
    }
}

choices! {
    /// A type of moments.
    pub enum MomentType {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the exponent of `f32`: half the memory. Updates are made in `f32`; what they leave is rounded at random
        /// by `run.seed`, the step and an element's place, so a resume is exact.
        Bf16 = "bf16",
    }
}

choices! {
    /// A floating-point type.
    pub enum Precision {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the exponent of `f32`.
        Bf16 = "bf16",
        /// bf16, with the products of blocks in 8 bits: activations and weights in e4m3, gradients in e5m2, each tensor with
        /// a scale of its own. Widths and `model.context` are multiples of 16. On a GPU of compute capability 8.9 (Ada,
        /// Hopper) or above; on a CPU the same numbers are rounded, and all else is in `f32`: slow, for comparisons.
        Fp8 = "fp8",
    }
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 | Precision::Fp8 => DType::BF16,
        }
    }
}

impl PrecisionConfig {
    /// In which type moments are kept, in a run of this seed.
    pub fn moments(&self, seed: u64) -> Moments {
        match self.moments {
            MomentType::F32 => Moments::F32,
            MomentType::Bf16 => Moments::Bf16 { seed },
        }
    }

    /// Which products are in eight bits.
    pub fn fp8(&self) -> Option<Fp8Options> {
        (self.dtype == Precision::Fp8).then_some(Fp8Options { head: self.fp8_head })
    }
}

section! {
    /// When to write a checkpoint, and how many to keep.
    #[section(checkpoint, at_resume = Free)]
    pub struct CheckpointConfig {
        /// Steps from one checkpoint to the next; 0: none by steps.
        pub every_steps: u64 = 0, unit("steps");
        /// Epochs from one checkpoint to the next; 0: none by epochs.
        ///
        /// The end of training always leaves one.
        pub every_epochs: u64 = 1, unit("epochs");
        /// Newest checkpoints to keep; 0: all.
        ///
        /// The best by validation loss is kept besides.
        pub keep: usize = 3, unit("checkpoints");
        /// Whether training goes on while a checkpoint is written.
        ///
        /// It is then written from a copy of weights and moments in the host's memory.
        pub background: bool = true;
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
}
