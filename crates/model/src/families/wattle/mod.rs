//! The wattle family: a Llama whose blocks are chosen key by key.
//!
//! - `model.qk_norm`: each head of queries and keys is normalized, as in Qwen3
//! - `model.activation`: SwiGLU, or a nonlinearity without a gate between two matrices, as ReLU² is
//! - `model.window` and `model.window_pattern`: attention to a window in some layers, to the whole context in others
//! - `model.logit_softcap`: logits are bounded
//!
//! # References
//! Norms of queries and keys: Dehghani et al., *Scaling Vision Transformers to 22 Billion Parameters*, 2023, section 2.
//! ReLU²: So et al., *Primer*, 2021, section 4.2. Windows by layer and the bound of logits: Gemma team, *Gemma 2*, 2024,
//! section 2.

mod config;
mod hugging_face;

use super::llama::{self, Design, QueryKeyNorm};
use super::{Family, FamilySpec, HuggingFace};
use crate::config::{ActivationKind, ModelConfig};
use crate::engine::network::NormPlace;

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Wattle,
    name: "wattle",
    title: "Wattle",
    design: Some(&Design {
        architecture: "WattleForCausalLM",
        has_qkv_bias: false,
        query_key_norm: QueryKeyNorm::None,
        norm_place: NormPlace::Before,
        has_window: true,
        has_options: true,
    }),
    faults: config::faults,
    default_d_ff: config::default_d_ff,
    continued,
    hugging_face: HuggingFace {
        model_type: "wattle",
        other_types: &[hugging_face::ARCEE],
        read_config: hugging_face::read_config,
        config_json: hugging_face::config_json,
        ..llama::SPEC.hugging_face
    },
    gguf: None,
    ..llama::SPEC
};

/// Without a gate, the projection up is a matrix of its own.
fn continued(config: &ModelConfig) -> &'static [&'static str] {
    let [of_attention @ .., _] = &llama::CONTINUED;
    match config.activation {
        ActivationKind::Swiglu => &llama::CONTINUED,
        _ => of_attention,
    }
}
