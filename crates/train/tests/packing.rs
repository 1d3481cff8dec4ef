//! Packed documents: the losses and gradients of documents alone in their windows, on every engine, and nothing from one
//! document to another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "common/recorded.rs"]
mod recorded;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Tensor};
use kernel_shim::ShimBoard;
use wattle_data::{
    Batch, DataConfig, Dataset, EvalBatches, Packing, TokenStore, TokenizerConfig, TokenizerKind, Verify,
    prepare,
};
use wattle_dist::{Fabric, Threads};
use wattle_model::config::ActivationKind;
use wattle_model::{
    DeviceEngineOptions, Family, GradientType, LanguageModel, Masks, MatrixUpdate, ModelConfig, Moments,
    Recompute, Sequences, StepInputs, StepResult,
};
use wattle_ops::adamw::Hyperparameters;
use wattle_ops::board::{Board, Elem};
use wattle_runlog::MonotonicNs;
use wattle_train::config::{EngineChoice, EvaluateConfig, OptimizerConfig};
use wattle_train::engine::{Step, choose};
use wattle_train::evaluate::{EvaluateOptions, Evaluation, evaluate, evaluate_by_best, masks_of};
use wattle_train::{Ranks, TrainConfig, TrainerOptions};

use common::{CPU, values};
use recorded::{Recorder, assert_close, told, train_model};

const CONTEXT: usize = 16;
const BATCH_SIZE: usize = 4;
const STEPS: u64 = 12;

/// Documents of a few tokens, some longer than a window.
fn documents(dir: &Path, packing: Packing) -> Dataset {
    let one = |i: usize| {
        format!(
            "{{\"text\": \"{}\"}}\n",
            &"to be or not, that is a question of taste"[..if i.is_multiple_of(11) { 39 } else { i % 7 }]
        )
    };
    let path = dir.join("documents.jsonl");
    std::fs::write(&path, (1..70).map(one).collect::<String>()).unwrap();
    let data = DataConfig {
        input: vec![path],
        cache_dir: Some(dir.join("cache")),
        val_fraction: 0.2,
        packing,
        ..DataConfig::default()
    };
    let tokenizer = TokenizerConfig { kind: TokenizerKind::Chars, ..TokenizerConfig::default() };
    prepare(&data, &tokenizer, Verify::FirstUse, &mut |_| {}).unwrap()
}

/// Learned positions; rotary ones; those in windows.
fn configurations() -> [ModelConfig; 3] {
    let gpt2 = ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 16,
        context: CONTEXT,
        dropout: 0.0,
        ..ModelConfig::default()
    };
    let llama = ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        tie_embeddings: false,
        ..gpt2.clone()
    };
    let mistral = ModelConfig { family: Family::Mistral, window: 5, ..llama.clone() };
    [gpt2, llama, mistral]
}

fn model(config: &ModelConfig, dataset: &Dataset) -> Box<dyn LanguageModel + Send + Sync> {
    config.build(dataset.vocab_size(), 3, &CPU).unwrap()
}

fn boards() -> [Option<Arc<dyn Board>>; 2] {
    [None, Some(Arc::new(ShimBoard::default()))]
}

/// All windows of a split as one batch.
fn whole(store: &TokenStore) -> Batch {
    EvalBatches::new(store, CONTEXT, 10_000, 0).unwrap().next().unwrap().unwrap()
}

/// What makes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Autograd,
    Cpu,
    Board,
}

/// What a step says of a batch, in micro-batches of five, and the gradient of each parameter.
fn step(model: &dyn LanguageModel, by: By, dropout: f32, batch: &Batch) -> (StepResult, Vec<Vec<f32>>) {
    let (batch_size, micro_batch_size) = (batch.batch_size, 5);
    let gradients = |tensors: Vec<Tensor>| tensors.iter().map(values).collect();
    if by == By::Board {
        let options = DeviceEngineOptions {
            gradients: GradientType::F32,
            batch_size,
            micro_batch: micro_batch_size,
            recompute: Recompute::Block,
            elem: Elem::F32,
            fp8: None,
            moments: Moments::F32,
            seed: 3,
            dropout,
            clip_norm: 0.0,
            hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0 },
            matrices: MatrixUpdate::AdamW,
            masks: Masks { weights: true, documents: true },
            selects: false,
        };
        let mut engine = model.device_engine(Arc::new(ShimBoard::default()), options).unwrap().unwrap();
        let (weights, documents) = (batch.weights.as_deref(), batch.documents.as_deref());
        let sequences = Sequences { inputs: &batch.inputs, targets: &batch.targets, weights, documents };
        let inputs = StepInputs { sequences, counts: sequences.into(), step: 1, learning_rate: 0.0 };
        engine.step(inputs).unwrap();
        return (engine.drain().unwrap()[0], gradients(engine.gradient_tensors().unwrap()));
    }
    let engine = if by == By::Cpu { EngineChoice::Explicit } else { EngineChoice::Autograd };
    let train = TrainConfig { batch_size, micro_batch_size, engine, ..TrainConfig::default() };
    let options = TrainerOptions { seed: 3, dropout, train, ..TrainerOptions::default() };
    let mut engine = choose(model, None, &options).unwrap();
    engine.step(&Step { number: 1, learning_rate: 0.0, batch, began: MonotonicNs::now() }).unwrap();
    let result = engine.poll().unwrap().results[0];
    (result, gradients(engine.gradients().unwrap().unwrap()))
}

/// The largest difference, as a share of the largest expected value.
fn gap(got: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    got.iter().zip(expected).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / largest
}

#[test]
fn packed_documents_have_the_losses_of_documents_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [packed, padded] =
        [Packing::Documents, Packing::Padded].map(|packing| documents(dir.path(), packing));
    assert!(2 * whole(&packed.train).batch_size < whole(&padded.train).batch_size);
    let options = EvaluateOptions { batch_size: 3, max_batches: 0, dtype: DType::F32 };
    for config in configurations() {
        let model = model(&config, &packed);
        let by_operations =
            |store: &TokenStore| evaluate(model.as_ref(), store, options, &CPU, &mut |_, _| {}).unwrap();
        let expected = by_operations(&padded.train);
        let hold = |found: Evaluation, what: &str| {
            assert!((found.loss - expected.loss).abs() < 1e-6, "{config:?}, {what}: {found:?}, {expected:?}");
            assert_eq!((found.tokens, found.accuracy), (expected.tokens, expected.accuracy), "{what}");
        };
        assert_eq!(expected.tokens, packed.train.len(), "each token is predicted once");
        hold(by_operations(&packed.train), "autograd");
        for board in boards() {
            for (store, how) in [(&packed.train, "packed"), (&padded.train, "padded")] {
                let board = board.clone();
                let (found, by) =
                    evaluate_by_best(model.as_ref(), store, options, &CPU, board, &mut |_, _| {}).unwrap();
                assert!(by.contains("explicit engine"), "{by}");
                hold(found, &format!("{how}, {by}"));
            }
        }
    }
}

#[test]
fn packed_documents_have_the_gradients_of_documents_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [packed, padded] =
        [Packing::Documents, Packing::Padded].map(|packing| documents(dir.path(), packing));
    for config in configurations() {
        let model = model(&config, &packed);
        let of = |dataset: &Dataset, by| step(model.as_ref(), by, 0.0, &whole(&dataset.train));
        let (expected, of_padded) = of(&padded, By::Autograd);
        for by in [By::Autograd, By::Cpu, By::Board] {
            let (got, of_packed) = of(&packed, by);
            assert!((got.loss - expected.loss).abs() < 1e-6, "{config:?}, {by:?}: {got:?}, {expected:?}");
            let gradients = of_packed.iter().zip(&of_padded);
            for (parameter, (got, expected)) in model.parameters().iter().zip(gradients) {
                // Sums of some thousand terms in another order.
                let gap = gap(got, expected);
                assert!(gap < 2e-5, "{config:?}, {by:?}: {} differs by {gap}", parameter.name);
            }
        }
    }
}

#[test]
fn no_document_changes_a_bit_of_anothers_loss_and_gradients() {
    let dir = tempfile::tempdir().unwrap();
    let packed = documents(dir.path(), Packing::Documents);
    let mut batch = whole(&packed.train);
    // In each window, the targets of the last document alone count.
    let starts = batch.documents.clone().unwrap();
    let weights = batch.weights.as_mut().unwrap();
    for (starts, weights) in starts.chunks(CONTEXT).zip(weights.chunks_mut(CONTEXT)) {
        let last = (0..CONTEXT).rev().find(|row| weights[*row] > 0.0).map(|row| starts[row]).unwrap();
        starts.iter().zip(weights).filter(|(start, _)| **start != last).for_each(|(_, weight)| *weight = 0.0);
    }
    let mut changed = batch.clone();
    let weights = batch.weights.as_deref().unwrap();
    let mut n_changed = 0;
    for (row, weight) in weights.iter().enumerate() {
        if *weight == 0.0 {
            changed.inputs[row] = (changed.inputs[row] + 1 + row as u32 % 3) % packed.vocab_size() as u32;
            changed.targets[row] = (changed.targets[row] + 1) % packed.vocab_size() as u32;
            n_changed += 1;
        }
    }
    assert!(n_changed > weights.len() / 4, "{n_changed} tokens of other documents");
    for config in configurations() {
        let config = ModelConfig { dropout: 0.1, ..config };
        let model = model(&config, &packed);
        for by in [By::Autograd, By::Cpu, By::Board] {
            let of = |batch: &Batch| step(model.as_ref(), by, config.dropout, batch);
            let ((before, of_before), (after, of_after)) = (of(&batch), of(&changed));
            assert_eq!(before.loss.to_bits(), after.loss.to_bits(), "{config:?}, {by:?}");
            let gradients = of_before.iter().zip(&of_after);
            for (parameter, (before, after)) in model.parameters().iter().zip(gradients) {
                // Equal numbers: what other documents add is zero, of either sign. A board sums a token's rows in groups,
                // which are others when other documents have that token.
                let is_table = parameter.name.contains("wte") || parameter.name.contains("embed_tokens");
                let is_same = match by == By::Board && is_table {
                    true => gap(after, before) < 1e-6,
                    false => before == after,
                };
                assert!(is_same, "{config:?}, {by:?}: {} is another", parameter.name);
            }
            let crossing = Batch { documents: None, ..batch.clone() };
            assert_ne!(before.loss.to_bits(), of(&crossing).0.loss.to_bits(), "{config:?}, {by:?}");
        }
    }
}

fn options(dataset: &Dataset, engine: EngineChoice, micro_batch_size: usize) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: 0.1,
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        train: TrainConfig {
            batch_size: BATCH_SIZE,
            micro_batch_size,
            max_steps: STEPS,
            epochs: 0,
            engine,
            ..TrainConfig::default()
        },
        evaluate: EvaluateConfig { every_steps: 5, ..EvaluateConfig::default() },
        masks: masks_of(&dataset.train),
        ..TrainerOptions::default()
    }
}

#[test]
fn every_engine_trains_alike_in_unequal_micro_batches() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = documents(dir.path(), Packing::Documents);
    let config = ModelConfig { dropout: 0.1, ..configurations()[0].clone() };
    let run = |name: &str, board: Option<Arc<dyn Board>>, engine, micro_batch| {
        let (dir, options) = (dir.path().join(name), options(&dataset, engine, micro_batch));
        train_model(&dir, model(&config, &dataset).as_ref(), &dataset, board, options, Recorder::default()).0
    };
    let whole = run("whole", None, EngineChoice::Explicit, BATCH_SIZE);
    let [_, board] = boards();
    for (name, board, engine, micro_batch) in [
        ("parts", None, EngineChoice::Explicit, 1),
        ("autograd", None, EngineChoice::Autograd, 3),
        ("board", board, EngineChoice::Explicit, 3),
    ] {
        let recorder = run(name, board, engine, micro_batch);
        // Twelve steps of AdamW over sums in another order, as in the tests of the engines.
        assert_close(&recorder, &whole, 2e-3, name);
        assert!((recorder.steps[0].loss - whole.steps[0].loss).abs() < 1e-5, "{name}");
        assert_eq!(recorder.steps.last().unwrap().tokens, whole.steps.last().unwrap().tokens);
    }
    assert!(whole.steps.last().unwrap().loss < whole.steps[0].loss, "nothing was learnt");
}

#[test]
fn a_run_goes_on_to_the_bit_and_ranks_have_the_bits_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = documents(dir.path(), Packing::Documents);
    let config = ModelConfig { dropout: 0.1, ..configurations()[1].clone() };
    let train = |name: &str, ranks: Ranks, stop_after| {
        let base = options(&dataset, EngineChoice::Explicit, 1);
        let train = TrainConfig { reduce_leaves: BATCH_SIZE, ..base.train.clone() };
        let (options, recorder) =
            (TrainerOptions { ranks, train, ..base }, Recorder { stop_after, ..Recorder::default() });
        train_model(
            &dir.path().join(name),
            model(&config, &dataset).as_ref(),
            &dataset,
            None,
            options,
            recorder,
        )
    };
    let (whole, weights) = train("whole", Ranks::default(), None);
    let (first, _) = train("parts", Ranks::default(), Some(5));
    let (second, resumed) = train("parts", Ranks::default(), None);
    assert!(resumed == weights);
    let losses = |recorders: &[&Recorder]| -> Vec<u32> {
        recorders.iter().flat_map(|recorder| &recorder.steps).map(|step| step.loss.to_bits()).collect()
    };
    assert_eq!(losses(&[&first, &second]), losses(&[&whole]));

    let train_one = |fabric: Threads| {
        let name = format!("rank-{}", fabric.place().rank);
        train(&name, Ranks::new(Arc::new(fabric), Duration::from_secs(60)), None)
    };
    let of_ranks = std::thread::scope(|scope| {
        let running: Vec<_> =
            Threads::ranks(2).into_iter().map(|fabric| scope.spawn(|| train_one(fabric))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
    });
    for (recorder, of_rank) in of_ranks {
        assert_eq!(told(&recorder), told(&whole));
        assert!(of_rank == weights, "ranks have other weights");
    }
}
