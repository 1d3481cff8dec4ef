//! Tokens that go through a model and are not learnt: of conversations, all but the assistant's, and padding.

use serde::{Deserialize, Serialize};

use crate::units::Joules;

/// Tokens that went through the model beside those that were learnt.
///
/// Those of a text are what the learnt ones are predicted from, so their energy is not lost, as that of padding is. Both
/// are told because `joules_per_token` counts learnt tokens alone.
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
    /// So many of `processed` tokens, whose passes took `energy`.
    pub fn of(tokens: u64, processed: u64, energy: Joules) -> Self {
        let share = tokens as f64 / (processed as f64).max(1.0);
        Self { tokens, share, energy_j: energy * share }
    }

    /// Those of two stretches, in which `processed` tokens went through the model together.
    #[must_use]
    pub fn and(self, other: Self, processed: u64) -> Self {
        let tokens = self.tokens + other.tokens;
        let share = tokens as f64 / (processed as f64).max(1.0);
        Self { tokens, share, energy_j: self.energy_j + other.energy_j }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_tokens_and_of_their_energy() {
        let one = Masked::of(25, 100, Joules(8.0));
        assert_eq!(one, Masked { tokens: 25, share: 0.25, energy_j: Joules(2.0) });
        let two = one.and(Masked::of(75, 100, Joules(4.0)), 200);
        assert_eq!(two, Masked { tokens: 100, share: 0.5, energy_j: Joules(5.0) });
        assert_eq!(Masked::of(0, 0, Joules(1.0)).share, 0.0);
    }
}
