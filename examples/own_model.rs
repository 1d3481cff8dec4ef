//! Training a model of your own, written with candle-nn, and metering it.
//!
//! ```text
//! cargo run --release --example own_model -- runs/own
//! ```
//!
//! Whatever implements [`LanguageModel`] trains: the trainer, the meter, checkpoints and exact resume ask for
//! nothing else. What it has to give:
//!
//! - [`LanguageModel::parameters`]: every trainable `Var` with its name. A `VarMap` has them; they are sorted by
//!   name here, since a hash map's order differs from run to run and moments belong to places in the list.
//! - [`LanguageModel::logits`]: tokens (b, t) to logits (b, t, v) in `f32`, in plain candle operations.
//! - `context`, `vocab_size`, and a `config_json` that is kept beside the weights.
//!
//! Initial values come from `Stream`, not from candle-nn's `Init`: candle's generator on a CPU cannot be seeded,
//! and a run should be a function of its seed.
//!
//! **What works of candle-nn, and what does not.** `Linear`, `Embedding`, `Conv1d`, `Activation` and
//! `layer_norm_slow` / `rms_norm_slow` are made of operations that autograd knows. `candle_nn::ops::softmax_last_dim`,
//! `ops::rms_norm`, `ops::layer_norm` (which `LayerNorm` takes for contiguous rows) and the fused `rotary_emb` have
//! no backward: a gradient that should pass through them is absent, without a word. wattle looks after the first
//! backward pass and refuses to make an update, naming every parameter that none reached. Dropout is
//! `pass.dropout`, whose masks are a function of seed and step, so that a run resumes to the bit.
//!
//! The model below is a bag of the last few tokens' vectors under two layers, no transformer: about the smallest
//! thing that learns to spell.

use std::path::Path;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, Embedding, Linear, Module, VarBuilder, VarMap, ops};
use serde_json::json;
use wattle_data::{DataConfig, Dataset, TokenizerConfig, TokenizerKind, Verify};
use wattle_meter::{EDGE_TIMEOUT, Edge as Reading, EnergyConfig, Sampler, SamplerOptions, discover};
use wattle_model::{LanguageModel, Parameter, Pass};
use wattle_random::{Purpose, Stream};
use wattle_runlog::{ComputeDevice, EventBody, MonotonicNs, Span};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, OptimizerConfig, Progress, ScheduleConfig,
    TrainConfig, Trainer, TrainerOptions,
};

/// Tokens that a prediction looks back on.
const CONTEXT: usize = 16;
/// How many of the latest tokens it sees.
const N_SEEN: usize = 4;
/// Width of a token's vector.
const WIDTH: usize = 24;
/// Width of the hidden layer.
const HIDDEN: usize = 96;

/// A model of one's own: the vectors of the last four tokens side by side, and two layers over them.
struct Speller {
    parameters: Vec<Parameter>,
    vocab_size: usize,
    tokens: Embedding,
    hidden: Linear,
    norm_weight: Tensor,
    norm_bias: Tensor,
    head: Linear,
}

impl Speller {
    fn new(vocab_size: usize, seed: u64, device: &Device) -> candle_core::Result<Self> {
        let variables = VarMap::new();
        let builder = VarBuilder::from_varmap(&variables, DType::F32, device);
        let model = Self {
            tokens: candle_nn::embedding(vocab_size, WIDTH, builder.pp("tokens"))?,
            hidden: candle_nn::linear(N_SEEN * WIDTH, HIDDEN, builder.pp("hidden"))?,
            norm_weight: builder.get_with_hints(HIDDEN, "norm.weight", candle_nn::Init::Const(1.0))?,
            norm_bias: builder.get_with_hints(HIDDEN, "norm.bias", candle_nn::Init::Const(0.0))?,
            head: candle_nn::linear(HIDDEN, vocab_size, builder.pp("head"))?,
            parameters: sorted_by_name(&variables),
            vocab_size,
        };
        // Matrices are normal, vectors stay as they are: biases small, norms 1.
        for (parameter_idx, Parameter { var, .. }) in model.parameters.iter().enumerate() {
            let mut values = vec![0f32; var.elem_count()];
            let purpose = Purpose::Init { parameter_idx: parameter_idx as u32 };
            Stream::new(seed, purpose, 0).fill_normal(0, &mut values);
            match var.rank() {
                2 => var.set(&(Tensor::from_vec(values, var.shape(), device)? * 0.1)?)?,
                _ if var.dims() == [HIDDEN] => {}
                _ => var.set(&var.zeros_like()?)?,
            }
        }
        Ok(model)
    }
}

fn sorted_by_name(variables: &VarMap) -> Vec<Parameter> {
    let variables = variables.data().lock().expect("nothing that holds it can panic");
    let mut parameters: Vec<Parameter> =
        variables.iter().map(|(name, var)| Parameter { name: name.clone(), var: var.clone() }).collect();
    parameters.sort_by(|a, b| a.name.cmp(&b.name));
    parameters
}

impl LanguageModel for Speller {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn logits(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> candle_core::Result<Tensor> {
        let (b, t) = tokens.dims2()?;
        let vectors = self.tokens.forward(tokens)?;
        // Position i sees tokens i − 3 to i; before the first there is nothing.
        let padded = vectors.pad_with_zeros(1, N_SEEN - 1, 0)?;
        let seen: Vec<Tensor> = (0..N_SEEN).map(|i| padded.narrow(1, i, t)).collect::<Result<_, _>>()?;
        let x = Tensor::cat(&seen, 2)?.reshape((b * t, N_SEEN * WIDTH))?;
        let x = Activation::Gelu.forward(&self.hidden.forward(&x)?)?;
        let x = pass.dropout(&x.reshape((b, t, HIDDEN))?)?;
        // Not `candle_nn::LayerNorm`, which has no backward for contiguous rows.
        let x = ops::layer_norm_slow(&x, &self.norm_weight, &self.norm_bias, 1e-5)?;
        self.head.forward(&x)
    }

    fn context(&self) -> usize {
        CONTEXT
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn config_json(&self) -> serde_json::Value {
        json!({ "model_type": "speller", "context": CONTEXT, "vocab_size": self.vocab_size })
    }
}

/// Who listens: it keeps losses, and has the meter read at the start and the stop.
struct Listener<'a> {
    meter: &'a Sampler,
    first: Option<Reading>,
    last: Option<Reading>,
    losses: Vec<f64>,
}

impl Observer for Listener<'_> {
    fn event(&mut self, _t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        if let EventBody::Step(step) = body {
            self.losses.push(f64::from(step.loss));
        }
        Ok(())
    }

    fn span(&mut self, _span: Span) {}

    fn edge(&mut self, edge: Edge) {
        match edge {
            Edge::Start => self.first = Some(self.meter.edge(EDGE_TIMEOUT)),
            Edge::Stop { .. } => self.last = Some(self.meter.edge(EDGE_TIMEOUT)),
            _ => {}
        }
    }

    fn progress(&mut self, _progress: Progress) {}

    fn directive(&mut self) -> Directive {
        Directive::Continue
    }

    fn before_commit(&mut self, _draft: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

/// What a run came to.
pub struct Outcome {
    /// Loss of each step, in nats a token.
    pub losses: Vec<f64>,
    /// Energy, in joules.
    pub energy_j: f64,
    /// Which share of it was measured; the rest is estimated.
    pub measured_fraction: f64,
}

/// Trains on `text` for `steps` steps, with checkpoints in `dir`, from the newest of them if there is one.
///
/// # Errors
/// If the text cannot be prepared, a parameter gets no gradient, or a file cannot be written.
pub fn train(text: &Path, dir: &Path, steps: u64) -> anyhow::Result<Outcome> {
    let device = Device::Cpu;
    let data = DataConfig {
        input: vec![text.to_owned()],
        cache_dir: Some(dir.join("cache")),
        val_fraction: 0.1,
        ..DataConfig::default()
    };
    let tokenizer = TokenizerConfig { kind: TokenizerKind::Chars, ..TokenizerConfig::default() };
    let dataset: Dataset = wattle_data::prepare(&data, &tokenizer, Verify::FirstUse, &mut |_| {})?;
    let model = Speller::new(dataset.vocab_size(), 1, &device)?;

    let discovery = discover(&EnergyConfig::default(), &[ComputeDevice::cpu()]);
    let meter = Sampler::start(discovery.sensors, SamplerOptions::default())?;
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 2)?;
    let latest = checkpoints.latest()?;
    let mut trainer = Trainer::new(&model, &dataset, &device, options(steps), checkpoints)?;
    if let Some(latest) = latest {
        trainer.resume(&latest)?;
    }
    let mut listener = Listener { meter: &meter, first: None, last: None, losses: Vec::new() };
    trainer.run(&mut listener)?;

    let Listener { first, last, losses, .. } = listener;
    let window = meter.window(&first.context("training began")?, &last.context("training ended")?)?;
    Ok(Outcome { losses, energy_j: window.energy.get(), measured_fraction: window.measured_fraction })
}

fn options(steps: u64) -> TrainerOptions {
    TrainerOptions {
        seed: 1,
        dropout: 0.05,
        optimizer: OptimizerConfig { learning_rate: 1e-2, ..OptimizerConfig::default() },
        schedule: ScheduleConfig { warmup_steps: 5, ..ScheduleConfig::default() },
        train: TrainConfig { batch_size: 8, max_steps: steps, epochs: 0, ..TrainConfig::default() },
        checkpoint_every_epochs: 1,
        ..TrainerOptions::default()
    }
}

#[allow(clippy::print_stdout, dead_code, reason = "what it says is its result; a test calls train alone")]
fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "runs/own".to_owned());
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    let text = dir.join("text.txt");
    std::fs::write(&text, "the cat sat on the mat and the dog sat on the log. ".repeat(200))?;
    let Outcome { losses, energy_j, measured_fraction } = train(&text, dir, 200)?;
    if let (Some(first), Some(last)) = (losses.first(), losses.last()) {
        println!("loss {first:.3} → {last:.3} in {} steps", losses.len());
    }
    println!("{energy_j:.1} J, {:.0} % of it measured", measured_fraction * 100.0);
    println!("checkpoints in {}", dir.join("checkpoints").display());
    Ok(())
}
