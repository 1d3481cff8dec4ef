//! The explicit engine on a CPU against candle's autograd.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use candle_core::DType;
use wattle_data::{Batch, Dataset};
use wattle_model::config::ActivationKind;
use wattle_model::engine::EngineOptions;
use wattle_model::engine::cpu::CpuEngine;
use wattle_model::hugging_face::read_safetensors;
use wattle_model::parameter::ParameterBuilder;
use wattle_model::{
    Engine, Family, Gpt2, LanguageModel, MatrixUpdate, ModelConfig, Moments, Parameter, Recompute,
    RopeScaling, Sequences, Share, StepResult, TrainingPass, moment_faults,
};
use wattle_random::{Purpose, Stream};
use wattle_runlog::{EventBody, MonotonicNs, Span, StopReason};
use wattle_train::config::{EngineChoice, EvaluateConfig, OptimizerConfig, ScheduleConfig};
use wattle_train::engine::{Step, choose};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, StepEngine, TrainConfig, TrainError,
    Trainer, TrainerOptions,
};

use common::{CPU, VOCAB_SIZE, bits, dataset, fresh, model, values};

const RECOMPUTE: [Recompute; 3] = [Recompute::None, Recompute::Mlp, Recompute::Block];

/// Sizes that are no multiple of any vector, and a vocabulary with rows that no token has.
fn odd() -> ModelConfig {
    ModelConfig { n_layers: 3, n_heads: 3, d_model: 24, context: 17, ..ModelConfig::default() }
}

/// Sizes that are all powers of two, with rows enough for slices and several blocks of a weight.
fn even() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 2, d_model: 64, d_ff: 192, context: 32, ..ModelConfig::default() }
}

/// A Llama whose heads share keys.
fn llama() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        n_heads: 6,
        n_kv_heads: 2,
        d_model: 36,
        d_ff: 52,
        ..odd()
    }
}

/// Relatives of Llama: biases of queries, keys and values; heads wider and narrower together than the residual stream;
/// norms of each head of queries and keys, and of all of a row; norms after each half; windows.
fn relatives() -> [ModelConfig; 5] {
    let relative = |family| ModelConfig { family, ..llama() };
    [
        relative(Family::Qwen2),
        ModelConfig { head_width: 10, tie_embeddings: false, ..relative(Family::Qwen3) },
        ModelConfig { head_width: 4, window: 5, ..relative(Family::Mistral) },
        ModelConfig { n_kv_heads: 3, tie_embeddings: false, ..relative(Family::Olmo2) },
        ModelConfig { n_layers: 1, head_width: 12, n_heads: 2, n_kv_heads: 1, ..relative(Family::Olmo2) },
    ]
}

/// Every option of a wattle's blocks by itself, and all of them.
fn wattles() -> [ModelConfig; 5] {
    let wattle = ModelConfig { family: Family::Wattle, ..llama() };
    let relu2 = ModelConfig { activation: ActivationKind::Relu2, ..wattle.clone() };
    [
        ModelConfig { qk_norm: true, tie_embeddings: false, ..wattle.clone() },
        relu2.clone(),
        ModelConfig { window: 5, window_pattern: 2, ..wattle.clone() },
        ModelConfig { logit_softcap: 2.0, ..wattle },
        ModelConfig {
            qk_norm: true,
            window: 4,
            window_pattern: 3,
            logit_softcap: 1.5,
            d_ff: 41,
            tie_embeddings: false,
            ..relu2
        },
    ]
}

/// Every way in which one GPT-2 differs from another, one Llama from another, and relatives of Llama from it,
/// wattles among them.
fn configurations() -> Vec<ModelConfig> {
    vec![
        odd(),
        ModelConfig { bias: true, tie_embeddings: false, activation: ActivationKind::GeluTanh, ..odd() },
        ModelConfig { bias: true, dropout: 0.2, ..odd() },
        ModelConfig { dropout: 0.1, tie_embeddings: false, activation: ActivationKind::Relu, ..odd() },
        ModelConfig { n_layers: 1, bias: true, activation: ActivationKind::Relu2, ..odd() },
        even(),
        ModelConfig { bias: true, dropout: 0.1, ..even() },
        llama(),
        ModelConfig { n_kv_heads: 0, tie_embeddings: false, norm_eps: 1e-6, ..llama() },
        ModelConfig { n_kv_heads: 1, rope_scaling: RopeScaling::Linear, rope_factor: 2.0, ..llama() },
        ModelConfig {
            n_layers: 1,
            tie_embeddings: false,
            rope_scaling: RopeScaling::Llama3,
            rope_original_context: 9,
            rope_theta: 500.0,
            ..llama()
        },
        ModelConfig { n_heads: 4, d_model: 64, d_ff: 0, context: 32, n_layers: 2, ..llama() },
    ]
    .into_iter()
    .chain(relatives())
    .chain(wattles())
    .collect()
}

fn batch(config: &ModelConfig, batch_size: usize, idx: u64) -> Batch {
    let n = batch_size * config.context;
    let stream = Stream::new(11, Purpose::Sampling, idx);
    let tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % (VOCAB_SIZE as u32 - 3)).collect();
    let (inputs, targets) = tokens.split_at(n);
    Batch::plain(inputs.to_vec(), targets.to_vec(), batch_size, config.context)
}

fn pass(config: &ModelConfig, step: u64) -> TrainingPass {
    TrainingPass { seed: 3, step, first_sequence: 0, dropout: config.dropout }
}

fn engine(model: &dyn LanguageModel, micro_batch: usize, recompute: Recompute) -> Box<dyn Engine> {
    model
        .engine(EngineOptions {
            micro_batch,
            recompute,
            fp8: None,
            moments: Moments::F32,
            matrices: MatrixUpdate::AdamW,
            share: Share::default(),
        })
        .unwrap()
        .unwrap()
}

/// What trains `model` in micro-batches, with one engine or another.
fn steps<'a>(
    model: &'a dyn LanguageModel,
    config: &ModelConfig,
    engine: EngineChoice,
    [batch_size, micro_batch_size]: [usize; 2],
    recompute: Recompute,
) -> Box<dyn StepEngine + 'a> {
    let train = TrainConfig { batch_size, micro_batch_size, engine, recompute, ..TrainConfig::default() };
    let options = TrainerOptions { seed: 3, dropout: config.dropout, train, ..TrainerOptions::default() };
    choose(model, None, &options).unwrap()
}

/// What step `number` says of a batch; its gradients are in the engine then, and the weights as they were.
fn step(engine: &mut dyn StepEngine, batch: &Batch, number: u64) -> StepResult {
    engine.step(&Step { number, learning_rate: 0.0, batch, began: MonotonicNs::now() }).unwrap();
    engine.poll().unwrap().results[0]
}

fn gradients(engine: &dyn StepEngine) -> Vec<Vec<f32>> {
    engine.gradients().unwrap().unwrap().iter().map(values).collect()
}

/// Holds a step of the explicit engine against one of autograd.
fn compare_with_autograd(config: &ModelConfig, batch: &Batch, micro_batch: usize) {
    let model = model(config);
    let sizes = [batch.batch_size, micro_batch];
    let of = |choice| steps(model.as_ref(), config, choice, sizes, Recompute::None);
    let (mut explicit, mut autograd) = (of(EngineChoice::Explicit), of(EngineChoice::Autograd));
    let (got, expected) = (step(explicit.as_mut(), batch, 7), step(autograd.as_mut(), batch, 7));
    // Means over 85 tokens or more of numbers with f32's rounding; 4e-7 was seen.
    let error = (got.loss / expected.loss - 1.0).abs();
    assert!(error < 2e-6, "{config:?}: the loss differs by a share of {error}");
    assert!((got.accuracy - expected.accuracy).abs() < 1e-6);
    let pairs = gradients(explicit.as_ref()).into_iter().zip(gradients(autograd.as_ref()));
    for (parameter, (got, expected)) in model.parameters().iter().zip(pairs) {
        let largest = expected.iter().fold(0f32, |max, g| max.max(g.abs()));
        let gap = got.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        // Sums of some hundred terms, rounded in another order through three blocks; a wrong term is thousands of
        // times larger.
        assert!(
            largest > 0.0 && gap < 1e-5 * largest,
            "{config:?}: the gradient of {} differs by {gap} of {largest}",
            parameter.name
        );
    }
}

#[test]
fn loss_and_every_gradient_are_those_of_autograd() {
    for config in configurations() {
        for micro_batch in [5, 2] {
            compare_with_autograd(&config, &batch(&config, 5, 0), micro_batch);
        }
    }
}

/// Documents that end within sequences, and targets that count differently or not at all, in unequal numbers for each
/// micro-batch.
fn masked(batch: Batch) -> Batch {
    let (n, t) = (batch.inputs.len(), batch.context);
    let starts = |row: usize| if row % t < 3 { 0 } else { 3 + (row % t - 3) / 4 * 4 };
    let documents = (0..n).map(|row| starts(row) as u32).collect();
    let weights = (0..n)
        .map(|row| if row < t || row.is_multiple_of(3) { 0.0 } else { 0.5 + (row % 4) as f32 })
        .collect();
    Batch { documents: Some(documents), weights: Some(weights), ..batch }
}

#[test]
fn documents_and_weights_of_targets_are_those_of_autograd() {
    for config in configurations() {
        for micro_batch in [5, 2] {
            compare_with_autograd(&config, &masked(batch(&config, 5, 0)), micro_batch);
        }
    }
}

#[test]
fn weights_of_one_and_whole_documents_change_no_bit() {
    for config in configurations() {
        let (model, plain) = (model(&config), batch(&config, 5, 0));
        let n = plain.inputs.len();
        let said = Batch { documents: Some(vec![0; n]), weights: Some(vec![1.0; n]), ..plain.clone() };
        for choice in [EngineChoice::Explicit, EngineChoice::Autograd] {
            let of = |batch: &Batch| {
                let mut engine = steps(model.as_ref(), &config, choice, [5, 2], Recompute::None);
                let StepResult { loss, accuracy, grad_norm } = step(engine.as_mut(), batch, 7);
                (bits(&[loss, accuracy, grad_norm]), bits(&gradients(engine.as_ref()).concat()))
            };
            assert!(of(&plain) == of(&said), "{config:?}, {choice:?}");
        }
    }
}

#[test]
fn no_gradient_crosses_from_one_document_to_another() {
    for config in configurations() {
        let t = config.context;
        let (model, plain) = (model(&config), batch(&config, 1, 0));
        // Two documents; targets of the second alone count.
        let second = t / 2;
        let documents = (0..t).map(|row| if row < second { 0 } else { second as u32 }).collect();
        let weights = (0..t).map(|row| if row < second { 0.0 } else { 1.0 }).collect();
        let mut inputs = plain.inputs.clone();
        // A token that the first document alone has.
        inputs[1] = VOCAB_SIZE as u32 - 1;
        let batch = Batch { inputs, documents: Some(documents), weights: Some(weights), ..plain };
        let table =
            model.parameters().iter().position(|p| p.name.contains("wte") || p.name.contains("embed_tokens"));
        for choice in [EngineChoice::Explicit, EngineChoice::Autograd] {
            let of = |batch: &Batch| {
                let mut engine = steps(model.as_ref(), &config, choice, [1, 1], Recompute::None);
                step(engine.as_mut(), batch, 7);
                gradients(engine.as_ref())[table.unwrap()].clone()
            };
            let row = (VOCAB_SIZE - 1) * config.d_model..;
            let apart = of(&batch);
            // A tied table also has the head's gradient, which the token gets from every prediction.
            if !config.tie_embeddings {
                assert!(apart[row.clone()].iter().all(|&g| g == 0.0), "{config:?}, {choice:?}");
                let together = of(&Batch { documents: None, ..batch.clone() });
                assert!(together[row].iter().any(|&g| g != 0.0), "{config:?}, {choice:?}");
            }
        }
    }
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    // Products of few elements are summed by other kernels.
    let narrow = |d_model| ModelConfig { n_heads: 2, d_model, d_ff: 0, context: 16, ..even() };
    for config in configurations().into_iter().chain([narrow(16), narrow(8)]) {
        let model = model(&config);
        for batch in [batch(&config, 7, 0), masked(batch(&config, 7, 0))] {
            let gradients = |n_threads: usize, recompute: Recompute, micro_batch: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                pool.install(|| {
                    let choice = EngineChoice::Explicit;
                    let mut engine = steps(model.as_ref(), &config, choice, [7, micro_batch], recompute);
                    let result = step(engine.as_mut(), &batch, 2);
                    let evaluated = engine.evaluate(&batch.clone().first(1)).unwrap();
                    (result, evaluated, bits(&gradients(engine.as_ref()).concat()))
                })
            };
            for micro_batch in [7, 3, 2] {
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
}

#[test]
fn the_memory_plan_is_what_is_allocated() {
    for config in configurations() {
        let model = model(&config);
        for recompute in RECOMPUTE {
            let engine = engine(model.as_ref(), 6, recompute);
            let (planned, allocated) = (engine.memory().total() as f64, engine.allocated_bytes() as f64);
            assert!((planned / allocated - 1.0).abs() < 0.05, "{config:?}: {planned} of {allocated}");
        }
        let activations = |recompute| engine(model.as_ref(), 6, recompute).memory().activations;
        assert!(activations(Recompute::Mlp) < activations(Recompute::None) || config.n_layers == 1);
        assert!(activations(Recompute::Block) < activations(Recompute::Mlp) || config.n_layers == 1);
    }
}

#[test]
fn parameters_are_published_and_taken_back_to_the_bit() {
    let config = ModelConfig { bias: true, ..odd() };
    let (source, target) = (model(&config), fresh(&config, 1));
    let mut engine = engine(source.as_ref(), 2, Recompute::None);
    engine.state().publish(target.parameters()).unwrap();
    for (a, b) in source.parameters().iter().zip(target.parameters()) {
        assert_eq!(bits(&values(&a.var)), bits(&values(&b.var)), "{}", a.name);
    }
    let batch = batch(&config, 2, 0);
    let sequences = Sequences::plain(&batch.inputs, &batch.targets);
    engine.accumulate_gradients(sequences, pass(&config, 1), 1.0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optimizer.safetensors");
    engine.state().write_moments(&file).unwrap();
    let mut faulty = read_safetensors(&file, &CPU).unwrap();
    assert_eq!(faulty.len(), 2 * source.parameters().len());
    engine.state_mut().set_moments(&faulty).unwrap();
    faulty.remove("transformer.h.1.ln_2.weight.exp_avg_sq");
    let fault = "transformer.h.1.ln_2.weight.exp_avg_sq is missing";
    assert_eq!(moment_faults(source.parameters(), MatrixUpdate::AdamW, &faulty), [fault]);
    assert!(engine.state_mut().set_moments(&faulty).is_err());
}

fn options(engine: EngineChoice) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: 0.1,
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        train: TrainConfig {
            batch_size: 5,
            micro_batch_size: 2,
            max_steps: 20,
            epochs: 0,
            engine,
            ..TrainConfig::default()
        },
        evaluate: EvaluateConfig { every_steps: 5, batches: 0, ..EvaluateConfig::default() },
        checkpoint_every_epochs: 1,
        ..TrainerOptions::default()
    }
}

#[derive(Default)]
struct Recorder {
    losses: Vec<f32>,
    norms: Vec<f32>,
    evaluations: Vec<f64>,
    stop_after: Option<usize>,
}

impl Observer for Recorder {
    fn event(&mut self, _t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        match body {
            EventBody::Step(step) => {
                self.losses.push(step.loss);
                self.norms.push(step.grad_norm);
            }
            EventBody::Evaluate(evaluation) => self.evaluations.push(evaluation.loss),
            _ => {}
        }
        Ok(())
    }

    fn span(&mut self, _span: Span) {}

    fn edge(&mut self, _edge: Edge) {}

    fn progress(&mut self, _progress: Progress) {}

    fn directive(&mut self) -> Directive {
        match self.stop_after {
            Some(stop) if self.losses.len() >= stop => Directive::Stop(StopReason::Signal),
            _ => Directive::Continue,
        }
    }

    fn before_commit(&mut self, _draft: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

/// A small model of the dataset, trained in `dir` with one engine, and what was seen.
fn train(
    dir: &std::path::Path,
    dataset: &Dataset,
    engine: EngineChoice,
    stop_after: Option<usize>,
) -> (Recorder, Gpt2) {
    let config = ModelConfig { n_layers: 2, n_heads: 2, d_model: 16, context: 12, ..ModelConfig::default() };
    let model = Gpt2::new(&config, dataset.vocab_size(), 3, &CPU).unwrap();
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 0).unwrap();
    let latest = checkpoints.latest().unwrap();
    let mut recorder = Recorder { stop_after, ..Recorder::default() };
    let mut trainer = Trainer::new(&model, dataset, &CPU, options(engine), checkpoints).unwrap();
    assert_eq!(trainer.memory().is_some(), engine != EngineChoice::Autograd);
    if let Some(latest) = latest {
        trainer.resume(&latest).unwrap();
    }
    trainer.run(&mut recorder).unwrap();
    drop(trainer);
    (recorder, model)
}

#[test]
fn training_follows_autograd() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let (expected, _) = train(&dir.path().join("autograd"), &dataset, EngineChoice::Autograd, None);
    let (got, _) = train(&dir.path().join("explicit"), &dataset, EngineChoice::Explicit, None);
    assert_eq!((got.losses.len(), got.evaluations.len()), (20, expected.evaluations.len()));
    // Rounding of the first ten updates; Adam's first steps magnify it where a gradient is next to zero.
    for (step, (got, expected)) in got.losses.iter().zip(&expected.losses).take(10).enumerate() {
        assert!((got / expected - 1.0).abs() < 1e-5, "step {}: {got}, expected {expected}", step + 1);
    }
    for (got, expected) in got.norms.iter().zip(&expected.norms).take(10) {
        assert!((got / expected - 1.0).abs() < 1e-4, "norm {got}, expected {expected}");
    }
    for (got, expected) in got.evaluations.iter().zip(&expected.evaluations) {
        assert!((got / expected - 1.0).abs() < 1e-4, "evaluation {got}, expected {expected}");
    }
}

#[test]
fn evaluation_is_that_of_autograd() {
    let config = odd();
    let (model, plain) = (model(&config), batch(&config, 5, 3));
    for batch in [plain.clone(), masked(plain)] {
        let of = |choice| steps(model.as_ref(), &config, choice, [5, 5], Recompute::Block);
        let (mut explicit, mut autograd) = (of(EngineChoice::Explicit), of(EngineChoice::Autograd));
        let (got, expected) = (explicit.evaluate(&batch).unwrap(), autograd.evaluate(&batch).unwrap());
        assert!((got.loss / expected.loss - 1.0).abs() < 1e-6, "{got:?}, {expected:?}");
        assert_eq!(got.n_correct, expected.n_correct);
        assert!(gradients(explicit.as_ref()).concat().iter().all(|&gradient| gradient == 0.0));
    }
}

#[test]
fn a_run_goes_on_from_a_checkpoint_to_the_bit_and_engines_read_each_others() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let weights = |model: &Gpt2| -> Vec<Vec<u32>> {
        model.parameters().iter().map(|p| bits(&values(&p.var))).collect()
    };
    let (whole, model) = train(&dir.path().join("whole"), &dataset, EngineChoice::Explicit, None);
    for stop in [1, 8] {
        let run = dir.path().join(format!("stopped-{stop}"));
        let (before, _) = train(&run, &dataset, EngineChoice::Explicit, Some(stop));
        let (after, resumed) = train(&run, &dataset, EngineChoice::Explicit, None);
        assert_eq!(
            bits(&[before.losses, after.losses].concat()),
            bits(&whole.losses),
            "stopped after {stop}"
        );
        assert_eq!(weights(&resumed), weights(&model), "stopped after {stop}");
    }
    let run = dir.path().join("other");
    let (before, _) = train(&run, &dataset, EngineChoice::Autograd, Some(4));
    let (after, _) = train(&run, &dataset, EngineChoice::Explicit, None);
    let losses = [before.losses, after.losses].concat();
    assert!((losses[9] / whole.losses[9] - 1.0).abs() < 1e-5, "{} and {}", losses[9], whole.losses[9]);
}

/// A model of a user's own: it has no explicit engine.
struct OwnModel {
    parameters: Vec<Parameter>,
}

impl LanguageModel for OwnModel {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn logits(
        &self,
        tokens: &candle_core::Tensor,
        pass: &mut wattle_model::Pass<'_>,
    ) -> candle_core::Result<candle_core::Tensor> {
        let (b, t) = tokens.dims2()?;
        pass.value(&self.parameters[0].var).index_select(&tokens.flatten_all()?, 0)?.reshape((b, t, ()))
    }

    fn context(&self) -> usize {
        12
    }

    fn vocab_size(&self) -> usize {
        self.parameters[0].var.dims()[0]
    }

    fn config_json(&self) -> serde_json::Value {
        serde_json::json!({ "model_type": "own" })
    }
}

#[test]
fn a_model_of_ones_own_trains_by_autograd_unless_the_explicit_engine_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let mut builder = ParameterBuilder::new(1, &CPU);
    builder.normal("table", &[dataset.vocab_size(), dataset.vocab_size()], 0.02).unwrap();
    let model = OwnModel { parameters: builder.finish() };
    let checkpoints = || Checkpoints::open(&dir.path().join("checkpoints"), 0).unwrap();
    let mut trainer =
        Trainer::new(&model, &dataset, &CPU, options(EngineChoice::Auto), checkpoints()).unwrap();
    assert!(trainer.memory().is_none());
    assert_eq!(trainer.run(&mut Recorder::default()).unwrap(), StopReason::Done);
    let asked = Trainer::new(&model, &dataset, &CPU, options(EngineChoice::Explicit), checkpoints());
    assert!(matches!(asked, Err(TrainError::NoEngine)));
    let gpt2 = Gpt2::new(&odd(), dataset.vocab_size(), 1, &CPU).unwrap();
    let bf16 = TrainerOptions { dtype: DType::BF16, ..options(EngineChoice::Auto) };
    assert!(Trainer::new(&gpt2, &dataset, &CPU, bf16, checkpoints()).unwrap().memory().is_none());
}

/// A GPT-2 with a parameter more, which its explicit engine knows nothing of.
struct Forgotten {
    gpt2: Gpt2,
    parameters: Vec<Parameter>,
}

impl LanguageModel for Forgotten {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn logits(
        &self,
        tokens: &candle_core::Tensor,
        pass: &mut wattle_model::Pass<'_>,
    ) -> candle_core::Result<candle_core::Tensor> {
        self.gpt2.logits(tokens, pass)
    }

    fn engine(&self, options: EngineOptions) -> candle_core::Result<Option<Box<dyn Engine>>> {
        let vocab_size = self.gpt2.vocab_size();
        let engine = CpuEngine::new(&even(), vocab_size, &self.parameters, options)?;
        Ok(Some(Box::new(engine)))
    }

    fn context(&self) -> usize {
        self.gpt2.context()
    }

    fn vocab_size(&self) -> usize {
        self.gpt2.vocab_size()
    }

    fn config_json(&self) -> serde_json::Value {
        self.gpt2.config_json()
    }
}

#[test]
fn a_parameter_that_the_engine_adds_nothing_to_is_named_before_the_first_update() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 120);
    let gpt2 = Gpt2::new(&even(), dataset.vocab_size(), 1, &CPU).unwrap();
    let mut builder = ParameterBuilder::new(2, &CPU);
    builder.normal("forgotten.weight", &[3, 5], 0.02).unwrap();
    let parameters = [gpt2.parameters(), &builder.finish()].concat();
    let model = Forgotten { gpt2, parameters };
    let weights = || -> Vec<Vec<u32>> { model.parameters().iter().map(|p| bits(&values(&p.var))).collect() };
    let before = weights();
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 0).unwrap();
    let mut trainer =
        Trainer::new(&model, &dataset, &CPU, options(EngineChoice::Explicit), checkpoints).unwrap();
    let error = trainer.run(&mut Recorder::default()).unwrap_err();
    assert!(matches!(&error, TrainError::NoGradient { names } if names == &["forgotten.weight"]), "{error}");
    assert_eq!(weights(), before);
}

#[test]
fn marks_show_what_nothing_was_added_to_and_leave_no_trace() {
    let config = odd();
    let (model, batch) = (model(&config), batch(&config, 2, 0));
    let mut engine = engine(model.as_ref(), 2, Recompute::None);
    engine.state_mut().mark_gradients();
    assert_eq!(engine.state_mut().take_marks().len(), model.parameters().len());
    assert!(engine.state().gradients().iter().all(|g| g.to_bits() == 0));

    let pass = pass(&config, 1);
    let sequences = Sequences::plain(&batch.inputs, &batch.targets);
    engine.state_mut().mark_gradients();
    engine.accumulate_gradients(sequences, pass, 1.0);
    assert_eq!(engine.state_mut().take_marks(), Vec::<String>::new());
    let marked = bits(engine.state().gradients());
    engine.state_mut().zero_gradients();
    engine.accumulate_gradients(sequences, pass, 1.0);
    // Adding to −0 instead of 0 changes nothing but the sign of zeros, which is mended.
    let plain: Vec<u32> = engine.state().gradients().iter().map(|g| (g + 0.0).to_bits()).collect();
    assert_eq!(marked, plain);
}
