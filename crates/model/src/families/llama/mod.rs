//! The Llama family: rotary positions, RMSNorm before each half of a block, SwiGLU, grouped-query heads.
//!
//! Its relatives are the same model with another `Design`; their folders say in what they differ.
//!
//! # References
//! Touvron et al., *LLaMA*, 2023, section 2.2; grouped queries: Ainslie et al., *GQA*, 2023, section 2.2.

mod autograd;
mod config;
mod design;
mod gguf;
mod hugging_face;
mod network;

use super::{Family, FamilySpec, HEAD, HuggingFace};
use crate::engine::network::NormPlace;

pub use autograd::Llama;
pub(crate) use config::default_d_ff;
pub(crate) use design::{Design, QueryKeyNorm};
pub(crate) use hugging_face::{Reading, config_json, read_config, refuse_windows};
pub(crate) use network::CONTINUED;

/// The table of tokens.
const TOKEN_TABLE: &str = "model.embed_tokens.weight";

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Llama,
    name: "llama",
    title: "Llama",
    design: Some(&Design {
        architecture: "LlamaForCausalLM",
        has_qkv_bias: false,
        query_key_norm: QueryKeyNorm::None,
        norm_place: NormPlace::Before,
        has_window: false,
        has_options: false,
    }),
    faults: config::faults,
    settle: config::settle,
    default_d_ff: config::default_d_ff,
    build: |config, vocab_size, builder| Ok(Box::new(Llama::build(config, vocab_size, builder)?)),
    parameter_shapes: network::parameter_shapes,
    network: network::network,
    token_table: TOKEN_TABLE,
    vocabulary: &[TOKEN_TABLE, HEAD],
    position_table: None,
    continued: |_| &network::CONTINUED,
    hugging_face: HuggingFace {
        model_type: "llama",
        other_types: &[],
        read_config: hugging_face::read_llama,
        config_json: hugging_face::config_json,
        parameter_name: hugging_face::parameter_name,
        n_layers: "num_hidden_layers",
        is_zero_bias: |_, _| false,
    },
    gguf: Some(gguf::MAPPING),
};
