//! `--dry-run`: what a run would be.

use std::fmt::Write;

use wattle_data::Dataset;
use wattle_model::engine::MemoryPlan;
use wattle_model::flops::flops_per_token;
use wattle_train::Plan;
use wattle_train::schedule::learning_rate;

use crate::humanize::{count, si};
use crate::memory::size;
use crate::need::{BYTES_PER_PARAMETER, TrainingMemory};
use wattle_session::Config;

/// Bytes of a number.
const BYTES_PER_F32: u64 = 4;

/// What is known of a run before its first step.
pub struct Forecast {
    /// Trainable parameters.
    pub n_parameters: u64,
    /// Steps and tokens.
    pub plan: Plan,
    /// What trains, for a person.
    pub engine: String,
    /// What it takes of memory.
    pub memory: TrainingMemory,
    /// What the process will have of memory at most, if that is known.
    pub peak: Option<u64>,
    /// Why it does not fit, if it does not.
    pub shortage: Option<String>,
}

/// Floating-point operations of a micro-batch that a dry run goes through: some seconds of one core.
const QUICK_FLOPS: f64 = 2e11;

/// Whether one micro-batch is soon computed. Of a long context it is not, and what a step takes beside the plan is
/// little.
pub fn is_quick(config: &Config, forecast: &Forecast) -> bool {
    let tokens = config.train.micro_batch() as f64 * config.model.context as f64;
    flops_per_token(&config.model, forecast.n_parameters).nanogpt as f64 * tokens <= QUICK_FLOPS
}

/// The plan as text.
pub fn describe(config: &Config, dataset: &Dataset, forecast: &Forecast) -> String {
    let &Forecast { n_parameters, plan, peak, .. } = forecast;
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
    line("engine", forecast.engine.clone());
    match &forecast.memory {
        TrainingMemory::Explicit(memory) => line("memory", describe_memory(memory, n_parameters)),
        TrainingMemory::Autograd(activations) => line("memory", describe_graph(*activations, n_parameters)),
    }
    // Where /proc does not tell, there is no such line.
    if let Some(peak) = peak {
        line("peak", format!("{} of the whole process, program and data among it", size(peak)));
    }
    if let Some(shortage) = &forecast.shortage {
        line("does not fit", shortage.clone());
    }
    text
}

/// What there is to say if warm-up takes the whole run: the learning rate then never reaches its peak.
pub fn warmup_warning(config: &Config, total_steps: u64) -> Option<String> {
    let warmup = config.schedule.warmup_steps;
    if warmup == 0 || warmup < total_steps {
        return None;
    }
    let peak = config.optimizer.learning_rate;
    let reached =
        learning_rate(&config.schedule, &config.optimizer, total_steps.saturating_sub(1), total_steps);
    Some(format!(
        "schedule.warmup_steps = {}, but the run has {} steps: the learning rate ends at {reached:.2e} and never \
         reaches optimizer.learning_rate = {peak:.2e}; set schedule.warmup_steps lower, or make the run longer",
        count(warmup),
        count(total_steps)
    ))
}

/// What the explicit engine allocates, and the model's own tensors beside it.
fn describe_memory(memory: &MemoryPlan, n_parameters: u64) -> String {
    let own = n_parameters.saturating_mul(BYTES_PER_F32);
    format!(
        "{}: weights {}, gradients {}, moments {}, activations {}, scratch {}, the model's own tensors {}",
        size(memory.total().saturating_add(own)),
        size(memory.weights),
        size(memory.gradients),
        size(memory.moments),
        size(memory.activations),
        size(memory.scratch),
        size(own)
    )
}

fn describe_graph(activations: u64, n_parameters: u64) -> String {
    format!(
        "{} for parameters, their gradients and moments; about {} for activations and theirs",
        size(n_parameters.saturating_mul(BYTES_PER_PARAMETER)),
        size(activations)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warmup_as_long_as_the_run_is_told_with_both_numbers() {
        let mut config = Config::default();
        config.schedule.warmup_steps = 2000;
        let warning = warmup_warning(&config, 1200).unwrap();
        assert!(warning.contains("warmup_steps = 2,000") && warning.contains("1,200 steps"), "{warning}");
        assert!(warning.contains("ends at 6.00e-4") && warning.contains("1.00e-3"), "{warning}");
        assert!(warmup_warning(&config, 2000).is_some(), "the last step is one short of the peak");
        assert_eq!(warmup_warning(&config, 2001), None);
        config.schedule.warmup_steps = 0;
        assert_eq!(warmup_warning(&config, 1), None);
    }
}
