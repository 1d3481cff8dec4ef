//! Training on conversations: the assistant's tokens alone count, on every engine, in any micro-batches and over ranks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "common/recorded.rs"]
mod recorded;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use candle_core::DType;
use kernel_shim::ShimBoard;
use serde_json::Value;
use wattle_data::{
    DataConfig, Dataset, EvalBatches, Loader, TokenizerConfig, TokenizerKind, Verify, prepare,
};
use wattle_dist::{Fabric, Threads};
use wattle_model::{LanguageModel, Masks, ModelConfig};
use wattle_ops::board::Board;
use wattle_train::config::{EngineChoice, EvaluateConfig, OptimizerConfig};
use wattle_train::evaluate::{EvaluateOptions, evaluate, evaluate_by_best};
use wattle_train::{Ranks, TrainConfig, TrainerOptions};

use common::CPU;
use recorded::{Recorder, assert_close, told, train_model};

const CONTEXT: usize = 16;
const BATCH_SIZE: usize = 4;
const STEPS: u64 = 12;

/// Conversations whose windows have few or many targets that count.
fn conversations(dir: &Path, template: &str) -> Dataset {
    let one = |i: usize| {
        let (question, answer) = ("why? ".repeat(1 + i % 5), "so. ".repeat(1 + i % 3));
        format!("{{\"prompt\": \"{question}{}\", \"completion\": \"{answer}\"}}\n", i % 10)
    };
    let path = dir.join("chat.jsonl");
    std::fs::write(&path, (0..120).map(one).collect::<String>()).unwrap();
    let data = DataConfig {
        input: vec![path],
        chat_template: Some(template.parse().unwrap()),
        cache_dir: Some(dir.join("cache")),
        val_fraction: 0.2,
        ..DataConfig::default()
    };
    let tokenizer = TokenizerConfig { kind: TokenizerKind::Chars, ..TokenizerConfig::default() };
    prepare(&data, &tokenizer, Verify::FirstUse, &mut |_| {}).unwrap()
}

fn model(dataset: &Dataset) -> Box<dyn LanguageModel + Send + Sync> {
    let config = ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 16,
        context: CONTEXT,
        dropout: 0.0,
        ..ModelConfig::default()
    };
    config.build(dataset.vocab_size(), 3, &CPU).unwrap()
}

fn options(engine: EngineChoice, micro_batch_size: usize) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
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
        masks: Masks { weights: true, documents: false },
        ..TrainerOptions::default()
    }
}

/// What a run told, and the bits of its weights.
fn train(dir: &Path, dataset: &Dataset, options: TrainerOptions, recorder: Recorder) -> (Recorder, Vec<u32>) {
    train_on(dir, dataset, None, options, recorder)
}

fn train_on(
    dir: &Path,
    dataset: &Dataset,
    board: Option<Arc<dyn Board>>,
    options: TrainerOptions,
    recorder: Recorder,
) -> (Recorder, Vec<u32>) {
    train_model(dir, model(dataset).as_ref(), dataset, board, options, recorder)
}

/// Targets of each step that count.
fn counted(dataset: &Dataset) -> Vec<u64> {
    let loader = Loader::new(&dataset.train, CONTEXT, BATCH_SIZE, 3).unwrap();
    let per_epoch = loader.steps_per_epoch();
    (0..STEPS).map(|step| loader.batch(step / per_epoch, step % per_epoch).unwrap().counted()).collect()
}

#[test]
fn unequal_micro_batches_are_exact_and_every_engine_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = conversations(dir.path(), "plain");
    let run = |name: &str, board: Option<Arc<dyn Board>>, engine, micro_batch| {
        train_on(&dir.path().join(name), &dataset, board, options(engine, micro_batch), Recorder::default()).0
    };
    let whole = run("whole", None, EngineChoice::Explicit, BATCH_SIZE);
    let autograd = run("autograd", None, EngineChoice::Autograd, BATCH_SIZE);
    let parts = run("parts", None, EngineChoice::Explicit, 1);
    let autograd_parts = run("autograd-parts", None, EngineChoice::Autograd, 3);
    let board = run("board", Some(Arc::new(ShimBoard::default())), EngineChoice::Explicit, BATCH_SIZE);
    let board_parts = run("board-parts", Some(Arc::new(ShimBoard::default())), EngineChoice::Explicit, 3);
    // Twelve steps of AdamW over sums in another order, as in the tests of the engines.
    for (recorder, what) in [
        (&parts, "micro-batches of 1"),
        (&autograd, "autograd"),
        (&autograd_parts, "autograd in parts"),
        (&board, "board"),
        (&board_parts, "board in parts"),
    ] {
        assert_close(recorder, &whole, 2e-3, what);
        let first = (f64::from(recorder.steps[0].loss), f64::from(whole.steps[0].loss));
        assert!((first.0 - first.1).abs() < 1e-5, "{what}: {first:?}");
    }
    assert!(whole.steps.last().unwrap().loss < whole.steps[0].loss, "nothing was learnt");
}

#[test]
fn tokens_are_those_that_count_and_so_is_their_rate() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = conversations(dir.path(), "plain");
    let (recorder, _) = train(dir.path(), &dataset, options(EngineChoice::Explicit, 2), Recorder::default());
    let counted = counted(&dataset);
    assert!(counted.iter().any(|&n| n != counted[0]), "all steps count as many: then this shows little");
    let mut sum = 0;
    for (step, n) in recorder.steps.iter().zip(&counted) {
        sum += n;
        assert_eq!(step.tokens, sum, "step {}", step.step);
        let share = *n as f64 / (BATCH_SIZE * CONTEXT) as f64;
        assert!(share < 1.0 && step.tokens_per_s > 0.0);
    }
    let val = dataset.val.as_ref().unwrap();
    let of_val: u64 =
        EvalBatches::new(val, CONTEXT, 1, 0).unwrap().map(|batch| batch.unwrap().counted()).sum();
    assert!(recorder.evaluations.iter().all(|found| found.tokens == of_val && found.bits_per_byte.is_nan()));
}

#[test]
fn ranks_with_unequal_counts_train_to_the_bits_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = conversations(dir.path(), "plain");
    let run = |world: usize| {
        let train_one = |fabric: Threads| {
            let path = dir.path().join(format!("{world}"));
            let place = fabric.place().rank;
            let ranks = Ranks::new(Arc::new(fabric), Duration::from_secs(20));
            let base = options(EngineChoice::Explicit, 1);
            let config = TrainConfig { reduce_leaves: BATCH_SIZE, ..base.train.clone() };
            let options = TrainerOptions { ranks, train: config, ..base };
            let path = if place == 0 { path } else { path.join(format!("{place}")) };
            train(&path, &dataset, options, Recorder::default())
        };
        std::thread::scope(|scope| {
            let running: Vec<_> =
                Threads::ranks(world).into_iter().map(|fabric| scope.spawn(|| train_one(fabric))).collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
        })
    };
    let (one, weights) = run(1).remove(0);
    for world in [2, 4] {
        for (recorder, of_rank) in run(world) {
            assert_eq!(told(&recorder), told(&one), "{world} ranks");
            let tokens =
                |recorder: &Recorder| recorder.steps.iter().map(|step| step.tokens).collect::<Vec<_>>();
            assert_eq!(tokens(&recorder), tokens(&one), "{world} ranks");
            assert!(of_rank == weights, "{world} ranks have other weights");
        }
    }
}

#[test]
fn a_run_goes_on_to_the_bit_and_its_checkpoints_can_be_talked_with() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = conversations(dir.path(), "chatml");
    let options = || options(EngineChoice::Explicit, 2);
    let (whole, weights) = train(&dir.path().join("whole"), &dataset, options(), Recorder::default());
    let parts = dir.path().join("parts");
    let stopped = Recorder { stop_after: Some(5), ..Recorder::default() };
    let (first, _) = train(&parts, &dataset, options(), stopped);
    let (second, resumed) = train(&parts, &dataset, options(), Recorder::default());
    assert!(resumed == weights);
    let tokens: Vec<u64> = first.steps.iter().chain(&second.steps).map(|step| step.tokens).collect();
    assert_eq!(tokens, whole.steps.iter().map(|step| step.tokens).collect::<Vec<_>>());

    let checkpoint = parts.join(format!("checkpoints/step-{STEPS:08}"));
    let json = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(checkpoint.join(name)).unwrap()).unwrap()
    };
    let template = wattle_data::ChatTemplate::of_dir(&checkpoint).unwrap().unwrap();
    assert_eq!(template.sha256(), dataset.chat.as_ref().unwrap().sha256());
    assert_eq!(json("tokenizer_config.json")["eos_token"], "<|im_end|>");
    let [text, turn] =
        ["<|endoftext|>", "<|im_end|>"].map(|token| dataset.tokenizer.encode(token).unwrap()[0]);
    assert_eq!(json("generation_config.json")["eos_token_id"], serde_json::json!([text, turn]));
    let files = json("state.json")["files"].clone();
    let named = |name: &str| files.as_array().unwrap().iter().filter(|file| file["name"] == name).count();
    assert_eq!((named("chat_template.jinja"), named("tokenizer_config.json")), (1, 1));
}

#[test]
fn an_evaluation_counts_alike_wherever_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = conversations(dir.path(), "plain");
    let (model, val) = (model(&dataset), dataset.val.as_ref().unwrap());
    let options = EvaluateOptions { batch_size: 3, max_batches: 0, dtype: DType::F32 };
    let reference = evaluate(model.as_ref(), val, options, &CPU, &mut |_, _| {}).unwrap();
    for board in [None, Some(Arc::new(ShimBoard::default()) as Arc<dyn Board>)] {
        let (found, by) =
            evaluate_by_best(model.as_ref(), val, options, &CPU, board, &mut |_, _| {}).unwrap();
        assert!((found.loss - reference.loss).abs() < 1e-5, "{by}: {found:?} and {reference:?}");
        assert_eq!((found.tokens, found.accuracy), (reference.tokens, reference.accuracy), "{by}");
        assert!(by.contains("explicit engine"), "{by}");
    }
}
