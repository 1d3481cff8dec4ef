//! The `model` section of a configuration.

use std::path::PathBuf;

use wattle_ops::Activation;
use wattle_ops::attention::Kind;
use wattle_ops::rope::Scaling;
use wattle_settings::rules::{unless, when};
use wattle_settings::{Condition, choices, section};

pub use crate::families::Family;

/// A norm's epsilon in GPT-2 (its published code).
pub(crate) const NORM_EPS: f64 = 1e-5;

/// The largest count or width: products of two of them are counted in 64 bits with room to spare, so that sizes which
/// no machine has memory for are refused by their size.
pub(crate) const MAX_SIZE: usize = 1 << 28;

section! {
    /// Which transformer to build.
    ///
    /// Defaults are those of the embedded run: a GPT-2 that a laptop's processor trains in minutes.
    #[section(model, check = ModelConfig::family_faults)]
    pub struct ModelConfig {
        /// The family.
        pub family: Family = Family::Gpt2;
        /// Rows of the token table; 0: the tokenizer's.
        ///
        /// A table larger than the tokenizer's vocabulary is padded.
        pub vocab_size: usize = 0, expects(at_most(MAX_SIZE as f64));
        /// Transformer blocks.
        pub n_layers: usize = 4, expects(at_least(1.0)), expects(at_most(MAX_SIZE as f64));
        /// Attention heads of a block.
        pub n_heads: usize = 4,
            expects(at_least(1.0)),
            expects(at_most(MAX_SIZE as f64)),
            check(Self::heads_do_not_divide);
        /// Heads of keys and values; 0: `n_heads`.
        ///
        /// Each serves `n_heads / n_kv_heads` heads of queries. A GPT-2 has as many as `n_heads`.
        pub n_kv_heads: usize = 0, expects(at_most(MAX_SIZE as f64));
        /// Width of a head; 0: `d_model / n_heads`.
        pub head_width: usize = 0,
            expects(at_most(MAX_SIZE as f64)),
            idle(when("model.family", &["gpt2"]).because(FIXED_WIDTH));
        /// Width of the residual stream.
        pub d_model: usize = 128, expects(at_least(1.0)), expects(at_most(MAX_SIZE as f64));
        /// Feed-forward width; 0: the family's.
        ///
        /// The family's is four times `d_model` without a gate, as in a GPT-2, and two thirds of that with one, rounded
        /// up to a multiple of 256, or of 32 where `d_model` is below 1024.
        pub d_ff: usize = 0, expects(at_most(MAX_SIZE as f64));
        /// Most tokens that a prediction can look back on.
        pub context: usize = 128,
            unit("tokens"),
            expects(at_least(1.0)),
            expects(at_most(MAX_SIZE as f64));
        /// Positions a query sees; 0: the whole context.
        ///
        /// Its own position and those before it.
        pub window: usize = 0,
            unit("tokens"),
            idle(when("model.family", &["gpt2"]).because(NO_WINDOW_IN_GPT2)),
            idle(unless("model.family", &["mistral", "wattle"]).because(NO_WINDOW));
        /// Every k-th layer sees all; 0: none does.
        ///
        /// The others have the window: with 6, five of six layers.
        pub window_pattern: usize = 0,
            unit("layers"),
            expects(at_most(MAX_SIZE as f64)),
            idle(unless("model.family", &["wattle"]).because(NO_OPTIONS)),
            idle(when_zero("model.window"));
        /// Whether queries and keys are normalized.
        ///
        /// Each head to root mean square 1 times a learnt weight, before positions turn it. A Qwen3 and an OLMo 2 have their own
        /// norms.
        pub qk_norm: bool = false, idle(unless("model.family", &["wattle"]).because(NO_OPTIONS));
        /// Share of activations dropped in training.
        ///
        /// Applies after the embedding, in attention and after each half of a block. Only a GPT-2 has dropout.
        pub dropout: f32 = 0.0, expects(at_least(0.0).below(1.0));
        /// Whether linear layers and norms have a bias.
        ///
        /// Only a GPT-2 has the choice.
        pub bias: bool = false;
        /// The feed-forward block's nonlinearity.
        ///
        /// Every family but GPT-2 and wattle has `"swiglu"` and no other. It is a wattle's default too.
        pub activation: ActivationKind = ActivationKind::Gelu;
        /// Whether the token table is the output head too.
        pub tie_embeddings: bool = true, source("GPT-2");
        /// Bound of logits; 0: none.
        ///
        /// A logit becomes `cap · tanh(logit / cap)`, in training and in predictions. From 1 to 1,000,000; Gemma 2's is 30.
        pub logit_softcap: f64 = 0.0,
            check(Self::softcap_is_out_of_range),
            idle(unless("model.family", &["wattle"]).because(NO_OPTIONS));
        /// Epsilon of the norms.
        ///
        /// What a norm adds to a mean square or variance: 1e-5 in GPT-2 and in Llama 2 and 3, 1e-6 in Qwen2 and
        /// Qwen3. A GPT-2 has no other.
        pub norm_eps: f64 = NORM_EPS,
            expects(above(0.0).below(1.0).words("above 0 and below 1")),
            checked_if(|model| model.family.has_rotary_positions()),
            source("GPT-2's published code");
        /// Base of the frequencies of rotary positions.
        ///
        /// 10,000 in Llama 2, 500,000 in Llama 3.
        pub rope_theta: f64 = 10_000.0,
            expects(above(1.0).words("above 1")),
            checked_if(|model| model.family.has_rotary_positions()),
            idle(NOT_ROTARY),
            source("Llama 2");
        /// Scaling of frequencies for a longer context.
        ///
        /// Longer than the one that the model was first trained with.
        pub rope_scaling: RopeScaling = RopeScaling::None, idle(NOT_ROTARY);
        /// What frequencies are divided by.
        ///
        /// All of them with `linear`, the low ones with `llama3`.
        pub rope_factor: f64 = 8.0,
            expects(at_least(1.0)),
            checked_if(|model| model.is_scaled(&[RopeScaling::Linear, RopeScaling::Llama3])),
            idle(NOT_ROTARY),
            idle(NOT_SCALED),
            source("Llama 3.1");
        /// Bound of the low frequencies.
        ///
        /// Waves longer than `rope_original_context` divided by this are low. Below `rope_high_freq_factor`.
        pub rope_low_freq_factor: f64 = 1.0,
            check(Self::low_is_not_below_high),
            idle(NOT_ROTARY),
            idle(OTHER_SCALING),
            source("Llama 3.1");
        /// Bound of the high frequencies.
        ///
        /// Waves shorter than `rope_original_context` divided by this are high.
        pub rope_high_freq_factor: f64 = 4.0,
            idle(NOT_ROTARY),
            idle(OTHER_SCALING),
            source("Llama 3.1");
        /// Context that the model was first trained with.
        pub rope_original_context: usize = 8192,
            unit("tokens"),
            expects(at_least(1.0)),
            checked_if(|model| model.is_scaled(&[RopeScaling::Llama3])),
            idle(NOT_ROTARY),
            idle(OTHER_SCALING),
            source("Llama 3.1");
        /// Directory of weights to start training from.
        ///
        /// It is in Hugging Face's layout. Shape and tokenizer are then its own; only `dropout` and a smaller
        /// `context` can be set beside it.
        pub init_from: Option<PathBuf> = None, unset("initial values are random");
    }
}

/// Why a width of heads has no effect in a GPT-2.
const FIXED_WIDTH: &str =
    "a GPT-2's heads have a width of d_model / n_heads; leave it out or set model.family = \"llama\"";
/// Why a window has no effect in a GPT-2.
const NO_WINDOW_IN_GPT2: &str =
    "a GPT-2's attention sees the whole context; leave it out or set model.family = \"mistral\"";
/// Why a window has no effect in most of the other families.
const NO_WINDOW: &str =
    "attention sees the whole context in this family; leave it out or set model.family = \"mistral\"";
/// Why an option of a block has no effect in the families that are as others define them.
const NO_OPTIONS: &str = "not an option of this family; leave it out or set model.family = \"wattle\"";
/// In which families keys of rotary positions have no effect, and why.
const NOT_ROTARY: Condition = when("model.family", &["gpt2"])
    .because("a GPT-2 has no rotary positions; leave it out or set model.family = \"llama\"");
/// Where no scaling has a factor.
const NOT_SCALED: Condition = when("model.rope_scaling", &["none"])
    .because("nothing is scaled; leave it out or set model.rope_scaling to \"linear\" or \"llama3\"");
/// Where the numbers of Llama 3.1's scaling have no effect.
const OTHER_SCALING: Condition = unless("model.rope_scaling", &["llama3"])
    .because("is of another scaling; leave it out or set model.rope_scaling = \"llama3\"");

choices! {
    /// A scaling of rotary positions by its name in a configuration; [`ModelConfig::scaling`] has its numbers.
    pub enum RopeScaling {
        /// Not at all.
        None = "none",
        /// All frequencies are divided.
        Linear = "linear",
        /// Low frequencies are divided, as in Llama 3.1.
        Llama3 = "llama3",
    }
}

choices! {
    /// A nonlinearity by its name in a configuration.
    pub enum ActivationKind {
        /// GELU, exactly; nanoGPT's.
        Gelu = "gelu",
        /// GELU by its tanh approximation; GPT-2's.
        GeluTanh = "gelu_tanh",
        /// ReLU.
        Relu = "relu",
        /// ReLU, squared; Primer's.
        Relu2 = "relu2",
        /// The gated SiLU; that of Llama and its relatives.
        Swiglu = "swiglu",
    }
}

impl ModelConfig {
    fn heads_do_not_divide(&self) -> Option<String> {
        let &Self { n_heads, d_model, head_width, .. } = self;
        let divides = n_heads == 0 || d_model.is_multiple_of(n_heads);
        (head_width == 0 && d_model <= MAX_SIZE && !divides).then(|| {
            format!(
                "model.n_heads = {n_heads}: does not divide model.d_model = {d_model}; try {}",
                nearest_divisor(d_model, n_heads)
            )
        })
    }

    fn softcap_is_out_of_range(&self) -> Option<String> {
        let cap = self.logit_softcap;
        let is_fine = cap == 0.0 || (1.0..=1e6).contains(&cap);
        (!is_fine).then(|| format!("model.logit_softcap = {cap}: expected 0, or from 1 to 1000000"))
    }

    fn low_is_not_below_high(&self) -> Option<String> {
        let (low, high) = (self.rope_low_freq_factor, self.rope_high_freq_factor);
        let is_fine = low > 0.0 && high > low && high.is_finite();
        (self.is_scaled(&[RopeScaling::Llama3]) && !is_fine).then(|| {
            format!(
                "model.rope_low_freq_factor = {low}: expected above 0 and below model.rope_high_freq_factor = {high}"
            )
        })
    }

    /// Whether there are rotary positions with one of these scalings.
    fn is_scaled(&self, scalings: &[RopeScaling]) -> bool {
        self.family.has_rotary_positions() && scalings.contains(&self.rope_scaling)
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        if self.n_kv_heads == 0 { self.n_heads } else { self.n_kv_heads }
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        if self.head_width == 0 { self.d_model / self.n_heads } else { self.head_width }
    }

    /// Whether a layer sees the whole context among others with a window.
    pub(crate) fn is_global(&self, layer_idx: usize) -> bool {
        self.window_pattern > 0 && (layer_idx + 1).is_multiple_of(self.window_pattern)
    }

    /// Which keys a query of a layer sees.
    pub(crate) fn attention_kind(&self, layer_idx: usize) -> Kind {
        match self.window {
            0 => Kind::Causal,
            _ if self.is_global(layer_idx) => Kind::Causal,
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
    /// A nonlinearity of one argument. SwiGLU has two.
    fn from(kind: ActivationKind) -> Self {
        match kind {
            ActivationKind::Gelu => Activation::Gelu,
            ActivationKind::GeluTanh => Activation::GeluTanh,
            ActivationKind::Relu => Activation::Relu,
            ActivationKind::Relu2 => Activation::Relu2,
            ActivationKind::Swiglu => {
                unreachable!("a gated feed-forward half asks for no nonlinearity alone")
            }
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
