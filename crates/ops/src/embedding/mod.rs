//! Token and position vectors, added.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::{embedding, embedding_at};
