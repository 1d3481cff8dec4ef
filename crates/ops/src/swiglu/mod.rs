//! The gated activation of Llama's feed-forward block.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::swiglu;
