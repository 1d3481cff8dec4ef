//! An affine map of each row.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::{linear, linear_transposed};
