//! Layer normalization.

pub mod cpu;
pub mod cuda;
mod reference;

pub use reference::layer_norm;
