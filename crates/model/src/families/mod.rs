//! The model families.
//!
//! Each is a folder: its configuration, the model itself in differentiable tensor operations (`autograd`), the
//! description that engines execute (`network`), and its files (`hugging_face`, `gguf`). [`Family`] and `ALL` are
//! the only places that list them.
//!
//! - [`gpt2`]: the GPT-2 family
//! - [`llama`]: the Llama family
//! - `spec`: what a family brings
//! - `engines`: engines for a model of any family

mod engines;
pub mod gpt2;
pub mod llama;
mod spec;

use candle_core::{Device, Result};
use serde::{Deserialize, Serialize};

pub(crate) use self::engines::{board_engine, cpu_engine, refuse_what_cannot_fit};
pub(crate) use self::spec::{BoxedModel, FamilySpec, HEAD, HuggingFace, IdleKey, NamedShapes};
use crate::config::ModelConfig;
use crate::engine::layout::{Layout, Placement};
use crate::engine::network::Network;
use crate::parameter::ParameterBuilder;

/// A model family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Learned positions, LayerNorm before each half of a block, GELU.
    Gpt2,
    /// Rotary positions, RMSNorm before each half of a block, SwiGLU, grouped-query heads.
    Llama,
}

/// All families.
pub(crate) static ALL: [&FamilySpec; 2] = [&gpt2::SPEC, &llama::SPEC];

impl Family {
    /// What it brings.
    pub(crate) fn spec(self) -> &'static FamilySpec {
        ALL.iter().find(|spec| spec.family == self).expect("every family is in the list")
    }

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// Its name in a text.
    pub fn title(self) -> &'static str {
        self.spec().title
    }

    /// Whether positions are rotations of queries and keys, which turn pairs of a head's numbers.
    pub fn has_rotary_positions(self) -> bool {
        self.spec().position_table.is_none()
    }
}

impl ModelConfig {
    /// The model, with initial values that are a function of `seed`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn build(&self, vocab_size: usize, seed: u64, device: &Device) -> Result<BoxedModel> {
        (self.family.spec().build)(self, vocab_size, ParameterBuilder::new(seed, device))
    }

    /// The model with parameters that are all zero, for weights that are about to be read, or to know its sizes.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn build_blank(&self, vocab_size: usize, device: &Device) -> Result<BoxedModel> {
        self.family.spec().blank(self, vocab_size, device)
    }

    /// Every parameter of the model with its shape, in the model's order.
    pub(crate) fn parameter_shapes(&self, vocab_size: usize) -> NamedShapes {
        (self.family.spec().parameter_shapes)(&Self { vocab_size, ..self.clone() })
    }

    /// The model's network, with the parameters where `layout` has them.
    ///
    /// # Panics
    /// If the layout is of another model.
    pub(crate) fn network(&self, vocab_size: usize, layout: &Layout) -> Network {
        (self.family.spec().network)(self, vocab_size, layout)
    }
}

impl FamilySpec {
    /// How a board places the parameters.
    pub(crate) fn placement(&self) -> Placement {
        Placement::board(self.vocabulary, self.continued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_listed_once_under_its_own_name() {
        for spec in ALL {
            assert_eq!(spec.family.spec().name, spec.name);
            assert_eq!(serde_json::to_value(spec.family).unwrap(), spec.name);
            assert!(spec.vocabulary == [spec.token_table, HEAD], "{}", spec.name);
            assert_eq!(ALL.iter().filter(|other| other.family == spec.family).count(), 1);
            let is_same_type =
                |other: &&&FamilySpec| other.hugging_face.model_type == spec.hugging_face.model_type;
            assert_eq!(ALL.iter().filter(is_same_type).count(), 1, "{}", spec.name);
        }
    }

    #[test]
    fn the_shapes_are_those_that_a_model_makes() {
        for spec in ALL {
            for (tie_embeddings, bias) in [(true, true), (false, false)] {
                let mut config = ModelConfig {
                    family: spec.family,
                    vocab_size: 11,
                    n_layers: 2,
                    d_model: 24,
                    d_ff: 20,
                    context: 7,
                    bias,
                    tie_embeddings,
                    ..ModelConfig::default()
                };
                config.settle(if bias { &[] } else { &["bias"] });
                let model = config.build(11, 0, &Device::Cpu).unwrap();
                let made: Vec<_> =
                    model.parameters().iter().map(|p| (p.name.clone(), p.var.dims().to_vec())).collect();
                assert_eq!(config.parameter_shapes(11), made);
            }
        }
    }
}
