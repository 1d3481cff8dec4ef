//! The copy of weights and moments that checkpoints are written from while training goes on: what it takes, and whether
//! there is room for it.

use wattle_model::LanguageModel;
use wattle_train::Plan;

use crate::config::Config;
use crate::memory::{Free, free, size};
use crate::need::{self, BYTES_PER_PARAMETER, TrainingMemory};

/// Bytes of a number.
const BYTES_PER_F32: u64 = size_of::<f32>() as u64;
/// Numbers of a parameter in a copy of everything, at most: its value and two moments.
const ALL: u64 = 3;

/// Bytes of the host's memory for the copy. 0 if training waits for checkpoints, or the only one is the last.
pub(crate) fn bytes(config: &Config, vocab_size: usize, plan: &Plan, is_cpu: bool) -> u64 {
    if !is_taken(config, plan) {
        return 0;
    }
    let is_flat = is_cpu && matches!(TrainingMemory::of(config, vocab_size), TrainingMemory::Explicit(_));
    let moments = need::n_moments(config, vocab_size).saturating_mul(BYTES_PER_F32);
    // The model's own tensors hold the values meanwhile.
    let values = if is_flat { 0 } else { need::n_trained(config, vocab_size).saturating_mul(BYTES_PER_F32) };
    moments.saturating_add(values)
}

/// Whether checkpoints are written while training goes on: there is one before the run's end, and the memory for it.
/// Says why not where only memory is missing.
pub(crate) fn is_affordable(config: &Config, vocab_size: usize, plan: &Plan, is_cpu: bool) -> bool {
    let copy = bytes(config, vocab_size, plan, is_cpu);
    let beside = match is_cpu {
        true => need::training(config, vocab_size).bytes,
        false => need::own_bytes(config, vocab_size),
    };
    copy > 0 && has_room(copy, beside)
}

/// The same of a model that is there already, and is none of wattle's families.
pub(crate) fn is_affordable_for(config: &Config, model: &dyn LanguageModel, plan: &Plan) -> bool {
    let numbers = model.n_parameters().saturating_mul(BYTES_PER_F32);
    let is_cpu = model.device().is_cpu();
    let beside = if is_cpu { model.n_parameters().saturating_mul(BYTES_PER_PARAMETER) - numbers } else { 0 };
    is_taken(config, plan) && has_room(numbers.saturating_mul(ALL), beside)
}

fn is_taken(config: &Config, plan: &Plan) -> bool {
    let checkpoint = &config.checkpoint;
    checkpoint.background && plan.has_checkpoint_before_end(checkpoint.every_epochs, checkpoint.every_steps)
}

/// Whether there is memory for a copy of so many bytes `beside` what training takes. Where the system does not say what
/// there is, there is.
fn has_room(copy: u64, beside: u64) -> bool {
    let shortage = free().and_then(|free| shortage(copy, beside, free));
    if let Some(shortage) = &shortage {
        tracing::warn!("{shortage}");
    }
    shortage.is_none()
}

fn shortage(copy: u64, beside: u64, free: Free) -> Option<String> {
    // Training that does not fit without a copy either is refused, and nothing need be said of copies.
    let fits_without = beside <= free.bytes;
    (fits_without && copy.saturating_add(beside) > free.bytes).then(|| {
        format!(
            "checkpoint.background: a copy of weights and moments takes {} of memory beside {} for training, and {} is \
             available ({}): training waits while a checkpoint is written",
            size(copy),
            size(beside),
            size(free.bytes),
            free.source
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(total_steps: u64) -> Plan {
        Plan { steps_per_epoch: 10, total_steps, tokens_per_step: 1 }
    }

    #[test]
    fn a_copy_is_taken_for_checkpoints_before_the_end_alone() {
        let mut config = Config::default();
        let numbers = config.model.n_parameters(65) * BYTES_PER_F32;
        assert_eq!(bytes(&config, 65, &plan(30), true), 2 * numbers);
        assert_eq!(bytes(&config, 65, &plan(30), false), 3 * numbers, "a board has the weights");
        assert_eq!(bytes(&config, 65, &plan(10), true), 0);
        config.optimizer.kind = wattle_train::config::OptimizerKind::Muon;
        let muon = bytes(&config, 65, &plan(30), true);
        assert!(numbers < muon && muon < 2 * numbers, "matrices of blocks have one moment: {muon}");
        config.optimizer.kind = wattle_train::config::OptimizerKind::AdamW;
        config.train.engine = wattle_train::EngineChoice::Autograd;
        assert_eq!(bytes(&config, 65, &plan(30), true), 3 * numbers);
        config.checkpoint.background = false;
        assert_eq!(bytes(&config, 65, &plan(30), true), 0);
    }

    #[test]
    fn too_little_memory_is_said_with_the_key() {
        let free = Free { bytes: 4_000_000_000, source: "MemAvailable of this machine" };
        assert_eq!(shortage(1_000_000_000, 3_000_000_000, free), None);
        assert_eq!(shortage(1, 5_000_000_000, free), None, "another message refuses it");
        let said = shortage(1_000_000_001, 3_000_000_000, free).unwrap();
        assert!(
            said.starts_with("checkpoint.background: ") && said.contains("4.00 GB is available"),
            "{said}"
        );
    }
}
