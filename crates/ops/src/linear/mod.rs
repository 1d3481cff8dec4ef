//! An affine map of each row.

pub mod cpu;
mod reference;

pub use reference::{linear, linear_transposed};
