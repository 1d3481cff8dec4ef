//! The families that can be written to a GGUF file and read from one.

use super::mapping::Mapping;
use crate::config::Family;
use crate::families::{ALL, FamilySpec};

/// The mapping of a family.
///
/// # Errors
/// That there is none, as a sentence.
pub(super) fn of_family(family: Family) -> Result<Mapping, String> {
    let spec = family.spec();
    spec.gguf.ok_or_else(|| {
        let known: Vec<&str> = mapped().map(|(spec, _)| spec.name).collect();
        let why = match spec.design.is_some_and(|design| design.has_options) {
            true => "no architecture of llama.cpp has the options of its blocks; ",
            false => "",
        };
        format!("model.family = {:?}: {why}families that can be exported are {}", spec.name, known.join(", "))
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
