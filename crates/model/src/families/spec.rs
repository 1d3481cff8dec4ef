//! What a family brings to everything that is not a family's own.

use candle_core::{Device, Result};
use serde_json::Value;

use super::family::Family;
use super::llama::Design;
use crate::config::ModelConfig;
use crate::engine::layout::Layout;
use crate::engine::network::Network;
use crate::gguf::Mapping;
use crate::hugging_face::ConfigJson;
use crate::language_model::LanguageModel;
use crate::parameter::ParameterBuilder;

/// Names of tensors and their shapes.
pub(crate) type NamedShapes = Vec<(String, Vec<usize>)>;

/// A model that any thread can use.
pub(crate) type BoxedModel = Box<dyn LanguageModel + Send + Sync>;

/// The name of the output head, which no family calls otherwise.
pub(crate) const HEAD: &str = "lm_head.weight";

/// A family. Everything else in this crate finds what is a family's own here.
pub(crate) struct FamilySpec {
    pub(crate) family: Family,
    /// Its name in a configuration.
    pub(crate) name: &'static str,
    /// Its name in a text.
    pub(crate) title: &'static str,

    /// In what it differs from a Llama, if it is one or a relative.
    pub(crate) design: Option<&'static Design>,

    // Its configuration.
    /// What is wrong with one, beside what is wrong for every family: sentences that start with the key.
    pub(crate) faults: fn(&ModelConfig, &mut Vec<String>),
    /// Gives keys their default in the family, unless they are among those that the user has set.
    pub(crate) settle: fn(&mut ModelConfig, &[&str]),
    /// Width of the feed-forward block where none is given.
    pub(crate) default_d_ff: fn(&ModelConfig) -> usize,

    // Its parameters and its network.
    /// Builds a model.
    pub(crate) build: fn(&ModelConfig, usize, ParameterBuilder<'_>) -> Result<BoxedModel>,
    /// All parameters with their shapes, in the model's order. The configuration's `vocab_size` is not 0.
    pub(crate) parameter_shapes: fn(&ModelConfig) -> NamedShapes,
    /// The network, with the parameters where the layout has them.
    pub(crate) network: fn(&ModelConfig, usize, &Layout) -> Network,
    /// The table of tokens.
    pub(crate) token_table: &'static str,
    /// The tables of the vocabulary: that one and the output head.
    pub(crate) vocabulary: &'static [&'static str],
    /// The table of positions, if they are learnt.
    pub(crate) position_table: Option<&'static str>,
    /// Ends of the names of parameters that are one matrix or vector with the one before.
    pub(crate) continued: fn(&ModelConfig) -> &'static [&'static str],

    // Its files.
    pub(crate) hugging_face: HuggingFace,
    /// `None` if it cannot be exported.
    pub(crate) gguf: Option<Mapping>,
}

/// A family in Hugging Face's layout.
pub(crate) struct HuggingFace {
    /// Its name in `config.json`.
    pub(crate) model_type: &'static str,
    /// Names of other families there that are read as this one.
    pub(crate) other_types: &'static [&'static str],
    /// Reads a configuration, with the size of the vocabulary. What the family here cannot do is a fault, unless it
    /// changes no prediction.
    pub(crate) read_config: fn(&mut ConfigJson) -> ModelConfig,
    /// The content of `config.json`, given the size of the vocabulary.
    pub(crate) config_json: fn(&ModelConfig, usize) -> Value,
    /// A parameter's name, of that in a file; `None` for what is no parameter.
    pub(crate) parameter_name: fn(&str) -> Option<String>,
    /// The number of layers in `config.json`.
    pub(crate) n_layers: &'static str,
    /// Whether a parameter's name is that of a bias which files have as zeros and the model does not have.
    pub(crate) is_zero_bias: fn(&ModelConfig, &str) -> bool,
}

impl FamilySpec {
    /// A model whose parameters are all zero.
    pub(crate) fn blank(
        &self,
        config: &ModelConfig,
        vocab_size: usize,
        device: &Device,
    ) -> Result<BoxedModel> {
        (self.build)(config, vocab_size, ParameterBuilder::blank(device))
    }
}
