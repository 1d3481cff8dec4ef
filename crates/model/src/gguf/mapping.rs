//! What a family brings to be written to a GGUF file and read from one.

use candle_core::quantized::gguf_file::Value;

use super::keys::Keys;
use super::tensor::{Constant, Entry};
use crate::config::ModelConfig;

/// A family's names and keys there.
#[derive(Clone, Copy)]
pub(crate) struct Mapping {
    /// Its name there.
    pub(crate) architecture: &'static str,
    /// The head, if it is a tensor of its own.
    pub(crate) output: &'static str,
    /// What llama.cpp cannot compute of a model, a sentence each.
    pub(crate) faults: fn(&ModelConfig) -> Vec<String>,
    /// What llama.cpp computes a little differently, a sentence each.
    pub(crate) notes: fn(&ModelConfig) -> Vec<String>,
    /// The keys of a configuration.
    pub(crate) keys: fn(&ModelConfig) -> Vec<(String, Value)>,
    /// Every tensor of a model.
    pub(crate) entries: fn(&ModelConfig) -> Vec<Entry>,
    /// Every tensor that is no parameter.
    pub(crate) constants: fn(&ModelConfig) -> Vec<Constant>,
    /// Reads a configuration, given the size of the vocabulary and whether the head is the token table.
    pub(crate) read_config: fn(&mut Keys<'_>, usize, bool) -> ModelConfig,
}
