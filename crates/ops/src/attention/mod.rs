//! Causal multi-head self-attention.

pub mod cpu;
pub mod cuda;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod cudnn;
mod reference;

pub use reference::{causal_attention, causal_mask};

/// Dropout of attention probabilities; see [`crate::Dropout`].
pub type AttentionDropout = crate::Dropout;
