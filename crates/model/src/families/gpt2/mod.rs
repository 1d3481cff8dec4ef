//! The GPT-2 family: learned positions, LayerNorm before each half of a block, a tied output head.
//!
//! # References
//! Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019, section 2.3.

mod autograd;
mod config;
mod gguf;
mod hugging_face;
mod network;

use super::{Family, FamilySpec, HEAD, HuggingFace};

pub use autograd::Gpt2;

/// The table of positions.
const POSITION_TABLE: &str = "transformer.wpe.weight";
/// The table of tokens.
const TOKEN_TABLE: &str = "transformer.wte.weight";

/// The family.
pub(crate) const SPEC: FamilySpec = FamilySpec {
    family: Family::Gpt2,
    name: "gpt2",
    title: "GPT-2",
    design: None,
    faults: config::faults,
    settle: |_, _| {},
    default_d_ff: |config| 4 * config.d_model,
    build: |config, vocab_size, builder| Ok(Box::new(Gpt2::build(config, vocab_size, builder)?)),
    parameter_shapes: network::parameter_shapes,
    network: network::network,
    token_table: TOKEN_TABLE,
    vocabulary: &[TOKEN_TABLE, HEAD],
    position_table: Some(POSITION_TABLE),
    continued: |_| &[],
    hugging_face: HuggingFace {
        model_type: "gpt2",
        other_types: &[],
        read_config: hugging_face::read_config,
        config_json: hugging_face::config_json,
        parameter_name: hugging_face::parameter_name,
        n_layers: "n_layer",
        is_zero_bias: network::is_absent_bias,
    },
    gguf: Some(gguf::MAPPING),
};
