//! GPT-2 in a GGUF file: its keys, and what its tensors are called.
//!
//! The names are those that llama.cpp's `gpt2` architecture asks for. It has biases everywhere, which a model
//! without has as zeros, and GELU by its tanh approximation alone.

use candle_core::quantized::gguf_file::Value;

use super::network::shapes_with_biases;
use super::{POSITION_TABLE, TOKEN_TABLE};
use crate::config::{ActivationKind, Family, ModelConfig, NORM_EPS};
use crate::families::HEAD;
use crate::gguf::{Entry, Keys, Mapping, Storage};

/// The name of the family there.
const ARCHITECTURE: &str = "gpt2";

/// What the family brings.
pub(super) const MAPPING: Mapping = Mapping {
    architecture: ARCHITECTURE,
    output: OUTPUT,
    faults,
    notes,
    keys,
    entries,
    constants: |_| Vec::new(),
    read_config,
};

/// Ours: which GELU the model was trained with.
const ACTIVATION: &str = "wattle.activation";
/// Ours: whether the biases are parameters or zeros that were put in.
const BIAS: &str = "wattle.bias";

/// The head, if it is a tensor of its own.
const OUTPUT: &str = "output.weight";

/// What a part of a block is called here and there.
const PARTS: [(&str, &str); 6] = [
    ("ln_1", "attn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("ln_2", "ffn_norm"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];

/// What llama.cpp's `gpt2` cannot compute, a sentence each.
fn faults(config: &ModelConfig) -> Vec<String> {
    if matches!(config.activation, ActivationKind::Gelu | ActivationKind::GeluTanh) {
        return Vec::new();
    }
    let name = serde_json::to_string(&config.activation).expect("a name");
    vec![format!(
        "model.activation = {name}: llama.cpp's gpt2 has GELU alone, so this model would predict something else \
         there; train with model.activation = \"gelu_tanh\""
    )]
}

/// What llama.cpp will compute a little differently, a sentence each.
fn notes(config: &ModelConfig) -> Vec<String> {
    if config.activation != ActivationKind::Gelu {
        return Vec::new();
    }
    let note = "llama.cpp computes GELU by its tanh approximation; this model was trained with the exact one, from which \
                it differs by less than 0.0005";
    vec![note.to_owned()]
}

/// The keys of the configuration.
fn keys(config: &ModelConfig) -> Vec<(String, Value)> {
    let count = |n: usize| Value::U32(n as u32);
    let own = [
        ("context_length", count(config.context)),
        ("embedding_length", count(config.d_model)),
        ("block_count", count(config.n_layers)),
        ("feed_forward_length", count(config.feed_forward_width())),
        ("attention.head_count", count(config.n_heads)),
        ("attention.layer_norm_epsilon", Value::F32(NORM_EPS as f32)),
    ];
    let activation = if config.activation == ActivationKind::Gelu { "gelu" } else { "gelu_tanh" };
    own.into_iter()
        .map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value))
        .chain([
            (ACTIVATION.to_owned(), Value::String(activation.to_owned())),
            (BIAS.to_owned(), Value::Bool(config.bias)),
        ])
        .collect()
}

/// Reads the configuration; `is_tied` says whether the file has no head of its own.
fn read_config(keys: &mut Keys<'_>, vocab_size: usize, is_tied: bool) -> ModelConfig {
    let mut count = |key: &str| keys.count(&format!("{ARCHITECTURE}.{key}"));
    let config = ModelConfig {
        family: Family::Gpt2,
        vocab_size,
        n_layers: count("block_count"),
        n_heads: count("attention.head_count"),
        d_model: count("embedding_length"),
        d_ff: count("feed_forward_length"),
        context: count("context_length"),
        bias: keys.flag(BIAS, true),
        activation: read_activation(keys),
        tie_embeddings: is_tied,
        ..ModelConfig::default()
    };
    let eps_key = format!("{ARCHITECTURE}.attention.layer_norm_epsilon");
    let eps = keys.number(&eps_key);
    if eps != NORM_EPS as f32 {
        keys.fault(format!("{eps_key} = {eps} is not supported: expected {NORM_EPS}"));
    }
    if !config.d_model.is_multiple_of(config.n_heads) {
        keys.fault(format!("{} heads do not divide a width of {}", config.n_heads, config.d_model));
    }
    config
}

fn read_activation(keys: &mut Keys<'_>) -> ActivationKind {
    match keys.text(ACTIVATION) {
        Some("gelu") => ActivationKind::Gelu,
        // What llama.cpp computes, whoever wrote the file.
        Some("gelu_tanh") | None => ActivationKind::GeluTanh,
        Some(other) => {
            keys.fault(format!("{ACTIVATION} = {other:?}: expected \"gelu\" or \"gelu_tanh\""));
            ActivationKind::GeluTanh
        }
    }
}

/// Every tensor of a model.
fn entries(config: &ModelConfig) -> Vec<Entry> {
    shapes_with_biases(config)
        .into_iter()
        .map(|(ours, shape)| {
            let theirs = stored_name(&ours);
            let storage = match (ours.as_str(), shape.len()) {
                (POSITION_TABLE, _) | (_, 1) => Storage::Exact,
                (TOKEN_TABLE | HEAD, _) => Storage::Matrix,
                _ => Storage::Transposed,
            };
            Entry { ours, theirs, shape, storage }
        })
        .collect()
}

/// A parameter's name there.
fn stored_name(ours: &str) -> String {
    match ours {
        TOKEN_TABLE => return "token_embd.weight".to_owned(),
        POSITION_TABLE => return "position_embd.weight".to_owned(),
        HEAD => return OUTPUT.to_owned(),
        _ => {}
    }
    let name = ours.strip_prefix("transformer.").unwrap_or(ours).replacen("h.", "blk.", 1);
    let name = name.replacen("ln_f", "output_norm", 1);
    PARTS
        .iter()
        .fold(name, |name, (part, stored)| name.replacen(&format!(".{part}."), &format!(".{stored}."), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_llama_cpp_asks_for() {
        let config = ModelConfig {
            vocab_size: 9,
            n_layers: 2,
            d_model: 8,
            tie_embeddings: false,
            ..ModelConfig::default()
        };
        let entries = entries(&config);
        let names: Vec<&str> = entries.iter().map(|entry| entry.theirs.as_str()).collect();
        let block = |layer_idx: usize| {
            ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"]
                .map(|part| ["weight", "bias"].map(|end| format!("blk.{layer_idx}.{part}.{end}")))
                .concat()
        };
        let mut expected = vec!["token_embd.weight".to_owned(), "position_embd.weight".to_owned()];
        expected.extend([block(0), block(1)].concat());
        expected.extend(["output_norm.weight", "output_norm.bias", "output.weight"].map(str::to_owned));
        assert_eq!(names, expected);
        let qkv = entries.iter().find(|entry| entry.theirs == "blk.1.attn_qkv.weight").unwrap();
        assert_eq!((&qkv.shape[..], &qkv.stored_shape()[..]), (&[8, 24][..], &[24, 8][..]));
    }
}
