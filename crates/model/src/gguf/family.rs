//! What a family brings to be written to a GGUF file and read from one.

use candle_core::quantized::gguf_file::Value;

use super::keys::Keys;
use super::tensor::{Constant, Entry};
use crate::config::{Family, ModelConfig};
use crate::families::{ALL, FamilySpec};

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

/// The mapping of a family.
///
/// # Errors
/// That there is none, as a sentence.
pub(super) fn of_family(family: Family) -> Result<Mapping, String> {
    family.spec().gguf.ok_or_else(|| {
        let known: Vec<&str> = mapped().map(|(spec, _)| spec.name).collect();
        format!("model.family = {:?}: families that can be exported are {}", family.name(), known.join(", "))
    })
}

/// The family of an architecture, and its mapping.
///
/// # Errors
/// That there is none, as a sentence.
pub(super) fn of_architecture(name: Option<&str>) -> Result<(&'static FamilySpec, Mapping), String> {
    mapped().find(|(_, mapping)| Some(mapping.architecture) == name).ok_or_else(|| {
        let got = name.map_or("is missing".to_owned(), |name| format!("= {name:?} is not supported"));
        let known: Vec<&str> = mapped().map(|(_, mapping)| mapping.architecture).collect();
        format!("{} {got}; supported: {}", super::ARCHITECTURE, known.join(", "))
    })
}

/// The families that can be exported.
fn mapped() -> impl Iterator<Item = (&'static FamilySpec, Mapping)> {
    ALL.iter().filter_map(|&spec| Some((spec, spec.gguf?)))
}
