//! The families by name.

use serde::{Deserialize, Serialize};

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Learned positions, LayerNorm before each half of a block, GELU.
    Gpt2,
    /// Rotary positions, RMSNorm before each half of a block, SwiGLU, grouped-query heads.
    Llama,
    /// A Llama in which the projections to query, key and value have biases: Qwen2 and Qwen2.5.
    Qwen2,
    /// A Llama in which each head of queries and keys is normalized.
    Qwen3,
    /// A Llama whose attention may look back on a window.
    Mistral,
    /// A Llama in which all queries and all keys of a row are normalized, and RMSNorm comes after each half of a block.
    Olmo2,
}
