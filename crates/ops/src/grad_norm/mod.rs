//! The length of the whole gradient, and what to multiply it by so that it is not too long.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::{clip_factor, global_norm};
