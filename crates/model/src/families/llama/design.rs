//! In what the relatives of Llama differ from it.

use crate::config::ModelConfig;
use crate::engine::network::NormPlace;

/// In what a family differs from Llama.
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
    /// That of a configuration's family.
    ///
    /// # Panics
    /// If it is neither Llama nor a relative.
    pub(super) fn of(config: &ModelConfig) -> &'static Self {
        config.family.spec().design.expect("the family is Llama or a relative")
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
