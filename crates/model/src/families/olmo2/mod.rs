//! The OLMo 2 family: a Llama in which all queries and all keys of a row are normalized, and each half of a block is
//! normalized after it, before it is added to the residual stream.
//!
//! # References
//! OLMo team, *2 OLMo 2 Furious*, 2025, section 3.

use super::llama::{self, Design, QueryKeyNorm, Reading};
use super::{Family, FamilySpec, HuggingFace};
use crate::config::ModelConfig;
use crate::engine::network::NormPlace;
use crate::hugging_face::ConfigJson;

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Olmo2,
    name: "olmo2",
    title: "OLMo 2",
    design: Some(&Design {
        architecture: "Olmo2ForCausalLM",
        has_qkv_bias: false,
        query_key_norm: QueryKeyNorm::Row,
        norm_place: NormPlace::After,
        has_window: false,
        has_options: false,
    }),
    hugging_face: HuggingFace { model_type: "olmo2", read_config, ..llama::SPEC.hugging_face },
    gguf: None,
    ..llama::SPEC
};

/// Reads the configuration. Defaults are those of `transformers` 5.23 (`Olmo2Config`).
fn read_config(json: &mut ConfigJson) -> ModelConfig {
    llama::refuse_windows(json);
    let reading = Reading { family: Family::Olmo2, norm_eps: 1e-5, head_width: None, needs_kv_heads: false };
    llama::read_config(json, reading)
}
