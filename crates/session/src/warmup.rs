//! Whether the learning rate ever reaches its peak.

use wattle_report::words::quantity::count;
use wattle_train::schedule::learning_rate;

use crate::config::Config;

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
