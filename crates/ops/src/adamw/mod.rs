//! One update of Adam with decoupled weight decay.
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
//! p ← p (1 − η λ) − η / (1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + ε)
//! ```
//!
//! [`adamw_update`] is the reference, for one tensor; [`cpu`] makes the same update over flat buffers, [`board`] on a
//! GPU, [`AdamW`] over candle's variables, and [`FlatAdamW`] over all of them as one.
//!
//! # References
//! Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019, algorithm 2.

pub mod board;
pub mod cpu;
mod flat;
mod reference;
mod tensors;

pub use flat::FlatAdamW;
pub use reference::adamw_update;
pub use tensors::{AdamW, Moments};

/// The numbers that all updates share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε
    pub eps: f64,
    /// λ, of parameters that decay.
    pub weight_decay: f64,
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Those of every update.
    pub hyperparameters: Hyperparameters,
    /// η
    pub learning_rate: f64,
    /// t: which update it is, counted from 1.
    pub step: u64,
    /// Multiplies every gradient first: what clipping found.
    pub gradient_factor: f32,
}

/// Whether weight decay applies to a tensor of this shape: to those of two or more dimensions, not to biases and norms.
pub fn decays(dims: &[usize]) -> bool {
    dims.len() >= 2
}

impl Update {
    pub(crate) fn mean_correction(&self) -> f64 {
        1.0 - self.hyperparameters.beta1.powf(self.step as f64)
    }

    pub(crate) fn square_correction(&self) -> f64 {
        1.0 - self.hyperparameters.beta2.powf(self.step as f64)
    }

    pub(crate) fn decay(&self, decays: bool) -> f64 {
        if decays { 1.0 - self.learning_rate * self.hyperparameters.weight_decay } else { 1.0 }
    }
}
