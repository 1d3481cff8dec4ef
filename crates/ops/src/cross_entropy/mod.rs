//! Cross-entropy over a vocabulary.

mod reference;

pub use reference::{cross_entropy_sum, n_correct};
