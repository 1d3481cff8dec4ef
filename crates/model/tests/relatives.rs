//! Directories of Llama's relatives in Hugging Face's layout: what differs from a Llama's. Their predictions and gradients
//! are held against transformers in crates/train/tests/golden.rs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod saved;

use serde_json::{Value, json};
use wattle_model::{ActivationKind, Directory, Family, ModelConfig};

use saved::{CPU, VOCAB, Weights, logits, model, weights, write};

fn config(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        activation: ActivationKind::Swiglu,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 24,
        d_ff: 20,
        context: 7,
        tie_embeddings: false,
        norm_eps: 1e-6,
        ..ModelConfig::default()
    }
}

fn all() -> [ModelConfig; 8] {
    [
        config(Family::Qwen2),
        ModelConfig { head_width: 8, ..config(Family::Qwen3) },
        ModelConfig { head_width: 4, window: 3, tie_embeddings: true, ..config(Family::Mistral) },
        config(Family::Mistral),
        config(Family::Olmo2),
        ModelConfig { n_kv_heads: 4, head_width: 10, ..config(Family::Olmo2) },
        ModelConfig { qk_norm: true, window: 3, window_pattern: 2, ..config(Family::Wattle) },
        ModelConfig { activation: ActivationKind::Relu2, logit_softcap: 2.5, ..config(Family::Wattle) },
    ]
}

/// The configuration that is read of `saved` with `change` made to it, or why it is refused.
fn read(saved: &ModelConfig, change: impl Fn(&mut Value, &mut Weights)) -> Result<ModelConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(saved);
    let (mut config, mut weights) = (saved.config_json(), weights(saved.as_ref()));
    change(&mut config, &mut weights);
    write(dir.path(), &config, &weights);
    let directory = Directory::open(dir.path()).map_err(|error| error.to_string())?;
    directory.load(&CPU).map_err(|error| error.to_string())?;
    Ok(directory.model_config().clone())
}

#[test]
fn a_directory_of_our_own_gives_the_same_model() {
    for config in all() {
        let dir = tempfile::tempdir().unwrap();
        let saved = model(&config);
        assert_eq!(saved.config_json()["model_type"], config.family.name());
        write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
        let directory = Directory::open(dir.path()).unwrap();
        assert_eq!(directory.model_config(), &ModelConfig { vocab_size: VOCAB, ..config.clone() });
        let loaded = directory.load(&CPU).unwrap();
        assert_eq!(logits(loaded.as_ref()), logits(saved.as_ref()), "{config:?}");
        assert_eq!(loaded.config_json(), saved.config_json());
    }
}

#[test]
fn half_precision_and_shards_give_the_rounded_model() {
    all().iter().for_each(saved::check_rounded_and_sharded);
}

#[test]
fn a_window_that_is_left_out_is_that_of_transformers_and_null_is_none() {
    let mistral = config(Family::Mistral);
    let window = |change: fn(&mut Value)| read(&mistral, |config, _| change(config)).unwrap().window;
    assert_eq!(window(|config| drop(config.as_object_mut().unwrap().remove("sliding_window"))), 4096);
    assert_eq!(window(|config| config["sliding_window"] = json!(null)), 0);
    assert_eq!(window(|config| config["sliding_window"] = json!(5)), 5);
    let error = read(&mistral, |config, _| config["sliding_window"] = json!(0)).unwrap_err();
    assert!(error.contains("sliding_window = 0: expected a whole number of at least 1"), "{error}");
}

#[test]
fn windows_of_some_layers_are_refused_and_those_that_are_not_used_are_not() {
    for family in [Family::Qwen2, Family::Qwen3] {
        let of = |key: &'static str, value: Value| {
            read(&config(family), move |config, _| config[key] = value.clone())
        };
        assert!(of("sliding_window", json!(4096)).is_ok());
        let error = of("use_sliding_window", json!(true)).unwrap_err();
        assert!(error.contains("use_sliding_window = true is not supported"), "{error}");
        let error = of("layer_types", json!(["full_attention", "sliding_attention"])).unwrap_err();
        assert!(error.contains("layer_types has \"sliding_attention\""), "{error}");
        let error = of("layer_types", json!("full_attention")).unwrap_err();
        assert!(error.contains("expected a list of texts"), "{error}");
    }
}

#[test]
fn what_has_no_default_here_is_asked_for_and_widths_of_heads_have_that_of_transformers() {
    for family in [Family::Qwen2, Family::Qwen3, Family::Mistral] {
        let error = read(&config(family), |config, _| {
            config.as_object_mut().unwrap().remove("num_key_value_heads").unwrap();
        })
        .unwrap_err();
        assert!(error.contains("num_key_value_heads is missing"), "{error}");
    }
    let qwen3 = ModelConfig { head_width: 128, n_heads: 2, n_kv_heads: 1, ..config(Family::Qwen3) };
    let read = read(&qwen3, |config, _| drop(config.as_object_mut().unwrap().remove("head_dim"))).unwrap();
    assert_eq!(read.head_width, 128);
}

#[test]
fn tensors_of_another_relative_are_named() {
    let qwen2_as_llama = read(&config(Family::Qwen2), |config, _| config["model_type"] = json!("llama"));
    let error = qwen2_as_llama.unwrap_err();
    assert!(error.contains("self_attn.k_proj.bias") && error.contains("not of this model"), "{error}");
    let llama_as_olmo2 = read(&config(Family::Llama), |config, _| config["model_type"] = json!("olmo2"));
    let error = llama_as_olmo2.unwrap_err();
    assert!(error.contains("missing") && error.contains("input_layernorm.weight"), "{error}");
}

#[test]
fn keys_that_fit_no_relative_are_refused_by_name() {
    let faults = ModelConfig { bias: true, dropout: 0.1, ..config(Family::Olmo2) }.faults();
    assert!(faults[0].starts_with("model.bias = true: an OLMo 2 has no biases"), "{faults:?}");
    assert!(faults[1].starts_with("model.dropout = 0.1: an OLMo 2 has no dropout"), "{faults:?}");
    let faults = ModelConfig { bias: true, ..config(Family::Qwen2) }.faults();
    assert!(
        faults[0].contains("a Qwen2 has biases of queries, keys and values, and no others"),
        "{faults:?}"
    );
    let faults = ModelConfig { head_width: 7, ..config(Family::Qwen3) }.faults();
    assert!(faults[0].starts_with("model.head_width = 7: expected an even number"), "{faults:?}");
    let own_width = ModelConfig { n_heads: 5, n_kv_heads: 5, head_width: 8, ..config(Family::Qwen3) };
    assert_eq!(own_width.faults(), Vec::<String>::new());
}

#[test]
fn a_width_of_heads_and_a_window_are_adopted_from_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig { head_width: 8, window: 3, ..config(Family::Mistral) };
    let saved = model(&config);
    write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let directory = Directory::open(dir.path()).unwrap();
    let adopt = |keys: &[&str], wished: ModelConfig| wished.adopt(&directory, keys);
    let adopted = adopt(&[], ModelConfig::default()).unwrap();
    assert_eq!((adopted.family, adopted.head_width(), adopted.window), (Family::Mistral, 8, 3));
    let wished = ModelConfig { head_width: 6, window: 4, ..ModelConfig::default() };
    let faults = adopt(&["head_width", "window"], wished).unwrap_err();
    assert!(faults[0].starts_with("model.head_width = 6: ") && faults[0].contains("has 8"), "{faults:?}");
    assert!(faults[1].starts_with("model.window = 4: ") && faults[1].contains("has 3"), "{faults:?}");
}

#[test]
fn a_wattle_that_is_another_family_is_read_as_that_and_predicts_the_same() {
    let relu2 = ModelConfig { activation: ActivationKind::Relu2, ..config(Family::Wattle) };
    for (wattle, family) in [
        (config(Family::Wattle), Family::Llama),
        (ModelConfig { qk_norm: true, ..config(Family::Wattle) }, Family::Qwen3),
        (ModelConfig { window: 3, ..config(Family::Wattle) }, Family::Mistral),
        // An Arcee, which is no family of its own here.
        (relu2, Family::Wattle),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let saved = model(&wattle);
        write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
        let directory = Directory::open(dir.path()).unwrap();
        assert_eq!(directory.model_config().family, family);
        assert_eq!(logits(directory.load(&CPU).unwrap().as_ref()), logits(saved.as_ref()), "{wattle:?}");
    }
}

#[test]
fn what_an_arcee_leaves_out_is_that_of_transformers_and_a_gate_is_refused() {
    let arcee = ModelConfig { activation: ActivationKind::Relu2, ..config(Family::Wattle) };
    let without = |key: &'static str| {
        read(&arcee, move |config, _| drop(config.as_object_mut().unwrap().remove(key))).unwrap()
    };
    assert_eq!(without("hidden_act").activation, ActivationKind::Relu2);
    assert_eq!(without("rms_norm_eps").norm_eps, 1e-5);
    let error = read(&arcee, |config, _| config["hidden_act"] = json!("silu")).unwrap_err();
    assert!(error.contains("hidden_act = \"silu\" is not supported: expected \"relu2\""), "{error}");
    let capped = ModelConfig { logit_softcap: 2.5, ..arcee };
    let error = read(&capped, |config, _| config["final_logit_softcapping"] = json!(-1.0)).unwrap_err();
    assert!(error.contains("model.logit_softcap = -1: expected 0, or from 1 to 1000000"), "{error}");
}
