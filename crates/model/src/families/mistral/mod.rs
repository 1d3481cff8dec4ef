//! The Mistral family: a Llama whose attention may look back on a window.
//!
//! # References
//! Jiang et al., *Mistral 7B*, 2023, section 2.

use super::llama::{self, Design, QueryKeyNorm, Reading};
use super::{Family, FamilySpec, HuggingFace};
use crate::config::ModelConfig;
use crate::engine::network::NormPlace;
use crate::hugging_face::ConfigJson;

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Mistral,
    name: "mistral",
    title: "Mistral",
    design: Some(&Design {
        architecture: "MistralForCausalLM",
        has_qkv_bias: false,
        query_key_norm: QueryKeyNorm::None,
        norm_place: NormPlace::Before,
        has_window: true,
        has_options: false,
    }),
    hugging_face: HuggingFace { model_type: "mistral", read_config, ..llama::SPEC.hugging_face },
    gguf: None,
    ..llama::SPEC
};

/// Reads the configuration. Defaults are those of `transformers` 5.23 (`MistralConfig`).
fn read_config(json: &mut ConfigJson) -> ModelConfig {
    let reading = Reading { family: Family::Mistral, norm_eps: 1e-6, head_width: None, needs_kv_heads: true };
    let window = match json.names("sliding_window") {
        true => json.optional_count("sliding_window").unwrap_or(0),
        false => 4096,
    };
    ModelConfig { window, ..llama::read_config(json, reading) }
}
