//! Models and training steps against golden values of PyTorch and transformers.
//!
//! `scripts/make_golden.py` made the files. Its figures are computed in double precision from the very weights
//! that are read here, so every difference is rounding in `f32` here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use wattle_data::Batch;
use wattle_model::hugging_face::read_safetensors;
use wattle_model::{Directory, GenerateOptions, Generator, LanguageModel, Pass, Sampling};
use wattle_ops::cross_entropy::cross_entropy_sum;
use wattle_runlog::MonotonicNs;
use wattle_train::config::{OptimizerConfig, ScheduleConfig};
use wattle_train::engine::{Step, choose};
use wattle_train::schedule::learning_rate;
use wattle_train::{EngineChoice, StepEngine, TrainConfig, TrainerOptions};

const CPU: Device = Device::Cpu;

/// Models that come with gradients and training steps.
const TRAINED: [&str; 10] = [
    "gelu-tanh-tied",
    "gelu-untied",
    "relu",
    "llama-tied",
    "llama-grouped-scaled",
    "qwen2",
    "qwen3",
    "mistral",
    "olmo2",
    "arcee",
];
/// Models that come with predictions alone: in shards of bf16, and in f16 under the bare transformer's names.
const EVALUATED: [&str; 2] = ["sharded-bf16", "bare-f16"];

/// The engines that train on a CPU.
const ENGINES: [EngineChoice; 2] = [EngineChoice::Autograd, EngineChoice::Explicit];

/// Logits are up to 20 in size and come of some 50 products through at most three blocks: f32's relative rounding
/// of 6e-8 grows to the 3e-6 that was seen. A wrong term is thousands of times larger.
const LOGIT_TOLERANCE: f32 = 2e-5;
/// A mean over some 40 of those; 1.2e-6 was seen.
const LOSS_TOLERANCE: f64 = 5e-6;
/// Of the largest element of the same gradient; 7e-7 was seen.
const GRADIENT_TOLERANCE: f32 = 1e-5;
/// Rounding after up to ten updates; 7e-7 was seen. Decay of biases and norms (3e-4), an eps of 1e-6 (5e-5) and a
/// decay that is 1 % too small (7e-5) are well above it.
const TRAINING_TOLERANCE: f64 = 1e-5;

/// One directory of golden files.
struct Golden {
    model: Box<dyn LanguageModel>,
    tensors: HashMap<String, Tensor>,
    json: Value,
}

impl Golden {
    fn open(name: &str) -> Self {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name);
        let json = std::fs::read(dir.join("golden.json")).unwrap();
        Self {
            model: Directory::open(&dir).unwrap().load(&CPU).unwrap(),
            tensors: read_safetensors(&dir.join("golden.safetensors"), &CPU).unwrap(),
            json: serde_json::from_slice(&json).unwrap(),
        }
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.tensors[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        serde_json::from_value(self.json["training"][name].clone()).unwrap()
    }

    fn section<T: serde::de::DeserializeOwned>(&self, name: &str) -> T {
        serde_json::from_value(self.json["training"][name].clone()).unwrap()
    }

    /// The batches of all steps.
    fn batches(&self) -> Vec<Batch> {
        let (_, b, t) = self.tensors["tokens"].dims3().unwrap();
        let part = |rows: &[u32], from: usize| -> Vec<u32> {
            rows.chunks(t).flat_map(|row| row[from..from + t - 1].to_vec()).collect()
        };
        let batch = |rows: &[u32]| Batch::plain(part(rows, 0), part(rows, 1), b, t - 1);
        self.tokens("tokens").chunks(b * t).map(batch).collect()
    }

    /// What trains the model as the golden steps were made.
    fn engine(&self, engine: EngineChoice, micro_batch_size: usize) -> Box<dyn StepEngine + '_> {
        let batch_size = self.tensors["tokens"].dims()[1];
        let clip_norm = self.section("clip_norm");
        let train = TrainConfig { batch_size, micro_batch_size, clip_norm, engine, ..TrainConfig::default() };
        let options = TrainerOptions {
            optimizer: self.section("optimizer"),
            schedule: self.section("schedule"),
            train,
            ..TrainerOptions::default()
        };
        choose(self.model.as_ref(), None, &options).unwrap()
    }

    fn logits(&self, batch: &Batch) -> Tensor {
        let inputs = Tensor::from_slice(&batch.inputs, (batch.batch_size, batch.context), &CPU).unwrap();
        self.model.logits(&inputs, &mut Pass::evaluation(DType::F32)).unwrap()
    }
}

fn max_abs(x: &Tensor) -> f32 {
    x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    max_abs(&(a - b).unwrap())
}

#[test]
fn logits_and_loss_are_those_of_transformers() {
    for name in TRAINED.into_iter().chain(EVALUATED) {
        let golden = Golden::open(name);
        let batch = &golden.batches()[0];
        let logits = golden.logits(batch);
        let difference = max_difference(&logits, &golden.tensors["logits"]);
        assert!(difference < LOGIT_TOLERANCE, "{name}: logits differ by {difference}");
        let targets = Tensor::new(batch.targets.as_slice(), &CPU).unwrap();
        let loss = cross_entropy_sum(&logits.flatten_to(1).unwrap(), &targets).unwrap();
        let loss = f64::from(loss.to_scalar::<f32>().unwrap()) / batch.targets.len() as f64;
        let expected = golden.json["loss"].as_f64().unwrap();
        assert!((loss - expected).abs() < LOSS_TOLERANCE, "{name}: loss {loss}, expected {expected}");
    }
}

#[test]
fn every_gradient_is_that_of_pytorch_on_each_engine() {
    for (name, engine) in TRAINED.into_iter().flat_map(|name| ENGINES.map(|engine| (name, engine))) {
        let golden = Golden::open(name);
        let batch = &golden.batches()[0];
        for micro_batch in [batch.batch_size, 2] {
            let mut steps = golden.engine(engine, micro_batch);
            steps.step(&Step { number: 1, learning_rate: 0.0, batch, began: MonotonicNs::now() }).unwrap();
            let n_golden = golden.tensors.keys().filter(|key| key.starts_with("grad.")).count();
            let parameters = golden.model.parameters();
            assert_eq!(parameters.len(), n_golden, "{name}");
            for (parameter, gradient) in parameters.iter().zip(steps.gradients().unwrap().unwrap()) {
                let expected = &golden.tensors[&format!("grad.{}", parameter.name)];
                let difference = max_difference(&gradient, expected) / max_abs(expected);
                assert!(
                    difference < GRADIENT_TOLERANCE,
                    "{name}, {engine:?}: the gradient of {} differs by {difference} of its largest element",
                    parameter.name
                );
            }
        }
    }
}

#[test]
fn ten_steps_of_training_are_those_of_pytorch_on_each_engine() {
    for (name, engine) in TRAINED.into_iter().flat_map(|name| ENGINES.map(|engine| (name, engine))) {
        let golden = Golden::open(name);
        let (optimizer, schedule): (OptimizerConfig, ScheduleConfig) =
            (golden.section("optimizer"), golden.section("schedule"));
        let (losses, norms, rates) =
            (golden.numbers("losses"), golden.numbers("grad_norms"), golden.numbers("learning_rates"));
        let clip_norm: f64 = golden.section("clip_norm");
        assert!(norms.iter().any(|norm| *norm > clip_norm) && norms.iter().any(|norm| *norm < clip_norm));
        let mut steps = golden.engine(engine, 2);
        let batches = golden.batches();
        assert_eq!((batches.len(), losses.len()), (10, 10));
        for (finished, batch) in batches.iter().enumerate() {
            let rate = learning_rate(&schedule, &optimizer, finished as u64, batches.len() as u64);
            assert!((rate - rates[finished]).abs() < 1e-15, "{name}, {finished}: learning rate {rate}");
            let number = finished as u64 + 1;
            steps.step(&Step { number, learning_rate: rate, batch, began: MonotonicNs::now() }).unwrap();
            let result = steps.poll().unwrap().results[0];
            let error = (f64::from(result.loss) - losses[finished]).abs();
            assert!(error < TRAINING_TOLERANCE, "{name}, {engine:?} {number}: the loss differs by {error}");
            let error = (f64::from(result.grad_norm) / norms[finished] - 1.0).abs();
            assert!(
                error < TRAINING_TOLERANCE,
                "{name}, {engine:?} {number}: the norm differs by a share of {error}"
            );
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for name in TRAINED.into_iter().chain(EVALUATED) {
        let golden = Golden::open(name);
        let expected = golden.tokens("continuation");
        let options = GenerateOptions {
            sampling: Sampling::greedy(),
            max_tokens: expected.len(),
            end_of_text: None,
            n_allowed: golden.model.vocab_size(),
            n_likeliest: 0,
        };
        let generator = Generator::new(golden.model.as_ref(), &golden.tokens("prompt"), options).unwrap();
        let tokens: Vec<u32> = generator.map(|step| step.unwrap().token).collect();
        assert_eq!(tokens, expected, "{name}");
    }
}
