//! Llama in a GGUF file: its keys, and what its tensors are called.
//!
//! The names are those that llama.cpp's `llama` architecture asks for. Rotary positions there turn neighbours, so
//! rows of queries and keys are stored in that order. A `llama3` scaling is a tensor there, by what each frequency
//! is divided; the numbers that it comes from stand in keys of ours.

use candle_core::quantized::gguf_file::Value;
use wattle_ops::rope::{Scaling, frequencies};
use wattle_settings::Section;

use super::TOKEN_TABLE;
use super::network::parameter_shapes;
use crate::config::{ActivationKind, Family, ModelConfig, RopeScaling};
use crate::families::HEAD;
use crate::gguf::{Constant, Entry, Keys, Mapping, Storage};

/// The name of the family there.
const ARCHITECTURE: &str = "llama";

/// What the family brings. llama.cpp computes all of a Llama, and as we do.
pub(super) const MAPPING: Mapping = Mapping {
    architecture: ARCHITECTURE,
    output: OUTPUT,
    faults: |_| Vec::new(),
    notes: |_| Vec::new(),
    keys,
    entries,
    constants,
    read_config,
};

/// Width of a head's keys, where that is not the model's width divided by the number of heads.
const KEY_LENGTH: &str = "attention.key_length";
/// The same of its values.
const VALUE_LENGTH: &str = "attention.value_length";
/// Ours: the numbers of a `llama3` scaling, each after a dot.
const LLAMA3: &str = "wattle.rope_llama3";

/// The head, if it is a tensor of its own.
const OUTPUT: &str = "output.weight";
/// What frequencies are divided by.
const DIVISORS: &str = "rope_freqs.weight";

/// What a part of a block is called here and there.
const PARTS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The keys of the configuration.
fn keys(config: &ModelConfig) -> Vec<(String, Value)> {
    let count = |n: usize| Value::U32(n as u32);
    let number = |x: f64| Value::F32(x as f32);
    let mut own = vec![
        ("context_length", count(config.context)),
        ("embedding_length", count(config.d_model)),
        ("block_count", count(config.n_layers)),
        ("feed_forward_length", count(config.feed_forward_width())),
        ("attention.head_count", count(config.n_heads)),
        ("attention.head_count_kv", count(config.kv_heads())),
        ("attention.layer_norm_rms_epsilon", number(config.norm_eps)),
        ("rope.dimension_count", count(config.head_width())),
        ("rope.freq_base", number(config.rope_theta)),
    ];
    if config.head_width != 0 {
        own.extend([KEY_LENGTH, VALUE_LENGTH].map(|key| (key, count(config.head_width()))));
    }
    let mut ours = Vec::new();
    match config.scaling() {
        Scaling::None => {}
        Scaling::Linear { factor } => own.extend([
            ("rope.scaling.type", Value::String("linear".to_owned())),
            ("rope.scaling.factor", number(factor)),
        ]),
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => ours.extend([
            ("factor", number(factor)),
            ("low_freq_factor", number(low_freq_factor)),
            ("high_freq_factor", number(high_freq_factor)),
            ("original_context", count(config.rope_original_context)),
        ]),
    }
    let own = own.into_iter().map(|(key, value)| (format!("{ARCHITECTURE}.{key}"), value));
    own.chain(ours.into_iter().map(|(key, value)| (format!("{LLAMA3}.{key}"), value))).collect()
}

/// Reads the configuration; `is_tied` says whether the file has no head of its own.
fn read_config(keys: &mut Keys<'_>, vocab_size: usize, is_tied: bool) -> ModelConfig {
    let mut count = |key: &str| keys.count(&format!("{ARCHITECTURE}.{key}"));
    let mut config = ModelConfig {
        family: Family::Llama,
        vocab_size,
        n_layers: count("block_count"),
        n_heads: count("attention.head_count"),
        n_kv_heads: count("attention.head_count_kv"),
        d_model: count("embedding_length"),
        d_ff: count("feed_forward_length"),
        context: count("context_length"),
        activation: ActivationKind::Swiglu,
        tie_embeddings: is_tied,
        norm_eps: keys.decimal(&format!("{ARCHITECTURE}.attention.layer_norm_rms_epsilon")),
        rope_theta: keys.decimal(&format!("{ARCHITECTURE}.rope.freq_base")),
        ..ModelConfig::default()
    };
    if keys.has(&format!("{ARCHITECTURE}.{KEY_LENGTH}")) {
        let [key, value] = [KEY_LENGTH, VALUE_LENGTH].map(|key| keys.count(&format!("{ARCHITECTURE}.{key}")));
        if value != key {
            keys.fault(format!(
                "{ARCHITECTURE}.{VALUE_LENGTH} = {value} is not supported: expected {key}, as of keys"
            ));
        }
        // 0 where that is the same.
        config.head_width = if key * config.n_heads == config.d_model { 0 } else { key };
    }
    read_scaling(keys, &mut config);
    refuse_sizes(keys, &config);
    config
}

fn read_scaling(keys: &mut Keys<'_>, config: &mut ModelConfig) {
    let kind = format!("{ARCHITECTURE}.rope.scaling.type");
    match keys.text(&kind) {
        None | Some("none") => {}
        Some("linear") => {
            config.rope_scaling = RopeScaling::Linear;
            config.rope_factor = keys.decimal(&format!("{ARCHITECTURE}.rope.scaling.factor"));
        }
        Some(other) => {
            keys.fault(format!("{kind} = {other:?} is not supported: expected \"none\" or \"linear\""));
        }
    }
    if keys.has(&format!("{LLAMA3}.factor")) {
        config.rope_scaling = RopeScaling::Llama3;
        config.rope_factor = keys.decimal(&format!("{LLAMA3}.factor"));
        config.rope_low_freq_factor = keys.decimal(&format!("{LLAMA3}.low_freq_factor"));
        config.rope_high_freq_factor = keys.decimal(&format!("{LLAMA3}.high_freq_factor"));
        config.rope_original_context = keys.count(&format!("{LLAMA3}.original_context"));
    }
}

fn refuse_sizes(keys: &mut Keys<'_>, config: &ModelConfig) {
    let &ModelConfig { n_heads, n_kv_heads, d_model, .. } = config;
    let head_width = config.head_width();
    if config.head_width == 0 && !d_model.is_multiple_of(2 * n_heads) {
        keys.fault(format!("{n_heads} heads do not divide a width of {d_model} into even parts"));
    }
    if !n_heads.is_multiple_of(n_kv_heads) {
        keys.fault(format!("{n_kv_heads} heads of keys do not divide {n_heads} heads"));
    }
    let turned = keys.count(&format!("{ARCHITECTURE}.rope.dimension_count"));
    if turned != head_width {
        keys.fault(format!(
            "{ARCHITECTURE}.rope.dimension_count = {turned} is not supported: expected a head's width, {head_width}"
        ));
    }
    let faults = config.faults_of(&|key| key == "norm_eps" || key.starts_with("rope_"));
    faults.into_iter().for_each(|fault| keys.fault(fault));
}

/// Every tensor of a model.
fn entries(config: &ModelConfig) -> Vec<Entry> {
    parameter_shapes(config)
        .into_iter()
        .map(|(ours, shape)| {
            let theirs = stored_name(&ours);
            let storage = match ours.rsplit('.').nth(1) {
                _ if shape.len() == 1 => Storage::Exact,
                Some("q_proj") => Storage::Interleaved { n_heads: config.n_heads },
                Some("k_proj") => Storage::Interleaved { n_heads: config.kv_heads() },
                _ => Storage::Matrix,
            };
            Entry { ours, theirs, shape, storage }
        })
        .collect()
}

/// A parameter's name there.
fn stored_name(ours: &str) -> String {
    match ours {
        TOKEN_TABLE => return "token_embd.weight".to_owned(),
        HEAD => return OUTPUT.to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        _ => {}
    }
    let name = ours.replacen("model.layers.", "blk.", 1);
    PARTS
        .iter()
        .fold(name, |name, (part, stored)| name.replacen(&format!(".{part}."), &format!(".{stored}."), 1))
}

/// By what a `llama3` scaling divides each frequency.
fn constants(config: &ModelConfig) -> Vec<Constant> {
    if config.rope_scaling != RopeScaling::Llama3 {
        return Vec::new();
    }
    let of = |scaling| frequencies(config.rope_theta, config.head_width(), scaling);
    let divisors =
        of(Scaling::None).into_iter().zip(of(config.scaling())).map(|(f, scaled)| (f / scaled) as f32);
    vec![(DIVISORS, divisors.collect())]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;

    fn config(rope_scaling: RopeScaling) -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            activation: ActivationKind::Swiglu,
            vocab_size: 9,
            n_layers: 2,
            n_kv_heads: 2,
            d_model: 16,
            d_ff: 20,
            tie_embeddings: false,
            norm_eps: 1e-6,
            rope_theta: 500.0,
            rope_scaling,
            ..ModelConfig::default()
        }
    }

    fn read(
        config: &ModelConfig,
        change: impl Fn(&mut HashMap<String, Value>),
    ) -> Result<ModelConfig, String> {
        let mut values: HashMap<String, Value> = keys(config).into_iter().collect();
        change(&mut values);
        let mut keys = Keys::new(Path::new("m.gguf"), &values);
        let config = read_config(&mut keys, config.vocab_size, config.tie_embeddings);
        keys.finish().map(|()| config).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_those_that_llama_cpp_asks_for() {
        let entries = entries(&config(RopeScaling::None));
        let names: Vec<&str> = entries.iter().map(|entry| entry.theirs.as_str()).collect();
        let block = |layer_idx: usize| {
            [
                "attn_norm",
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_output",
                "ffn_norm",
                "ffn_gate",
                "ffn_up",
                "ffn_down",
            ]
            .map(|part| format!("blk.{layer_idx}.{part}.weight"))
        };
        let mut expected = vec!["token_embd.weight".to_owned()];
        expected.extend([block(0), block(1)].concat());
        expected.extend(["output_norm.weight", "output.weight"].map(str::to_owned));
        assert_eq!(names, expected);
        let storage = |name| entries.iter().find(|entry| entry.theirs == name).unwrap().storage;
        assert_eq!(storage("blk.0.attn_q.weight"), Storage::Interleaved { n_heads: 4 });
        assert_eq!(storage("blk.1.attn_k.weight"), Storage::Interleaved { n_heads: 2 });
        assert_eq!(storage("blk.1.attn_v.weight"), Storage::Matrix);
        assert_eq!(storage("output_norm.weight"), Storage::Exact);
    }

    #[test]
    fn a_configuration_comes_back_from_its_keys() {
        for scaling in [RopeScaling::None, RopeScaling::Linear, RopeScaling::Llama3] {
            let config = config(scaling);
            assert_eq!(read(&config, |_| {}).unwrap(), config);
        }
    }

    #[test]
    fn what_a_scaling_divides_by_is_that_of_llama_3_1() {
        // Llama 3.1 8B's sizes; its first and last frequencies are kept and divided by 8.
        let config = ModelConfig {
            n_heads: 32,
            n_kv_heads: 8,
            d_model: 4096,
            rope_theta: 500_000.0,
            ..config(RopeScaling::Llama3)
        };
        let [(name, divisors)] = &constants(&config)[..] else { panic!("one tensor") };
        assert_eq!((*name, divisors.len()), ("rope_freqs.weight", 64));
        assert_eq!((divisors[0], divisors[63]), (1.0, 8.0));
        assert!(divisors.is_sorted() && divisors.iter().any(|&divisor| divisor > 1.0 && divisor < 8.0));
        assert!(constants(&self::config(RopeScaling::Linear)).is_empty());
    }

    #[test]
    fn keys_that_do_not_fit_are_named_together() {
        let error = read(&config(RopeScaling::None), |values| {
            values.insert("llama.rope.scaling.type".to_owned(), Value::String("yarn".to_owned()));
            values.insert("llama.rope.dimension_count".to_owned(), Value::U32(2));
            values.insert("llama.attention.head_count_kv".to_owned(), Value::U32(3));
            values.insert("llama.rope.freq_base".to_owned(), Value::F32(0.5));
            values.remove("llama.block_count");
        })
        .unwrap_err();
        for part in [
            "llama.rope.scaling.type = \"yarn\" is not supported",
            "llama.rope.dimension_count = 2 is not supported: expected a head's width, 4",
            "3 heads of keys do not divide 4 heads",
            "rope_theta = 0.5: expected above 1",
            "llama.block_count is missing",
        ] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}
