//! Layer normalization.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::layer_norm;
