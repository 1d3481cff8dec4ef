//! `--dry-run`: what a run would be.

use std::fmt::Write;

use wattle_data::Dataset;
use wattle_model::Fp8Balance;
use wattle_model::engine::MemoryPlan;
use wattle_report::words::quantity::{count, si, three_digits};
use wattle_session::Config;
use wattle_session::forecast::Forecast;
use wattle_session::grid;
use wattle_session::memory::size;
use wattle_session::need::TrainingMemory;

/// Bytes of a number.
const BYTES_PER_F32: u64 = 4;

/// The plan as text.
pub fn describe(config: &Config, dataset: &Dataset, forecast: &Forecast) -> String {
    let &Forecast { n_parameters, n_frozen, flops, plan, peak, snapshot, .. } = forecast;
    let tokens = plan.total_tokens();
    let split = &dataset.manifest.split;
    let mut text = String::new();
    let mut line = |key: &str, value: String| writeln!(text, "{key:<12} {value}").expect("a string takes it");
    let of_model = if n_frozen > 0 { n_frozen } else { n_parameters };
    line("model", format!("{}, {} parameters", config.model.family.name(), count(of_model)));
    if n_frozen > 0 {
        let rank = config.lora.rank;
        line(
            "adapters",
            format!("{} parameters of rank {rank}; those of the model stay", count(n_parameters)),
        );
    }
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
            three_digits(plan.total_steps as f64 / plan.steps_per_epoch as f64)
        ),
    );
    line("tokens", count(tokens));
    let total = |flops: u64| si(flops as f64 * tokens as f64, "FLOP");
    line(
        "compute",
        format!("{} by nanoGPT's count, {} by llm.c's", total(flops.nanogpt), total(flops.llm_c)),
    );
    line("engine", forecast.engine.clone());
    match &forecast.memory {
        TrainingMemory::Explicit(memory) => {
            line("memory", describe_memory(memory, n_parameters.saturating_add(n_frozen), snapshot));
        }
        TrainingMemory::Autograd { states, activations } => {
            line("memory", describe_graph(*states, *activations, snapshot));
        }
    }
    if let Some(balance) = &forecast.fp8 {
        line("fp8", describe_fp8(balance));
    }
    // Where /proc does not tell, there is no such line.
    if let Some(peak) = peak {
        line("peak", format!("{} of the whole process, program and data among it", size(peak)));
    }
    if let Some(shortage) = &forecast.shortage {
        line("does not fit", shortage.clone());
    }
    grid::describe(config).into_iter().for_each(|(key, value)| line(key, value));
    text
}

/// What the explicit engine allocates, and beside it the model's own tensors and the copy for checkpoints.
fn describe_memory(memory: &MemoryPlan, n_parameters: u64, snapshot: u64) -> String {
    let own = n_parameters.saturating_mul(BYTES_PER_F32);
    format!(
        "{}: weights {}, gradients {}, moments {}, activations {}, scratch {}, the model's own tensors {}{}",
        size(memory.total().saturating_add(own).saturating_add(snapshot)),
        size(memory.weights),
        size(memory.gradients),
        size(memory.moments),
        size(memory.activations),
        size(memory.scratch),
        size(own),
        describe_snapshot(snapshot)
    )
}

/// Whether eight bits pay on a GPU that has them.
fn describe_fp8(balance: &Fp8Balance) -> String {
    let Fp8Balance { saved_ns, rounding_ns } = *balance;
    let [saved, rounding] = [saved_ns, rounding_ns].map(three_digits);
    let counted =
        format!("by counting, on an H100 products save {saved} ns a token and rounding takes {rounding} ns");
    match balance.pays() {
        true => format!("pays: {counted}"),
        false => format!("does not pay at these widths: {counted}; set precision.dtype = \"bf16\""),
    }
}

fn describe_graph(states: u64, activations: u64, snapshot: u64) -> String {
    format!(
        "{} for parameters, their gradients and moments; about {} for activations and theirs{}",
        size(states),
        size(activations),
        describe_snapshot(snapshot)
    )
}

/// The copy that checkpoints are written from while training goes on.
fn describe_snapshot(bytes: u64) -> String {
    if bytes > 0 { format!(", a copy for checkpoints {}", size(bytes)) } else { String::new() }
}
