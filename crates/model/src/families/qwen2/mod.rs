//! The Qwen2 family, Qwen2.5 included: a Llama in which the projections to query, key and value have biases.
//!
//! # References
//! Yang et al., *Qwen2 Technical Report*, 2024, section 2.2.1.

use super::llama::{self, Design, QueryKeyNorm, Reading};
use super::{Family, FamilySpec, HuggingFace};
use crate::config::ModelConfig;
use crate::engine::network::NormPlace;
use crate::hugging_face::ConfigJson;

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Qwen2,
    name: "qwen2",
    title: "Qwen2",
    design: Some(&Design {
        architecture: "Qwen2ForCausalLM",
        has_qkv_bias: true,
        query_key_norm: QueryKeyNorm::None,
        norm_place: NormPlace::Before,
        has_window: false,
        has_options: false,
    }),
    hugging_face: HuggingFace { model_type: "qwen2", read_config, ..llama::SPEC.hugging_face },
    gguf: None,
    ..llama::SPEC
};

/// Reads the configuration. Defaults are those of `transformers` 5.23 (`Qwen2Config`).
fn read_config(json: &mut ConfigJson) -> ModelConfig {
    llama::refuse_windows(json);
    let reading = Reading { family: Family::Qwen2, norm_eps: 1e-6, head_width: None, needs_kv_heads: true };
    llama::read_config(json, reading)
}
