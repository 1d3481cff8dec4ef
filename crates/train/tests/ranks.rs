//! Several ranks that train one model, as threads of this process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "common/of_ranks.rs"]
mod of_ranks;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wattle_data::Dataset;
use wattle_dist::{DistError, Threads};
use wattle_model::engine::EngineOptions;
use wattle_model::{LanguageModel, MemoryPlan, ModelConfig, Moments, Recompute, Share};
use wattle_runlog::{Phase, StopReason};
use wattle_train::config::{
    EarlyStopConfig, EngineChoice, EvaluateConfig, OptimizerConfig, OptimizerKind, ScheduleConfig,
    TrainConfig,
};
use wattle_train::{Checkpoints, Prompts, Ranks, TrainError, Trainer, TrainerOptions};

use common::{CPU, dataset};
use of_ranks::{Ended, Recorder, file, plain, train_on};

const LEAVES: usize = 8;

fn model(dataset: &Dataset) -> Box<dyn LanguageModel + Send + Sync> {
    let config = ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 32,
        context: 12,
        dropout: 0.1,
        ..ModelConfig::default()
    };
    config.build(dataset.vocab_size(), 3, &CPU).unwrap()
}

/// Sixteen sequences in eight leaves of two.
fn options() -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: 0.1,
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        train: TrainConfig {
            batch_size: 16,
            micro_batch_size: 1,
            reduce_leaves: LEAVES,
            max_steps: 30,
            epochs: 0,
            ..TrainConfig::default()
        },
        evaluate: EvaluateConfig { every_steps: 7, ..EvaluateConfig::default() },
        checkpoint_every_steps: 9,
        checkpoint_in_background: true,
        ..TrainerOptions::default()
    }
}

/// Trains on `world` ranks in `dir/checkpoints`, from its newest checkpoint if there is one. `recorder` makes the observer
/// of each.
fn train(
    dir: &Path,
    dataset: &Dataset,
    options: &TrainerOptions,
    world: usize,
    recorder: impl Fn(usize) -> Recorder + Sync,
) -> Vec<Ended> {
    train_on(dir, dataset, options, world, recorder, model, |_| None)
}

/// The same, with the matrices of blocks updated by Muon.
fn by_muon() -> TrainerOptions {
    let optimizer = OptimizerConfig { kind: OptimizerKind::Muon, ..options().optimizer };
    TrainerOptions { optimizer, ..options() }
}

/// Trains on 1, 2, 4 and 8 ranks, and compares.
fn trains_to_the_bits_of_one(options: &TrainerOptions) {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    for moments in [Moments::F32, Moments::Bf16 { seed: 3 }] {
        let options = TrainerOptions { moments, ..options.clone() };
        let run = |world| {
            let dir = dir.path().join(format!("{moments:?}-{world}"));
            let ended = train(&dir, &dataset, &options, world, plain);
            (dir, ended)
        };
        let (one_dir, one) = run(1);
        let one = &one[0];
        assert_eq!(one.recorder.losses.len(), 30);
        assert!(one.recorder.evaluations.len() >= 5, "at 7, 14, 21, 28 and the end");
        for world in [2, 4, 8] {
            let (dir, ranks) = run(world);
            for rank in &ranks {
                assert_eq!(*rank.outcome.as_ref().unwrap(), StopReason::Done);
                assert_eq!(rank.recorder.losses, one.recorder.losses, "{world} ranks");
                assert_eq!(rank.recorder.evaluations, one.recorder.evaluations, "{world} ranks");
                assert!(rank.weights == one.weights, "{world} ranks have other weights");
            }
            for step in [18, 27, 30] {
                for name in ["model.safetensors", "optimizer.safetensors"] {
                    assert!(file(&dir, step, name) == file(&one_dir, step, name), "{name} at {step}");
                }
            }
            assert!(ranks[0].engine.contains(&format!("each of {world} ranks")), "{}", ranks[0].engine);
        }
    }
}

/// Items in the words of the data, and a prompt.
fn examined(dir: &Path) -> EvaluateConfig {
    let line = |i: usize| {
        format!(
            "{{\"kind\":\"choice\",\"prompt\":\"{i} and \",\"choices\":[\"{}. \",\"7. 7\"],\"answer\":0}}\n",
            i + 1
        )
    };
    std::fs::write(dir.join("sums.jsonl"), (0..5).map(line).collect::<String>()).unwrap();
    let said =
        "{\"kind\":\"generate\",\"prompt\":\"3 and \",\"answer\":\"4\",\"stop\":[\".\"],\"max_tokens\":4}\n";
    std::fs::write(dir.join("said.jsonl"), said.repeat(3)).unwrap();
    let tasks = ["sums.jsonl", "said.jsonl"].map(|name| dir.join(name)).to_vec();
    let prompts = Prompts::Texts(vec!["1 and ".to_owned()]);
    EvaluateConfig { every_steps: 7, tasks, prompts, prompt_tokens: 5, ..EvaluateConfig::default() }
}

#[test]
fn ranks_share_tasks_and_training_does_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let plain_run = train(&dir.path().join("plain"), &dataset, &options(), 1, plain).remove(0);
    assert!(plain_run.recorder.tasks.is_empty());
    let options = TrainerOptions { evaluate: examined(dir.path()), ..options() };
    let run = |world: usize| train(&dir.path().join(world.to_string()), &dataset, &options, world, plain);
    let one = run(1).remove(0);
    assert_eq!(
        one.recorder.tasks.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        [7, 9, 14, 18, 21, 27, 28, 30]
    );
    assert_eq!(one.recorder.samples.len(), 8);
    let scores = &one.recorder.tasks[7].1;
    assert_eq!(
        scores.iter().map(|task| (task.task.as_str(), task.items)).collect::<Vec<_>>(),
        [("sums", 5), ("said", 3)]
    );
    assert!(one.weights == plain_run.weights && one.recorder.losses == plain_run.recorder.losses);
    assert_eq!(one.recorder.evaluations, plain_run.recorder.evaluations);
    for world in [2, 4] {
        for (rank, ended) in run(world).into_iter().enumerate() {
            assert_eq!(ended.recorder.tasks, one.recorder.tasks, "rank {rank} of {world}");
            assert_eq!(ended.recorder.samples.is_empty(), rank > 0);
            assert!(rank > 0 || ended.recorder.samples == one.recorder.samples);
            assert!(ended.weights == one.weights);
        }
    }
}

#[test]
fn any_number_of_ranks_trains_to_the_bits_of_one() {
    trains_to_the_bits_of_one(&options());
}

#[test]
fn any_number_of_ranks_trains_by_muon_to_the_bits_of_one() {
    trains_to_the_bits_of_one(&by_muon());
}

#[test]
fn leaves_change_bits_and_one_leaf_is_what_was_always_trained() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let of_leaves = |reduce_leaves| {
        let train = TrainConfig { reduce_leaves, ..options().train };
        let options = TrainerOptions { train, ..options() };
        self::train(&dir.path().join(format!("{reduce_leaves}")), &dataset, &options, 1, plain)
            .remove(0)
            .weights
    };
    let [one, two] = [1, 2].map(of_leaves);
    assert!(one != two, "a sum of two leaves has the bits of one: then this shows nothing");
    // Two ranks that are not told otherwise have one leaf each.
    let train = TrainConfig { reduce_leaves: 1, ..options().train }.over_ranks(2).unwrap();
    let options = TrainerOptions { train, ..options() };
    let ranks = self::train(&dir.path().join("ranks"), &dataset, &options, 2, plain);
    assert!(ranks[1].weights == two);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks_as_if_it_had_never_stopped() {
    goes_on_with_other_ranks(&options());
    goes_on_with_other_ranks(&by_muon());
}

fn goes_on_with_other_ranks(options: &TrainerOptions) {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let whole = train(&dir.path().join("whole"), &dataset, options, 1, plain).remove(0);
    let parts = dir.path().join("parts");
    let mut losses = Vec::new();
    // Whichever rank is asked to stop.
    for (world, stop, who) in [(4, 5, 3), (2, 13, 0), (1, 20, 0), (8, 100, 0)] {
        let recorder = |rank| Recorder { stop_after: (rank == who).then_some(stop), ..Recorder::default() };
        let ended = train(&parts, &dataset, options, world, recorder);
        let reason = if stop == 100 { StopReason::Done } else { StopReason::Signal };
        for rank in &ended {
            assert_eq!(*rank.outcome.as_ref().unwrap(), reason);
            assert_eq!(rank.recorder.losses.last().unwrap().0, stop.min(30), "all leave at the same step");
        }
        losses.extend(ended[0].recorder.losses.iter().copied());
        if world == 8 {
            assert!(ended[5].weights == whole.weights);
        }
    }
    assert_eq!(losses, whole.recorder.losses);
}

#[test]
fn early_stopping_ends_all_ranks_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let early_stop = EarlyStopConfig { target_loss: Some(2.0), ..EarlyStopConfig::default() };
    let options = TrainerOptions { early_stop, ..options() };
    let ended = train(dir.path(), &dataset, &options, 2, plain);
    for rank in &ended {
        assert_eq!(*rank.outcome.as_ref().unwrap(), StopReason::EarlyStop);
    }
    assert_eq!(ended[0].recorder.evaluations, ended[1].recorder.evaluations);
}

#[test]
fn a_rank_that_cannot_go_on_says_why_and_the_others_end_and_name_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let recorder = |rank| Recorder { fail_after: (rank == 1).then_some(14), ..Recorder::default() };
    let ended = train(dir.path(), &dataset, &options(), 4, recorder);
    for (rank, ended) in ended.into_iter().enumerate() {
        let error = ended.outcome.unwrap_err();
        if rank == 1 {
            assert_eq!(error.to_string(), "the disk is full");
            continue;
        }
        let said = error.to_string();
        assert!(said.starts_with("rank 1 has ended: the disk is full. Rank"), "{said}");
        // The leading rank waits for the checkpoint that it is writing.
        assert!(rank != 0 || said.contains("step-00000009"), "{said}");
        let is_gone = |cause: &DistError| matches!(cause, DistError::Gone { .. });
        assert!(matches!(&error, TrainError::Parted { cause, .. } if is_gone(cause)));
    }
    // Nothing is half-written, and it goes on.
    let again = train(dir.path(), &dataset, &options(), 2, plain);
    assert_eq!(again[0].recorder.losses.first().unwrap().0, 10);
    assert_eq!(*again[1].outcome.as_ref().unwrap(), StopReason::Done);
}

#[test]
fn a_rank_that_is_silent_ends_the_others_at_their_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let mut fabrics = Threads::ranks(2);
    let _silent = fabrics.pop().unwrap();
    let ranks = Ranks::new(Arc::new(fabrics.pop().unwrap()), Duration::from_millis(20));
    let options = TrainerOptions { ranks, ..options() };
    let model = model(&dataset);
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 3).unwrap();
    let mut trainer = Trainer::new(model.as_ref(), &dataset, &CPU, options, checkpoints).unwrap();
    let error = trainer.run(&mut Recorder::default()).unwrap_err();
    let TrainError::Parted { cause, rank: 0, step: 0, .. } = &error else { panic!("{error}") };
    assert!(matches!(&**cause, DistError::Silent { silent, .. } if silent == &[1]), "{error}");
}

#[test]
fn waiting_for_others_and_talking_to_them_are_phases_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let ended = train(dir.path(), &dataset, &options(), 2, plain);
    let has = |phase| ended[0].recorder.spans.iter().filter(|span| span.phase == phase).count();
    assert_eq!((has(Phase::Wait), has(Phase::Exchange), has(Phase::Optimizer)), (30, 60, 30));
    let alone = train(&dir.path().join("alone"), &dataset, &options(), 1, plain);
    assert!(!alone[0].recorder.spans.iter().any(|span| [Phase::Wait, Phase::Exchange].contains(&span.phase)));
}

#[test]
fn what_cannot_be_divided_or_has_no_such_sums_is_refused_by_name() {
    let train = options().train;
    let said = train.over_ranks(3).unwrap_err();
    assert_eq!(said, "train.batch_size = 16: expected a multiple of the number of ranks, 3");
    let said = TrainConfig { reduce_leaves: 2, ..train.clone() }.over_ranks(4).unwrap_err();
    assert_eq!(said, "train.reduce_leaves = 2: expected a multiple of the number of ranks, 4, or 1");
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let options =
        TrainerOptions { train: TrainConfig { engine: EngineChoice::Autograd, ..train }, ..options() };
    let model = model(&dataset);
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 3).unwrap();
    let error = Trainer::new(model.as_ref(), &dataset, &CPU, options, checkpoints).err().unwrap();
    assert!(error.to_string().starts_with("train.reduce_leaves = 8: the explicit engine"), "{error}");
}

#[test]
fn a_matrix_has_its_momentum_with_one_rank_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 240);
    let model = model(&dataset);
    let plan = |share: Share| {
        let options = EngineOptions {
            micro_batch: 1,
            recompute: Recompute::None,
            fp8: None,
            moments: Moments::F32,
            matrices: by_muon().optimizer.matrices(),
            share,
        };
        let engine = model.engine(options).unwrap().unwrap();
        let (planned, allocated) = (engine.memory().total() as f64, engine.allocated_bytes() as f64);
        assert!((planned / allocated - 1.0).abs() < 0.05, "{share:?}: {planned} of {allocated}");
        engine.memory()
    };
    let alone = plan(Share::default());
    for world in [2, 4, 8] {
        let plans: Vec<MemoryPlan> = (0..world).map(|rank| plan(Share { rank, world })).collect();
        let moments: u64 = plans.iter().map(|plan| plan.moments).sum();
        assert_eq!(moments, alone.moments, "{world} ranks");
        assert!(plans.iter().all(|plan| plan.scratch <= alone.scratch && plan.weights == alone.weights));
        // Eight matrices, of which the largest is a third of a block.
        let most = plans.iter().map(|plan| plan.moments).max().unwrap();
        assert!(most * world as u64 <= 3 * alone.moments, "{world} ranks: {plans:?}");
    }
}
