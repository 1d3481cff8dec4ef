//! The `model` section of a configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_ops::Activation;
use wattle_ops::attention::Kind;
use wattle_ops::rope::Scaling;

pub use crate::families::Family;

/// A norm's epsilon in GPT-2 (its published code).
pub(crate) const NORM_EPS: f64 = 1e-5;

/// The largest count or width: products of two of them are counted in 64 bits with room to spare, so that sizes which
/// no machine has memory for are refused by their size.
pub(crate) const MAX_SIZE: usize = 1 << 28;

/// The keys of rotary positions, ordered so that those without a meaning are always the last.
pub(crate) const ROPE_KEYS: [&str; 6] = [
    "rope_theta",
    "rope_scaling",
    "rope_factor",
    "rope_low_freq_factor",
    "rope_high_freq_factor",
    "rope_original_context",
];

/// Which transformer to build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
    /// Rows of the token table; 0 takes the tokenizer's vocabulary. Larger than that, it is padded.
    pub vocab_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads of a block.
    pub n_heads: usize,
    /// Heads of keys and values, each for `n_heads / n_kv_heads` heads of queries; 0 is as many as `n_heads`.
    /// Fewer is not for a GPT-2.
    pub n_kv_heads: usize,
    /// Width of a head; 0 is `d_model / n_heads`. Another is not for a GPT-2.
    pub head_width: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward block; 0 is four times `d_model` for a GPT-2, and for the others two thirds of that,
    /// rounded up to a multiple of 256, or of 32 where `d_model` is below 1024.
    pub d_ff: usize,
    /// Most tokens that a prediction can look back on.
    pub context: usize,
    /// Positions that a query sees in a Mistral, its own and those before it; 0 is the whole context.
    pub window: usize,
    /// Share of elements dropped after the embedding, in attention and after each block's halves.
    pub dropout: f32,
    /// Whether linear and normalization layers have a bias.
    pub bias: bool,
    /// The feed-forward block's nonlinearity.
    pub activation: ActivationKind,
    /// Whether the token table is also the output head, as in GPT-2.
    pub tie_embeddings: bool,
    /// What normalization adds to a mean square or variance: 1e-5 in GPT-2 and in Llama 2 and 3, 1e-6 in Qwen2 and 3.
    pub norm_eps: f64,
    /// Base of the frequencies of rotary positions: 10,000 in Llama 2, 500,000 in Llama 3.
    pub rope_theta: f64,
    /// How frequencies are changed to reach beyond the context that it was first trained with.
    pub rope_scaling: RopeScaling,
    /// What frequencies are divided by: all of them (`linear`) or the low ones (`llama3`).
    pub rope_factor: f64,
    /// `llama3`: waves longer than `rope_original_context` divided by this are low. Llama 3.1's.
    pub rope_low_freq_factor: f64,
    /// `llama3`: waves shorter than `rope_original_context` divided by this are high. Llama 3.1's.
    pub rope_high_freq_factor: f64,
    /// `llama3`: the context that the model was first trained with. Llama 3.1's.
    pub rope_original_context: usize,
    /// A directory in Hugging Face's layout whose weights training starts from. The other keys but `dropout` and
    /// a smaller `context` are then its own; see [`ModelConfig::adopt`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

/// A scaling of rotary positions by its name in a configuration; [`ModelConfig::scaling`] has its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies are divided.
    Linear,
    /// Low frequencies are divided, as in Llama 3.1.
    Llama3,
}

/// A nonlinearity by its name in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationKind {
    /// GELU, exactly; nanoGPT's.
    Gelu,
    /// GELU by its tanh approximation; GPT-2's.
    GeluTanh,
    /// ReLU.
    Relu,
    /// The gated SiLU; that of every family but GPT-2.
    Swiglu,
}

impl Default for ModelConfig {
    /// The embedded default: a GPT-2 that a laptop's processor trains in minutes.
    fn default() -> Self {
        Self {
            family: Family::Gpt2,
            vocab_size: 0,
            n_layers: 4,
            n_heads: 4,
            n_kv_heads: 0,
            head_width: 0,
            d_model: 128,
            d_ff: 0,
            context: 128,
            window: 0,
            dropout: 0.0,
            bias: false,
            activation: ActivationKind::Gelu,
            tie_embeddings: true,
            norm_eps: NORM_EPS,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            rope_factor: 8.0,
            rope_low_freq_factor: 1.0,
            rope_high_freq_factor: 4.0,
            rope_original_context: 8192,
            init_from: None,
        }
    }
}

impl ModelConfig {
    /// What is wrong with it whatever the family, each a sentence that starts with the key.
    pub(crate) fn common_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let counts = [
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("d_model", self.d_model),
            ("context", self.context),
        ];
        for (key, count) in counts {
            if count == 0 {
                faults.push(format!("model.{key} = 0: expected at least 1"));
            }
        }
        let optional = [
            ("n_kv_heads", self.n_kv_heads),
            ("head_width", self.head_width),
            ("d_ff", self.d_ff),
            ("vocab_size", self.vocab_size),
        ];
        let too_large = counts.into_iter().chain(optional).filter(|(_, count)| *count > MAX_SIZE);
        faults.extend(
            too_large.map(|(key, count)| format!("model.{key} = {count}: expected at most {MAX_SIZE}")),
        );
        let divides = self.n_heads == 0 || self.d_model.is_multiple_of(self.n_heads);
        if self.head_width == 0 && self.d_model <= MAX_SIZE && !divides {
            faults.push(format!(
                "model.n_heads = {}: does not divide model.d_model = {}; try {}",
                self.n_heads,
                self.d_model,
                nearest_divisor(self.d_model, self.n_heads)
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            faults.push(format!("model.dropout = {}: expected at least 0 and below 1", self.dropout));
        }
        faults
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        if self.n_kv_heads == 0 { self.n_heads } else { self.n_kv_heads }
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        if self.head_width == 0 { self.d_model / self.n_heads } else { self.head_width }
    }

    /// Which keys a query sees.
    pub(crate) fn attention_kind(&self) -> Kind {
        match self.window {
            0 => Kind::Causal,
            // All of the context and more.
            window if window >= self.context => Kind::Causal,
            window => Kind::Window(window),
        }
    }

    /// The scaling of rotary positions with its numbers.
    pub fn scaling(&self) -> Scaling {
        match self.rope_scaling {
            RopeScaling::None => Scaling::None,
            RopeScaling::Linear => Scaling::Linear { factor: self.rope_factor },
            RopeScaling::Llama3 => Scaling::Llama3 {
                factor: self.rope_factor,
                low_freq_factor: self.rope_low_freq_factor,
                high_freq_factor: self.rope_high_freq_factor,
                original_context: self.rope_original_context as f64,
            },
        }
    }

    /// Rows of the token table for a tokenizer of `tokenizer_size` entries.
    ///
    /// # Errors
    /// If the configured table is too small for the tokenizer, as a sentence that starts with the key.
    pub fn vocab_size_for(&self, tokenizer_size: usize) -> Result<usize, String> {
        match self.vocab_size {
            0 => Ok(tokenizer_size),
            n if n >= tokenizer_size => Ok(n),
            n => Err(format!(
                "model.vocab_size = {n}: the tokenizer has {tokenizer_size} entries; \
                 set it to 0 (the tokenizer's) or to at least that"
            )),
        }
    }
}

impl From<ActivationKind> for Activation {
    /// A GPT-2's nonlinearity. SwiGLU is none: it has two arguments.
    fn from(kind: ActivationKind) -> Self {
        match kind {
            ActivationKind::Gelu => Activation::Gelu,
            ActivationKind::GeluTanh => Activation::GeluTanh,
            ActivationKind::Relu => Activation::Relu,
            ActivationKind::Swiglu => unreachable!("a configuration of a GPT-2 with SwiGLU is refused"),
        }
    }
}

/// The divisor of `n` that is nearest to `near`.
pub(crate) fn nearest_divisor(n: usize, near: usize) -> usize {
    (1..=n).filter(|&d| n.is_multiple_of(d)).min_by_key(|&d| d.abs_diff(near)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_reported_together() {
        let config =
            ModelConfig { n_layers: 0, n_heads: 7, d_model: 128, dropout: 1.0, ..ModelConfig::default() };
        let faults = config.faults().join("\n");
        assert!(faults.contains("model.n_layers = 0"), "{faults}");
        assert!(faults.contains("model.n_heads = 7: does not divide model.d_model = 128; try 8"), "{faults}");
        assert!(faults.contains("model.dropout = 1"), "{faults}");
        assert_eq!(ModelConfig::default().faults(), Vec::<String>::new());
    }

    #[test]
    fn a_vocabulary_is_padded_but_never_cut() {
        let config = |vocab_size| ModelConfig { vocab_size, ..ModelConfig::default() };
        assert_eq!(config(0).vocab_size_for(65), Ok(65));
        assert_eq!(config(100).vocab_size_for(65), Ok(100));
        assert!(config(64).vocab_size_for(65).unwrap_err().starts_with("model.vocab_size = 64"));
    }
}
