//! Several ranks that train one model, each on a board of its own: threads of this process, on stand-in boards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "common/of_ranks.rs"]
mod of_ranks;

use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, safetensors};
use kernel_shim::ShimBoard;
use wattle_data::Dataset;
use wattle_dist::{DistError, Fabric};
use wattle_model::{
    ActivationKind, Family, Fp8Options, LanguageModel, MemoryPlan, ModelConfig, Moments, Recompute,
};
use wattle_ops::board::Board;
use wattle_runlog::{Phase, StopReason};
use wattle_train::config::{EvaluateConfig, OptimizerConfig, OptimizerKind, ScheduleConfig, TrainConfig};
use wattle_train::{TrainError, TrainerOptions};

use common::{CPU, dataset, values};
use of_ranks::{Ended, Recorder, file, plain, train_on};

const STEPS: u64 = 5;

fn gpt2() -> ModelConfig {
    ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 16,
        d_ff: 32,
        context: 8,
        bias: true,
        dropout: 0.2,
        ..ModelConfig::default()
    }
}

fn llama() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        n_heads: 4,
        n_kv_heads: 2,
        d_ff: 48,
        n_layers: 3,
        tie_embeddings: false,
        dropout: 0.0,
        bias: false,
        ..gpt2()
    }
}

/// A batch of eight sequences, in micro-batches of at most two.
fn options(config: &ModelConfig) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: config.dropout,
        optimizer: OptimizerConfig { learning_rate: 1e-2, eps: 1e-3, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        train: TrainConfig {
            batch_size: 8,
            micro_batch_size: 2,
            max_steps: STEPS,
            epochs: 0,
            clip_norm: 0.5,
            ..TrainConfig::default()
        },
        evaluate: EvaluateConfig { every_steps: 4, batches: 2, ..EvaluateConfig::default() },
        checkpoint_every_steps: 3,
        checkpoint_in_background: true,
        ..TrainerOptions::default()
    }
}

/// The same, with the matrices of blocks updated by Muon.
fn by_muon(config: &ModelConfig) -> TrainerOptions {
    let optimizer = OptimizerConfig { kind: OptimizerKind::Muon, ..options(config).optimizer };
    TrainerOptions { optimizer, ..options(config) }
}

/// Trains on `world` ranks; `board` makes the board of each from one that has its ranks.
fn train_with(
    dir: &Path,
    dataset: &Dataset,
    config: &ModelConfig,
    options: &TrainerOptions,
    world: usize,
    recorder: impl Fn(usize) -> Recorder + Sync,
    board: impl Fn(ShimBoard) -> ShimBoard + Sync,
) -> Vec<Ended> {
    let train = options.train.over_ranks(world).unwrap();
    let options = TrainerOptions { train, ..options.clone() };
    let model = |dataset: &Dataset| -> Box<dyn LanguageModel + Send + Sync> {
        config.build(dataset.vocab_size(), 3, &CPU).unwrap()
    };
    let board = |fabric: Arc<dyn Fabric>| -> Option<Arc<dyn Board>> {
        let shim = match world {
            1 => ShimBoard::default(),
            // Some run their collectives at once, others as late as they may.
            _ => {
                let is_late = fabric.place().rank.is_multiple_of(2);
                ShimBoard::default().with_ranks(fabric, is_late)
            }
        };
        Some(Arc::new(board(shim)))
    };
    train_on(dir, dataset, &options, world, recorder, model, board)
}

fn train(
    dir: &Path,
    dataset: &Dataset,
    config: &ModelConfig,
    options: &TrainerOptions,
    world: usize,
) -> Vec<Ended> {
    train_with(dir, dataset, config, options, world, plain, |board| board)
}

/// The largest difference between the tensors of two files, as a share of the largest value of each.
fn gap(file: &Path, other: &Path) -> f32 {
    let [one, other] = [file, other].map(|path| safetensors::load(path, &CPU).unwrap());
    assert_eq!(one.len(), other.len());
    let of_tensor = |name: &String| {
        let [one, other] = [&one[name], &other[name]].map(values);
        let largest = one.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        one.iter().zip(&other).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / largest
    };
    one.keys().map(of_tensor).fold(0.0, f32::max)
}

fn losses(ended: &Ended) -> Vec<f32> {
    ended.recorder.losses.iter().map(|(_, loss, _)| f32::from_bits(*loss)).collect()
}

/// Compares ranks with one board alone: losses differ by at most `most`.
fn compare(dataset: &Dataset, config: &ModelConfig, options: &TrainerOptions, worlds: &[usize], most: f32) {
    let dir = tempfile::tempdir().unwrap();
    let alone_dir = dir.path().join("alone");
    let alone = train(&alone_dir, dataset, config, options, 1).remove(0);
    assert_eq!(*alone.outcome.as_ref().unwrap(), StopReason::Done);
    for &world in worlds {
        let ranks_dir = dir.path().join(format!("{world}"));
        let ranks = train(&ranks_dir, dataset, config, options, world);
        for rank in &ranks {
            assert_eq!(*rank.outcome.as_ref().unwrap(), StopReason::Done);
            assert_eq!(rank.recorder.losses, ranks[0].recorder.losses, "ranks are told the same");
            assert_eq!(rank.recorder.evaluations, ranks[0].recorder.evaluations);
        }
        for (step, (got, expected)) in losses(&ranks[0]).iter().zip(losses(&alone)).enumerate() {
            let what = format!("{:?} over {world} ranks, step {}", config.family, step + 1);
            assert!((got - expected).abs() <= most * expected, "{what}: {got} instead of {expected}");
        }
        for step in [3, STEPS] {
            for name in ["model.safetensors", "optimizer.safetensors"] {
                let of = |dir: &Path| dir.join(format!("checkpoints/step-{step:08}/{name}"));
                let gap = gap(&of(&alone_dir), &of(&ranks_dir));
                assert!(gap <= most * 20.0, "{name} at {step} over {world} ranks: {gap}");
            }
        }
    }
}

#[test]
fn the_same_number_of_ranks_gives_the_same_bits_again() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    for options in [options(&gpt2()), by_muon(&gpt2())] {
        let options = TrainerOptions { dtype: DType::BF16, ..options };
        let kind = options.optimizer.kind;
        let [once, again] = ["once", "again"].map(|name| dir.path().join(format!("{kind:?}-{name}")));
        for dir in [&once, &again] {
            let ended = train(dir, &dataset, &gpt2(), &options, 4);
            assert!(ended[0].engine.contains("recorded and replayed"), "{}", ended[0].engine);
        }
        for name in ["model.safetensors", "optimizer.safetensors"] {
            assert!(file(&once, STEPS, name) == file(&again, STEPS, name), "{name} has other bits");
        }
    }
}

#[test]
fn ranks_of_boards_learn_what_one_board_learns() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let (gpt2, llama) = (gpt2(), llama());
    compare(&dataset, &gpt2, &options(&gpt2), &[2, 4], 2e-5);
    let recompute = TrainConfig { recompute: Recompute::Block, ..options(&llama).train };
    compare(&dataset, &llama, &TrainerOptions { train: recompute, ..options(&llama) }, &[4], 2e-5);
    // Moments are rounded by their places, which differ.
    let moments = Moments::Bf16 { seed: 3 };
    compare(&dataset, &gpt2, &TrainerOptions { moments, ..options(&gpt2) }, &[8], 3e-3);
    compare(&dataset, &llama, &TrainerOptions { dtype: DType::BF16, ..options(&llama) }, &[2], 2e-2);
}

#[test]
fn ranks_of_boards_learn_by_muon_what_one_board_learns() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let (gpt2, llama) = (gpt2(), llama());
    // More ranks than a block has matrices, and fewer.
    compare(&dataset, &gpt2, &by_muon(&gpt2), &[8], 2e-5);
    let recompute = TrainConfig { recompute: Recompute::Block, ..options(&llama).train };
    compare(&dataset, &llama, &TrainerOptions { train: recompute, ..by_muon(&llama) }, &[4], 2e-5);
    let moments = Moments::Bf16 { seed: 3 };
    compare(&dataset, &gpt2, &TrainerOptions { moments, ..by_muon(&gpt2) }, &[4], 3e-3);
    compare(&dataset, &llama, &TrainerOptions { dtype: DType::BF16, ..by_muon(&llama) }, &[2], 2e-2);
    let (config, fp8) = (ModelConfig { context: 16, ..llama }, Some(Fp8Options { head: false }));
    compare(&dataset, &config, &TrainerOptions { dtype: DType::BF16, fp8, ..by_muon(&config) }, &[2], 3e-2);
}

#[test]
fn products_in_eight_bits_are_those_of_whole_masters() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = ModelConfig { context: 16, ..llama() };
    let fp8 = Some(Fp8Options { head: false });
    let options = TrainerOptions { dtype: DType::BF16, fp8, ..options(&config) };
    compare(&dataset, &config, &options, &[2], 3e-2);
}

#[test]
fn a_run_goes_on_with_another_number_of_boards() {
    goes_on_with_other_boards(&options(&gpt2()));
    goes_on_with_other_boards(&by_muon(&gpt2()));
}

fn goes_on_with_other_boards(options: &TrainerOptions) {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let (config, parts) = (gpt2(), dir.path().join("parts"));
    let whole = train(&dir.path().join("whole"), &dataset, &config, options, 1).remove(0);
    let mut all = Vec::new();
    for (world, stop) in [(4, 2), (2, 3), (1, 4), (8, 100)] {
        let recorder = |_| Recorder { stop_after: Some(stop), ..Recorder::default() };
        let ended = train_with(&parts, &dataset, &config, options, world, recorder, |board| board);
        for rank in &ended {
            assert_eq!(rank.recorder.losses, ended[0].recorder.losses, "all leave at the same step");
        }
        all.extend(losses(&ended[0]));
    }
    assert_eq!(all.len() as u64, STEPS);
    for (got, expected) in all.iter().zip(losses(&whole)) {
        assert!((got - expected).abs() <= 2e-5 * expected, "{got} instead of {expected}");
    }
}

/// What an engine of each of `world` ranks takes.
fn plans(dataset: &Dataset, config: &ModelConfig, options: &TrainerOptions, world: usize) -> Vec<MemoryPlan> {
    let plans = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for fabric in wattle_dist::Threads::ranks(world) {
            scope.spawn(|| {
                let fabric: Arc<dyn Fabric> = Arc::new(fabric);
                let board = ShimBoard::default().with_ranks(Arc::clone(&fabric), false);
                let ranks = wattle_train::Ranks::new(fabric, std::time::Duration::from_secs(20));
                let train = options.train.over_ranks(world).unwrap();
                let options = TrainerOptions { ranks, train, ..options.clone() };
                let model = config.build(dataset.vocab_size(), 3, &CPU).unwrap();
                let engine =
                    wattle_train::engine::choose(model.as_ref(), Some(Arc::new(board)), &options).unwrap();
                plans.lock().unwrap().push(engine.memory().unwrap());
            });
        }
    });
    plans.into_inner().unwrap()
}

#[test]
fn each_rank_keeps_its_part_of_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = ModelConfig { d_model: 64, d_ff: 256, ..gpt2() };
    let options = TrainerOptions { dtype: DType::BF16, ..options(&config) };
    let plans = |world| plans(&dataset, &config, &options, world);
    let (alone, four) = (plans(1)[0], plans(4));
    assert!(four.iter().all(|plan| *plan == four[0]), "{four:?}");
    let share = |got: u64, whole: u64| got as f64 / whole as f64;
    // Masters of four bytes beside copies of two, of everything or of a quarter.
    assert!((share(four[0].weights, alone.weights) - 0.5).abs() < 0.02, "{four:?} {alone:?}");
    assert!((share(four[0].moments, alone.moments) - 0.25).abs() < 0.02, "{four:?} {alone:?}");
    assert!((share(four[0].gradients, alone.gradients) - 1.0).abs() < 0.02, "{four:?} {alone:?}");
}

#[test]
fn a_matrix_has_its_momentum_and_its_masters_with_one_rank_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = ModelConfig { d_model: 64, d_ff: 256, ..gpt2() };
    let options = TrainerOptions { dtype: DType::BF16, ..by_muon(&config) };
    let plans = |world| plans(&dataset, &config, &options, world);
    let (alone, two) = (plans(1)[0], plans(2));
    let sum = |of: fn(&MemoryPlan) -> u64| two.iter().map(of).sum::<u64>() as f64;
    // Buckets are longer by what makes them even.
    assert!((sum(|plan| plan.moments) / alone.moments as f64 - 1.0).abs() < 0.01, "{two:?} {alone:?}");
    // Of six bytes a parameter four are masters', which are shared out; each rank has the two of its copy.
    assert!((sum(|plan| plan.weights) / alone.weights as f64 - 4.0 / 3.0).abs() < 0.01, "{two:?} {alone:?}");
}

#[test]
fn the_leading_rank_chooses_kernels_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = gpt2();
    let options = TrainerOptions { select: true, ..options(&config) };
    let boards = Mutex::new(Vec::new());
    let model = |dataset: &Dataset| -> Box<dyn LanguageModel + Send + Sync> {
        config.build(dataset.vocab_size(), 3, &CPU).unwrap()
    };
    let train = options.train.over_ranks(4).unwrap();
    train_on(dir.path(), &dataset, &TrainerOptions { train, ..options }, 4, plain, model, |fabric| {
        let board = Arc::new(ShimBoard::default().with_ranks(fabric, false));
        boards.lock().unwrap().push(Arc::clone(&board));
        Some(board)
    });
    let boards = boards.into_inner().unwrap();
    let choices: Vec<_> = boards.iter().map(|board| board.choices().all()).collect();
    assert!(!choices[0].is_empty());
    assert!(choices.iter().all(|other| *other == choices[0]));
}

#[test]
fn exchanging_and_waiting_for_the_slowest_are_phases_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let (config, options) = (gpt2(), options(&gpt2()));
    let phases = |world: usize| {
        let ended = train(&dir.path().join(format!("{world}")), &dataset, &config, &options, world);
        assert_eq!(ended[0].engine.contains("each of 2 ranks"), world == 2, "{}", ended[0].engine);
        let spans = &ended[0].recorder.spans;
        let n = |phase| spans.iter().filter(|span| span.phase == phase).count() as u64;
        (n(Phase::ForwardBackward), n(Phase::Exchange), n(Phase::Optimizer))
    };
    assert_eq!(phases(1), (STEPS, 0, STEPS));
    assert_eq!(phases(2), (STEPS, 2 * STEPS, STEPS));
    let ended = train(&dir.path().join("waits"), &dataset, &config, &options, 2);
    for step in 1..=STEPS {
        let waits = |ended: &Ended| {
            ended.recorder.spans.iter().any(|span| span.step == step && span.phase == Phase::Wait)
        };
        assert!(!ended.iter().all(waits), "both ranks waited for the other in step {step}");
    }
}

#[test]
fn a_rank_that_cannot_go_on_ends_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = gpt2();
    let recorder = |rank| Recorder { fail_after: (rank == 1).then_some(4), ..Recorder::default() };
    let options = options(&config);
    let ended = train_with(dir.path(), &dataset, &config, &options, 4, recorder, |board| board);
    for (rank, ended) in ended.into_iter().enumerate() {
        let error = ended.outcome.unwrap_err();
        if rank == 1 {
            assert_eq!(error.to_string(), "the disk is full");
            continue;
        }
        assert!(error.to_string().starts_with("rank 1 has ended: the disk is full. Rank"), "{error}");
        let is_gone = |cause: &DistError| matches!(cause, DistError::Gone { .. });
        assert!(matches!(&error, TrainError::Parted { cause, .. } if is_gone(cause)));
    }
    let again = train(dir.path(), &dataset, &config, &options, 2);
    assert_eq!(*again[1].outcome.as_ref().unwrap(), StopReason::Done);
    assert_eq!(again[0].recorder.losses.first().unwrap().0, 4, "from the checkpoint at step 3");
}

#[test]
fn a_loss_that_is_not_finite_ends_all_at_the_same_step() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = gpt2();
    let optimizer = OptimizerConfig { learning_rate: 1e30, ..options(&config).optimizer };
    let train_config = TrainConfig { clip_norm: 0.0, ..options(&config).train };
    for dtype in [DType::F32, DType::BF16] {
        let (optimizer, train_config) = (optimizer.clone(), train_config.clone());
        let options = TrainerOptions { optimizer, train: train_config, dtype, ..options(&config) };
        let ended = train(&dir.path().join(format!("{dtype:?}")), &dataset, &config, &options, 2);
        let steps: Vec<u64> = ended
            .into_iter()
            .map(|ended| match ended.outcome {
                Err(TrainError::NotFinite { step, .. }) => step,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(steps[0], steps[1]);
    }
}

#[test]
fn where_one_rank_cannot_begin_none_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = gpt2();
    let said = Mutex::new(vec![String::new(); 3]);
    std::thread::scope(|scope| {
        for fabric in wattle_dist::Threads::ranks(3) {
            scope.spawn(|| {
                let fabric: Arc<dyn Fabric> = Arc::new(fabric);
                let rank = fabric.place().rank;
                let board = ShimBoard::default().with_ranks(Arc::clone(&fabric), false);
                let board = if rank == 1 { board.with_memory(256 << 20) } else { board };
                let ranks = wattle_train::Ranks::new(fabric, std::time::Duration::from_secs(20));
                let train = TrainConfig { batch_size: 9, ..options(&config).train };
                let options = TrainerOptions { ranks, train, select: true, ..options(&config) };
                let model = config.build(dataset.vocab_size(), 3, &CPU).unwrap();
                let engine = wattle_train::engine::choose(model.as_ref(), Some(Arc::new(board)), &options);
                said.lock().unwrap()[rank] = engine.err().unwrap().to_string();
            });
        }
    });
    let said = said.into_inner().unwrap();
    assert!(said[1].starts_with("training takes"), "{said:?}");
    assert_eq!([said[0].as_str(), said[2].as_str()], ["another rank cannot begin"; 2]);
}

#[test]
fn what_boards_of_ranks_do_not_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let config = gpt2();
    let model = config.build(dataset.vocab_size(), 3, &CPU).unwrap();
    let said = |options: &TrainerOptions| {
        let board = Arc::new(ShimBoard::default());
        wattle_train::engine::choose(model.as_ref(), Some(board), options).err().unwrap().to_string()
    };
    let train = TrainConfig { reduce_leaves: 8, ..options(&config).train };
    let leaves = TrainerOptions { train, ..options(&config) };
    assert!(said(&leaves).starts_with("train.reduce_leaves = 8: on GPUs"), "{}", said(&leaves));
    let fabric = wattle_dist::Threads::ranks(2).remove(0);
    let ranks = wattle_train::Ranks::new(Arc::new(fabric), std::time::Duration::from_secs(1));
    let alone = TrainerOptions { ranks, ..options(&config) };
    assert!(said(&alone).starts_with("2 ranks train together, but their boards are not"), "{}", said(&alone));
}
