//! Layer normalization.

pub mod cpu;
mod reference;

pub use reference::layer_norm;
