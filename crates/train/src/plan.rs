//! How many steps and epochs a configuration makes of its data.

use crate::config::TrainConfig;

/// The steps ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Steps of a whole epoch.
    pub steps_per_epoch: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Tokens that go through the model in a step; of conversations not all of them are learnt.
    pub tokens_per_step: u64,
}

impl Plan {
    /// The plan: `max_steps` or `epochs`, whichever ends first.
    pub fn new(config: &TrainConfig, steps_per_epoch: u64, context: usize) -> Self {
        let limit = |n: u64| if n == 0 { u64::MAX } else { n };
        let total_steps = limit(config.max_steps).min(limit(config.epochs).saturating_mul(steps_per_epoch));
        Self { steps_per_epoch, total_steps, tokens_per_step: (config.batch_size * context) as u64 }
    }

    /// The epoch, counted from 1, that the step after `step` finished ones belongs to.
    pub fn epoch_after(&self, step: u64) -> u64 {
        step / self.steps_per_epoch + 1
    }

    /// Whether the step just finished was the last of its epoch.
    pub fn ends_epoch(&self, step: u64) -> bool {
        step > 0 && step.is_multiple_of(self.steps_per_epoch)
    }

    /// Whether an evaluation follows the step just finished: every `every_steps` steps (never if 0), and at the end of an
    /// epoch or of the run.
    pub fn evaluates_after(&self, step: u64, every_steps: u64) -> bool {
        let is_regular = every_steps > 0 && step.is_multiple_of(every_steps);
        is_regular || self.ends_epoch(step) || step >= self.total_steps
    }

    /// Whether a checkpoint falls due before the run's last step, if there is one every so many epochs and steps (0 for
    /// never).
    pub fn has_checkpoint_before_end(&self, every_epochs: u64, every_steps: u64) -> bool {
        let every_epochs = every_epochs.saturating_mul(self.steps_per_epoch);
        [every_epochs, every_steps].into_iter().any(|every| every > 0 && every < self.total_steps)
    }

    /// Epochs that the run touches, the last perhaps in part.
    pub fn n_epochs(&self) -> u64 {
        self.total_steps.div_ceil(self.steps_per_epoch)
    }

    /// Tokens of the whole run.
    pub fn total_tokens(&self) -> u64 {
        self.total_steps.saturating_mul(self.tokens_per_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(max_steps: u64, epochs: u64) -> Plan {
        let config = TrainConfig { batch_size: 4, max_steps, epochs, ..TrainConfig::default() };
        Plan::new(&config, 10, 8)
    }

    #[test]
    fn whichever_limit_comes_first_ends_the_run() {
        assert_eq!(plan(25, 3).total_steps, 25);
        assert_eq!(plan(35, 3).total_steps, 30);
        assert_eq!(plan(0, 3).total_steps, 30);
        assert_eq!(plan(25, 0).total_steps, 25);
        assert_eq!(plan(25, 0).n_epochs(), 3);
        assert_eq!(plan(25, 0).total_tokens(), 25 * 32);
    }

    #[test]
    fn a_checkpoint_at_the_last_step_is_none_before_it() {
        let plan = plan(25, 0);
        let before = |every_epochs, every_steps| plan.has_checkpoint_before_end(every_epochs, every_steps);
        assert!(before(1, 0) && before(0, 24) && before(2, 25) && before(3, 5));
        assert!(!before(0, 0) && !before(3, 0) && !before(0, 25) && !before(u64::MAX, 0));
    }

    #[test]
    fn steps_are_counted_from_one_and_epochs_too() {
        let plan = plan(25, 0);
        assert_eq!((plan.epoch_after(0), plan.epoch_after(9), plan.epoch_after(10)), (1, 1, 2));
        assert!(!plan.ends_epoch(0) && !plan.ends_epoch(9) && plan.ends_epoch(10));
    }
}
