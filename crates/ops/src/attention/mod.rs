//! Causal multi-head self-attention.

pub mod cpu;
pub mod cuda;
mod reference;

pub use reference::{causal_attention, causal_mask};

/// Dropout of attention probabilities; see [`crate::Dropout`].
pub type AttentionDropout = crate::Dropout;
