//! The trainer as a whole, on a text of a few hundred characters.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use wattle_data::Dataset;
use wattle_model::parameter::ParameterBuilder;
use wattle_model::{Gpt2, LanguageModel, ModelConfig, Parameter, Pass, TrainingPass};
use wattle_runlog::event::StepEvent;
use wattle_runlog::{EventBody, MonotonicNs, Phase, Span, StopReason};
use wattle_train::config::{
    EarlyStopConfig, EngineChoice, EvaluateConfig, OptimizerConfig, ScheduleConfig, TrainConfig,
};
use wattle_train::engine::choose;
use wattle_train::error::ObserverError;
use wattle_train::gradients::{BatchOptions, batch_gradients};
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, TrainError, TrainState, Trainer,
    TrainerOptions,
};

use common::{CPU, dataset};

fn model(dataset: &Dataset) -> Gpt2 {
    let config = ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 16,
        context: 12,
        dropout: 0.1,
        ..ModelConfig::default()
    };
    Gpt2::new(&config, dataset.vocab_size(), 3, &CPU).unwrap()
}

fn options() -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: 0.1,
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        schedule: ScheduleConfig {
            warmup_steps: 2,
            min_learning_rate: Some(1e-3),
            ..ScheduleConfig::default()
        },
        train: TrainConfig {
            batch_size: 5,
            micro_batch_size: 2,
            max_steps: 40,
            epochs: 0,
            ..TrainConfig::default()
        },
        checkpoint_every_epochs: 1,
        ..TrainerOptions::default()
    }
}

/// Keeps what it is told, and asks to stop after some steps.
#[derive(Default)]
struct Recorder {
    steps: Vec<StepEvent>,
    events: Vec<EventBody>,
    edges: Vec<Edge>,
    spans: Vec<Span>,
    /// When each event happened, in the order in which they came.
    times: Vec<MonotonicNs>,
    /// Steps that had been told when each checkpoint was.
    told_at_checkpoint: Vec<(u64, u64)>,
    stop_after: Option<u64>,
    /// Training goes on while checkpoints are written.
    is_beside: bool,
}

impl Observer for Recorder {
    fn event(&mut self, t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        self.times.push(t);
        if let EventBody::Checkpoint { step, .. } = body {
            self.told_at_checkpoint.push((step, self.steps.last().map_or(0, |step| step.step)));
        }
        match body {
            EventBody::Step(step) => self.steps.push(step),
            other => self.events.push(other),
        }
        Ok(())
    }

    fn span(&mut self, span: Span) {
        self.spans.push(span);
    }

    fn edge(&mut self, edge: Edge) {
        self.edges.push(edge);
    }

    fn progress(&mut self, _progress: Progress) {}

    fn directive(&mut self) -> Directive {
        let step = self.steps.last().map_or(0, |step| step.step);
        match self.stop_after {
            Some(stop) if step >= stop => Directive::Stop(StopReason::Signal),
            _ => Directive::Continue,
        }
    }

    fn before_commit(&mut self, draft: &Draft) -> Vec<ExtraFile> {
        let is_written = draft.dir.join("model.safetensors").exists();
        assert!(is_written != self.is_beside && !draft.dir.join("state.json").exists());
        vec![ExtraFile { name: "emissions.json".to_owned(), bytes: b"{}\n".to_vec() }]
    }
}

/// Trains in `dir/checkpoints`, from its newest checkpoint if there is one.
fn train(
    dir: &Path,
    dataset: &Dataset,
    options: TrainerOptions,
    stop_after: Option<u64>,
) -> (Result<StopReason, TrainError>, Recorder, Vec<u32>) {
    let model = model(dataset);
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 3).unwrap();
    let latest = checkpoints.latest().unwrap();
    let mut trainer = Trainer::new(&model, dataset, &CPU, options, checkpoints).unwrap();
    if let Some(latest) = latest {
        trainer.resume(&latest).unwrap();
    }
    let is_beside = trainer.snapshot_bytes() > 0;
    let mut recorder = Recorder { stop_after, is_beside, ..Recorder::default() };
    let outcome = trainer.run(&mut recorder);
    (outcome, recorder, bits(&model))
}

/// Every parameter's bits, one after the other.
fn bits(model: &dyn LanguageModel) -> Vec<u32> {
    let values = |p: &Parameter| p.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    model.parameters().iter().flat_map(values).map(f32::to_bits).collect()
}

fn losses(steps: &[StepEvent]) -> Vec<(u64, u32)> {
    steps.iter().map(|step| (step.step, step.loss.to_bits())).collect()
}

#[test]
fn stopping_anywhere_and_resuming_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    for engine in [EngineChoice::Autograd, EngineChoice::Explicit] {
        let dir = dir.path().join(format!("{engine:?}"));
        let options = TrainerOptions { train: TrainConfig { engine, ..options().train }, ..options() };
        let (outcome, whole, weights) = train(&dir.join("whole"), &dataset, options.clone(), None);
        assert_eq!(outcome.unwrap(), StopReason::Done);
        assert_eq!(whole.steps.len(), 40);
        for stop in [1, 7, 25, 26, 39] {
            let run = dir.join(format!("stopped-{stop}"));
            let (outcome, before, _) = train(&run, &dataset, options.clone(), Some(stop));
            assert_eq!(outcome.unwrap(), StopReason::Signal);
            let (outcome, after, resumed) = train(&run, &dataset, options.clone(), None);
            assert_eq!(outcome.unwrap(), StopReason::Done);
            let joined = [losses(&before.steps), losses(&after.steps)].concat();
            assert_eq!(joined, losses(&whole.steps), "{engine:?} stopped after {stop}");
            assert_eq!(resumed, weights, "{engine:?} stopped after {stop}");
        }
    }
}

/// The content of every checkpoint in `dir`, but for the state, which knows when it was written.
fn checkpoint_files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let listed = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let dirs: Vec<PathBuf> = listed(&dir.join("checkpoints"));
    let files =
        dirs.iter().filter(|path| !path.is_symlink()).flat_map(|path| -> Vec<PathBuf> { listed(path) });
    let named = files.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap()));
    named.filter(|(path, _)| !path.ends_with("state.json")).collect()
}

#[test]
fn checkpoints_written_beside_training_have_the_same_bytes_and_are_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    for engine in [EngineChoice::Autograd, EngineChoice::Explicit] {
        // One after every step: each waits for the one before.
        let train_in = |name: &str, checkpoint_in_background: bool, stop_after: Option<u64>| {
            let dir = dir.path().join(format!("{engine:?}-{name}"));
            let options = TrainerOptions {
                train: TrainConfig { engine, max_steps: 16, ..options().train },
                evaluate: EvaluateConfig { every_steps: 7, batches: 1, ..EvaluateConfig::default() },
                checkpoint_every_steps: 1,
                checkpoint_in_background,
                ..options()
            };
            let (outcome, recorder, weights) = train(&dir, &dataset, options, stop_after);
            outcome.unwrap();
            (dir, recorder, weights)
        };
        let (waited_in, waited, expected) = train_in("waited", false, None);
        let (beside_in, beside, got) = train_in("beside", true, None);
        assert_eq!((losses(&beside.steps), &got), (losses(&waited.steps), &expected), "{engine:?}");
        let (files, written) = (checkpoint_files(&beside_in), checkpoint_files(&waited_in));
        assert!(files.len() >= 3 * 7 && files == written, "{engine:?}: {:?}", files.keys());
        for link in ["latest", "best"] {
            let target = |dir: &Path| std::fs::read_link(dir.join("checkpoints").join(link)).unwrap();
            assert_eq!(target(&beside_in), target(&waited_in));
        }

        let steps: Vec<u64> = beside.told_at_checkpoint.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=16).collect::<Vec<_>>());
        assert!(beside.times.is_sorted(), "events come in the order of their times");
        assert!(beside.told_at_checkpoint.iter().any(|(step, told)| told > step), "steps went on meanwhile");
        assert!(waited.told_at_checkpoint.iter().all(|(step, told)| told == step));
        let (writing, others): (Vec<_>, Vec<_>) = beside.spans.iter().partition(|span| span.overlaps);
        assert!(writing.len() >= 16 && writing.iter().all(|span| span.phase == Phase::Checkpoint));
        for spans in [writing, others] {
            assert!(spans.windows(2).all(|pair| pair[0].end_ns <= pair[1].start_ns));
        }

        // Stopped with a checkpoint on its way, and gone on with.
        let (_, before, _) = train_in("stopped", true, Some(9));
        let (_, after, resumed) = train_in("stopped", true, None);
        assert_eq!([losses(&before.steps), losses(&after.steps)].concat(), losses(&waited.steps));
        assert_eq!(resumed, expected, "{engine:?}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_beside_training_ends_it_and_the_one_before_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let model = model(&dataset);
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 0).unwrap();
    let last_good = checkpoints.path(15);
    // In the way of its temporary folder.
    std::fs::write(dir.path().join("checkpoints/step-00000020.tmp"), "").unwrap();
    let options = TrainerOptions { checkpoint_every_steps: 5, checkpoint_in_background: true, ..options() };
    let mut trainer = Trainer::new(&model, &dataset, &CPU, options, checkpoints.clone()).unwrap();
    let mut recorder = Recorder { is_beside: true, ..Recorder::default() };
    let error = trainer.run(&mut recorder).unwrap_err();
    assert!(matches!(&error, TrainError::Io { action: "create", .. }), "{error}");
    assert!(error.to_string().contains("step-00000020"), "{error}");
    assert!(matches!(recorder.events.last(), Some(EventBody::Stop { reason: StopReason::Error, .. })));
    assert_eq!(checkpoints.latest().unwrap().as_ref(), Some(&last_good));
    let mut engine = choose(&model, None, &self::options()).unwrap();
    assert_eq!(TrainState::load(&last_good, engine.as_mut()).unwrap().step, 15);
}

#[test]
fn training_learns_and_says_so_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let (_, recorder, _) = train(dir.path(), &dataset, options(), None);
    let (first, last) = (&recorder.steps[0], &recorder.steps[39]);
    assert!(last.loss < 0.7 * first.loss, "{} then {}", first.loss, last.loss);
    assert_eq!((last.step, last.tokens), (40, 40 * 60));

    // Each epoch: its steps, an evaluation between two edges, the epoch's edge, a checkpoint.
    let kinds: Vec<&str> = recorder
        .events
        .iter()
        .map(|event| match event {
            EventBody::Evaluate(_) => "evaluate",
            EventBody::Epoch { complete: true, .. } => "epoch",
            EventBody::Epoch { complete: false, .. } => "part",
            EventBody::Checkpoint { .. } => "checkpoint",
            EventBody::Stop { .. } => "stop",
            other => unreachable!("{other:?}"),
        })
        .collect();
    // 960 training characters make 79 windows of 12, 15 steps of 5: two epochs of 15, then 10 more steps.
    let epoch = ["evaluate", "epoch", "checkpoint"];
    assert_eq!(kinds, [&epoch[..], &epoch, &["evaluate", "part", "checkpoint", "stop"]].concat());
    assert_eq!(recorder.edges.len(), 1 + 3 * 3 + 1);
    assert!(recorder.spans.windows(2).all(|pair| pair[0].end_ns <= pair[1].start_ns));

    let names: Vec<String> = std::fs::read_dir(dir.path().join("checkpoints/latest"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in [
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "optimizer.safetensors",
        "state.json",
        "emissions.json",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
}

#[test]
fn micro_batches_of_unequal_size_make_the_gradient_of_the_whole_batch() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let model = model(&dataset);
    let loader = wattle_data::Loader::new(&dataset.train, 12, 7, 3).unwrap();
    let batch = loader.batch(0, 0).unwrap();
    let gradients = |micro_batch: usize| {
        let pass = TrainingPass { seed: 3, step: 1, first_sequence: 0, dropout: 0.1 };
        let options = BatchOptions { micro_batch, dtype: DType::F32, pass };
        let result = batch_gradients(&model, &batch, options, &CPU).unwrap();
        // A gradient that still hangs on its graph makes the moments keep every graph there ever was.
        assert!(result.gradients.iter().flatten().all(|g| !g.track_op()));
        let flat = result
            .gradients
            .iter()
            .flatten()
            .flat_map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        (flat.collect::<Vec<f32>>(), result.loss.to_scalar::<f32>().unwrap())
    };
    let (whole, loss) = gradients(7);
    let largest = whole.iter().fold(0f32, |max, g| max.max(g.abs()));
    for micro_batch in [1, 2, 3, 5] {
        let (parts, parts_loss) = gradients(micro_batch);
        // Sums of 84 f32 terms in another order: some 10 roundings of 6e-8.
        assert!((loss - parts_loss).abs() < 1e-6 * loss);
        let gap = whole.iter().zip(&parts).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(gap < 2e-6 * largest, "micro-batches of {micro_batch}: {gap} of {largest}");
    }
}

#[test]
fn early_stopping_leaves_a_checkpoint_and_stays_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let options = TrainerOptions {
        early_stop: EarlyStopConfig { patience: 0, target_loss: Some(2.2) },
        evaluate: EvaluateConfig { every_steps: 2, batches: 0, ..EvaluateConfig::default() },
        ..options()
    };
    let (outcome, recorder, _) = train(dir.path(), &dataset, options.clone(), None);
    assert_eq!(outcome.unwrap(), StopReason::EarlyStop);
    let stopped_at = recorder.steps.len();
    assert!((2..40).contains(&stopped_at), "{stopped_at}");
    let (outcome, recorder, _) = train(dir.path(), &dataset, options, None);
    assert_eq!((outcome.unwrap(), recorder.steps.len()), (StopReason::EarlyStop, 0));
}

#[test]
fn a_loss_that_is_not_finite_stops_training_and_names_step_tensor_and_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let options = TrainerOptions {
        optimizer: OptimizerConfig { learning_rate: 1e30, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 0, ..ScheduleConfig::default() },
        checkpoint_every_steps: 1,
        ..options()
    };
    let (outcome, recorder, _) = train(dir.path(), &dataset, options, None);
    let error = outcome.unwrap_err();
    let TrainError::NotFinite { step, first, last_good, .. } = &error else { panic!("{error}") };
    assert!(*step >= 2 && first.contains("transformer"), "{error}");
    let last = recorder.steps.last().unwrap();
    assert!(!(last.loss.is_finite() && last.grad_norm.is_finite()), "{last:?}");
    let last_good = last_good.as_ref().unwrap();
    assert_eq!(TrainState::read(last_good).unwrap().step, step - 1);
    assert!(matches!(recorder.events.last(), Some(EventBody::Stop { reason: StopReason::Error, .. })));
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    train(dir.path(), &dataset, options(), Some(3)).0.unwrap();
    let checkpoint = dir.path().join("checkpoints/step-00000003");
    for (file, damage) in [
        ("model.safetensors", (|bytes| bytes.truncate(bytes.len() / 2)) as fn(&mut Vec<u8>)),
        ("optimizer.safetensors", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("state.json", |bytes| bytes.truncate(20)),
    ] {
        let path = checkpoint.join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damage(&mut damaged);
        std::fs::write(&path, damaged).unwrap();
        let model = model(&dataset);
        let before = bits(&model);
        let mut engine = choose(&model, None, &options()).unwrap();
        let error = TrainState::load(&checkpoint, engine.as_mut()).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
        assert_eq!(bits(&model), before);
        std::fs::write(&path, whole).unwrap();
    }
}

#[test]
fn the_newest_and_the_best_are_kept_and_leftovers_removed() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let leftover = dir.path().join("checkpoints/step-00000099.tmp");
    std::fs::create_dir_all(&leftover).unwrap();
    let options = TrainerOptions { checkpoint_every_steps: 4, ..options() };
    train(dir.path(), &dataset, options, None).0.unwrap();
    let mut names: Vec<String> = std::fs::read_dir(dir.path().join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["best", "latest", "step-00000032", "step-00000036", "step-00000040"]);
    let latest = std::fs::read_link(dir.path().join("checkpoints/latest")).unwrap();
    assert_eq!(latest, Path::new("step-00000040"));
}

/// A model of a user's own, with candle-nn's fused normalization in it: its backward cuts the gradient.
struct CutOff {
    parameters: Vec<Parameter>,
}

impl LanguageModel for CutOff {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn logits(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        let [table, norm, head] = [0, 1, 2].map(|i| pass.value(&self.parameters[i].var));
        let (b, t) = tokens.dims2()?;
        let x = table.index_select(&tokens.flatten_all()?, 0)?;
        let x = candle_nn::ops::rms_norm(&x, &norm, 1e-5)?;
        x.matmul(&head)?.reshape((b, t, ()))
    }

    fn context(&self) -> usize {
        12
    }

    fn vocab_size(&self) -> usize {
        self.parameters[0].var.dims()[0]
    }

    fn config_json(&self) -> serde_json::Value {
        serde_json::json!({ "model_type": "cut-off" })
    }
}

#[test]
fn a_parameter_that_no_gradient_reaches_is_named_before_the_first_update() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let mut builder = ParameterBuilder::new(1, &CPU);
    let v = dataset.vocab_size();
    builder.normal("table", &[v, 8], 0.02).unwrap();
    builder.ones("norm", &[8]).unwrap();
    builder.normal("head", &[8, v], 0.02).unwrap();
    let model = CutOff { parameters: builder.finish() };
    let before = bits(&model);
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 3).unwrap();
    let mut trainer = Trainer::new(&model, &dataset, &CPU, options(), checkpoints).unwrap();
    let error = trainer.run(&mut Recorder::default()).unwrap_err().to_string();
    assert!(error.contains("table, norm") && !error.contains("head"), "{error}");
    assert_eq!(bits(&model), before);
}
