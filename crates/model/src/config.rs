//! The `model` section of a configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_ops::Activation;

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
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the feed-forward block; 0 is four times `d_model`, as in GPT-2.
    pub d_ff: usize,
    /// Most tokens that a prediction can look back on.
    pub context: usize,
    /// Share of elements dropped after the embedding, in attention and after each block's halves.
    pub dropout: f32,
    /// Whether linear and normalization layers have a bias.
    pub bias: bool,
    /// The feed-forward block's nonlinearity.
    pub activation: ActivationKind,
    /// Whether the token table is also the output head, as in GPT-2.
    pub tie_embeddings: bool,
    /// A directory in Hugging Face's layout whose weights training starts from. The other keys but `dropout` and
    /// a smaller `context` are then its own; see [`ModelConfig::adopt`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
}

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Learned positions, LayerNorm before each half of a block, GELU.
    Gpt2,
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
}

impl Default for ModelConfig {
    /// The embedded default: a GPT-2 that a laptop's processor trains in minutes.
    fn default() -> Self {
        Self {
            family: Family::Gpt2,
            vocab_size: 0,
            n_layers: 4,
            n_heads: 4,
            d_model: 128,
            d_ff: 0,
            context: 128,
            dropout: 0.0,
            bias: false,
            activation: ActivationKind::Gelu,
            tie_embeddings: true,
            init_from: None,
        }
    }
}

impl ModelConfig {
    /// Everything that is wrong with it, each a sentence that starts with the key.
    pub fn faults(&self) -> Vec<String> {
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
        if self.n_heads > 0 && !self.d_model.is_multiple_of(self.n_heads) {
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

    /// Width of the feed-forward block.
    pub fn feed_forward_width(&self) -> usize {
        if self.d_ff == 0 { 4 * self.d_model } else { self.d_ff }
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

impl Family {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
        }
    }
}

impl From<ActivationKind> for Activation {
    fn from(kind: ActivationKind) -> Self {
        match kind {
            ActivationKind::Gelu => Activation::Gelu,
            ActivationKind::GeluTanh => Activation::GeluTanh,
            ActivationKind::Relu => Activation::Relu,
        }
    }
}

fn nearest_divisor(n: usize, near: usize) -> usize {
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
