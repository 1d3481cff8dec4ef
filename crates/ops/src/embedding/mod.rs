//! Token and position vectors, added.

pub mod cpu;
mod reference;

pub use reference::embedding;
