//! The Qwen3 family: a Llama in which each head of queries and keys is normalized before positions turn it.
//!
//! # References
//! Yang et al., *Qwen3 Technical Report*, 2025, section 2; the norm: Dehghani et al., *Scaling Vision Transformers to
//! 22 Billion Parameters*, 2023, section 2.

use super::llama::{self, Design, QueryKeyNorm, Reading};
use super::{Family, FamilySpec, HuggingFace};
use crate::config::ModelConfig;
use crate::engine::network::NormPlace;
use crate::hugging_face::ConfigJson;

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Qwen3,
    name: "qwen3",
    title: "Qwen3",
    design: Some(&Design {
        architecture: "Qwen3ForCausalLM",
        has_qkv_bias: false,
        query_key_norm: QueryKeyNorm::Head,
        norm_place: NormPlace::Before,
        has_window: false,
        has_options: false,
    }),
    hugging_face: HuggingFace { model_type: "qwen3", read_config, ..llama::SPEC.hugging_face },
    gguf: None,
    ..llama::SPEC
};

/// Reads the configuration. Defaults are those of `transformers` 5.23 (`Qwen3Config`).
fn read_config(json: &mut ConfigJson) -> ModelConfig {
    llama::refuse_windows(json);
    let reading =
        Reading { family: Family::Qwen3, norm_eps: 1e-6, head_width: Some(128), needs_kv_heads: true };
    llama::read_config(json, reading)
}
