//! What the families are: their parameters and their networks.

pub(crate) mod gpt2;
pub(crate) mod llama;

use crate::config::{Family, ModelConfig};
use crate::engine::layout::{Layout, Placement};
use crate::engine::network::Network;

/// Every parameter of a model of `config` with its shape, in the model's order.
pub(crate) fn parameter_shapes(config: &ModelConfig, vocab_size: usize) -> Vec<(String, Vec<usize>)> {
    let config = ModelConfig { vocab_size, ..config.clone() };
    match config.family {
        Family::Gpt2 => gpt2::network::parameter_shapes(&config),
        Family::Llama => crate::hugging_face::llama::parameter_shapes(&config),
    }
}

/// The network of a model of `config`, with the parameters where `layout` has them.
///
/// # Panics
/// If the layout is of another model.
pub(crate) fn network(config: &ModelConfig, vocab_size: usize, layout: &Layout) -> Network {
    match config.family {
        Family::Gpt2 => gpt2::network::network(config, vocab_size, layout),
        Family::Llama => llama::network::network(config, vocab_size, layout),
    }
}

/// How a board places the parameters of a family.
pub(crate) fn placement(family: Family) -> Placement {
    match family {
        Family::Gpt2 => Placement::board(&gpt2::network::VOCABULARY, &[]),
        Family::Llama => Placement::board(&llama::network::VOCABULARY, &llama::network::CONTINUED),
    }
}
