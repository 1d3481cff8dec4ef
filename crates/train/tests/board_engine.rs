//! The engine on a board, over the kernels as the shim runs them, against the engine on a CPU.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;

use candle_core::Tensor;
use kernel_shim::ShimBoard;
use wattle_data::Batch;
use wattle_model::{
    ActivationKind, DeviceEngine, DeviceEngineOptions, EngineError, Family, LanguageModel, Masks,
    MatrixUpdate, ModelConfig, Moments, Parameter, Recompute, RopeScaling, Sequences, StepInputs, StepPart,
    StepResult, moment_faults,
};
use wattle_ops::adamw::Hyperparameters;
use wattle_ops::board::{Board, BoardError, Choices, DevicePtr, Elem, Gemm, Launch, MemoryInfo};
use wattle_random::{Purpose, Stream};
use wattle_runlog::MonotonicNs;
use wattle_train::config::OptimizerConfig;
use wattle_train::engine::{Step, choose};
use wattle_train::{EngineChoice, StepEngine, TrainConfig, TrainerOptions};

use common::{VOCAB_SIZE, bits, fresh, model, values};

const RECOMPUTE: [Recompute; 3] = [Recompute::None, Recompute::Mlp, Recompute::Block];
const BATCH_SIZE: usize = 3;
const SEED: u64 = 3;
const LEARNING_RATE: f64 = 1e-2;

/// Sizes that are no multiple of a 16-byte access.
fn odd() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 3, d_model: 21, d_ff: 27, context: 9, ..ModelConfig::default() }
}

/// Sizes that are.
fn even() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 2, d_model: 16, d_ff: 32, context: 8, ..ModelConfig::default() }
}

/// A Llama whose heads share keys.
fn llama() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        activation: ActivationKind::Swiglu,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 24,
        d_ff: 28,
        ..even()
    }
}

/// The same with heads of a width that a library's attention takes.
fn wide_llama() -> ModelConfig {
    ModelConfig { d_model: 32, ..llama() }
}

fn relative(family: Family) -> ModelConfig {
    ModelConfig { family, ..llama() }
}

fn wide_relative(family: Family) -> ModelConfig {
    ModelConfig { family, ..wide_llama() }
}

/// Relatives of Llama: biases of queries, keys and values; heads wider and narrower together than the residual stream;
/// norms of each head of queries and keys, and of all of a row; norms after each half; windows.
fn relatives() -> [ModelConfig; 4] {
    [
        relative(Family::Qwen2),
        ModelConfig { head_width: 8, tie_embeddings: false, ..relative(Family::Qwen3) },
        ModelConfig { head_width: 4, window: 3, ..relative(Family::Mistral) },
        ModelConfig { d_ff: 27, context: 9, tie_embeddings: false, ..relative(Family::Olmo2) },
    ]
}

/// Every option of a wattle's blocks.
fn wattles() -> [ModelConfig; 3] {
    let wattle = relative(Family::Wattle);
    let relu2 = ModelConfig { activation: ActivationKind::Relu2, ..wattle.clone() };
    [
        ModelConfig { qk_norm: true, window: 3, window_pattern: 2, tie_embeddings: false, ..wattle },
        ModelConfig { n_heads: 2, n_kv_heads: 1, d_ff: 27, d_model: 20, ..relu2.clone() },
        ModelConfig { n_layers: 3, qk_norm: true, window: 3, window_pattern: 3, logit_softcap: 1.5, ..relu2 },
    ]
}

/// Every way in which one GPT-2 differs from another, one Llama from another, and relatives of Llama from it,
/// wattles among them.
fn configurations() -> Vec<ModelConfig> {
    vec![
        even(),
        ModelConfig { bias: true, tie_embeddings: false, activation: ActivationKind::GeluTanh, ..odd() },
        ModelConfig { bias: true, dropout: 0.2, ..even() },
        ModelConfig { dropout: 0.1, tie_embeddings: false, activation: ActivationKind::Relu, ..odd() },
        llama(),
        ModelConfig { n_kv_heads: 0, tie_embeddings: false, norm_eps: 1e-6, ..llama() },
        ModelConfig {
            n_kv_heads: 1,
            d_ff: 27,
            context: 9,
            rope_scaling: RopeScaling::Linear,
            rope_factor: 2.0,
            ..llama()
        },
    ]
    .into_iter()
    .chain(relatives())
    .chain(wattles())
    .collect()
}

/// Inputs and targets of a step.
fn batch(config: &ModelConfig, step: u64) -> Batch {
    let n = BATCH_SIZE * config.context;
    let stream = Stream::new(11, Purpose::Sampling, step);
    let mut tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % VOCAB_SIZE as u32).collect();
    let targets = tokens.split_off(n);
    Batch::plain(tokens, targets, BATCH_SIZE, config.context)
}

/// The same with documents that end within sequences, and targets that count differently or not at all.
fn masked_batch(config: &ModelConfig, step: u64) -> Batch {
    let plain = batch(config, step);
    let (n, t) = (plain.inputs.len(), plain.context);
    let start = |row: usize| if row % t < 3 { 0 } else { 3 + (row % t - 3) / 4 * 4 };
    let weight = |row: usize| if row < 4 || row.is_multiple_of(3) { 0.0 } else { 0.5 + (row % 4) as f32 };
    let documents = Some((0..n).map(|row| start(row) as u32).collect());
    Batch { documents, weights: Some((0..n).map(weight).collect()), ..plain }
}

fn sequences(batch: &Batch) -> Sequences<'_> {
    let Batch { inputs, targets, weights, documents, .. } = batch;
    Sequences { inputs, targets, weights: weights.as_deref(), documents: documents.as_deref() }
}

fn options(config: &ModelConfig, micro_batch: usize, recompute: Recompute) -> DeviceEngineOptions {
    DeviceEngineOptions {
        batch_size: BATCH_SIZE,
        micro_batch,
        recompute,
        elem: Elem::F32,
        fp8: None,
        moments: Moments::F32,
        seed: SEED,
        dropout: config.dropout,
        // Below the norms that are met, so that it clips.
        clip_norm: 0.5,
        // A large eps, so that rounding of a gradient that is zero but for rounding is no whole step.
        hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-3, weight_decay: 0.1 },
        matrices: MatrixUpdate::AdamW,
        masks: Masks::default(),
        selects: false,
    }
}

fn engine(model: &dyn LanguageModel, options: DeviceEngineOptions) -> Box<dyn DeviceEngine> {
    model.device_engine(Arc::new(ShimBoard::default()), options).unwrap().unwrap()
}

fn step(engine: &mut dyn DeviceEngine, config: &ModelConfig, step: u64) {
    step_with(engine, &batch(config, step), step);
}

fn step_with(engine: &mut dyn DeviceEngine, batch: &Batch, step: u64) {
    let learning_rate = LEARNING_RATE / step as f64;
    engine.step(inputs(batch, step, learning_rate)).unwrap();
}

fn inputs(batch: &Batch, step: u64, learning_rate: f64) -> StepInputs<'_> {
    let sequences = sequences(batch);
    StepInputs { sequences, counts: sequences.into(), step, learning_rate }
}

/// The engine on the CPU.
struct Reference<'a> {
    engine: Box<dyn StepEngine + 'a>,
    clip_norm: f64,
}

impl<'a> Reference<'a> {
    fn new(model: &'a dyn LanguageModel, options: DeviceEngineOptions) -> Self {
        let DeviceEngineOptions { batch_size, micro_batch, recompute, clip_norm, .. } = options;
        let Hyperparameters { beta1, beta2, eps, weight_decay } = options.hyperparameters;
        let options = TrainerOptions {
            seed: options.seed,
            dropout: options.dropout,
            fp8: options.fp8,
            moments: options.moments,
            optimizer: OptimizerConfig { beta1, beta2, eps, weight_decay, ..OptimizerConfig::default() },
            train: TrainConfig {
                batch_size,
                micro_batch_size: micro_batch,
                recompute,
                clip_norm,
                engine: EngineChoice::Explicit,
                ..TrainConfig::default()
            },
            ..TrainerOptions::default()
        };
        Self { engine: choose(model, None, &options).unwrap(), clip_norm }
    }

    fn step(&mut self, config: &ModelConfig, number: u64) -> StepResult {
        self.step_with(&batch(config, number), number)
    }

    fn step_with(&mut self, batch: &Batch, number: u64) -> StepResult {
        let learning_rate = LEARNING_RATE / number as f64;
        self.engine.step(&Step { number, learning_rate, batch, began: MonotonicNs::now() }).unwrap();
        let result = self.engine.poll().unwrap().results[0];
        assert!(f64::from(result.grad_norm) > self.clip_norm, "{result:?} is not clipped");
        result
    }

    fn gradients(&self) -> Vec<Tensor> {
        self.engine.gradients().unwrap().unwrap()
    }

    /// The weights as they are now.
    fn weights(&mut self) -> Vec<Vec<f32>> {
        self.engine.export().unwrap();
        self.engine.model().parameters().iter().map(|parameter| values(&parameter.var)).collect()
    }
}

/// The values of all parameters of a model that an engine publishes to.
fn weights(publish: impl FnOnce(&[Parameter]), config: &ModelConfig) -> Vec<Vec<f32>> {
    let target = fresh(config, 1);
    publish(target.parameters());
    target.parameters().iter().map(|parameter| values(&parameter.var)).collect()
}

/// The largest difference, as a share of the largest expected value.
fn gap(got: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    got.iter().zip(expected).fold(0f32, |max, (a, b)| max.max((a - b).abs())) / largest
}

#[test]
fn losses_gradients_and_weights_are_those_of_the_cpu_engine() {
    for config in configurations() {
        for micro_batch in [3, 2] {
            compare_with_cpu(&config, options(&config, micro_batch, Recompute::None), batch);
        }
    }
}

#[test]
fn documents_and_weights_of_targets_are_those_of_the_cpu_engine() {
    for config in configurations() {
        let options = options(&config, 2, Recompute::None);
        compare_with_cpu(
            &config,
            DeviceEngineOptions { masks: Masks { weights: true, documents: true }, ..options },
            masked_batch,
        );
    }
}

/// Holds five steps against the engine on a CPU: the first is launched, the next two are recorded, the others replayed.
fn compare_with_cpu(
    config: &ModelConfig,
    options: DeviceEngineOptions,
    batch: fn(&ModelConfig, u64) -> Batch,
) {
    let (model, of_cpu) = (model(config), model(config));
    let (mut engine, mut reference) =
        (engine(model.as_ref(), options), Reference::new(of_cpu.as_ref(), options));
    for number in 1..=5 {
        let batch = batch(config, number);
        step_with(engine.as_mut(), &batch, number);
        let expected = reference.step_with(&batch, number);
        let got = engine.drain().unwrap()[0];
        let share = |got: f32, expected: f32| (got / expected - 1.0).abs();
        assert!(share(got.loss, expected.loss) < 1e-5, "{config:?} {number}: {got:?}, {expected:?}");
        assert!(share(got.grad_norm, expected.grad_norm) < 1e-5, "{got:?}, {expected:?}");
        assert_eq!(got.accuracy, expected.accuracy);
        let gradients = engine.gradient_tensors().unwrap();
        let expected = reference.gradients();
        for ((parameter, got), expected) in model.parameters().iter().zip(&gradients).zip(&expected) {
            let gap = gap(&values(got), &values(expected));
            assert!(gap < 1e-5, "{config:?} {number}: {} differs by {gap}", parameter.name);
        }
    }
    assert!(engine.describe().ends_with("recorded and replayed"), "{}", engine.describe());
    let got = weights(|parameters| engine.publish(parameters).unwrap(), config);
    for ((parameter, got), expected) in model.parameters().iter().zip(&got).zip(&reference.weights()) {
        let gap = gap(got, expected);
        assert!(gap < 1e-5, "{config:?}: {} differs by {gap}", parameter.name);
    }
}

#[test]
fn what_an_engine_has_no_room_for_is_refused() {
    let config = even();
    let model = model(&config);
    let mut engine = engine(model.as_ref(), options(&config, 2, Recompute::None));
    let masked = masked_batch(&config, 1);
    for (batch, what) in [
        (Batch { documents: None, ..masked.clone() }, "weights of targets"),
        (Batch { weights: None, ..masked }, "documents"),
    ] {
        let error = engine.step(inputs(&batch, 1, 0.0)).unwrap_err().to_string();
        assert_eq!(error, format!("a batch with {what} came to an engine made without"));
    }
}

/// Some steps: what they said, and the weights after them.
fn train(
    config: &ModelConfig,
    board: ShimBoard,
    options: DeviceEngineOptions,
) -> (Vec<StepResult>, Vec<u32>) {
    let mut engine = model(config).device_engine(Arc::new(board), options).unwrap().unwrap();
    (1..=4).for_each(|number| step(engine.as_mut(), config, number));
    let weights = weights(|parameters| engine.publish(parameters).unwrap(), config);
    (engine.drain().unwrap(), bits(&weights.concat()))
}

#[test]
fn neither_recomputation_nor_the_order_of_threads_changes_a_bit() {
    let plain: fn(u64) -> ShimBoard = ShimBoard::shuffled;
    let fused: fn(u64) -> ShimBoard = |seed| ShimBoard::shuffled(seed).with_fused_attention();
    for (config, elem, board) in [
        (ModelConfig { bias: true, dropout: 0.2, n_layers: 3, ..even() }, Elem::F32, plain),
        (ModelConfig { bias: true, ..even() }, Elem::Bf16, plain),
        (ModelConfig { bias: true, ..even() }, Elem::Bf16, fused),
        (ModelConfig { bias: true, dropout: 0.1, ..odd() }, Elem::Bf16, plain),
        (llama(), Elem::Bf16, plain),
        (wide_llama(), Elem::Bf16, fused),
        (ModelConfig { head_width: 12, ..relative(Family::Qwen3) }, Elem::F32, plain),
        (ModelConfig { head_width: 16, ..relative(Family::Qwen3) }, Elem::Bf16, fused),
        (ModelConfig { n_layers: 3, ..relative(Family::Olmo2) }, Elem::F32, plain),
        (relative(Family::Olmo2), Elem::Bf16, plain),
        (wattles()[2].clone(), Elem::F32, plain),
        (ModelConfig { d_model: 32, ..wattles()[2].clone() }, Elem::Bf16, fused),
    ] {
        let options = |recompute| DeviceEngineOptions { elem, ..options(&config, 2, recompute) };
        let expected = train(&config, board(0), options(Recompute::None));
        for (seed, recompute) in RECOMPUTE.into_iter().enumerate() {
            let got = train(&config, board(seed as u64 + 1), options(recompute));
            assert!(got == expected, "{config:?}: {recompute:?}");
        }
    }
}

#[test]
fn bf16_follows_f32() {
    let plain = ShimBoard::default;
    let fused = || ShimBoard::default().with_fused_attention();
    for (config, board, attention) in [
        (ModelConfig { bias: true, ..even() }, plain(), "by products"),
        (ModelConfig { bias: true, ..even() }, fused(), "fused"),
        (ModelConfig { dropout: 0.1, ..odd() }, fused(), "by products"),
        (odd(), fused(), "by products"),
        (llama(), plain(), "by products"),
        (wide_llama(), fused(), "fused"),
        (ModelConfig { head_width: 8, ..relative(Family::Qwen3) }, fused(), "fused"),
        (ModelConfig { window: 3, ..wide_relative(Family::Mistral) }, fused(), "fused"),
        (wide_relative(Family::Olmo2), plain(), "by products"),
        (wattles()[1].clone(), plain(), "by products"),
        (ModelConfig { d_model: 32, ..wattles()[2].clone() }, fused(), "fused"),
    ] {
        let (model, options) = (model(&config), options(&config, 2, Recompute::None));
        let bf16 = DeviceEngineOptions { elem: Elem::Bf16, ..options };
        let mut engine = model.device_engine(Arc::new(board), bf16).unwrap().unwrap();
        let said = engine.describe();
        assert!(said.contains(&format!("attention {attention},")), "{config:?}: {said}");
        let mut reference = Reference::new(model.as_ref(), options);
        for number in 1..=5 {
            step(engine.as_mut(), &config, number);
            let (got, expected) = (engine.drain().unwrap()[0], reference.step(&config, number));
            // bf16 has 8 bits: each number is off by up to 0.4 %, and the loss is a mean of 24 rows or more.
            assert!((got.loss / expected.loss - 1.0).abs() < 5e-3, "{got:?}, {expected:?}");
            assert!((got.grad_norm / expected.grad_norm - 1.0).abs() < 3e-2, "{got:?}, {expected:?}");
        }
        let got = engine.gradient_tensors().unwrap();
        let expected = reference.gradients();
        let all = |tensors: &[Tensor]| tensors.iter().flat_map(values).collect::<Vec<f32>>();
        let (got, expected) = (all(&got), all(&expected));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a * b)).sum::<f64>();
        let cosine = dot(&got, &expected) / (dot(&got, &got) * dot(&expected, &expected)).sqrt();
        assert!(cosine > 0.999, "{config:?}: the gradients' cosine is {cosine}");
    }
}

#[test]
fn evaluation_is_that_of_the_cpu_engine_and_changes_nothing() {
    let config = ModelConfig { bias: true, dropout: 0.2, ..odd() };
    let (model, options) = (model(&config), options(&config, 2, Recompute::Mlp));
    let (mut engine, mut reference) =
        (engine(model.as_ref(), options), Reference::new(model.as_ref(), options));
    let run = |evaluates: bool| {
        let mut engine = self::engine(model.as_ref(), options);
        for number in 1..=4 {
            step(engine.as_mut(), &config, number);
            if evaluates {
                engine.evaluate(sequences(&batch(&config, 100).first(1))).unwrap();
            }
        }
        (engine.drain().unwrap(), bits(&weights(|p| engine.publish(p).unwrap(), &config).concat()))
    };
    assert!(run(true) == run(false));
    step(engine.as_mut(), &config, 1);
    reference.step(&config, 1);
    for n_sequences in [2, 1] {
        let part = batch(&config, 50).first(n_sequences);
        let got = engine.evaluate(sequences(&part)).unwrap();
        let expected = reference.engine.evaluate(&part).unwrap();
        assert!((got.loss / expected.loss - 1.0).abs() < 1e-5, "{got:?}, {expected:?}");
        assert_eq!(got.n_correct, expected.n_correct);
    }
    let error = engine.evaluate(sequences(&batch(&config, 50))).unwrap_err();
    assert!(matches!(error, EngineError::Batch { .. }), "{error}");
}

#[test]
fn moments_go_out_and_in_to_the_bit_and_faults_are_named() {
    let config = ModelConfig { bias: true, tie_embeddings: false, ..odd() };
    let model = model(&config);
    let options = options(&config, 2, Recompute::None);
    let mut whole = engine(model.as_ref(), options);
    (1..=6).for_each(|number| step(whole.as_mut(), &config, number));
    let mut first = engine(model.as_ref(), options);
    (1..=3).for_each(|number| step(first.as_mut(), &config, number));
    let between = fresh(&config, 1);
    first.publish(between.parameters()).unwrap();
    let mut moments: std::collections::HashMap<_, _> = first.moments().unwrap().into_iter().collect();
    let mut second = engine(between.as_ref(), options);
    second.set_moments(&moments).unwrap();
    (4..=6).for_each(|number| step(second.as_mut(), &config, number));
    let weights = |engine: &dyn DeviceEngine| weights(|p| engine.publish(p).unwrap(), &config).concat();
    assert_eq!(bits(&weights(second.as_ref())), bits(&weights(whole.as_ref())));

    moments.remove("lm_head.weight.exp_avg");
    assert_eq!(
        moment_faults(model.parameters(), MatrixUpdate::AdamW, &moments),
        ["lm_head.weight.exp_avg is missing"]
    );
    let error = second.set_moments(&moments).unwrap_err().to_string();
    assert!(error.contains("lm_head.weight.exp_avg is missing"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_largest_that_does() {
    let config = ModelConfig { d_model: 64, n_heads: 4, context: 64, ..even() };
    let model = fresh(&config, 5);
    let options = DeviceEngineOptions { batch_size: 64, ..options(&config, 64, Recompute::None) };
    let needed = |micro_batch: usize| {
        let options = DeviceEngineOptions { micro_batch, ..options };
        engine(model.as_ref(), options).memory().total()
    };
    // What is left to the libraries.
    let reserve = 256 << 20;
    let board = || Arc::new(ShimBoard::default().with_memory(needed(5) + reserve));
    let error = model.device_engine(board(), options).err().unwrap();
    let EngineError::DoesNotFit { largest, free, .. } = &error else { panic!("{error}") };
    assert_eq!((*largest, *free), (Some(5), needed(5) + reserve));
    let text = error.to_string();
    assert!(text.contains("set train.micro_batch_size = 5, the largest that fits (it is 64)"), "{text}");
    assert!(text.contains("train.recompute = \"mlp\""), "{text}");
    let fits = DeviceEngineOptions { micro_batch: 5, ..options };
    let (board, planned) = (board(), needed(5));
    let engine = model.device_engine(board.clone(), fits).unwrap().unwrap();
    assert_eq!(engine.memory().total(), planned);
    assert!(board.memory().unwrap().free >= reserve);
}

#[test]
fn no_plan_for_attention_is_made_to_find_out_what_fits() {
    let config = ModelConfig { d_model: 64, n_heads: 4, context: 64, ..even() };
    let model = fresh(&config, 5);
    let options =
        DeviceEngineOptions { batch_size: 4096, elem: Elem::Bf16, ..options(&config, 4096, Recompute::None) };
    let with = |micro_batch: usize| DeviceEngineOptions { micro_batch, ..options };
    let plenty = || Arc::new(ShimBoard::default().with_memory(64 << 30).with_fused_attention());
    let needed = |micro_batch: usize| {
        model.device_engine(plenty(), with(micro_batch)).unwrap().unwrap().memory().total()
    };
    // Room for nine, attention's workspace among what they need.
    let room = needed(9) + (256 << 20);
    let board = Arc::new(ShimBoard::default().with_memory(room).with_fused_attention());
    let error = model.device_engine(board.clone(), options).err().unwrap();
    let EngineError::DoesNotFit { largest, free, .. } = &error else { panic!("{error}") };
    assert_eq!((*largest, *free, board.n_plans()), (Some(9), room, 0));

    // The same answer without an engine or values.
    model.refuse_what_cannot_fit(board.as_ref(), with(9)).unwrap();
    let error = model.refuse_what_cannot_fit(board.as_ref(), options).unwrap_err();
    let EngineError::DoesNotFit { largest, .. } = &error else { panic!("{error}") };
    assert_eq!((*largest, board.n_plans()), (Some(9), 0));
    model.device_engine(board.clone(), with(9)).unwrap().unwrap();
    assert_eq!(board.n_plans(), 4, "both passes, for micro-batches and for the last, shorter one");
}

#[test]
fn a_loss_that_is_not_finite_halts_updates_at_the_weights_before() {
    let config = even();
    let model = model(&config);
    let mut engine = engine(model.as_ref(), options(&config, 2, Recompute::None));
    step(engine.as_mut(), &config, 1);
    assert!(!engine.is_halted().unwrap());
    let good = weights(|p| engine.publish(p).unwrap(), &config);
    let table = &model.parameters()[0].var;
    let broken = fresh(&config, 5);
    engine.publish(broken.parameters()).unwrap();
    broken.parameters()[0].var.set(&(table.as_detached_tensor() * f64::NAN).unwrap()).unwrap();
    engine.take(broken.parameters()).unwrap();
    (2..=4).for_each(|number| step(engine.as_mut(), &config, number));
    assert!(engine.is_halted().unwrap());
    let results = engine.drain().unwrap();
    assert!(results[0].loss.is_finite() && results[1..].iter().all(|result| !result.loss.is_finite()));
    let now = weights(|p| engine.publish(p).unwrap(), &config);
    assert_eq!(bits(&now[1..].concat()), bits(&good[1..].concat()));
    engine.take(model.parameters()).unwrap();
    assert!(!engine.is_halted().unwrap());
}

#[test]
fn spans_lie_between_anchors_and_follow_one_another() {
    let config = even();
    let mut engine = engine(model(&config).as_ref(), options(&config, 2, Recompute::None));
    let start = std::time::Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    assert!(engine.synchronize(&now).unwrap().is_empty());
    let first = now();
    (1..=5).for_each(|number| step(engine.as_mut(), &config, number));
    let spans = engine.synchronize(&now).unwrap();
    let last = now();
    let parts = [StepPart::Data, StepPart::ForwardBackward, StepPart::Optimizer];
    let expected: Vec<_> = (1..=5).flat_map(|step| parts.map(|part| (step, part))).collect();
    assert_eq!(spans.iter().map(|span| (span.step, span.part)).collect::<Vec<_>>(), expected);
    for span in &spans {
        let bounds = first.saturating_sub(span.error_ns)..=last + span.error_ns;
        assert!(span.start_ns <= span.end_ns && bounds.contains(&span.start_ns), "{span:?} of {bounds:?}");
    }
    assert!(spans.windows(2).all(|pair| pair[0].end_ns <= pair[1].start_ns), "{spans:?}");
    assert!(engine.synchronize(&now).unwrap().is_empty());
}

#[test]
fn finished_steps_are_told_while_two_are_in_flight_and_the_results_are_the_same() {
    const STEPS: u64 = 24;
    let config = even();
    let options = options(&config, 3, Recompute::None);
    let mut polled = engine(model(&config).as_ref(), options);
    let mut drained = engine(model(&config).as_ref(), options);
    let start = std::time::Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    polled.synchronize(&now).unwrap();
    let (mut results, mut spans) = (Vec::new(), Vec::new());
    for number in 1..=STEPS {
        step(polled.as_mut(), &config, number);
        assert_eq!(polled.n_in_flight() as u64, number.min(2));
        if number % 7 == 3 {
            let finished = polled.poll(&now).unwrap();
            results.extend(finished.results);
            spans.extend(finished.spans);
            assert_eq!(results.len() as u64, number - 2, "all but those in flight");
            assert_eq!(spans.len(), 3 * results.len());
            assert!(polled.poll(&now).unwrap().results.is_empty());
        }
    }
    spans.extend(polled.synchronize(&now).unwrap());
    results.extend(polled.drain().unwrap());
    let ends: Vec<_> = spans.iter().filter(|span| span.part == StepPart::Optimizer).collect();
    assert_eq!(ends.iter().map(|span| span.step).collect::<Vec<_>>(), (1..=STEPS).collect::<Vec<_>>());
    assert!(
        spans.windows(2).all(|pair| pair[0].end_ns <= pair[1].start_ns && pair[0].start_ns <= pair[0].end_ns)
    );
    assert!(ends[ends.len() - 1].end_ns <= now());

    let mut expected = Vec::new();
    for number in 1..=STEPS {
        step(drained.as_mut(), &config, number);
        if number % 10 == 0 {
            expected.extend(drained.drain().unwrap());
        }
    }
    expected.extend(drained.drain().unwrap());
    let all = |results: &[StepResult]| {
        results.iter().flat_map(|r| bits(&[r.loss, r.accuracy, r.grad_norm])).collect::<Vec<_>>()
    };
    assert_eq!(all(&results), all(&expected));
}

/// A board that cannot record.
struct Unrecorded(ShimBoard);

impl Board for Unrecorded {
    fn name(&self) -> String {
        self.0.name()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, BoardError> {
        self.0.allocate(bytes)
    }

    fn memory(&self) -> Result<MemoryInfo, BoardError> {
        self.0.memory()
    }

    fn write(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.0.write(to, bytes)
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.0.read(from, out)
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.0.copy(to, from, bytes)
    }

    fn zero(&self, at: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.0.zero(at, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError> {
        self.0.launch(launch)
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), BoardError> {
        self.0.gemm(gemm)
    }

    fn choices(&self) -> &Choices {
        self.0.choices()
    }

    fn mark(&self, edge: usize) -> Result<(), BoardError> {
        self.0.mark(edge)
    }

    fn elapsed_ms(&self, from: usize, to: usize) -> Result<f32, BoardError> {
        self.0.elapsed_ms(from, to)
    }

    fn begin_record(&self) -> Result<(), BoardError> {
        Err(BoardError::Call { call: "begin_record", why: "not supported".to_owned() })
    }

    fn end_record(&self) -> Result<usize, BoardError> {
        panic!("nothing was begun")
    }

    fn replay(&self, recorded: usize) -> Result<(), BoardError> {
        panic!("nothing was recorded as {recorded}")
    }

    fn synchronize(&self) -> Result<(), BoardError> {
        self.0.synchronize()
    }
}

#[test]
fn a_board_that_cannot_record_makes_the_same_steps_and_says_so() {
    let config = even();
    let options = options(&config, 2, Recompute::None);
    let model = model(&config);
    let board = Arc::new(Unrecorded(ShimBoard::default()));
    let mut engine = model.device_engine(board, options).unwrap().unwrap();
    (1..=4).for_each(|number| step(engine.as_mut(), &config, number));
    let weights = bits(&weights(|p| engine.publish(p).unwrap(), &config).concat());
    assert!((engine.drain().unwrap(), weights) == train(&config, ShimBoard::default(), options));
    assert!(engine.describe().ends_with("launched one by one"), "{}", engine.describe());
}

/// Ways that are not the first of their jobs, together, and whether they give the same bits as the first.
const SETS_OF_WAYS: [(&[&str], bool); 5] = [
    (&["shared", "held", "together", "written", "packs"], true),
    (&["online", "fused", "together", "chunks"], false),
    (&["shared_fast", "epilogue", "sums_epilogue"], false),
    (&["online_fast", "epilogue", "slope_epilogue", "sums_epilogue", "together", "written"], false),
    (
        &[
            "shared_fast",
            "fused",
            "held",
            "epilogue",
            "slope_epilogue",
            "sums_epilogue",
            "together",
            "written",
        ],
        false,
    ),
];

/// Parts of the names of kernels that only those ways launch.
const KERNELS_OF_WAYS: [&str; 12] = [
    "classifier_bwd_shared_bf16",
    "classifier_bwd_shared_fast_f32",
    "classifier_bwd_online_bf16",
    "classifier_bwd_online_fast_f32",
    "layer_norm_bwd_fused_bf16",
    "rms_norm_bwd_fused_f32",
    "layer_norm_residual_fwd_held4_bf16",
    "rms_norm_residual_fwd_held4_f32",
    "column_sums_f32",
    "embedding_bwd_joins_bf16",
    "rope_fwd_packs_f32",
    "rope_bwd_packs_bf16",
];

/// Configurations in which every way is taken somewhere.
fn configurations_of_ways() -> [ModelConfig; 6] {
    [
        ModelConfig { bias: true, activation: ActivationKind::GeluTanh, ..even() },
        ModelConfig { activation: ActivationKind::GeluTanh, dropout: 0.1, tie_embeddings: false, ..even() },
        ModelConfig { bias: true, ..odd() },
        ModelConfig { tie_embeddings: false, head_width: 16, ..relative(Family::Qwen3) },
        ModelConfig { head_width: 8, ..relative(Family::Olmo2) },
        wattles()[2].clone(),
    ]
}

#[test]
fn every_way_makes_the_same_step_up_to_rounding_and_always_the_same_bits() {
    let mut launched = std::collections::BTreeSet::new();
    for (config, elem) in configurations_of_ways().iter().flat_map(|c| [(c, Elem::F32), (c, Elem::Bf16)]) {
        let options = DeviceEngineOptions { elem, ..options(config, 2, Recompute::Mlp) };
        let mut run = |board: ShimBoard, ways: &[&str]| {
            let board = Arc::new(ways.iter().fold(board, |board, way| board.preferring(way)));
            let mut engine = model(config).device_engine(board.clone(), options).unwrap().unwrap();
            (1..=4).for_each(|number| step(engine.as_mut(), config, number));
            let weights = weights(|parameters| engine.publish(parameters).unwrap(), config).concat();
            launched.extend(board.launched());
            (engine.drain().unwrap(), weights)
        };
        let (first, of_first) = run(ShimBoard::default(), &[]);
        for (ways, is_exact) in SETS_OF_WAYS {
            let (results, weights) = run(ShimBoard::default(), ways);
            let again = run(ShimBoard::shuffled(1), ways);
            assert!((&results, bits(&weights)) == (&again.0, bits(&again.1)), "{ways:?}: {config:?}");
            if is_exact {
                assert!((&results, bits(&weights)) == (&first, bits(&of_first)), "{ways:?}: {config:?}");
            }
            // bf16 has 8 bits, and what was rounded otherwise in one step goes into the next.
            let (of_loss, of_norm, of_weights) = match elem {
                Elem::F32 => (1e-5, 1e-4, 1e-5),
                _ => (5e-3, 3e-2, 2e-2),
            };
            for (got, first) in results.iter().zip(&first) {
                assert!((got.loss / first.loss - 1.0).abs() < of_loss, "{ways:?}: {got:?}, {first:?}");
                assert!(
                    (got.grad_norm / first.grad_norm - 1.0).abs() < of_norm,
                    "{ways:?}: {got:?}, {first:?}"
                );
            }
            let gap = gap(&weights, &of_first);
            assert!(gap < of_weights, "{ways:?}, {elem:?}: weights differ by {gap}: {config:?}");
        }
    }
    let never: Vec<_> = KERNELS_OF_WAYS.into_iter().filter(|&kernel| !launched.contains(kernel)).collect();
    assert!(never.is_empty(), "{never:?} were never launched");
}

/// A GELU in products' epilogues leaves fewer launches.
#[test]
fn epilogues_take_the_place_of_kernels() {
    let config = ModelConfig { bias: true, activation: ActivationKind::GeluTanh, ..even() };
    let model = model(&config);
    for (ways, without) in [
        (&["epilogue"][..], &["activation_fwd_bf16"][..]),
        (&["epilogue", "slope_epilogue"], &["activation_fwd_bf16", "activation_bwd_bf16"]),
        (&["sums_epilogue"], &["linear_bias_bwd_bf16"]),
        // It has nothing to work with.
        (&["slope_epilogue"], &[]),
    ] {
        let board = Arc::new(ways.iter().fold(ShimBoard::default(), |board, way| board.preferring(way)));
        let options = DeviceEngineOptions { elem: Elem::Bf16, ..options(&config, 2, Recompute::None) };
        let mut engine = model.device_engine(board.clone(), options).unwrap().unwrap();
        step(engine.as_mut(), &config, 1);
        for kernel in ["activation_fwd_bf16", "activation_bwd_bf16", "linear_bias_bwd_bf16"] {
            assert_eq!(board.launched().contains(kernel), !without.contains(&kernel), "{ways:?}: {kernel}");
        }
    }
}

#[test]
fn a_gradient_that_never_comes_is_found_where_the_first_micro_batch_writes_gradients() {
    let config = ModelConfig { bias: true, ..even() };
    let model = model(&config);
    for kernel in ["column_sum_f32", "embedding_position_bwd_f32"] {
        let board = Arc::new(ShimBoard::default().preferring("written").without(kernel));
        let mut engine = model.device_engine(board, options(&config, 2, Recompute::None)).unwrap().unwrap();
        let batch = batch(&config, 1);
        let error = engine.step(inputs(&batch, 1, 0.0)).unwrap_err();
        let EngineError::Unreached { names } = &error else { panic!("{error}") };
        assert!(!names.is_empty(), "{error}");
    }
}
