//! A model of your own, written with candle-nn, in a metered run.
//!
//! ```text
//! cargo run --release --example own_model -- runs/own
//! ```
//!
//! [`train`] below is all there is to it: the run directory has the events, energy records, checkpoints and report of any
//! other run, `wattle report` and `wattle compare` read it, and started again it resumes to the bit. Any type that
//! implements [`LanguageModel`] can be trained:
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

use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, Embedding, Linear, Module, VarBuilder, VarMap, ops};
use serde_json::json;
use wattle_data::TokenizerKind;
use wattle_model::{LanguageModel, Parameter, Pass};
use wattle_random::{Purpose, Stream};
use wattle_report::words::describe::describe_energy;
use wattle_session::{Config, Outcome, Resume, Session, SessionError};
use wattle_train::device::DeviceChoice;

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
        // Matrices are normal, norms 1, biases 0. Every parameter is set: candle-nn's own initial values differ from run
        // to run.
        for (parameter_idx, Parameter { name, var }) in model.parameters.iter().enumerate() {
            let purpose = Purpose::Init { parameter_idx: parameter_idx as u32 };
            match var.rank() {
                2 => {
                    let mut values = vec![0f32; var.elem_count()];
                    Stream::new(seed, purpose, 0).fill_normal(0, &mut values);
                    var.set(&(Tensor::from_vec(values, var.shape(), device)? * 0.1)?)?;
                }
                _ if name == "norm.weight" => var.set(&var.ones_like()?)?,
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

/// The configuration of a run of `steps` steps on `text`.
pub fn config(text: &Path, steps: u64) -> Config {
    let mut config = Config::default();
    config.run.name = "speller".to_owned();
    config.data.input = vec![text.to_owned()];
    config.tokenizer.kind = TokenizerKind::Chars;
    (config.model.context, config.model.dropout) = (CONTEXT, 0.05);
    (config.optimizer.learning_rate, config.schedule.warmup_steps) = (1e-2, 5);
    (config.train.batch_size, config.train.max_steps, config.train.epochs) = (8, steps, 0);
    config
}

/// Trains in the run directory `dir`, or resumes the run that is there.
///
/// # Errors
/// If the text cannot be prepared, a parameter receives no gradient, or a file cannot be written.
pub fn train(config: Config, dir: &Path) -> Result<Outcome, SessionError> {
    Session::new(config, dir)
        .device(DeviceChoice::Cpu)
        .resume(Resume::Auto)
        .model(|m| Speller::new(m.vocab_size, m.seed, m.device))
        .train()
}

#[allow(clippy::print_stdout, dead_code, reason = "what it says is its result; a test calls train alone")]
fn main() -> anyhow::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "runs/own".to_owned()));
    let text = std::env::temp_dir().join("own_model.txt");
    std::fs::write(&text, "the cat sat on the mat and the dog sat on the log. ".repeat(200))?;
    match train(config(&text, 200), &dir)? {
        // Of several ranks, rank 0 has the run directory and what there is to say.
        Outcome::Followed(_) => {}
        Outcome::WasFinished => println!("{} is finished: nothing to do", dir.display()),
        Outcome::Trained(trained) => {
            let record = trained.record.context("the run is over")?;
            println!("{} steps, {}", trained.step, describe_energy(&record).join(" · "));
            println!("wattle report {} shows the rest", dir.display());
        }
    }
    Ok(())
}
