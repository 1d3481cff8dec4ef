//! The families by name.

wattle_settings::choices! {
    /// A model family.
    pub enum Family {
        /// Learned positions, LayerNorm before each half of a block, GELU.
        Gpt2 = "gpt2",
        /// Rotary positions, RMSNorm before each half of a block, SwiGLU, grouped-query heads.
        Llama = "llama",
        /// A Llama in which the projections to query, key and value have biases: Qwen2 and Qwen2.5.
        Qwen2 = "qwen2",
        /// A Llama in which each head of queries and keys is normalized.
        Qwen3 = "qwen3",
        /// A Llama whose attention may look back on a window.
        Mistral = "mistral",
        /// A Llama in which all queries and all keys of a row are normalized, and RMSNorm comes after each half of a block.
        Olmo2 = "olmo2",
        /// A Llama whose blocks are chosen key by key: `qk_norm`, `activation`, `window` by layer, `logit_softcap`.
        Wattle = "wattle",
    }
}
