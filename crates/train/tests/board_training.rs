//! The trainer with an engine on a board, over the kernels as the shim runs them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use kernel_shim::ShimBoard;
use wattle_data::Dataset;
use wattle_model::{Gpt2, LanguageModel, ModelConfig};
use wattle_ops::board::Board;
use wattle_runlog::{EventBody, MonotonicNs, Phase, Seconds, Span, SpanClock, StopReason};
use wattle_train::config::{EngineChoice, EvaluateConfig, OptimizerConfig, ScheduleConfig};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, TrainConfig, TrainError, Trainer,
    TrainerOptions,
};

use common::{CPU, dataset};

const STEPS: u64 = 20;

fn options(dtype: DType) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: 0.1,
        dtype,
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        train: TrainConfig {
            batch_size: 3,
            micro_batch_size: 2,
            max_steps: STEPS,
            epochs: 0,
            engine: EngineChoice::Explicit,
            ..TrainConfig::default()
        },
        evaluate: EvaluateConfig { every_steps: 7, batches: 2, ..EvaluateConfig::default() },
        ..TrainerOptions::default()
    }
}

#[derive(Default)]
struct Recorder {
    losses: Vec<f32>,
    norms: Vec<f32>,
    evaluations: Vec<f64>,
    spans: Vec<Span>,
    told: Vec<Told>,
    n_steps: u64,
    most_in_flight: u64,
    stop_after: Option<u64>,
    stop_at: Option<MonotonicNs>,
}

/// A step's event and how it came.
struct Told {
    step: u64,
    t: MonotonicNs,
    tokens_per_s: f64,
    /// When it came.
    at: MonotonicNs,
    /// Steps that had been queued by then.
    n_queued: u64,
}

impl Observer for Recorder {
    fn event(&mut self, t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        match body {
            EventBody::Step(step) => {
                self.told.push(Told {
                    step: step.step,
                    t,
                    tokens_per_s: step.tokens_per_s,
                    at: MonotonicNs::now(),
                    n_queued: self.n_steps,
                });
                self.losses.push(step.loss);
                self.norms.push(step.grad_norm);
            }
            EventBody::Evaluate(evaluation) => self.evaluations.push(evaluation.loss),
            _ => {}
        }
        Ok(())
    }

    fn span(&mut self, span: Span) {
        self.spans.push(span);
    }

    fn edge(&mut self, _edge: Edge) {}

    fn progress(&mut self, progress: Progress) {
        if let Progress::Step { in_flight, .. } = progress {
            self.n_steps += 1;
            self.most_in_flight = self.most_in_flight.max(in_flight);
        }
    }

    fn directive(&mut self) -> Directive {
        let is_over = self.stop_after.is_some_and(|stop| self.n_steps >= stop)
            || self.stop_at.is_some_and(|stop| MonotonicNs::now() >= stop);
        if is_over { Directive::Stop(StopReason::Signal) } else { Directive::Continue }
    }

    fn before_commit(&mut self, _draft: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

fn config() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 2, d_model: 16, context: 8, ..ModelConfig::default() }
}

fn model(dataset: &Dataset) -> Gpt2 {
    Gpt2::new(&config(), dataset.vocab_size(), 3, &CPU).unwrap()
}

/// A model whose token table is not its head: it gets its gradient from the embedding alone.
fn untied(dataset: &Dataset) -> Gpt2 {
    let config = ModelConfig { tie_embeddings: false, ..config() };
    Gpt2::new(&config, dataset.vocab_size(), 3, &CPU).unwrap()
}

fn shim() -> Option<Arc<dyn Board>> {
    Some(Arc::new(ShimBoard::default()))
}

/// A small model of the dataset, trained in `dir` from where it was left, and what was seen.
fn train(
    dir: &Path,
    dataset: &Dataset,
    board: Option<Arc<dyn Board>>,
    dtype: DType,
    stop_after: Option<u64>,
) -> (Recorder, Gpt2) {
    let model = model(dataset);
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 0).unwrap();
    let latest = checkpoints.latest().unwrap();
    let mut recorder = Recorder { stop_after, ..Recorder::default() };
    let mut trainer = Trainer::on_board(&model, dataset, board, options(dtype), checkpoints).unwrap();
    if let Some(latest) = latest {
        trainer.resume(&latest).unwrap();
    }
    trainer.run(&mut recorder).unwrap();
    drop(trainer);
    (recorder, model)
}

fn weights(model: &Gpt2) -> Vec<u32> {
    let values = |var: &candle_core::Var| var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    model.parameters().iter().flat_map(|p| values(&p.var)).map(f32::to_bits).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn training_follows_the_cpu_engine() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let (expected, _) = train(&dir.path().join("cpu"), &dataset, None, DType::F32, None);
    // bf16 has 8 bits; twenty steps at a learning rate of 1e-2 carry its rounding far.
    for (name, dtype, tolerance) in [("f32", DType::F32, 1e-5), ("bf16", DType::BF16, 2e-2)] {
        let (got, _) = train(&dir.path().join(name), &dataset, shim(), dtype, None);
        assert_eq!((got.losses.len(), got.evaluations.len()), (STEPS as usize, expected.evaluations.len()));
        for (step, (got, expected)) in got.losses.iter().zip(&expected.losses).enumerate() {
            // Adam's first steps magnify rounding where a gradient is next to zero.
            let tolerance = if step < 10 { tolerance } else { 10.0 * tolerance };
            assert!((got / expected - 1.0).abs() < tolerance, "{name} {}: {got}, {expected}", step + 1);
        }
        for (got, expected) in got.evaluations.iter().zip(&expected.evaluations) {
            assert!((got / expected - 1.0).abs() < f64::from(10.0 * tolerance), "{got}, expected {expected}");
        }
    }
}

#[test]
fn every_step_has_its_spans_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let start = MonotonicNs::now();
    let (mut got, _) = train(dir.path(), &dataset, shim(), DType::F32, None);
    let end = MonotonicNs::now();
    for phase in [Phase::Data, Phase::ForwardBackward, Phase::Optimizer] {
        let spans: Vec<_> = got.spans.iter().filter(|span| span.phase == phase).collect();
        assert_eq!(spans.iter().map(|span| span.step).collect::<Vec<_>>(), (1..=STEPS).collect::<Vec<_>>());
        assert!(spans.iter().all(|span| span.clock == SpanClock::Device));
    }
    got.spans.sort_by_key(|span| (span.start_ns, span.end_ns));
    let slack = got.spans.iter().map(|span| span.error_ns).max().unwrap();
    for pair in got.spans.windows(2) {
        assert!(pair[0].end_ns.0 <= pair[1].start_ns.0 + slack, "{pair:?} overlap");
    }
    let (first, last) = (&got.spans[0], &got.spans[got.spans.len() - 1]);
    assert!(first.start_ns.0 + slack >= start.0 && last.end_ns.0 <= end.0 + slack);
}

#[test]
fn a_run_goes_on_from_a_checkpoint_to_the_bit_and_engines_read_each_others() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    // Before a step was recorded, and while steps are replayed.
    for (dtype, stops) in [(DType::F32, &[1, 8][..]), (DType::BF16, &[8])] {
        let (whole, model) =
            train(&dir.path().join(format!("{dtype:?}-whole")), &dataset, shim(), dtype, None);
        for &stop in stops {
            let run = dir.path().join(format!("{dtype:?}-{stop}"));
            let (before, _) = train(&run, &dataset, shim(), dtype, Some(stop));
            let (after, resumed) = train(&run, &dataset, shim(), dtype, None);
            let losses = [before.losses, after.losses].concat();
            assert_eq!(bits(&losses), bits(&whole.losses), "{dtype:?} stopped after {stop}");
            assert_eq!(weights(&resumed), weights(&model), "{dtype:?} stopped after {stop}");
        }
    }
    let (whole, _) = train(&dir.path().join("cpu"), &dataset, None, DType::F32, None);
    for boards in [[true, false], [false, true]] {
        let run = dir.path().join(format!("other-{}", boards[0]));
        let board = |is_there: bool| if is_there { shim() } else { None };
        let (before, _) = train(&run, &dataset, board(boards[0]), DType::F32, Some(4));
        let (after, _) = train(&run, &dataset, board(boards[1]), DType::F32, None);
        let losses = [before.losses, after.losses].concat();
        assert!((losses[9] / whole.losses[9] - 1.0).abs() < 1e-5, "{} and {}", losses[9], whole.losses[9]);
    }
}

#[test]
fn checkpoints_written_beside_steps_on_a_board_have_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    for dtype in [DType::F32, DType::BF16] {
        let train_in = |name: &str, checkpoint_in_background: bool| {
            let dir = dir.path().join(format!("{dtype:?}-{name}"));
            let model = model(&dataset);
            let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 0).unwrap();
            let options =
                TrainerOptions { checkpoint_every_steps: 3, checkpoint_in_background, ..options(dtype) };
            let mut trainer =
                Trainer::on_board(&model, &dataset, shim(), options, checkpoints.clone()).unwrap();
            // Both moments and the weights, with the gaps between them.
            let least = if checkpoint_in_background { 12 * model.n_parameters() } else { 0 };
            assert!((least..=4 * least).contains(&trainer.snapshot_bytes()));
            let mut recorder = Recorder::default();
            trainer.run(&mut recorder).unwrap();
            drop(trainer);
            (checkpoints, recorder, weights(&model))
        };
        let (waited_in, waited, expected) = train_in("waited", false);
        let (beside_in, beside, got) = train_in("beside", true);
        assert_eq!((bits(&beside.losses), got), (bits(&waited.losses), expected), "{dtype:?}");
        for step in [3, 6, 9, 12, 15, 18, 20] {
            for file in ["model.safetensors", "optimizer.safetensors", "config.json"] {
                let read =
                    |checkpoints: &Checkpoints| std::fs::read(checkpoints.path(step).join(file)).unwrap();
                assert!(read(&beside_in) == read(&waited_in), "{dtype:?}: {file} of step {step}");
            }
        }
        assert!(
            beside.spans.iter().any(|span| span.overlaps) && !waited.spans.iter().any(|span| span.overlaps)
        );
        let dir = dir.path().join(format!("{dtype:?}-beside"));
        let (after, _) = train(&dir, &dataset, shim(), dtype, None);
        assert!(after.losses.is_empty(), "the last checkpoint is complete");
    }
}

#[test]
fn the_tensor_that_was_not_finite_first_is_named_steps_later() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let model = model(&dataset);
    let broken = &model.parameters()[4];
    broken.var.set(&(broken.var.as_detached_tensor() * f64::NAN).unwrap()).unwrap();
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 0).unwrap();
    let mut trainer = Trainer::on_board(&model, &dataset, shim(), options(DType::F32), checkpoints).unwrap();
    let mut recorder = Recorder::default();
    let error = trainer.run(&mut recorder).unwrap_err();
    let TrainError::NotFinite { step, first, .. } = error else { panic!("{error}") };
    assert_eq!((step, first), (1, format!("the parameter {}", broken.name)));
    // The host heard of it once the third step was queued: then the first had ended.
    assert_eq!(recorder.n_steps, 3);
}

#[test]
fn a_parameter_that_no_gradient_reaches_on_the_board_is_named_before_the_first_update() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    for (kernel, dtype, names) in [
        ("embedding_bwd_f32", DType::F32, ["transformer.wte.weight"]),
        ("embedding_position_bwd_bf16", DType::BF16, ["transformer.wpe.weight"]),
    ] {
        let model = untied(&dataset);
        let before = weights(&model);
        let board: Option<Arc<dyn Board>> = Some(Arc::new(ShimBoard::default().without(kernel)));
        let checkpoints = Checkpoints::open(&dir.path().join(kernel), 0).unwrap();
        let mut trainer = Trainer::on_board(&model, &dataset, board, options(dtype), checkpoints).unwrap();
        let error = trainer.run(&mut Recorder::default()).unwrap_err();
        assert!(matches!(&error, TrainError::NoGradient { names: found } if *found == names), "{error}");
        drop(trainer);
        assert_eq!(weights(&model), before);
    }
}

#[test]
fn a_step_is_told_within_a_second_with_the_time_at_which_it_ended_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    // One epoch that is longer than the test, and no evaluation: nothing waits for the device.
    let dataset = dataset(dir.path(), 100_000);
    let model = model(&dataset);
    let mut options = options(DType::F32);
    options.evaluate = EvaluateConfig { every_steps: 0, batches: 1, ..EvaluateConfig::default() };
    (options.train.max_steps, options.train.epochs) = (0, 1);
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 0).unwrap();
    let mut trainer = Trainer::on_board(&model, &dataset, shim(), options, checkpoints).unwrap();
    let mut recorder =
        Recorder { stop_at: Some(MonotonicNs::now().after(Seconds(3.5))), ..Recorder::default() };
    let start = MonotonicNs::now();
    trainer.run(&mut recorder).unwrap();
    let Recorder { told, spans, n_steps, most_in_flight, .. } = &recorder;

    assert_eq!(told.iter().map(|told| told.step).collect::<Vec<_>>(), (1..=*n_steps).collect::<Vec<_>>());
    assert_eq!(*most_in_flight, 2, "the queue is bounded");
    assert_eq!(told[0].n_queued, 3, "the first loss comes as soon as its step has ended");
    assert!(told.windows(2).all(|pair| pair[0].t < pair[1].t), "no two steps end at once");
    let ends: Vec<_> = spans.iter().filter(|span| span.phase == Phase::Optimizer).collect();
    assert_eq!(ends.len(), told.len());
    // The shim makes a step when it is queued, so two more are made before a step is known to have ended.
    let longest = told.windows(2).map(|pair| pair[1].t.since(pair[0].t).get()).fold(0.0, f64::max);
    for (told, span) in told.iter().zip(ends) {
        assert_eq!((told.step, told.t), (span.step, span.end_ns));
        let late = told.at.since(told.t);
        assert!(late < Seconds(1.5 + 3.0 * longest), "step {} was told after {late:?}", told.step);
    }
    // Durations that follow on each other add up to the whole.
    let tokens_per_step = 3.0 * 8.0;
    let seconds: f64 = told.iter().map(|told| tokens_per_step / told.tokens_per_s).sum();
    let whole = told[told.len() - 1].t.since(start).get();
    assert!(seconds <= whole && seconds > 0.5 * whole, "{seconds} s of {whole} s");
}
