//! Text from a model, one token after the other.

mod generator;
mod sampling;

pub use generator::{GenerateOptions, Generator, Step};
pub use sampling::Sampling;
