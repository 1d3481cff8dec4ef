//! Kernels that are chosen by measuring, over the stand-in: what a choice changes, and that it is kept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;

use candle_core::DType;
use kernel_shim::ShimBoard;
use wattle_data::Batch;
use wattle_model::{ActivationKind, ModelConfig, Parameter};
use wattle_ops::board::{Board, roof};
use wattle_random::{Purpose, Stream};
use wattle_runlog::MonotonicNs;
use wattle_train::config::TrainConfig;
use wattle_train::engine::{Step, choose};
use wattle_train::{Kernels, TrainError, TrainerOptions};

use common::{VOCAB_SIZE, model};

const BATCH_SIZE: usize = 3;

/// Where most kernels have several ways.
fn config() -> ModelConfig {
    ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 16,
        d_ff: 32,
        context: 8,
        bias: true,
        activation: ActivationKind::GeluTanh,
        ..ModelConfig::default()
    }
}

fn options() -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        train: TrainConfig { batch_size: BATCH_SIZE, micro_batch_size: 2, ..TrainConfig::default() },
        ..TrainerOptions::default()
    }
}

fn batch(step: u64) -> Batch {
    let n = BATCH_SIZE * config().context;
    let stream = Stream::new(11, Purpose::Sampling, step);
    let mut tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % VOCAB_SIZE as u32).collect();
    let targets = tokens.split_off(n);
    Batch::plain(tokens, targets, BATCH_SIZE, config().context)
}

/// Losses and norms of some steps and the weights after them, as bits, and the kernels that were taken.
fn train(board: Arc<dyn Board>, options: &TrainerOptions) -> (Vec<u32>, Kernels, usize) {
    let model = model(&config());
    let mut engine = choose(model.as_ref(), Some(board), options).unwrap();
    for number in 1..=4 {
        let began = MonotonicNs::now();
        engine.step(&Step { number, learning_rate: 1e-2, batch: &batch(number), began }).unwrap();
    }
    let results = engine.drain().unwrap().results;
    let mut bits: Vec<u32> = results.iter().flat_map(|r| [r.loss.to_bits(), r.grad_norm.to_bits()]).collect();
    // Losses and norms average differences away as often as not.
    engine.export().unwrap();
    for Parameter { var, .. } in engine.model().parameters() {
        bits.extend(common::bits(&common::values(var.as_tensor())));
    }
    (bits, engine.kernels().unwrap(), engine.measured().len())
}

#[test]
fn every_job_with_a_choice_is_measured_once_and_training_starts_as_if_it_had_not_been() {
    let board = || Arc::new(ShimBoard::default());
    let (_, none, n_measured) = train(board(), &options());
    assert!(none.is_empty() && n_measured == 0);

    let measuring = TrainerOptions { select: true, ..options() };
    let (chosen_bits, chosen, n_measured) = train(board(), &measuring);
    // Products of the block and the head: forward, for the inputs' gradients and for the weights', by two sizes of
    // micro-batch.
    assert!(n_measured >= 20 && !chosen.is_empty(), "{n_measured}");

    // The same choices without measuring: the same bits.
    let given = TrainerOptions { kernels: Some(chosen.clone()), ..options() };
    let (bits, taken, n_measured) = train(board(), &given);
    assert!(n_measured == 0 && taken.are_those_of(&chosen));
    assert!(bits == chosen_bits);
    // A choice that is complete is not measured again.
    let both = TrainerOptions { select: true, ..given };
    let (bits, taken, n_measured) = train(board(), &both);
    assert!(n_measured == 0 && taken.are_those_of(&chosen));
    assert!(bits == chosen_bits);
}

#[test]
fn every_choice_can_be_held_against_what_the_board_can_do() {
    let model = model(&config());
    let measuring = TrainerOptions { select: true, ..options() };
    let engine = choose(model.as_ref(), Some(Arc::new(ShimBoard::default())), &measuring).unwrap();
    let roof = roof::measure(&ShimBoard::default()).unwrap();
    assert!(roof.bytes_per_s > 1e6 && roof.flops_per_s > 1e6, "{roof:?}");
    for measured in engine.measured() {
        let work = measured.job.work();
        assert!(work.bytes > 0, "{}", measured.job);
        assert_eq!(
            work.flops > 0,
            ["product", "linear", "gelu"].iter().any(|op| measured.job.as_str().starts_with(op))
        );
    }
}

#[test]
fn a_choice_changes_bits_and_so_is_kept_in_a_file() {
    let (first, ..) = train(Arc::new(ShimBoard::default()), &options());
    let board = ShimBoard::default();
    let chosen = TrainerOptions { select: true, ..options() };
    let (_, kernels, _) = train(Arc::new(board), &chosen);
    // Every product by its second way.
    let halves = kernels.to_json().replace(": \"whole\"", ": \"halves\"");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.json");
    std::fs::write(&path, halves).unwrap();
    let halves = Kernels::read(&path).unwrap();
    assert_eq!(halves.differences(&ShimBoard::default()), [""; 0]);
    let given = TrainerOptions { kernels: Some(halves.clone()), ..options() };
    let (second, taken, _) = train(Arc::new(ShimBoard::default()), &given);
    assert!(first != second, "sums in another order are other bits");
    assert!(taken.are_those_of(&halves));
}

/// Fused attention in bf16, whose second plan needs half as much workspace again.
fn fused_board() -> Arc<ShimBoard> {
    Arc::new(ShimBoard::default().with_fused_attention())
}

fn in_bf16() -> TrainerOptions {
    TrainerOptions { dtype: DType::BF16, ..options() }
}

/// The same choices, with one of them for each pass of attention.
fn with_plan(kernels: &Kernels, plan: &str) -> Result<Kernels, TrainError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.json");
    let lines = kernels.to_json();
    let lines = lines.lines().map(|line| match line.trim_start().starts_with("\"attention_") {
        true => line.replace("\"plain\"", &format!("{plan:?}")).replace("\"thirds\"", &format!("{plan:?}")),
        false => line.to_owned(),
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    Kernels::read(&path)
}

#[test]
fn plans_of_fused_attention_are_chosen_by_measuring_and_kept_like_products() {
    let measuring = TrainerOptions { select: true, ..in_bf16() };
    let model = model(&config());
    let engine = choose(model.as_ref(), Some(fused_board()), &measuring).unwrap();
    let of_attention: Vec<_> =
        engine.measured().iter().filter(|m| m.job.as_str().starts_with("attention_")).collect();
    // Both passes, by two sizes of micro-batch.
    let mut jobs: Vec<_> = of_attention.iter().map(|m| m.job.as_str().split(' ').next().unwrap()).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, ["attention_bwd", "attention_bwd", "attention_fwd", "attention_fwd"]);
    for measured in &of_attention {
        let names: Vec<_> = measured.ways.iter().map(|way| way.name.as_str()).collect();
        assert_eq!(names, ["plain", "thirds"], "{}", measured.job);
        assert!(measured.job.work().bytes > 0 && measured.job.work().flops > 0, "{}", measured.job);
    }
    drop(engine);

    let (chosen_bits, chosen, _) = train(fused_board(), &measuring);
    let given = |kernels: Kernels| TrainerOptions { kernels: Some(kernels), ..in_bf16() };
    let (bits, taken, n_measured) = train(fused_board(), &given(chosen.clone()));
    assert!(bits == chosen_bits && n_measured == 0 && taken.are_those_of(&chosen));

    let [plain, thirds] = ["plain", "thirds"].map(|plan| with_plan(&chosen, plan).unwrap());
    let (plain, ..) = train(fused_board(), &given(plain));
    let (other, taken, _) = train(fused_board(), &given(thirds.clone()));
    assert!(plain != other, "another plan is other bits");
    assert!(taken.are_those_of(&thirds));
}

#[test]
fn memory_is_planned_for_every_plan_that_is_tried_or_for_the_one_that_is_known() {
    let model = model(&config());
    let planned = |board: ShimBoard, options: &TrainerOptions| {
        let engine = choose(model.as_ref(), Some(Arc::new(board)), options)?;
        Ok::<_, TrainError>((engine.memory().unwrap().total(), engine.kernels().unwrap()))
    };
    let fused = || ShimBoard::default().with_fused_attention();
    // One size of micro-batch.
    let train = TrainConfig { micro_batch_size: BATCH_SIZE, ..options().train };
    let first_alone = TrainerOptions { train, ..in_bf16() };
    let measuring = TrainerOptions { select: true, ..first_alone.clone() };
    let (first, _) = planned(fused(), &first_alone).unwrap();
    let (several, chosen) = planned(fused(), &measuring).unwrap();
    // 2 and 3 bytes a score.
    let scores = (BATCH_SIZE * config().n_heads * config().context * config().context) as u64;
    assert_eq!(several - first, (3 * scores).next_multiple_of(256) - (2 * scores).next_multiple_of(256));
    for (plan, expected) in [("plain", first), ("thirds", several)] {
        let kernels = Some(with_plan(&chosen, plan).unwrap());
        let known = TrainerOptions { kernels, ..measuring.clone() };
        assert_eq!(planned(fused(), &known).unwrap().0, expected, "{plan}");
    }

    // A plan for which there is no room is not tried.
    let reserve = 256 << 20;
    let (total, chosen) = planned(fused().with_memory(first + reserve), &measuring).unwrap();
    assert_eq!(total, first);
    assert!(!chosen.to_json().contains("thirds"), "{}", chosen.to_json());
}

#[test]
fn a_plan_that_is_not_offered_is_an_error_and_not_attention_by_products() {
    let measuring = TrainerOptions { select: true, ..in_bf16() };
    let (_, chosen, _) = train(fused_board(), &measuring);
    let kernels = Some(with_plan(&chosen, "eng777").unwrap());
    let known = TrainerOptions { kernels, ..in_bf16() };
    let model = model(&config());
    let said = choose(model.as_ref(), Some(fused_board()), &known).err().unwrap().to_string();
    assert!(said.contains("no way \"eng777\"") && said.contains("leave it out to choose anew"), "{said}");
}

#[test]
fn a_file_of_another_board_or_schema_is_told_from_ones_own() {
    let kernels = Kernels::of(&ShimBoard::default(), &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernels.json");
    let write = |text: String| std::fs::write(&path, text).unwrap();
    write(kernels.to_json().replace("kernel shim", "NVIDIA H100"));
    let differences = Kernels::read(&path).unwrap().differences(&ShimBoard::default());
    assert_eq!(differences, ["board: NVIDIA H100 there, kernel shim here"]);
    for (damage, expected) in [
        (kernels.to_json().replace("wattle.kernels/1", "wattle.kernels/9"), "wattle.kernels/9"),
        ("{".to_owned(), "EOF"),
        (kernels.to_json().replace("\"choices\"", "\"choice\""), "choice"),
    ] {
        write(damage);
        let said = Kernels::read(&path).unwrap_err().to_string();
        assert!(said.contains(expected) && said.contains("kernels.json"), "{said}");
    }
}
