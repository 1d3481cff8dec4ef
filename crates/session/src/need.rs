//! What commands need of memory, by the configuration alone.

use wattle_model::engine::EngineOptions;
use wattle_model::{MatrixUpdate, MemoryPlan, ModelConfig, Share, WeightType};
use wattle_report::words::quantity::count;
use wattle_train::config::{EngineChoice, Precision};

use crate::config::Config;
use crate::memory::{Need, size};

/// Bytes of one parameter with its gradient and two moments, all in `f32`.
pub const BYTES_PER_PARAMETER: u64 = 16;
/// Bytes of a number.
const BYTES_PER_F32: u64 = size_of::<f32>() as u64;
/// The count of what autograd keeps is right to a third: a run is refused if less than that share of it is there.
const SURE_SHARE: f64 = 2.0 / 3.0;

/// What training takes on a CPU.
pub enum TrainingMemory {
    /// By the explicit engine, which plans it.
    Explicit(MemoryPlan),
    /// By candle's autograd.
    Autograd {
        /// Bytes of parameters, their gradients and moments.
        states: u64,
        /// About the bytes of activations.
        activations: u64,
    },
}

impl TrainingMemory {
    /// What `config` takes with a token table of `vocab_size` rows.
    pub fn of(config: &Config, vocab_size: usize) -> Self {
        let has_engine = matches!(config.precision.dtype, Precision::F32 | Precision::Fp8);
        let is_explicit = has_engine && config.train.engine != EngineChoice::Autograd;
        if !is_explicit {
            let gradients = n_trained(config, vocab_size).saturating_mul(BYTES_PER_F32);
            let moments = n_moments(config, vocab_size).saturating_mul(BYTES_PER_F32);
            let parameters = own_bytes(config, vocab_size);
            return Self::Autograd {
                states: parameters.saturating_add(gradients).saturating_add(moments),
                activations: activation_bytes(config, vocab_size),
            };
        }
        let options = EngineOptions {
            micro_batch: config.train.micro_batch(),
            recompute: config.train.recompute,
            fp8: config.precision.fp8(),
            gradients: config.precision.gradients,
            moments: config.precision.moments(config.run.seed),
            matrices: config.optimizer.matrices(),
            // As if alone: of several ranks, each takes less.
            share: Share::default(),
        };
        Self::Explicit(match config.lora.is_on() {
            true => config.model.adapted_memory(vocab_size, &config.lora, options),
            false => config.model.training_memory(vocab_size, options),
        })
    }

    /// What trains, for a person.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Explicit(_) => "explicit engine on the CPU",
            Self::Autograd { .. } => "candle's autograd",
        }
    }

    /// For parameters and what belongs to them, and for the batch.
    pub(crate) fn parts(&self, model_bytes: u64) -> [u64; 2] {
        match self {
            Self::Explicit(plan) => {
                let batch = plan.activations.saturating_add(plan.scratch);
                let MemoryPlan { weights, gradients, moments, .. } = *plan;
                let states = [weights, gradients, moments].into_iter().fold(model_bytes, u64::saturating_add);
                [states, batch]
            }
            Self::Autograd { states, activations } => {
                let sure = (*activations as f64 * SURE_SHARE) as u64;
                [*states, sure]
            }
        }
    }
}

/// Numbers that are trained: the model's parameters, or its adapters'.
pub fn n_trained(config: &Config, vocab_size: usize) -> u64 {
    match config.lora.is_on() {
        true => config.model.n_adapter_parameters(vocab_size, &config.lora),
        false => config.model.n_parameters(vocab_size),
    }
}

/// Numbers that stay as they are.
pub fn n_frozen(config: &Config, vocab_size: usize) -> u64 {
    if config.lora.is_on() { config.model.n_parameters(vocab_size) } else { 0 }
}

/// Numbers of an optimizer's moments.
pub(crate) fn n_moments(config: &Config, vocab_size: usize) -> u64 {
    let matrices = config.optimizer.matrices();
    match config.lora.is_on() {
        // All factors are matrices of blocks.
        true if matrices != MatrixUpdate::AdamW => n_trained(config, vocab_size),
        true => n_trained(config, vocab_size).saturating_mul(2),
        false => config.model.n_moments(vocab_size, matrices),
    }
}

/// Bytes of the tensors of the model and of its adapters.
pub(crate) fn own_bytes(config: &Config, vocab_size: usize) -> u64 {
    n_trained(config, vocab_size).saturating_add(n_frozen(config, vocab_size)).saturating_mul(BYTES_PER_F32)
}

/// What training needs on a CPU.
pub fn training(config: &Config, vocab_size: usize) -> Need {
    let memory = TrainingMemory::of(config, vocab_size);
    let [states, batch] = memory.parts(own_bytes(config, vocab_size));
    let about = if matches!(memory, TrainingMemory::Autograd { .. }) { "at least " } else { "" };
    Need {
        what: "training on the CPU".to_owned(),
        bytes: states.saturating_add(batch),
        parts: format!(
            "{} for the model with gradients and moments, {about}{} for activations",
            size(states),
            size(batch)
        ),
        remedy: training_remedy(config, vocab_size, states > batch, &memory),
    }
}

fn training_remedy(config: &Config, vocab_size: usize, is_model: bool, memory: &TrainingMemory) -> String {
    let model = &config.model;
    if is_model {
        return match &model.init_from {
            Some(dir) => format!("start from a smaller model than model.init_from = {}", dir.display()),
            None => format!(
                "lower model.n_layers = {}, model.d_model = {} or the vocabulary of {vocab_size}",
                model.n_layers, model.d_model
            ),
        };
    }
    let mut keys = Vec::new();
    if config.train.micro_batch() > 1 {
        keys.push(match config.train.micro_batch_size {
            0 => format!("set train.micro_batch_size below train.batch_size = {}", config.train.batch_size),
            n => format!("lower train.micro_batch_size = {n}"),
        });
    }
    keys.push(format!("lower model.context = {}", model.context));
    let keeps = config.train.recompute != wattle_model::Recompute::Block;
    if matches!(memory, TrainingMemory::Explicit(_)) && keeps {
        keys.push("set train.recompute = \"block\"".to_owned());
    }
    keys.join(", or ")
}

/// What reading a model needs on a CPU, `copies` times in `f32`.
pub fn loading(name: &str, config: &ModelConfig, vocab_size: usize, copies: u64) -> Need {
    let bytes = config.model_bytes(vocab_size).saturating_mul(copies);
    let n = count(config.n_parameters(vocab_size));
    Need {
        what: format!("{name}: the model"),
        bytes,
        parts: format!("{n} parameters in f32"),
        remedy: "use a smaller model or a machine with more memory".to_owned(),
    }
}

/// What evaluating needs on a CPU beside the model, of `batch_size` windows of `window` tokens at a time. Windows
/// shorter than the context go through the model's own operations.
pub fn evaluation(config: &ModelConfig, vocab_size: usize, batch_size: usize, window: usize) -> Need {
    let is_short = window < config.context;
    let plan = if is_short {
        let activations = config.short_window_bytes(vocab_size, window).saturating_mul(batch_size as u64);
        MemoryPlan { activations, ..MemoryPlan::default() }
    } else {
        config.evaluation_memory(vocab_size, batch_size)
    };
    Need {
        what: "evaluating".to_owned(),
        bytes: plan.total(),
        parts: format!(
            "{} for a copy of the weights, {} for the activations of {batch_size} windows of {window} tokens",
            size(plan.weights),
            size(plan.activations),
        ),
        remedy: "lower the context in the checkpoint's config.json (n_positions, max_position_embeddings), or use a \
                 machine with more memory"
            .to_owned(),
    }
}

/// What generating needs on a CPU beside the model, for a prompt of `n_prompt` tokens.
pub fn generation(config: &ModelConfig, vocab_size: usize, n_prompt: usize, max_tokens: usize) -> Need {
    let n_tokens = n_prompt.saturating_add(max_tokens).min(config.context);
    let bytes = config.generation_bytes(vocab_size, n_tokens);
    Need {
        what: "generating".to_owned(),
        bytes,
        parts: format!("keys and values of {n_tokens} tokens, of which the prompt has {n_prompt}"),
        remedy: format!("lower --max-tokens {max_tokens} or shorten --prompt"),
    }
}

/// What exporting needs: the model, and its weights once more as they are written.
pub fn export(name: &str, config: &ModelConfig, vocab_size: usize, weight_type: WeightType) -> Need {
    let model = config.model_bytes(vocab_size);
    let written = (model as f64 * weight_type.bits_per_weight() / 32.0) as u64;
    Need {
        what: format!("{name}: exporting"),
        bytes: model.saturating_add(written),
        parts: format!("{} for the model in f32, {} for the file's tensors", size(model), size(written)),
        remedy: "choose a smaller --type or use a machine with more memory".to_owned(),
    }
}

/// What the autograd graph of one micro-batch holds, by counting the tensors that each operation makes.
///
/// A block keeps some 36 tensors of the model's width, 7 of the feed-forward width and 6 of attention scores;
/// the loss keeps 5 of the vocabulary. The graph lives until the whole backward pass is over, so that their
/// gradients come to as much again.
fn activation_bytes(config: &Config, vocab_size: usize) -> u64 {
    let model = &config.model;
    let of = |n: usize| n as u128;
    let rows = of(config.train.micro_batch()) * of(model.context);
    let (c, ff) = (of(model.d_model), of(model.feed_forward_width()));
    let scores = of(model.n_heads) * of(model.context);
    let block = 36 * c + 7 * ff + 6 * scores;
    let width = match config.precision.dtype {
        Precision::F32 => 4,
        Precision::Bf16 | Precision::Fp8 => 2,
    };
    let row = 2 * (width * of(model.n_layers) * block + 4 * 5 * of(vocab_size));
    u64::try_from(rows.saturating_mul(row)).unwrap_or(u64::MAX)
}
