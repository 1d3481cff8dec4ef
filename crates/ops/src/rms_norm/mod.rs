//! Normalization by the root of the mean square.

pub mod cpu;
pub mod cuda;
mod reference;

pub use reference::rms_norm;
