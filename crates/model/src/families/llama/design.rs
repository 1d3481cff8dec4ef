//! In what the relatives of Llama differ from it.

use crate::config::{ActivationKind, ModelConfig};
use crate::engine::network::{MlpKind, NormPlace};

/// In what a family differs from Llama.
#[derive(Clone, Copy)]
pub(crate) struct Design {
    /// The name of its class in `transformers`.
    pub(crate) architecture: &'static str,
    /// Whether the projections to query, key and value have biases.
    pub(crate) has_qkv_bias: bool,
    /// What queries and keys are normalized over before positions turn them.
    pub(crate) query_key_norm: QueryKeyNorm,
    /// Where the norm of each half of a block is.
    pub(crate) norm_place: NormPlace,
    /// Whether attention may look back on a window.
    pub(crate) has_window: bool,
    /// Whether a configuration may ask for norms of queries and keys, for an activation without a gate, for layers that
    /// see the whole context among those with a window, and for a bound of logits.
    pub(crate) has_options: bool,
}

/// What queries and keys are normalized over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueryKeyNorm {
    /// They are not.
    None,
    /// Each head by itself.
    Head,
    /// All heads of a row together.
    Row,
}

impl Design {
    /// That of a configuration.
    ///
    /// # Panics
    /// If its family is neither Llama nor a relative.
    pub(super) fn of(config: &ModelConfig) -> Self {
        let design = *config.family.spec().design.expect("the family is Llama or a relative");
        match design.has_options && config.qk_norm {
            true => Self { query_key_norm: QueryKeyNorm::Head, ..design },
            false => design,
        }
    }

    /// What stands between the products of a feed-forward half.
    pub(super) fn mlp(&self, config: &ModelConfig) -> MlpKind {
        match config.activation {
            kind if self.has_options && kind != ActivationKind::Swiglu => MlpKind::Plain(kind.into()),
            _ => MlpKind::Gated,
        }
    }

    /// What the norms of a block's two halves are called.
    pub(super) fn norm_names(&self) -> [&'static str; 2] {
        match self.norm_place {
            NormPlace::Before => ["input_layernorm", "post_attention_layernorm"],
            NormPlace::After => ["post_attention_layernorm", "post_feedforward_layernorm"],
        }
    }
}

impl QueryKeyNorm {
    /// Width of a norm of `n_heads` heads, `None` for no norm.
    pub(super) fn width(self, n_heads: usize, head_width: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Head => Some(head_width),
            Self::Row => Some(n_heads * head_width),
        }
    }
}
