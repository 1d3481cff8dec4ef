//! The learning rate of a step.

use std::f64::consts::PI;

use crate::config::{OptimizerConfig, ScheduleConfig, ScheduleKind};

/// The learning rate of the step after `step` finished ones, of `total_steps`.
///
/// Over the first `w` steps it is `peak · (step + 1) / (w + 1)`; then with `p` the share of what remains,
/// cosine is `min + (peak − min) · (1 + cos πp) / 2`, and `wsd` falls in a straight line over the last
/// `decay_fraction` of all steps.
///
/// # References
/// nanoGPT's `get_lr` (warmup and cosine); Hu et al., *MiniCPM*, 2024, equation 1 (warmup, stable, decay).
pub fn learning_rate(
    schedule: &ScheduleConfig,
    optimizer: &OptimizerConfig,
    step: u64,
    total_steps: u64,
) -> f64 {
    let peak = optimizer.learning_rate;
    let min = schedule.min_learning_rate(peak);
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return peak * (step + 1) as f64 / (warmup + 1) as f64;
    }
    match schedule.kind {
        ScheduleKind::Constant => peak,
        ScheduleKind::Cosine => {
            let progress = share(step - warmup, total_steps.saturating_sub(warmup));
            min + (peak - min) * 0.5 * (1.0 + (PI * progress).cos())
        }
        ScheduleKind::Wsd => {
            let decay_steps = (total_steps as f64 * schedule.decay_fraction).round() as u64;
            let decay_start = total_steps.saturating_sub(decay_steps).max(warmup);
            let progress = share(step.saturating_sub(decay_start), total_steps.saturating_sub(decay_start));
            peak - (peak - min) * progress
        }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind) -> impl Fn(u64) -> f64 {
        let schedule =
            ScheduleConfig { kind, warmup_steps: 10, min_learning_rate: Some(0.1), decay_fraction: 0.2 };
        let optimizer = OptimizerConfig { learning_rate: 1.0, ..OptimizerConfig::default() };
        move |step| learning_rate(&schedule, &optimizer, step, 110)
    }

    #[test]
    fn warmup_rises_in_a_line_and_never_starts_at_zero() {
        for kind in [ScheduleKind::Constant, ScheduleKind::Cosine, ScheduleKind::Wsd] {
            let rate = rates(kind);
            assert_eq!(rate(0), 1.0 / 11.0);
            assert_eq!(rate(9), 10.0 / 11.0);
            assert_eq!(rate(10), 1.0);
        }
    }

    #[test]
    fn cosine_passes_its_middle_and_reaches_its_minimum() {
        let rate = rates(ScheduleKind::Cosine);
        assert!((rate(60) - 0.55).abs() < 1e-12);
        assert!((rate(110) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_minimum_is_a_tenth_of_a_small_peak_and_never_above_the_peak() {
        let min = |min_learning_rate, peak| {
            let mut schedule = ScheduleConfig { min_learning_rate, ..ScheduleConfig::default() };
            let optimizer = OptimizerConfig { learning_rate: peak, ..OptimizerConfig::default() };
            let rate = learning_rate(&schedule, &optimizer, 200, 200);
            let note = schedule.settle(&optimizer);
            assert_eq!(schedule.min_learning_rate, Some(rate));
            assert_eq!(learning_rate(&schedule, &optimizer, 200, 200), rate);
            (rate, note)
        };
        assert_eq!(min(None, 3e-5), (3e-6, None));
        for peak in [1e-3, 2e-3, 1.0] {
            assert_eq!(min(None, peak), (1e-4, None));
        }
        assert_eq!(min(Some(1e-5), 3e-5), (1e-5, None));
        let (rate, note) = min(Some(1e-4), 3e-5);
        let note = note.unwrap();
        assert_eq!(rate, 3e-5);
        assert!(note.contains("schedule.min_learning_rate = 0.0001 is above"), "{note}");
        assert!(note.contains("optimizer.learning_rate = 0.00003"), "{note}");
    }

    #[test]
    fn wsd_is_flat_then_falls_in_a_line() {
        let rate = rates(ScheduleKind::Wsd);
        assert_eq!(rate(88), 1.0);
        assert!((rate(99) - 0.55).abs() < 1e-12);
        assert!((rate(110) - 0.1).abs() < 1e-12);
    }
}
