//! The nonlinearity between the two halves of a feed-forward block.

pub mod board;
pub mod cpu;
mod reference;

use candle_core::{Result, Tensor};

/// Which nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)`, exactly.
    Gelu,
    /// The tanh approximation of GELU that GPT-2 was trained with.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`.
    Relu2,
}

impl Activation {
    /// Applies it to each element.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Gelu => reference::gelu(x),
            Activation::GeluTanh => reference::gelu_tanh(x),
            Activation::Relu => reference::relu(x),
            Activation::Relu2 => reference::relu2(x),
        }
    }
}
