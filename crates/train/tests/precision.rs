//! Products in eight bits and moments in bfloat16: the engine on a board, over the kernels as the shim runs them, and the
//! one on a CPU.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use kernel_shim::ShimBoard;
use wattle_data::{Batch, Dataset};
use wattle_model::{
    ActivationKind, EngineOptions, Family, Fp8Options, Gpt2, LanguageModel, MatrixUpdate, ModelConfig,
    Moments, Recompute, Share, StepResult,
};
use wattle_ops::board::Board;
use wattle_random::{Purpose, Stream};
use wattle_runlog::{EventBody, MonotonicNs, Span, StopReason};
use wattle_train::config::{OptimizerConfig, ScheduleConfig};
use wattle_train::engine::{Step, choose};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, EngineChoice, ExtraFile, Observer, Progress, StepEngine,
    TrainConfig, Trainer, TrainerOptions,
};

use common::{CPU, VOCAB_SIZE, bits, dataset, fresh, model, values};

const BATCH_SIZE: usize = 3;

/// All sizes are multiples of 16, and no two of a block's are alike.
fn gpt2() -> ModelConfig {
    ModelConfig {
        n_layers: 2,
        n_heads: 2,
        d_model: 32,
        d_ff: 80,
        context: 16,
        bias: true,
        activation: ActivationKind::GeluTanh,
        ..ModelConfig::default()
    }
}

fn relative(family: Family) -> ModelConfig {
    ModelConfig {
        family,
        activation: ActivationKind::Swiglu,
        n_heads: 4,
        n_kv_heads: 2,
        head_width: 8,
        bias: false,
        ..gpt2()
    }
}

fn configurations() -> [ModelConfig; 6] {
    [
        gpt2(),
        ModelConfig { dropout: 0.1, tie_embeddings: false, activation: ActivationKind::Relu, ..gpt2() },
        relative(Family::Llama),
        ModelConfig { head_width: 16, ..relative(Family::Qwen3) },
        ModelConfig { tie_embeddings: false, ..relative(Family::Olmo2) },
        ModelConfig {
            activation: ActivationKind::Relu2,
            qk_norm: true,
            window: 5,
            window_pattern: 2,
            logit_softcap: 2.0,
            ..relative(Family::Wattle)
        },
    ]
}

fn batch(config: &ModelConfig, number: u64) -> Batch {
    let n = BATCH_SIZE * config.context;
    let stream = Stream::new(11, Purpose::Sampling, number);
    let mut tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % VOCAB_SIZE as u32).collect();
    let targets = tokens.split_off(n);
    Batch::plain(tokens, targets, BATCH_SIZE, config.context)
}

fn options(config: &ModelConfig, fp8: Option<Fp8Options>, recompute: Recompute) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        dropout: config.dropout,
        fp8,
        optimizer: OptimizerConfig { eps: 1e-3, ..OptimizerConfig::default() },
        train: TrainConfig {
            batch_size: BATCH_SIZE,
            micro_batch_size: 2,
            recompute,
            engine: EngineChoice::Explicit,
            ..TrainConfig::default()
        },
        ..TrainerOptions::default()
    }
}

fn both() -> [Fp8Options; 2] {
    [false, true].map(|head| Fp8Options { head })
}

/// What a step said, and the weights' change since the last one is in the model after [`StepEngine::export`].
fn step(engine: &mut dyn StepEngine, config: &ModelConfig, number: u64) -> StepResult {
    let batch = batch(config, number);
    let began = MonotonicNs::now();
    engine.step(&Step { number, learning_rate: 1e-2, batch: &batch, began }).unwrap();
    engine.drain().unwrap().results[0]
}

fn weights(model: &dyn LanguageModel) -> Vec<f32> {
    model.parameters().iter().flat_map(|parameter| values(&parameter.var)).collect()
}

/// Three steps: what they said, and the weights after them.
fn train(
    config: &ModelConfig,
    board: Option<Arc<dyn Board>>,
    options: &TrainerOptions,
) -> (Vec<StepResult>, Vec<f32>) {
    let model = model(config);
    let mut engine = choose(model.as_ref(), board, options).unwrap();
    let results = (1..=3).map(|number| step(engine.as_mut(), config, number)).collect();
    engine.export().unwrap();
    drop(engine);
    (results, weights(model.as_ref()))
}

fn shim(seed: u64) -> Option<Arc<dyn Board>> {
    Some(Arc::new(ShimBoard::shuffled(seed)))
}

/// Sums are in another order, so that now and then a number is rounded to a neighbour.
#[test]
fn a_board_and_a_cpu_round_alike() {
    for config in configurations() {
        for fp8 in both() {
            let options = options(&config, Some(fp8), Recompute::None);
            let (plain, _) = train(&config, None, &TrainerOptions { fp8: None, ..options.clone() });
            let (expected, expected_weights) = train(&config, None, &options);
            let (got, got_weights) = train(&config, shim(0), &options);
            for ((got, expected), plain) in got.iter().zip(&expected).zip(&plain) {
                let gap = (got.loss / expected.loss - 1.0).abs();
                assert!(gap < 3e-4, "{config:?} {fp8:?}: {got:?}, {expected:?}");
                let gap = (got.grad_norm / expected.grad_norm - 1.0).abs();
                assert!(gap < 3e-3, "{config:?} {fp8:?}: {got:?}, {expected:?}");
                assert!(expected.loss != plain.loss, "{config:?}: nothing is rounded");
                assert!((expected.loss / plain.loss - 1.0).abs() < 3e-2, "{expected:?}, {plain:?}");
            }
            let largest = expected_weights.iter().fold(0f32, |max, x| max.max(x.abs()));
            let gap = got_weights.iter().zip(&expected_weights).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(gap / largest < 1e-2, "{config:?} {fp8:?}: weights differ by {}", gap / largest);
        }
    }
}

#[test]
fn gradients_in_eight_bits_point_the_same_way() {
    for config in configurations() {
        for fp8 in both() {
            let gradients = |fp8| {
                let model = model(&config);
                let options = options(&config, fp8, Recompute::None);
                let mut engine = choose(model.as_ref(), None, &options).unwrap();
                step(engine.as_mut(), &config, 1);
                let tensors: Vec<Tensor> = engine.gradients().unwrap().unwrap();
                tensors.iter().flat_map(values).map(f64::from).collect::<Vec<_>>()
            };
            let (got, expected) = (gradients(Some(fp8)), gradients(None));
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let cosine = dot(&got, &expected) / (dot(&got, &got) * dot(&expected, &expected)).sqrt();
            // Two bits of mantissa are off by up to an eighth, in each of eight products on the way back.
            assert!(cosine > 0.96, "{config:?} {fp8:?}: {cosine}");
        }
    }
}

#[test]
fn neither_recomputation_nor_the_order_of_threads_changes_a_bit() {
    let fp8 = Some(Fp8Options { head: true });
    let [gpt2, _, llama, _, olmo2, _] = configurations();
    for config in [gpt2, llama, olmo2] {
        let bf16 = |recompute| TrainerOptions { dtype: DType::BF16, ..options(&config, fp8, recompute) };
        let on_board = train(&config, shim(0), &bf16(Recompute::None));
        let on_cpu = train(&config, None, &bf16(Recompute::None));
        for (seed, recompute) in [Recompute::None, Recompute::Mlp, Recompute::Block].into_iter().enumerate() {
            let got = train(&config, shim(seed as u64 + 1), &bf16(recompute));
            assert!(got == on_board, "{config:?}: {recompute:?} on a board");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(seed + 1).build().unwrap();
            let got = pool.install(|| train(&config, None, &bf16(recompute)));
            assert!(got == on_cpu, "{config:?}: {recompute:?} on a CPU with {} threads", seed + 1);
        }
    }
}

/// More rows than one thread takes at once.
#[test]
fn a_product_that_several_threads_share_has_the_same_bits() {
    let config = ModelConfig { context: 192, n_layers: 1, ..gpt2() };
    let options = options(&config, Some(Fp8Options { head: true }), Recompute::None);
    let with_threads = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| train(&config, None, &options))
    };
    let expected = with_threads(1);
    assert!(with_threads(2) == expected && with_threads(5) == expected);
}

#[test]
fn losses_of_an_evaluation_are_those_of_a_step() {
    let config = gpt2();
    for board in [None, shim(0)] {
        for fp8 in both() {
            let model = model(&config);
            let one = TrainConfig {
                batch_size: BATCH_SIZE,
                engine: EngineChoice::Explicit,
                ..TrainConfig::default()
            };
            let options = TrainerOptions { train: one, ..options(&config, Some(fp8), Recompute::None) };
            let mut engine = choose(model.as_ref(), board.clone(), &options).unwrap();
            let batch = batch(&config, 1);
            let evaluated = engine.evaluate(&batch).unwrap().loss / batch.targets.len() as f64;
            let trained = f64::from(step(engine.as_mut(), &config, 1).loss);
            assert!((evaluated / trained - 1.0).abs() < 1e-6, "{fp8:?}: {evaluated}, {trained}");
        }
    }
}

#[test]
fn what_has_no_products_in_eight_bits_is_refused_with_its_remedy() {
    let refused = |config: &ModelConfig, board: Option<Arc<dyn Board>>, engine: EngineChoice| {
        let mut options = options(config, Some(Fp8Options::default()), Recompute::None);
        options.train.engine = engine;
        choose(fresh(config, 1).as_ref(), board, &options).err().map(|error| error.to_string()).unwrap()
    };
    let old: Option<Arc<dyn Board>> = Some(Arc::new(ShimBoard::default().without_fp8()));
    let error = refused(&gpt2(), old, EngineChoice::Auto);
    assert!(error.contains("no FP8 products: the kernel shim was made without it"), "{error}");
    assert!(error.ends_with("set precision.dtype = \"bf16\""), "{error}");
    let odd = ModelConfig { d_ff: 72, ..gpt2() };
    for board in [None, shim(0)] {
        let error = refused(&odd, board, EngineChoice::Auto);
        assert!(error.contains("feed-forward half is 72") && error.contains("change model.d_ff"), "{error}");
    }
    let error = refused(&ModelConfig { context: 12, ..gpt2() }, None, EngineChoice::Explicit);
    assert!(error.contains("a sequence in tokens is 12") && error.contains("model.context"), "{error}");
    let error = refused(&gpt2(), None, EngineChoice::Autograd);
    assert!(error.contains("train.engine to \"auto\""), "{error}");
}

#[test]
fn an_infinite_weight_is_seen_in_the_loss() {
    let config = gpt2();
    for board in [None, shim(0)] {
        let model = model(&config);
        let parameter = model.parameters().iter().find(|parameter| parameter.name.contains("c_fc.weight"));
        let var = &parameter.unwrap().var;
        let mut numbers = values(var);
        numbers[17] = f32::INFINITY;
        var.set(&Tensor::from_vec(numbers, var.shape(), &CPU).unwrap()).unwrap();
        let options = options(&config, Some(Fp8Options::default()), Recompute::None);
        let mut engine = choose(model.as_ref(), board, &options).unwrap();
        assert!(!step(engine.as_mut(), &config, 1).loss.is_finite());
    }
}

/// Losses of a run, which stops after some steps.
#[derive(Default)]
struct Recorder {
    losses: Vec<f32>,
    n_steps: u64,
    stop_after: Option<u64>,
}

impl Observer for Recorder {
    fn event(&mut self, _t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        if let EventBody::Step(step) = body {
            self.losses.push(step.loss);
        }
        Ok(())
    }

    fn span(&mut self, _span: Span) {}

    fn edge(&mut self, _edge: Edge) {}

    fn progress(&mut self, progress: Progress) {
        self.n_steps += u64::from(matches!(progress, Progress::Step { .. }));
    }

    fn directive(&mut self) -> Directive {
        let is_over = self.stop_after.is_some_and(|stop| self.n_steps >= stop);
        if is_over { Directive::Stop(StopReason::Signal) } else { Directive::Continue }
    }

    fn before_commit(&mut self, _draft: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

/// What a run differs in.
#[derive(Clone, Copy, Debug, Default)]
struct Precision {
    fp8: Option<Fp8Options>,
    moments: Moments,
    checkpoint_every_steps: u64,
}

impl Precision {
    fn fp8(fp8: Fp8Options) -> Self {
        Self { fp8: Some(fp8), ..Self::default() }
    }

    fn bf16_moments() -> Self {
        Self { moments: Moments::Bf16 { seed: 3 }, ..Self::default() }
    }
}

/// A run of so many steps in `dir` from where it was left: its losses, and the weights.
fn run(
    dir: &Path,
    dataset: &Dataset,
    board: Option<Arc<dyn Board>>,
    precision: Precision,
    [max_steps, stop_after]: [u64; 2],
) -> (Vec<f32>, Vec<f32>) {
    let config = ModelConfig { d_model: 32, context: 16, n_heads: 2, n_layers: 2, ..ModelConfig::default() };
    let model = Gpt2::new(&config, dataset.vocab_size(), 3, &CPU).unwrap();
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 0).unwrap();
    let latest = checkpoints.latest().unwrap();
    let mut options = options(&config, precision.fp8, Recompute::None);
    options.dtype = if precision.fp8.is_some() { DType::BF16 } else { DType::F32 };
    options.moments = precision.moments;
    options.checkpoint_every_steps = precision.checkpoint_every_steps;
    options.checkpoint_in_background = true;
    options.dropout = 0.1;
    options.train = TrainConfig { max_steps, epochs: 0, ..options.train };
    options.optimizer = OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() };
    options.schedule = ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() };
    let mut trainer = Trainer::on_board(&model, dataset, board, options, checkpoints).unwrap();
    if let Some(latest) = latest {
        trainer.resume(&latest).unwrap();
    }
    let mut recorder = Recorder { stop_after: Some(stop_after), ..Recorder::default() };
    trainer.run(&mut recorder).unwrap();
    drop(trainer);
    (recorder.losses, weights(&model))
}

/// Scales are those of the numbers at hand, and what moments are rounded by is a function of the step: a checkpoint needs
/// no history of either.
#[test]
fn a_run_goes_on_from_a_checkpoint_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let [blocks, head] = both().map(Precision::fp8);
    let all = Precision { fp8: head.fp8, ..Precision::bf16_moments() };
    for (name, board) in [("cpu", None), ("board", shim(0))] {
        for (idx, (precision, stop)) in
            [(blocks, 1), (head, 7), (Precision::bf16_moments(), 7), (all, 5)].into_iter().enumerate()
        {
            let dir = |part: &str| dir.path().join(format!("{name}-{idx}-{part}"));
            let run = |part: &str, stop| run(&dir(part), &dataset, board.clone(), precision, [12, stop]);
            let (whole, weights) = run("whole", 12);
            let (before, _) = run("parts", stop);
            let (after, resumed) = run("parts", 12);
            assert!(!before.is_empty() && !after.is_empty());
            assert_eq!(bits(&[before, after].concat()), bits(&whole), "{name}, {precision:?} after {stop}");
            assert_eq!(bits(&resumed), bits(&weights), "{name}, {precision:?} after {stop}");
        }
    }
}

/// The mean of the last 20 of 100 losses on a CPU.
fn learnt(dir: &Path, dataset: &Dataset, precision: Precision) -> f32 {
    let (losses, _) = run(dir, dataset, None, precision, [100, 100]);
    let mean = losses[80..].iter().sum::<f32>() / 20.0;
    assert!(losses[0] - mean > 1.0, "nothing is learnt");
    mean
}

#[test]
fn training_in_fewer_bits_follows_training_in_f32() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let expected = learnt(&dir.path().join("f32"), &dataset, Precision::default());
    let [blocks, head] = both().map(Precision::fp8);
    for (idx, precision) in [blocks, head, Precision::bf16_moments()].into_iter().enumerate() {
        let got = learnt(&dir.path().join(idx.to_string()), &dataset, precision);
        assert!((got - expected).abs() < 0.03, "{precision:?}: {got} where f32 has {expected}");
    }
}

#[test]
fn moments_in_bf16_do_not_depend_on_the_number_of_threads() {
    let config = gpt2();
    let options = |recompute| TrainerOptions {
        moments: Moments::Bf16 { seed: 5 },
        ..options(&config, None, recompute)
    };
    let expected = train(&config, None, &options(Recompute::None));
    let wide = train(&config, None, &TrainerOptions { moments: Moments::F32, ..options(Recompute::None) });
    let other = train(
        &config,
        None,
        &TrainerOptions { moments: Moments::Bf16 { seed: 6 }, ..options(Recompute::None) },
    );
    assert!(expected.1 != wide.1 && expected.1 != other.1, "nothing is rounded at random");
    for n_threads in 1..=3 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let got = pool.install(|| train(&config, None, &options(Recompute::Block)));
        assert!(got == expected, "{n_threads} threads");
    }
}

/// Each is a number of bfloat16, whichever way the file was written.
#[test]
fn a_checkpoint_has_the_moments_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let precision = Precision { checkpoint_every_steps: 4, ..Precision::bf16_moments() };
    for (name, board) in [("cpu", None), ("board", shim(0))] {
        let dir = dir.path().join(name);
        run(&dir, &dataset, board.clone(), precision, [9, 9]);
        let stopped = dir.join("stopped");
        run(&stopped, &dataset, board, Precision { checkpoint_every_steps: 0, ..precision }, [9, 4]);
        let read = |dir: &Path, step: u64| {
            let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 0).unwrap();
            let path = checkpoints.path(step).join("optimizer.safetensors");
            candle_core::safetensors::load(path, &CPU).unwrap()
        };
        let (beside, waited) = (read(&dir, 4), read(&stopped, 4));
        assert!(beside.values().any(|moment| values(moment).iter().any(|&x| x != 0.0)));
        for (name, moment) in &beside {
            let moment = values(moment);
            assert!(moment.iter().all(|x| x.to_bits() & 0xffff == 0), "{name} has more than 16 bits");
            assert_eq!(bits(&moment), bits(&values(&waited[name])), "{name}");
        }
    }
}

#[test]
fn fewer_bits_are_in_the_plan_of_memory() {
    let config = gpt2();
    let plan = |fp8, moments| {
        let model = fresh(&config, 1);
        let (micro_batch, recompute) = (2, Recompute::None);
        let on_cpu = EngineOptions {
            micro_batch,
            recompute,
            fp8,
            moments,
            matrices: MatrixUpdate::AdamW,
            share: Share::default(),
        };
        let engine = model.engine(on_cpu).unwrap().unwrap();
        let planned = config.training_memory(VOCAB_SIZE, on_cpu);
        assert_eq!(engine.memory(), planned);
        // What is rounded for one product is allocated with it.
        let for_products = if fp8.is_some() { planned.scratch } else { 0 };
        assert!((planned.total() - for_products..=planned.total()).contains(&engine.allocated_bytes()));
        let options = TrainerOptions { moments, ..options(&config, fp8, recompute) };
        let on_board = choose(model.as_ref(), shim(0), &options).unwrap().memory().unwrap();
        [planned, on_board]
    };
    let plain = plan(None, Moments::F32);
    let narrow = plan(None, Moments::Bf16 { seed: 1 });
    let fp8 = plan(Some(Fp8Options::default()), Moments::F32);
    let with_head = plan(Some(Fp8Options { head: true }), Moments::F32);
    for place in 0..2 {
        assert_eq!(2 * narrow[place].moments, plain[place].moments);
        assert_eq!(narrow[place].activations, plain[place].activations);
        assert!(fp8[place].weights > plain[place].weights);
        assert!(with_head[place].total() > fp8[place].total());
    }
    // On a CPU a micro-batch is one slice then, so attention takes less.
    assert!(fp8[1].scratch > plain[1].scratch);
}

#[test]
fn moments_in_bf16_are_refused_where_no_engine_has_them() {
    let config = gpt2();
    let mut options =
        TrainerOptions { moments: Moments::Bf16 { seed: 1 }, ..options(&config, None, Recompute::None) };
    options.train.engine = EngineChoice::Autograd;
    let error = choose(fresh(&config, 1).as_ref(), None, &options).err().unwrap().to_string();
    assert!(error.contains("precision.moments to \"f32\""), "{error}");
}
