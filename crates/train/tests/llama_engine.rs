//! The Llama engine against autograd over the reference operations, and against itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use candle_core::{DType, Device};
use wattle_data::Batch;
use wattle_model::engine::llama::LlamaEngine;
use wattle_model::engine::{EngineOptions, LossSum};
use wattle_model::{
    ActivationKind, Engine, Family, LanguageModel, Llama, ModelConfig, Parameter, Recompute, RopeScaling,
    TrainingPass,
};
use wattle_random::{Purpose, Stream};
use wattle_train::gradients::{BatchOptions, batch_gradients};

const CPU: Device = Device::Cpu;
const VOCAB_SIZE: usize = 41;
const RECOMPUTE: [Recompute; 3] = [Recompute::None, Recompute::Mlp, Recompute::Block];

fn odd() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        n_layers: 3,
        n_heads: 6,
        n_kv_heads: 2,
        d_model: 36,
        d_ff: 52,
        context: 17,
        ..ModelConfig::default()
    }
}

/// Tied and untied; as many key heads as query heads, a group of them, a single one; every scaling.
fn configurations() -> Vec<ModelConfig> {
    vec![
        odd(),
        ModelConfig { n_kv_heads: 0, tie_embeddings: false, norm_eps: 1e-6, ..odd() },
        ModelConfig { n_kv_heads: 1, rope_scaling: RopeScaling::Linear, rope_factor: 2.0, ..odd() },
        ModelConfig {
            n_layers: 1,
            tie_embeddings: false,
            rope_scaling: RopeScaling::Llama3,
            rope_original_context: 9,
            rope_theta: 500.0,
            ..odd()
        },
        ModelConfig { n_heads: 4, d_model: 64, d_ff: 0, context: 32, n_layers: 2, ..odd() },
    ]
}

/// A model with weights large enough that every part of it matters, norms among them.
fn model(config: &ModelConfig) -> Llama {
    let model = Llama::new(config, VOCAB_SIZE, 5, &CPU).unwrap();
    for (idx, Parameter { var, .. }) in model.parameters().iter().enumerate() {
        let mut noise = vec![0f32; var.elem_count()];
        Stream::new(9, Purpose::Init { parameter_idx: idx as u32 }, 0).fill_normal(0, &mut noise);
        let noise = candle_core::Tensor::from_vec(noise, var.shape(), &CPU).unwrap();
        var.set(&(var.as_detached_tensor() + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
    model
}

fn batch(config: &ModelConfig, batch_size: usize, idx: u64) -> Batch {
    let n = batch_size * config.context;
    let stream = Stream::new(11, Purpose::Sampling, idx);
    let tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % (VOCAB_SIZE as u32 - 3)).collect();
    let (inputs, targets) = tokens.split_at(n);
    Batch { inputs: inputs.to_vec(), targets: targets.to_vec(), batch_size, context: config.context }
}

fn pass(config: &ModelConfig, step: u64) -> TrainingPass {
    TrainingPass { seed: 3, step, first_sequence: 0, dropout: config.dropout }
}

fn engine(model: &Llama, micro_batch: usize, recompute: Recompute) -> Box<dyn Engine> {
    model.engine(EngineOptions { micro_batch, recompute }).unwrap().unwrap()
}

/// Loss and gradients of a batch in micro-batches, as the trainer computes them.
fn accumulate(engine: &mut dyn Engine, batch: &Batch, micro_batch: usize, pass: TrainingPass) -> LossSum {
    engine.state_mut().zero_gradients();
    let mut sum = LossSum::default();
    for first_sequence in (0..batch.batch_size).step_by(micro_batch) {
        let end = batch.batch_size.min(first_sequence + micro_batch);
        let tokens = first_sequence * batch.context..end * batch.context;
        let pass = TrainingPass { first_sequence, ..pass };
        let scale = 1.0 / batch.targets.len() as f32;
        sum +=
            engine.accumulate_gradients(&batch.inputs[tokens.clone()], &batch.targets[tokens], pass, scale);
    }
    sum
}

fn values(tensor: &candle_core::Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn loss_and_every_gradient_are_those_of_autograd() {
    for config in configurations() {
        let (model, batch) = (model(&config), batch(&config, 5, 0));
        for micro_batch in [5, 2] {
            let pass = pass(&config, 7);
            let options = BatchOptions { micro_batch, dtype: DType::F32, pass };
            let expected = batch_gradients(&model, &batch, options, &CPU).unwrap();
            let mut engine = engine(&model, micro_batch, Recompute::None);
            let sum = accumulate(engine.as_mut(), &batch, micro_batch, pass);

            let loss = f64::from(expected.loss.to_scalar::<f32>().unwrap());
            // Means over 85 tokens or more of numbers with f32's rounding; 4e-7 was seen.
            let error = (sum.loss / batch.targets.len() as f64 / loss - 1.0).abs();
            assert!(error < 2e-6, "{config:?}: the loss differs by a share of {error}");
            let accuracy = f64::from(expected.accuracy.to_scalar::<f32>().unwrap());
            assert!((sum.n_correct as f64 / batch.targets.len() as f64 - accuracy).abs() < 1e-6);

            let gradients = engine.state().gradient_tensors().unwrap();
            for ((parameter, got), expected) in
                model.parameters().iter().zip(&gradients).zip(&expected.gradients)
            {
                let (got, expected) = (values(got), values(expected.as_ref().unwrap()));
                let largest = expected.iter().fold(0f32, |max, g| max.max(g.abs()));
                let gap = got.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
                // Sums of some hundred terms, rounded in another order through three blocks; a wrong term is
                // thousands of times larger.
                assert!(
                    largest > 0.0 && gap < 1e-5 * largest,
                    "{config:?}: the gradient of {} differs by {gap} of {largest}",
                    parameter.name
                );
            }
        }
    }
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    for config in configurations() {
        let (model, batch) = (model(&config), batch(&config, 7, 0));
        let gradients = |n_threads: usize, recompute: Recompute, micro_batch: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                let mut engine = engine(&model, micro_batch, recompute);
                let sum = accumulate(engine.as_mut(), &batch, micro_batch, pass(&config, 2));
                let evaluated =
                    engine.evaluate(&batch.inputs[..config.context], &batch.targets[..config.context]);
                (sum, evaluated, engine.state().grad_norm(), bits(engine.state().gradients()))
            })
        };
        for micro_batch in [7, 3] {
            let expected = gradients(1, Recompute::None, micro_batch);
            for n_threads in [1, 2, 3, 5] {
                for recompute in RECOMPUTE {
                    let got = gradients(n_threads, recompute, micro_batch);
                    assert!(got == expected, "{config:?}: {n_threads} threads, {recompute:?}");
                }
            }
        }
    }
}

#[test]
fn the_memory_plan_is_what_is_allocated() {
    for config in configurations() {
        let model = model(&config);
        for recompute in RECOMPUTE {
            let options = EngineOptions { micro_batch: 6, recompute };
            let engine = LlamaEngine::new(&config, VOCAB_SIZE, model.parameters(), options).unwrap();
            let (planned, allocated) = (engine.memory().total() as f64, engine.allocated_bytes() as f64);
            assert!((planned / allocated - 1.0).abs() < 0.05, "{config:?}: {planned} of {allocated}");
        }
    }
}
