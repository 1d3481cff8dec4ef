//! Dropout with masks that are a pure function of seed, step, site and element.

pub mod board;
pub mod cpu;
mod reference;

use candle_core::{Result, Tensor};
use wattle_random::Stream;

/// One place in a model where elements are dropped, at one step.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The share of elements that are set to zero; the others are scaled by `1 / (1 - probability)`.
    pub probability: f32,
    /// The numbers of this place and step.
    pub stream: Stream,
    /// The first sequence of `x` within the step's whole batch. It makes a micro-batch draw the very masks
    /// that its sequences would have in the undivided batch.
    pub first_sequence: usize,
}

impl Dropout {
    /// Drops elements of `x`, whose first dimension is the batch.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        reference::dropout(x, self)
    }
}
