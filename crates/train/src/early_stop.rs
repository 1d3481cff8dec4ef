//! When to stop before the end.

use serde::{Deserialize, Serialize};

use crate::config::EarlyStopConfig;

/// The lowest validation loss so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Finished updates when it was seen.
    pub step: u64,
    /// The loss in nats a token.
    pub loss: f64,
}

/// Watches validation losses go by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EarlyStop {
    /// The lowest loss so far.
    pub best: Option<Best>,
    /// Evaluations since then.
    pub since_best: u64,
}

impl EarlyStop {
    /// Takes in a loss; says whether it is the lowest so far.
    pub fn see(&mut self, step: u64, loss: f64) -> bool {
        let improved = self.best.is_none_or(|best| loss < best.loss);
        if improved {
            self.best = Some(Best { step, loss });
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        improved
    }

    /// Whether it is time to stop.
    pub fn stops(&self, config: &EarlyStopConfig) -> bool {
        let reached = match (config.target_loss, self.best) {
            (Some(target), Some(best)) => best.loss <= target,
            _ => false,
        };
        reached || (config.patience > 0 && self.since_best >= config.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_evaluations_without_a_new_best() {
        let config = EarlyStopConfig { patience: 2, target_loss: None };
        let mut early = EarlyStop::default();
        let stops: Vec<bool> = [3.0, 2.0, 2.5, 1.9, 1.9, 2.0]
            .into_iter()
            .enumerate()
            .map(|(i, loss)| {
                early.see(i as u64, loss);
                early.stops(&config)
            })
            .collect();
        assert_eq!(stops, [false, false, false, false, false, true]);
        assert_eq!(early.best, Some(Best { step: 3, loss: 1.9 }));
    }

    #[test]
    fn a_target_stops_at_once() {
        let config = EarlyStopConfig { patience: 0, target_loss: Some(2.0) };
        let mut early = EarlyStop::default();
        early.see(1, 2.1);
        assert!(!early.stops(&config));
        early.see(2, 2.0);
        assert!(early.stops(&config));
    }
}
