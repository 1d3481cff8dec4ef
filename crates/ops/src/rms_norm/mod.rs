//! Normalization by the root of the mean square.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::rms_norm;
