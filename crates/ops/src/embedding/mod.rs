//! Token and position vectors, added.

pub mod cpu;
pub mod cuda;
mod reference;

pub use reference::embedding;
