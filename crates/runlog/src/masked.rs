//! Tokens that go through a model and are not learnt: of conversations, all but the assistant's.

use serde::{Deserialize, Serialize};

use crate::units::Joules;

/// Tokens that went through the model beside those that were learnt.
///
/// They are what the learnt ones are predicted from, so their energy is not lost; it is told because `joules_per_token`
/// counts learnt tokens alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Masked {
    /// How many.
    pub tokens: u64,
    /// Their share of all tokens that went through the model.
    pub share: f64,
    /// That share of the energy of forward and backward passes.
    pub energy_j: Joules,
}

impl Masked {
    /// Of `processed` tokens of which `learnt` were learnt, and whose passes took `energy`.
    pub fn of(processed: u64, learnt: u64, energy: Joules) -> Self {
        let tokens = processed.saturating_sub(learnt);
        let share = tokens as f64 / (processed as f64).max(1.0);
        Self { tokens, share, energy_j: energy * share }
    }

    /// Those of two stretches, of which `learnt` tokens were learnt together.
    #[must_use]
    pub fn and(self, other: Self, learnt: u64) -> Self {
        let tokens = self.tokens + other.tokens;
        let share = tokens as f64 / ((tokens + learnt) as f64).max(1.0);
        Self { tokens, share, energy_j: self.energy_j + other.energy_j }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_tokens_and_of_their_energy() {
        let one = Masked::of(100, 75, Joules(8.0));
        assert_eq!(one, Masked { tokens: 25, share: 0.25, energy_j: Joules(2.0) });
        let two = one.and(Masked::of(100, 25, Joules(4.0)), 100);
        assert_eq!(two, Masked { tokens: 100, share: 0.5, energy_j: Joules(5.0) });
        assert_eq!(Masked::of(0, 0, Joules(1.0)).share, 0.0);
    }
}
