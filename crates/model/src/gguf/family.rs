//! What a family brings to be written to a GGUF file and read from one.

use candle_core::quantized::gguf_file::Value;
use candle_core::{Device, Result};

use super::keys::Keys;
use super::tensor::{Constant, Entry};
use super::{gpt2, llama};
use crate::config::{Family, ModelConfig};
use crate::language_model::LanguageModel;

/// The families that can be exported.
const MAPPINGS: [Mapping; 2] = [gpt2::MAPPING, llama::MAPPING];

/// A family's names and keys there.
#[derive(Clone, Copy)]
pub(super) struct Mapping {
    /// The family.
    pub(super) family: Family,
    /// Its name there.
    pub(super) architecture: &'static str,
    /// The head, if it is a tensor of its own.
    pub(super) output: &'static str,
    /// What llama.cpp cannot compute of a model, a sentence each.
    pub(super) faults: fn(&ModelConfig) -> Vec<String>,
    /// What llama.cpp computes a little differently, a sentence each.
    pub(super) notes: fn(&ModelConfig) -> Vec<String>,
    /// The keys of a configuration.
    pub(super) keys: fn(&ModelConfig) -> Vec<(String, Value)>,
    /// Every tensor of a model.
    pub(super) entries: fn(&ModelConfig) -> Vec<Entry>,
    /// Every tensor that is no parameter.
    pub(super) constants: fn(&ModelConfig) -> Vec<Constant>,
    /// Reads a configuration, given the size of the vocabulary and whether the head is the token table.
    pub(super) read_config: fn(&mut Keys<'_>, usize, bool) -> ModelConfig,
    /// A model of zeros.
    pub(super) blank: fn(&ModelConfig, &Device) -> Result<Box<dyn LanguageModel>>,
}

/// The mapping of a family.
///
/// # Errors
/// That there is none, as a sentence.
pub(super) fn of_family(family: Family) -> std::result::Result<Mapping, String> {
    MAPPINGS.into_iter().find(|mapping| mapping.family == family).ok_or_else(|| {
        let known = MAPPINGS.map(|mapping| mapping.family.name()).join(", ");
        format!("model.family = {:?}: families that can be exported are {known}", family.name())
    })
}

/// The mapping of an architecture.
///
/// # Errors
/// That there is none, as a sentence.
pub(super) fn of_architecture(name: Option<&str>) -> std::result::Result<Mapping, String> {
    MAPPINGS.into_iter().find(|mapping| Some(mapping.architecture) == name).ok_or_else(|| {
        let got = name.map_or("is missing".to_owned(), |name| format!("= {name:?} is not supported"));
        let known = MAPPINGS.map(|mapping| mapping.architecture).join(", ");
        format!("{} {got}; supported: {known}", super::ARCHITECTURE)
    })
}
