//! The explicit engine against golden values of PyTorch, those of `golden.rs`, which says how they were made.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde_json::Value;
use wattle_model::engine::{EngineOptions, LossSum};
use wattle_model::hugging_face::read_safetensors;
use wattle_model::{Directory, Engine, LanguageModel, Recompute, TrainingPass};
use wattle_ops::adamw::Update;
use wattle_ops::grad_norm::cpu::clip_factor;
use wattle_train::config::{OptimizerConfig, ScheduleConfig};
use wattle_train::schedule::learning_rate;

const MODELS: [&str; 5] = ["gelu-tanh-tied", "gelu-untied", "relu", "llama-tied", "llama-grouped-scaled"];
const MICRO_BATCH: usize = 2;

/// As in `golden.rs`, and for the same reasons.
const LOSS_TOLERANCE: f64 = 5e-6;
const GRADIENT_TOLERANCE: f32 = 1e-5;
const TRAINING_TOLERANCE: f64 = 1e-5;

/// One directory of golden files, and an engine for its model.
struct Golden {
    model: Box<dyn LanguageModel>,
    engine: Box<dyn Engine>,
    tensors: HashMap<String, Tensor>,
    json: Value,
}

impl Golden {
    fn open(name: &str) -> Self {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name);
        let model = Directory::open(&dir).unwrap().load(&Device::Cpu).unwrap();
        let options = EngineOptions { micro_batch: MICRO_BATCH, recompute: Recompute::None };
        Self {
            engine: model.engine(options).unwrap().unwrap(),
            model,
            tensors: read_safetensors(&dir.join("golden.safetensors"), &Device::Cpu).unwrap(),
            json: serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap(),
        }
    }

    fn section<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_value(self.json["training"][name].clone()).unwrap()
    }

    fn n_steps(&self) -> usize {
        self.tensors["tokens"].dims()[0]
    }

    /// The mean loss of one step's batch; its gradients are in the engine then.
    fn accumulate(&mut self, step_idx: usize) -> f64 {
        let rows: Vec<Vec<u32>> = self.tensors["tokens"].get(step_idx).unwrap().to_vec2().unwrap();
        let n_tokens = (rows.len() * (rows[0].len() - 1)) as f64;
        self.engine.state_mut().zero_gradients();
        let mut sum = LossSum::default();
        for rows in rows.chunks(MICRO_BATCH) {
            let inputs: Vec<u32> = rows.iter().flat_map(|row| row[..row.len() - 1].to_vec()).collect();
            let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
            let pass = TrainingPass { seed: 0, step: 1, first_sequence: 0, dropout: 0.0 };
            sum += self.engine.accumulate_gradients(&inputs, &targets, pass, (1.0 / n_tokens) as f32);
        }
        sum.loss / n_tokens
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn loss_and_every_gradient_are_those_of_pytorch() {
    for name in MODELS {
        let mut golden = Golden::open(name);
        let loss = golden.accumulate(0);
        let expected = golden.json["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < LOSS_TOLERANCE, "{name}: loss {loss}, expected {expected}");
        let gradients = golden.engine.state().gradient_tensors().unwrap();
        for (parameter, gradient) in golden.model.parameters().iter().zip(gradients) {
            let expected = values(&golden.tensors[&format!("grad.{}", parameter.name)]);
            let largest = expected.iter().fold(0f32, |max, g| max.max(g.abs()));
            let pairs = values(&gradient).into_iter().zip(expected);
            let gap = pairs.fold(0f32, |max, (a, b)| max.max((a - b).abs())) / largest;
            assert!(
                gap < GRADIENT_TOLERANCE,
                "{name}: the gradient of {} differs by {gap} of its largest element",
                parameter.name
            );
        }
    }
}

#[test]
fn ten_steps_of_training_are_those_of_pytorch() {
    for name in MODELS {
        let mut golden = Golden::open(name);
        let (optimizer, schedule): (OptimizerConfig, ScheduleConfig) =
            (golden.section("optimizer"), golden.section("schedule"));
        let (losses, norms): (Vec<f64>, Vec<f64>) = (golden.section("losses"), golden.section("grad_norms"));
        let clip_norm: f64 = golden.section("clip_norm");
        let OptimizerConfig { beta1, beta2, eps, weight_decay, .. } = optimizer;
        assert_eq!((golden.n_steps(), losses.len()), (10, 10));
        for (finished, (expected_loss, expected_norm)) in losses.iter().zip(&norms).enumerate() {
            let loss = golden.accumulate(finished);
            let norm = golden.engine.state().grad_norm();
            let step = finished as u64 + 1;
            golden.engine.state_mut().update(&Update {
                beta1,
                beta2,
                eps,
                weight_decay,
                learning_rate: learning_rate(&schedule, &optimizer, finished as u64, 10),
                step,
                gradient_factor: clip_factor(norm, clip_norm),
            });
            let error = (loss - expected_loss).abs();
            assert!(error < TRAINING_TOLERANCE, "{name}, step {step}: the loss differs by {error}");
            let error = (norm / expected_norm - 1.0).abs();
            assert!(
                error < TRAINING_TOLERANCE,
                "{name}, step {step}: the norm differs by a share of {error}"
            );
        }
    }
}
