//! The gated activation of Llama's feed-forward block.

pub mod cpu;
pub mod cuda;
mod reference;

pub use reference::swiglu;
