//! Directories in Hugging Face's layout: what is read, and what is refused and how.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use wattle_model::{ActivationKind, Directory, ModelConfig};

mod saved;

use saved::{CPU, Weights, load, logits, model, weights, write, write_sharded};

fn config() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 3, d_model: 21, context: 7, bias: true, ..ModelConfig::default() }
}

fn refusal(change: impl Fn(&mut Value, &mut Weights)) -> String {
    saved::refusal(model(&config()).as_ref(), change)
}

#[test]
fn a_directory_of_our_own_gives_the_same_model() {
    for (bias, tie_embeddings, activation) in [
        (true, true, ActivationKind::GeluTanh),
        (false, true, ActivationKind::Gelu),
        (true, false, ActivationKind::Relu),
    ] {
        let config = ModelConfig { bias, tie_embeddings, activation, d_ff: 30, dropout: 0.25, ..config() };
        let saved = model(&config);
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
        let directory = Directory::open(dir.path()).unwrap();
        assert_eq!(*directory.model_config(), ModelConfig { vocab_size: 11, ..config });
        let loaded = directory.load(&CPU).unwrap();
        assert_eq!(logits(saved.as_ref()), logits(loaded.as_ref()));
        assert_eq!(saved.config_json(), loaded.config_json());
    }
}

#[test]
fn names_without_prefix_masks_and_a_saved_tied_head_are_understood() {
    let saved = model(&config());
    let mut config = saved.config_json();
    for key in ["bias", "n_inner", "tie_word_embeddings", "layer_norm_epsilon", "scale_attn_weights"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["n_inner"] = Value::Null;
    config["reorder_and_upcast_attn"] = json!(true);
    let mut bare: Weights = weights(saved.as_ref())
        .into_iter()
        .map(|(name, tensor)| (name.strip_prefix("transformer.").unwrap().to_owned(), tensor))
        .collect();
    bare.insert("h.0.attn.bias".to_owned(), Tensor::ones((1, 1, 7, 7), DType::U8, &CPU).unwrap());
    bare.insert("h.0.attn.masked_bias".to_owned(), Tensor::new(-1e4f32, &CPU).unwrap());
    bare.insert("lm_head.weight".to_owned(), bare["wte.weight"].clone());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config, &bare);
    assert_eq!(logits(saved.as_ref()), logits(load(dir.path()).unwrap().as_ref()));
}

#[test]
fn half_precision_and_shards_give_the_rounded_model() {
    saved::check_rounded_and_sharded(&config());
}

#[test]
fn a_smaller_context_takes_the_first_positions() {
    let saved = model(&config());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let directory = Directory::open(dir.path()).unwrap();
    let wished = ModelConfig { context: 5, dropout: 0.2, ..ModelConfig::default() };
    let adopted = wished.adopt(&directory, &["model.context", "model.dropout"]).unwrap();
    assert_eq!((adopted.context, adopted.dropout, adopted.n_layers), (5, 0.2, 2));
    let loaded = directory.load_as(&adopted, &CPU).unwrap();
    assert_eq!(loaded.context(), 5);
    assert_eq!(loaded.config_json()["n_positions"], 5);
    assert_eq!(logits(saved.as_ref()), logits(loaded.as_ref()));
}

#[test]
fn keys_that_contradict_the_directory_are_listed_together() {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(&config());
    write(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let directory = Directory::open(dir.path()).unwrap();
    let wished = ModelConfig { n_layers: 5, n_heads: 5, bias: false, context: 9, d_ff: 84, ..config() };
    let keys = ["model.n_layers", "model.bias", "model.context", "model.d_ff", "model.tie_embeddings"];
    let faults = wished.adopt(&directory, &keys).unwrap_err();
    assert_eq!(faults.len(), 3, "{faults:?}");
    let place = dir.path().display();
    assert_eq!(faults[0], format!("model.n_layers = 5: {place} has 2; leave it out or set it to that"));
    assert_eq!(faults[1], format!("model.bias = false: {place} has true; leave it out or set it to that"));
    assert_eq!(
        faults[2],
        format!("model.context = 9: {place} has learned 7 positions; expected at most that")
    );
    let adopted = wished.adopt(&directory, &["model.d_ff"]).unwrap();
    assert_eq!(adopted, ModelConfig { vocab_size: 11, d_ff: 84, ..config() });
}

#[test]
fn tensors_that_do_not_fit_are_listed_together() {
    let error = refusal(|_, weights| {
        weights.remove("transformer.h.1.ln_2.bias").unwrap();
        weights.insert(
            "transformer.h.0.attn.c_proj.weight".to_owned(),
            Tensor::ones((21, 20), DType::F32, &CPU).unwrap(),
        );
        weights.insert("transformer.h.0.ln_1.weight".to_owned(), Tensor::ones(21, DType::U8, &CPU).unwrap());
        weights.insert("score.weight".to_owned(), Tensor::ones((2, 21), DType::F32, &CPU).unwrap());
    });
    for part in [
        "model.safetensors: these weights do not fit the model",
        "transformer.h.1.ln_2.bias is missing",
        "transformer.h.0.attn.c_proj.weight has shape [21, 20], expected [21, 21]",
        "transformer.h.0.ln_1.weight has type U8, expected F32, F16 or BF16",
        "score.weight is not of this model",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_head_that_is_not_the_table_it_is_tied_to_is_refused() {
    let error = refusal(|_, weights| {
        let other = (&weights["transformer.wte.weight"] * 2.0).unwrap();
        weights.insert("lm_head.weight".to_owned(), other);
    });
    assert!(error.contains("lm_head.weight differs from transformer.wte.weight"), "{error}");
}

#[test]
fn a_bias_is_not_dropped_in_silence() {
    let error = refusal(|config, _| config["bias"] = json!(false));
    assert!(error.contains("transformer.ln_f.bias is not zero: set bias to true in config.json"), "{error}");
}

#[test]
fn one_parameter_under_two_names_is_refused() {
    let error = refusal(|_, weights| {
        weights.insert("wpe.weight".to_owned(), weights["transformer.wpe.weight"].clone());
    });
    assert!(error.contains("wpe.weight is there twice"), "{error}");
}

#[test]
fn settings_that_would_change_predictions_are_refused_by_name() {
    let error = refusal(|config, _| {
        config["scale_attn_by_inverse_layer_idx"] = json!(true);
        config["scale_attn_weights"] = json!(false);
        config["add_cross_attention"] = json!(true);
        config["layer_norm_epsilon"] = json!(1e-6);
        config["activation_function"] = json!("silu");
        config["quantization_config"] = json!({"bits": 4});
        config["n_embd"] = json!("wide");
        config.as_object_mut().unwrap().remove("n_layer");
    });
    for part in [
        "config.json: ",
        "scale_attn_by_inverse_layer_idx = true is not supported",
        "scale_attn_weights = false is not supported",
        "add_cross_attention = true is not supported",
        "layer_norm_epsilon = 0.000001 is not supported: expected 0.00001",
        "activation_function = \"silu\" is not supported",
        "quantization_config",
        "n_embd = \"wide\": expected a whole number of at least 1",
        "n_layer is missing",
    ] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn another_architecture_is_named_beside_those_supported() {
    let error = refusal(|config, _| config["model_type"] = json!("bert"));
    assert!(
        error.contains("config.json: model_type = \"bert\" is not supported; supported: gpt2"),
        "{error}"
    );
    let error = refusal(|config, _| {
        config.as_object_mut().unwrap().remove("model_type");
    });
    assert!(error.contains("model_type is missing; supported: gpt2"), "{error}");
}

#[test]
fn sizes_out_of_all_proportion_allocate_nothing() {
    for (key, size) in [("n_positions", 1u64 << 40), ("n_layer", 1 << 40), ("vocab_size", 1 << 50)] {
        let error = refusal(|config, _| config[key] = json!(size));
        assert!(error.contains(&size.to_string()), "{error}");
    }
}

#[test]
fn a_config_that_is_absent_or_no_object_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Directory::open(dir.path()).unwrap_err().to_string();
    assert!(open().contains("config.json: cannot be read"), "{}", open());
    std::fs::write(dir.path().join("config.json"), "{\"model_type\": \"gpt2\"").unwrap();
    assert!(open().contains("config.json: not JSON (EOF"), "{}", open());
    std::fs::write(dir.path().join("config.json"), "[1]").unwrap();
    assert!(open().contains("expected an object of keys and values, got [1]"), "{}", open());
}

#[test]
fn files_cut_short_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(&config());
    write_sharded(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let path = dir.path().join("model-00002-of-00002.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = load(dir.path()).err().unwrap().to_string();
        assert!(
            error.contains("model-00002-of-00002.safetensors: not a whole safetensors file"),
            "{len}: {error}"
        );
    }
}

#[test]
fn an_index_to_nowhere_or_to_the_wrong_shard_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let saved = model(&config());
    write_sharded(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    let path = dir.path().join("model.safetensors.index.json");
    let index = std::fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str| {
        std::fs::write(&path, index.replace(from, to)).unwrap();
        load(dir.path()).err().unwrap().to_string()
    };
    let error = with("00002-of-00002", "00003-of-00003");
    assert!(
        error.contains("index.json: names model-00003-of-00003.safetensors, which is not there"),
        "{error}"
    );
    let error = with("\"model-00002-of-00002", "\"../../model-00002-of-00002");
    assert!(error.contains("expected the name of a file beside it"), "{error}");
    let error = with(
        "\"transformer.ln_f.bias\":\"model-00002-of-00002.safetensors\"",
        "\"transformer.ln_f.bias\":\"model-00001-of-00002.safetensors\"",
    );
    assert!(
        error.contains(
            "transformer.ln_f.bias is in model-00001-of-00002.safetensors, but it is in \
             model-00002-of-00002.safetensors"
        ),
        "{error}"
    );
    let error = with("{", "[");
    assert!(error.contains("not an index of shards"), "{error}");
}

#[test]
fn a_pickle_alone_is_refused_with_the_command_that_converts_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), model(&config()).config_json().to_string()).unwrap();
    let open = || Directory::open(dir.path()).unwrap_err().to_string();
    assert!(open().contains("has neither model.safetensors nor model.safetensors.index.json"), "{}", open());
    std::fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let place = dir.path().display();
    assert!(
        open().contains(&format!("M.from_pretrained('{place}').save_pretrained('{place}')")),
        "{}",
        open()
    );
}
