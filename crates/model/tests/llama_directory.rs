//! Directories of Llamas in Hugging Face's layout: what is theirs alone. The rest is in `directory.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod saved;

use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use wattle_model::{ActivationKind, Directory, Family, ModelConfig, RopeScaling};

use saved::{CPU, VOCAB, Weights, logits, model, weights, write};

/// Untied, four heads for two, llama3 scaling.
fn config() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 24,
        d_ff: 20,
        context: 7,
        tie_embeddings: false,
        norm_eps: 1e-6,
        rope_theta: 500.0,
        rope_scaling: RopeScaling::Llama3,
        rope_factor: 2.0,
        rope_original_context: 4,
        ..ModelConfig::default()
    }
}

/// One head of keys and values for each of queries, and nothing scaled.
fn plain() -> ModelConfig {
    let ModelConfig { rope_factor, rope_original_context, .. } = ModelConfig::default();
    let rope_scaling = RopeScaling::None;
    ModelConfig { n_kv_heads: 4, rope_scaling, rope_factor, rope_original_context, ..config() }
}

fn refusal(change: impl Fn(&mut Value, &mut Weights)) -> String {
    saved::refusal(model(&config()).as_ref(), change)
}

/// The model of a directory of `saved` with `change` made to it.
fn read(saved: &ModelConfig, change: impl Fn(&mut Value, &mut Weights)) -> (ModelConfig, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(saved);
    let (mut config, mut weights) = (saved.config_json(), weights(saved.as_ref()));
    change(&mut config, &mut weights);
    write(dir.path(), &config, &weights);
    let directory = Directory::open(dir.path()).unwrap();
    (directory.model_config().clone(), logits(directory.load(&CPU).unwrap().as_ref()))
}

fn remove(config: &mut Value, keys: &[&str]) {
    keys.iter().for_each(|key| drop(config.as_object_mut().unwrap().remove(*key).expect(key)));
}

#[test]
fn a_directory_of_our_own_gives_the_same_model() {
    let linear = ModelConfig {
        rope_scaling: RopeScaling::Linear,
        rope_factor: 3.0,
        n_kv_heads: 1,
        tie_embeddings: true,
        ..plain()
    };
    for config in [config(), plain(), linear] {
        let (own, found) = read(&config, |_, _| {});
        assert_eq!(own, ModelConfig { vocab_size: VOCAB, ..config.clone() });
        assert_eq!(found, logits(model(&config).as_ref()));
    }
}

#[test]
fn half_precision_and_shards_give_the_rounded_model() {
    saved::check_rounded_and_sharded(&config());
}

#[test]
fn rotary_positions_are_read_as_versions_4_and_5_write_them() {
    let expected = logits(model(&config()).as_ref());
    let as_version_5 = |config: &mut Value, _: &mut Weights| remove(config, &["rope_scaling", "rope_theta"]);
    let as_version_4 = |config: &mut Value, _: &mut Weights| remove(config, &["rope_parameters"]);
    // Before 4.43 the kind was called "type".
    let as_before = |config: &mut Value, weights: &mut Weights| {
        as_version_4(config, weights);
        config["rope_scaling"]["type"] = config["rope_scaling"]["rope_type"].take();
    };
    assert_eq!(read(&config(), as_version_5).1, expected);
    assert_eq!(read(&config(), as_version_4).1, expected);
    assert_eq!(read(&config(), as_before).1, expected);
    assert_ne!(read(&config(), |config, _| config["rope_parameters"]["factor"] = json!(1.0)).1, expected);
}

#[test]
fn what_is_left_out_has_the_defaults_of_transformers() {
    let defaults = ModelConfig { rope_theta: 10_000.0, ..plain() };
    let keys = [
        "attention_bias",
        "head_dim",
        "hidden_act",
        "mlp_bias",
        "num_key_value_heads",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tie_word_embeddings",
    ];
    let (own, found) = read(&defaults, |config, _| remove(config, &keys));
    assert_eq!(own, ModelConfig { vocab_size: VOCAB, ..defaults.clone() });
    assert_eq!(found, logits(model(&defaults).as_ref()));
}

#[test]
fn names_without_prefix_frequencies_and_a_saved_tied_head_are_understood() {
    let tied = ModelConfig { tie_embeddings: true, ..config() };
    let (_, found) = read(&tied, |_, weights| {
        *weights = std::mem::take(weights)
            .into_iter()
            .map(|(name, tensor)| (name.strip_prefix("model.").unwrap().to_owned(), tensor))
            .collect();
        weights.insert("lm_head.weight".to_owned(), weights["embed_tokens.weight"].clone());
        let frequencies = Tensor::ones(3, DType::F32, &CPU).unwrap();
        weights.insert("layers.0.self_attn.rotary_emb.inv_freq".to_owned(), frequencies);
    });
    assert_eq!(found, logits(model(&tied).as_ref()));
}

#[test]
fn each_setting_that_would_change_predictions_is_refused_by_its_key() {
    let changes = [
        ("/attention_bias", json!(true), "attention_bias = true is not supported: expected false"),
        ("/mlp_bias", json!(true), "mlp_bias = true is not supported: expected false"),
        ("/use_sliding_window", json!(true), "use_sliding_window = true is not supported"),
        ("/sliding_window", json!(4096), "sliding_window is not supported: expected null"),
        ("/hidden_act", json!("gelu"), "hidden_act = \"gelu\" is not supported: expected \"silu\""),
        ("/quantization_config", json!({"bits": 4}), "quantization_config: quantized weights"),
        (
            "/layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types has \"sliding_attention\"",
        ),
        ("/head_dim", json!(7), "num_attention_heads = 4 and head_dim leave heads of an odd width, 7"),
        ("/num_key_value_heads", json!(3), "num_key_value_heads = 3 does not divide num_attention_heads = 4"),
        ("/rms_norm_eps", json!(0.0), "rms_norm_eps = 0: expected above 0"),
        (
            "/rope_parameters/rope_type",
            json!("yarn"),
            "rope_parameters.rope_type = \"yarn\" is not supported",
        ),
        ("/rope_parameters/rope_type", json!("dynamic"), "expected \"default\", \"linear\" or \"llama3\""),
        ("/rope_parameters/rope_theta", json!(0.5), "rope_theta = 0.5: expected above 1"),
        ("/rope_parameters/factor", json!(0.5), "rope_parameters.factor = 0.5: expected at least 1"),
        ("/rope_parameters/factor", json!(null), "rope_parameters.factor is missing"),
        (
            "/rope_parameters/low_freq_factor",
            json!(9.0),
            "rope_parameters.low_freq_factor = 9: expected above 0",
        ),
        (
            "/rope_parameters/partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor = 0.5 is not supported",
        ),
    ];
    for (at, value, expected) in changes {
        let error = refusal(|config, _| {
            let (parent, key) = at.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value.clone();
        });
        assert!(
            error.contains("config.json: ") && error.contains(expected),
            "{at}: {expected:?} is not in: {error}"
        );
    }
}

#[test]
fn heads_that_do_not_divide_the_width_have_a_width_of_their_own() {
    let error = refusal(|config, _| {
        config["num_attention_heads"] = json!(5);
        config["head_dim"] = json!(null);
    });
    let expected = "num_attention_heads = 5 does not divide hidden_size = 24, and head_dim is not given";
    assert!(error.contains(expected), "{error}");
    let wide = ModelConfig { n_heads: 5, n_kv_heads: 1, head_width: 8, ..config() };
    let (own, found) = read(&wide, |_, _| {});
    assert_eq!((own.head_width, own.head_width()), (8, 8));
    assert_eq!(found, logits(model(&wide).as_ref()));
}

#[test]
fn tensors_that_do_not_fit_are_listed_together() {
    let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &CPU).unwrap();
    let error = refusal(|_, weights| {
        weights.remove("model.layers.1.mlp.gate_proj.weight").unwrap();
        weights.insert("model.layers.0.self_attn.k_proj.weight".to_owned(), tensor(&[24, 24]));
        weights.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), tensor(&[24]));
    });
    for part in [
        "model.layers.1.mlp.gate_proj.weight is missing",
        "model.layers.0.self_attn.k_proj.weight has shape [24, 24], expected [12, 24]",
        "model.layers.0.self_attn.q_proj.bias is not of this model",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn heads_of_keys_and_values_may_be_named_as_their_number_or_left_open() {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(&config());
    write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let directory = Directory::open(dir.path()).unwrap();
    let adopt = |n_kv_heads| {
        let wished = ModelConfig { family: Family::Llama, n_kv_heads, ..ModelConfig::default() };
        wished.adopt(&directory, &["model.family", "model.n_kv_heads"])
    };
    assert_eq!(adopt(0).unwrap().n_kv_heads, 2);
    assert_eq!(adopt(2).unwrap().kv_heads(), 2);
    let faults = adopt(4).unwrap_err();
    assert!(faults.len() == 1 && faults[0].starts_with("model.n_kv_heads = 4: "), "{faults:?}");
}

#[test]
fn a_smaller_context_gives_the_same_predictions() {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(&config());
    write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let directory = Directory::open(dir.path()).unwrap();
    let adopted = ModelConfig { context: 5, ..config() }.adopt(&directory, &["context"]).unwrap();
    let loaded = directory.load_as(&adopted, &CPU).unwrap();
    assert_eq!(loaded.context(), 5);
    assert_eq!(logits(saved.as_ref()), logits(loaded.as_ref()));
}
