//! `--dry-run`: what a run would be.

use std::fmt::Write;

use wattle_data::Dataset;
use wattle_model::engine::MemoryPlan;
use wattle_model::flops::flops_per_token;
use wattle_train::Trainer;
use wattle_train::config::Precision;

use crate::config::Config;
use crate::humanize::{count, si};

/// Bytes of one parameter with its gradient and two moments, all in `f32`.
const BYTES_PER_PARAMETER: u64 = 16;
/// Bytes of a number.
const BYTES_PER_F32: u64 = 4;

/// The plan as text. `peak` is what the process will have of memory at most, if that is known.
pub fn describe(
    config: &Config,
    dataset: &Dataset,
    n_parameters: u64,
    trainer: &Trainer<'_>,
    peak: Option<u64>,
) -> String {
    let plan = trainer.plan();
    let flops = flops_per_token(&config.model, n_parameters);
    let tokens = plan.total_tokens();
    let split = &dataset.manifest.split;
    let mut text = String::new();
    let mut line = |key: &str, value: String| writeln!(text, "{key:<12} {value}").expect("a string takes it");
    line("model", format!("{}, {} parameters", config.model.family.name(), count(n_parameters)));
    line(
        "data",
        format!(
            "{} training tokens, {} validation tokens, vocabulary {}",
            count(split.train.tokens),
            count(split.val.as_ref().map_or(0, |val| val.tokens)),
            count(dataset.vocab_size() as u64)
        ),
    );
    line(
        "steps",
        format!(
            "{} of {} tokens, {} an epoch: {} epochs",
            count(plan.total_steps),
            count(plan.tokens_per_step),
            count(plan.steps_per_epoch),
            crate::humanize::three_digits(plan.total_steps as f64 / plan.steps_per_epoch as f64)
        ),
    );
    line("tokens", count(tokens));
    let total = |flops: u64| si(flops as f64 * tokens as f64, "FLOP");
    line(
        "compute",
        format!("{} by nanoGPT's count, {} by llm.c's", total(flops.nanogpt), total(flops.llm_c)),
    );
    line("engine", trainer.engine());
    match trainer.memory() {
        Some(memory) => line("memory", describe_memory(&memory, n_parameters)),
        None => line("memory", describe_graph(config, dataset, n_parameters)),
    }
    // Where /proc does not tell, there is no such line.
    if let Some(peak) = peak {
        line("peak", format!("{} of the whole process, program and data among it", si(peak as f64, "B")));
    }
    text
}

/// What the explicit engine allocates, and the model's own tensors beside it.
fn describe_memory(memory: &MemoryPlan, n_parameters: u64) -> String {
    let bytes = |bytes: u64| si(bytes as f64, "B");
    format!(
        "{}: weights {}, gradients {}, moments {}, activations {}, scratch {}, the model's own tensors {}",
        bytes(memory.total() + n_parameters * BYTES_PER_F32),
        bytes(memory.weights),
        bytes(memory.gradients),
        bytes(memory.moments),
        bytes(memory.activations),
        bytes(memory.scratch),
        bytes(n_parameters * BYTES_PER_F32)
    )
}

fn describe_graph(config: &Config, dataset: &Dataset, n_parameters: u64) -> String {
    format!(
        "{} for parameters, their gradients and moments; about {} for activations and theirs",
        si((n_parameters * BYTES_PER_PARAMETER) as f64, "B"),
        si(activation_bytes(config, dataset.vocab_size()) as f64, "B")
    )
}

/// What the autograd graph of one micro-batch holds, by counting the tensors that each operation makes.
///
/// A block keeps some 36 tensors of the model's width, 7 of the feed-forward width and 6 of attention scores;
/// the loss keeps 5 of the vocabulary. The graph lives until the whole backward pass is over, so that their
/// gradients come to as much again.
fn activation_bytes(config: &Config, vocab_size: usize) -> u64 {
    let model = &config.model;
    let rows = (config.train.micro_batch() * model.context) as u64;
    let (c, ff) = (model.d_model as u64, model.feed_forward_width() as u64);
    let scores = (model.n_heads * model.context) as u64;
    let block = 36 * c + 7 * ff + 6 * scores;
    let width = match config.precision.dtype {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    };
    2 * rows * (width * model.n_layers as u64 * block + 4 * 5 * vocab_size as u64)
}
