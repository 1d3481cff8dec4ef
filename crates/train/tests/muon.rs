//! Muon in the engines: what they update alike, what they keep, and where it is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use kernel_shim::ShimBoard;
use wattle_data::{Batch, Dataset};
use wattle_model::engine::EngineOptions;
use wattle_model::parameter::ParameterBuilder;
use wattle_model::{
    Family, Gpt2, GradientType, LanguageModel, MatrixUpdate, ModelConfig, Moments, Parameter, Pass,
    Recompute, Share,
};
use wattle_ops::board::Board;
use wattle_random::{Purpose, Stream};
use wattle_runlog::{EventBody, MonotonicNs, Span, StopReason};
use wattle_train::config::{OptimizerConfig, OptimizerKind, ScheduleConfig};
use wattle_train::engine::{Step, choose};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, EngineChoice, ExtraFile, Observer, Progress, TrainConfig,
    TrainError, Trainer, TrainerOptions,
};

use common::{CPU, VOCAB_SIZE, bits, dataset, model, values};

const BATCH_SIZE: usize = 3;

fn gpt2() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 2, d_model: 24, d_ff: 40, context: 16, ..ModelConfig::default() }
}

fn llama() -> ModelConfig {
    ModelConfig { family: Family::Llama, n_heads: 4, n_kv_heads: 2, tie_embeddings: false, ..gpt2() }
}

fn muon() -> OptimizerConfig {
    OptimizerConfig { kind: OptimizerKind::Muon, eps: 1e-3, ..OptimizerConfig::default() }
}

fn options(engine: EngineChoice) -> TrainerOptions {
    TrainerOptions {
        seed: 3,
        optimizer: muon(),
        train: TrainConfig { batch_size: BATCH_SIZE, micro_batch_size: 2, engine, ..TrainConfig::default() },
        ..TrainerOptions::default()
    }
}

fn batch(config: &ModelConfig, number: u64) -> Batch {
    let n = BATCH_SIZE * config.context;
    let stream = Stream::new(11, Purpose::Sampling, number);
    let mut tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % VOCAB_SIZE as u32).collect();
    let targets = tokens.split_off(n);
    Batch::plain(tokens, targets, BATCH_SIZE, config.context)
}

fn shim() -> Option<Arc<dyn Board>> {
    Some(Arc::new(ShimBoard::default()))
}

/// The weights after three steps, parameter by parameter.
fn train(config: &ModelConfig, options: &TrainerOptions) -> Vec<(String, Vec<f32>)> {
    train_on(None, config, options)
}

fn train_on(
    board: Option<Arc<dyn Board>>,
    config: &ModelConfig,
    options: &TrainerOptions,
) -> Vec<(String, Vec<f32>)> {
    let model = model(config);
    let mut engine = choose(model.as_ref(), board, options).unwrap();
    for number in 1..=3 {
        let batch = batch(config, number);
        let began = MonotonicNs::now();
        engine.step(&Step { number, learning_rate: 1e-2, batch: &batch, began }).unwrap();
    }
    engine.drain().unwrap();
    engine.export().unwrap();
    drop(engine);
    model.parameters().iter().map(|p| (p.name.clone(), values(&p.var))).collect()
}

#[test]
fn the_explicit_engine_updates_as_autograd_does() {
    for config in [gpt2(), llama()] {
        let start = model(&config);
        let got = train(&config, &options(EngineChoice::Explicit));
        let expected = train(&config, &options(EngineChoice::Autograd));
        let adamw = OptimizerConfig { kind: OptimizerKind::AdamW, ..muon() };
        let by_adamw =
            train(&config, &TrainerOptions { optimizer: adamw, ..options(EngineChoice::Explicit) });
        for ((got, expected), (by_adamw, start)) in
            got.iter().zip(&expected).zip(by_adamw.iter().zip(start.parameters()))
        {
            let gap = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let moved = gap(&expected.1, &values(&start.var));
            // Gradients differ by 1e-6 of their largest, which the iteration enlarges by 485 where a singular value is next
            // to zero.
            let error = gap(&got.1, &expected.1);
            assert!(moved > 1e-3 && error < 1e-3 * moved, "{}: {error} of {moved}", got.0);
            let is_muons = gap(&expected.1, &by_adamw.1) > 0.05 * moved;
            let is_matrix = start.var.dims().len() == 2 && got.0.contains('0') | got.0.contains('1');
            assert!(is_muons || !is_matrix, "{} is not updated by Muon", got.0);
        }
    }
}

fn length(numbers: impl Iterator<Item = f32>) -> f32 {
    numbers.map(|x| x * x).sum::<f32>().sqrt()
}

fn difference<'a>(a: &'a [f32], b: &'a [f32]) -> impl Iterator<Item = f32> + use<'a> {
    a.iter().zip(b).map(|(a, b)| a - b)
}

#[test]
fn a_board_updates_as_the_cpu_does_within_the_rounding_of_its_type() {
    for config in [gpt2(), llama()] {
        let start = model(&config);
        for (dtype, moments, tolerance) in [
            // As for autograd.
            (DType::F32, Moments::F32, 1e-3),
            // Where a gradient differs by a rounding, a moment can become the other of two neighbours, 2⁻⁸ away.
            (DType::F32, Moments::Bf16 { seed: 3 }, 0.1),
            // Gradients, weights and X have 8 bits, through two blocks and fifteen products.
            (DType::BF16, Moments::F32, 0.1),
            (DType::BF16, Moments::Bf16 { seed: 3 }, 0.1),
        ] {
            let options = TrainerOptions { dtype, moments, ..options(EngineChoice::Explicit) };
            let got = train_on(shim(), &config, &options);
            let on_cpu = TrainerOptions { dtype: DType::F32, ..options };
            let expected = train(&config, &on_cpu);
            for ((got, expected), start) in got.iter().zip(&expected).zip(start.parameters()) {
                let moved = length(difference(&expected.1, &values(&start.var)));
                let error = length(difference(&got.1, &expected.1));
                assert!(
                    moved > 0.0 && error < tolerance * moved,
                    "{dtype:?}, {moments:?}, {}: {error} of {moved}",
                    got.0
                );
            }
        }
    }
}

#[test]
fn neither_threads_nor_recomputation_change_a_bit() {
    for (config, moments) in
        [(gpt2(), Moments::F32), (llama(), Moments::F32), (gpt2(), Moments::Bf16 { seed: 3 })]
    {
        let of = |n_threads: usize, recompute: Recompute| {
            let mut options = options(EngineChoice::Explicit);
            options.moments = moments;
            options.train.recompute = recompute;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| train(&config, &options))
                .into_iter()
                .flat_map(|(_, values)| bits(&values))
                .collect()
        };
        let expected: Vec<u32> = of(1, Recompute::None);
        for n_threads in 2..=3 {
            assert!(of(n_threads, Recompute::Block) == expected, "{moments:?}, {n_threads} threads");
        }
    }
}

#[derive(Default)]
struct Recorder {
    losses: Vec<f32>,
    stop_after: Option<usize>,
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

fn run_options(engine: EngineChoice, moments: Moments) -> TrainerOptions {
    let options = options(engine);
    TrainerOptions {
        moments,
        dropout: 0.1,
        schedule: ScheduleConfig { warmup_steps: 2, ..ScheduleConfig::default() },
        train: TrainConfig { max_steps: 12, epochs: 0, ..options.train },
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..options.optimizer },
        checkpoint_every_steps: 4,
        checkpoint_in_background: true,
        ..options
    }
}

/// A run in `dir` from where it was left: its losses, and the weights.
fn run(
    dir: &Path,
    dataset: &Dataset,
    board: Option<Arc<dyn Board>>,
    options: TrainerOptions,
    stop_after: Option<usize>,
) -> (Vec<f32>, Vec<u32>) {
    let model = Gpt2::new(&gpt2(), dataset.vocab_size(), 3, &CPU).unwrap();
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 0).unwrap();
    let latest = checkpoints.latest().unwrap();
    let mut trainer = Trainer::on_board(&model, dataset, board, options, checkpoints).unwrap();
    if let Some(latest) = latest {
        trainer.resume(&latest).unwrap();
    }
    let mut recorder = Recorder { stop_after, ..Recorder::default() };
    trainer.run(&mut recorder).unwrap();
    drop(trainer);
    (recorder.losses, model.parameters().iter().flat_map(|p| bits(&values(&p.var))).collect())
}

#[test]
fn a_run_goes_on_from_a_checkpoint_to_the_bit_and_engines_read_each_others() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    for (idx, (engine, board, moments)) in [
        (EngineChoice::Explicit, None, Moments::F32),
        (EngineChoice::Explicit, None, Moments::Bf16 { seed: 3 }),
        (EngineChoice::Autograd, None, Moments::F32),
        (EngineChoice::Explicit, shim(), Moments::F32),
        (EngineChoice::Explicit, shim(), Moments::Bf16 { seed: 3 }),
    ]
    .into_iter()
    .enumerate()
    {
        let run = |part: &str, stop| {
            let dir = dir.path().join(format!("{idx}-{part}"));
            run(&dir, &dataset, board.clone(), run_options(engine, moments), stop)
        };
        let (whole, weights) = run("whole", None);
        assert!(whole[11] < whole[0], "nothing is learnt: {whole:?}");
        let stops: &[usize] = if board.is_some() { &[7] } else { &[1, 7] };
        for &stop in stops {
            let part = format!("after-{stop}");
            let (before, _) = run(&part, Some(stop));
            let (after, resumed) = run(&part, None);
            assert_eq!(bits(&[before, after].concat()), bits(&whole), "{engine:?}, {moments:?}, {stop}");
            assert_eq!(resumed, weights, "{engine:?}, {moments:?}, {stop}");
        }
    }
    let of = |engine| run_options(engine, Moments::F32);
    let (explicit, autograd) = (EngineChoice::Explicit, EngineChoice::Autograd);
    let (whole, _) = run(&dir.path().join("0-again"), &dataset, None, of(explicit), None);
    for (name, first, then) in [("board", None, shim()), ("cpu", shim(), None)] {
        let other = dir.path().join(name);
        let (begun, _) = run(&other, &dataset, None, of(autograd), Some(3));
        let (before, _) = run(&other, &dataset, first, of(explicit), Some(4));
        let (after, _) = run(&other, &dataset, then, of(explicit), None);
        let losses = [begun, before, after].concat();
        assert_eq!(losses.len(), 12);
        for (got, expected) in losses.iter().zip(&whole) {
            assert!((got / expected - 1.0).abs() < 1e-4, "{name}: {got}, expected {expected}");
        }
    }
}

#[test]
fn a_checkpoint_has_one_moment_of_a_matrix_and_is_of_no_other_optimizer() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let explicit = || run_options(EngineChoice::Explicit, Moments::F32);
    run(dir.path(), &dataset, None, explicit(), Some(4));
    run(&dir.path().join("beside"), &dataset, None, explicit(), None);
    run(&dir.path().join("board"), &dataset, shim(), explicit(), None);
    let step_4 = |dir: &Path| Checkpoints::open(&dir.join("checkpoints"), 0).unwrap().path(4);
    let read =
        |dir: &Path| candle_core::safetensors::load(step_4(dir).join("optimizer.safetensors"), &CPU).unwrap();
    let (waited, beside) = (read(dir.path()), read(&dir.path().join("beside")));
    let of_board = read(&dir.path().join("board"));
    assert_eq!(of_board.len(), waited.len());
    let model = Gpt2::new(&gpt2(), dataset.vocab_size(), 3, &CPU).unwrap();
    // Four matrices in each of two blocks.
    assert_eq!(waited.len(), 2 * model.parameters().len() - 8);
    for (name, moment) in &waited {
        assert!(name.ends_with(".momentum_buffer") == (name.contains(".h.") && moment.rank() == 2), "{name}");
        assert_eq!(bits(&values(moment)), bits(&values(&beside[name])), "{name}");
        assert!(values(moment).iter().any(|&x| x != 0.0), "{name}");
        let size = length(values(moment).into_iter());
        let gap = length(difference(&values(moment), &values(&of_board[name])));
        assert!(gap < 1e-3 * size, "{name}: {gap} of {size}");
    }
    let mut options = explicit();
    options.optimizer.kind = OptimizerKind::AdamW;
    let checkpoints = Checkpoints::open(&dir.path().join("other"), 0).unwrap();
    let mut trainer = Trainer::new(&model, &dataset, &CPU, options, checkpoints).unwrap();
    let said = trainer.resume(&step_4(dir.path())).unwrap_err().to_string();
    assert!(said.contains("c_attn.weight.exp_avg, ") && said.contains("are missing"), "{said}");
    assert!(said.contains("c_attn.weight.momentum_buffer, "), "{said}");
}

#[test]
fn the_memory_plan_shows_what_is_saved_and_is_what_is_allocated() {
    for config in [gpt2(), llama()] {
        let model = model(&config);
        let plan = |matrices: MatrixUpdate, moments: Moments| {
            let options = EngineOptions {
                micro_batch: 2,
                recompute: Recompute::None,
                fp8: None,
                gradients: GradientType::F32,
                moments,
                matrices,
                share: Share::default(),
            };
            let engine = model.engine(options).unwrap().unwrap();
            let (planned, allocated) = (engine.memory().total() as f64, engine.allocated_bytes() as f64);
            assert!((planned / allocated - 1.0).abs() < 0.05, "{config:?}: {planned} of {allocated}");
            assert_eq!(engine.memory(), config.training_memory(VOCAB_SIZE, options));
            engine.memory()
        };
        let muon = muon().matrices();
        let is_matrix = |p: &&Parameter| muon.orthogonalizes(&p.name, p.var.dims());
        let n_saved: usize = model.parameters().iter().filter(is_matrix).map(|p| p.var.elem_count()).sum();
        for (moments, n_bytes) in [(Moments::F32, 4), (Moments::Bf16 { seed: 1 }, 2)] {
            let [of_adamw, of_muon] = [MatrixUpdate::AdamW, muon].map(|matrices| plan(matrices, moments));
            assert_eq!(of_adamw.moments - of_muon.moments, (n_saved * n_bytes) as u64);
            assert!(of_muon.scratch > of_adamw.scratch);
        }
    }
}

/// A bigram table, and a matrix that mixes its rows, under any name.
struct OwnModel {
    parameters: Vec<Parameter>,
}

impl OwnModel {
    fn new(vocab_size: usize, mixer: &str) -> Self {
        let mut builder = ParameterBuilder::new(1, &CPU);
        builder.normal("table", &[vocab_size, 8], 0.5).unwrap();
        builder.normal(mixer, &[8, 12], 0.5).unwrap();
        builder.normal("head", &[12, vocab_size], 0.5).unwrap();
        Self { parameters: builder.finish() }
    }
}

impl LanguageModel for OwnModel {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn logits(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        let (b, t) = tokens.dims2()?;
        let [table, mixer, head] = [0, 1, 2].map(|i| pass.value(&self.parameters[i].var));
        let rows = table.index_select(&tokens.flatten_all()?, 0)?;
        rows.matmul(&mixer)?.tanh()?.matmul(&head)?.reshape((b, t, ()))
    }

    fn context(&self) -> usize {
        16
    }

    fn vocab_size(&self) -> usize {
        self.parameters[0].var.dims()[0]
    }

    fn config_json(&self) -> serde_json::Value {
        serde_json::json!({ "model_type": "own" })
    }
}

#[test]
fn a_model_of_ones_own_trains_by_muon_where_its_matrices_have_a_blocks_number() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = dataset(dir.path(), 60);
    let train = |mixer: &str, name: &str| {
        let model = OwnModel::new(dataset.vocab_size(), mixer);
        let start = values(&model.parameters[1].var);
        let checkpoints = Checkpoints::open(&dir.path().join(name), 0).unwrap();
        let options = run_options(EngineChoice::Auto, Moments::F32);
        let mut recorder = Recorder::default();
        Trainer::new(&model, &dataset, &CPU, options, checkpoints)?.run(&mut recorder)?;
        let end = values(&model.parameters[1].var);
        let moved: f32 = start.iter().zip(&end).map(|(a, b)| (a - b).powi(2)).sum();
        Ok::<_, TrainError>((recorder.losses, moved.sqrt()))
    };
    let (losses, moved) = train("blocks.0.mixer", "own").unwrap();
    assert!(losses[11] < losses[0] && moved > 1e-3, "{losses:?}, {moved}");
    let error = train("mixer", "nameless").unwrap_err();
    assert!(matches!(error, TrainError::NoMatrices), "{error}");
    assert!(error.to_string().contains("blocks.0."), "{error}");
}
