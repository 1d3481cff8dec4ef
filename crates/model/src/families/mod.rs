//! The model families.
//!
//! Each is a folder: its configuration, the model itself in differentiable tensor operations (`autograd`), the
//! description that engines execute (`network`), and its files (`hugging_face`, `gguf`). A relative of another family
//! says in what it differs. [`Family`] and `ALL` are the only places that list them.
//!
//! - [`gpt2`]: the GPT-2 family
//! - [`llama`]: the Llama family and its relatives `qwen2`, `qwen3`, `mistral`, `olmo2` and
//!   `wattle`
//! - `spec`: what a family brings
//! - `engines`: engines for a model of any family

mod engines;
mod family;
pub mod gpt2;
pub mod llama;
mod mistral;
mod olmo2;
mod qwen2;
mod qwen3;
mod spec;
mod wattle;

use candle_core::{Device, Result};

pub(crate) use self::engines::{
    adapted_board_engine, adapted_cpu_engine, board_decoder, board_engine, board_evaluator, cpu_engine,
    refuse_adapted_that_cannot_fit, refuse_what_cannot_fit,
};
pub use self::family::Family;
pub(crate) use self::spec::{BoxedModel, FamilySpec, HEAD, HuggingFace, NamedShapes};
use crate::config::ModelConfig;
use crate::engine::layout::{Layout, Placement};
use crate::engine::network::Network;
use crate::parameter::ParameterBuilder;

/// All families.
pub(crate) static ALL: [&FamilySpec; 7] =
    [&gpt2::SPEC, &llama::SPEC, &qwen2::SPEC, &qwen3::SPEC, &mistral::SPEC, &olmo2::SPEC, &wattle::SPEC];

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

    /// Its name in a text, as in "a Llama".
    pub(crate) fn with_article(self) -> String {
        let title = self.title();
        let article = if title.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
        format!("{article} {title}")
    }

    /// Whether positions are rotations of queries and keys, which turn pairs of a head's numbers.
    pub fn has_rotary_positions(self) -> bool {
        self.spec().position_table.is_none()
    }
}

impl ModelConfig {
    /// What a model of its family cannot be, each a sentence that starts with the key. Keys that have no effect are
    /// [`ModelConfig::idle_faults`]'s.
    pub(crate) fn family_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        (self.family.spec().faults)(self, &mut faults);
        faults
    }

    /// Gives keys whose default depends on the family that default, unless they are among `explicit_keys`, the keys
    /// of the `model` section that the user has set.
    pub fn settle(&mut self, explicit_keys: &[&str]) {
        (self.family.spec().settle)(self, explicit_keys);
    }

    /// Width of the feed-forward block.
    pub fn feed_forward_width(&self) -> usize {
        match self.d_ff {
            0 => (self.family.spec().default_d_ff)(self),
            width => width,
        }
    }

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
    /// How a board places the parameters of a model.
    pub(crate) fn placement(&self, config: &ModelConfig) -> Placement {
        Placement::board(self.vocabulary, (self.continued)(config))
    }

    /// What `config.json` may call the family.
    pub(crate) fn model_types(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.hugging_face.model_type).chain(self.hugging_face.other_types.iter().copied())
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
            for name in spec.model_types() {
                let is_called_so = |other: &&&FamilySpec| other.model_types().any(|other| other == name);
                assert_eq!(ALL.iter().filter(is_called_so).count(), 1, "{name}");
            }
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
