//! Cross-entropy over a vocabulary.

mod reference;

pub use reference::{cross_entropy_sum, n_correct, weighted_cross_entropy_sum, weighted_n_correct};
