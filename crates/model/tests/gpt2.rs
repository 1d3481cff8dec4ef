//! The GPT-2 family as a whole: gradients, determinism, files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use wattle_model::hugging_face::{load_weights, write_safetensors};
use wattle_model::{Gpt2, LanguageModel, ModelConfig, ModelError, Pass, TrainingPass};
use wattle_ops::cross_entropy::cross_entropy_sum;

const CPU: Device = Device::Cpu;

fn config() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 3, d_model: 21, context: 7, ..ModelConfig::default() }
}

fn tokens() -> Tensor {
    Tensor::new(&[[1u32, 4, 2, 8, 5, 7, 1], [3, 3, 3, 0, 10, 9, 6]], &CPU).unwrap()
}

fn logits(model: &Gpt2, pass: &mut Pass<'_>) -> Vec<f32> {
    model.logits(&tokens(), pass).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn training(step: u64, dropout: f32) -> Pass<'static> {
    Pass::training(DType::F32, TrainingPass { seed: 1, step, first_sequence: 0, dropout })
}

#[test]
fn every_parameter_of_every_variant_receives_a_gradient() {
    for (bias, tie_embeddings) in [(true, true), (false, true), (true, false)] {
        let config = ModelConfig { bias, tie_embeddings, ..config() };
        let model = Gpt2::new(&config, 11, 5, &CPU).unwrap();
        let logits = model.logits(&tokens(), &mut training(1, 0.1)).unwrap().reshape((14, 11)).unwrap();
        let targets = tokens().flatten_all().unwrap();
        let gradients = cross_entropy_sum(&logits, &targets).unwrap().backward().unwrap();
        for parameter in model.parameters() {
            let gradient = gradients.get(&parameter.var).expect(&parameter.name);
            let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(norm > 0.0, "{} bias {bias} tied {tie_embeddings}", parameter.name);
        }
    }
}

#[test]
fn evaluation_drops_nothing_and_records_nothing() {
    let model = Gpt2::new(&config(), 11, 5, &CPU).unwrap();
    let evaluated = logits(&model, &mut Pass::evaluation(DType::F32));
    assert_eq!(evaluated, logits(&model, &mut training(1, 0.0)));
    assert_ne!(evaluated, logits(&model, &mut training(1, 0.5)));
    assert_ne!(logits(&model, &mut training(2, 0.5)), logits(&model, &mut training(1, 0.5)));
    assert!(!model.logits(&tokens(), &mut Pass::evaluation(DType::F32)).unwrap().track_op());
}

#[test]
fn initial_loss_is_that_of_guessing() {
    let config = ModelConfig { n_layers: 4, d_model: 128, n_heads: 4, context: 7, ..ModelConfig::default() };
    let model = Gpt2::new(&config, 1000, 5, &CPU).unwrap();
    let logits = model.logits(&tokens(), &mut Pass::evaluation(DType::F32)).unwrap();
    // Not the inputs themselves: with a tied head a model starts out expecting what it just saw.
    let targets = Tensor::arange(100u32, 114, &CPU).unwrap();
    let loss = cross_entropy_sum(&logits.reshape((14, 1000)).unwrap(), &targets).unwrap();
    let loss = loss.to_scalar::<f32>().unwrap() / 14.0;
    // Logits of standard deviation 0.02·√128 = 0.23 move the loss of 14 tokens by some 0.1.
    assert!((loss - 1000f32.ln()).abs() < 0.3, "{loss}");
}

#[test]
fn weights_come_back_from_a_file_and_others_are_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for bias in [true, false] {
        let config = ModelConfig { bias, ..config() };
        let saved = Gpt2::new(&config, 11, 5, &CPU).unwrap();
        write_safetensors(&path, &saved.weights().unwrap()).unwrap();
        let loaded = Gpt2::new(&config, 11, 6, &CPU).unwrap();
        load_weights(&loaded, &path, &CPU).unwrap();
        let pass = || Pass::evaluation(DType::F32);
        assert_eq!(logits(&saved, &mut pass()), logits(&loaded, &mut pass()));

        let other = Gpt2::new(&ModelConfig { n_layers: 3, ..config.clone() }, 12, 7, &CPU).unwrap();
        let before = logits(&other, &mut pass());
        let error = load_weights(&other, &path, &CPU).unwrap_err().to_string();
        assert!(error.contains("transformer.wte.weight has shape [11, 21], expected [12, 21]"), "{error}");
        assert!(
            error.contains("transformer.h.2.ln_1.weight")
                && error.contains(if bias { "9 more are missing" } else { "3 more are missing" }),
            "{error}"
        );
        assert_eq!(before, logits(&other, &mut pass()));
    }
}

#[test]
fn a_file_cut_short_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let model = Gpt2::new(&config(), 11, 5, &CPU).unwrap();
    write_safetensors(&path, &model.weights().unwrap()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 4, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = load_weights(&model, &path, &CPU).unwrap_err();
        assert!(matches!(error, ModelError::Unreadable { .. }), "{len}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_bias_is_not_dropped_in_silence() {
    let model = Gpt2::new(&ModelConfig { bias: false, ..config() }, 11, 5, &CPU).unwrap();
    let mut weights: HashMap<_, _> = model.weights().unwrap().into_iter().collect();
    weights.insert("transformer.ln_f.bias".to_owned(), Tensor::ones(21, DType::F32, &CPU).unwrap());
    let faults = model.set_weights(&weights).unwrap().unwrap_err();
    assert_eq!(faults, ["transformer.ln_f.bias is not zero, but model.bias = false"]);
}
