//! An affine map of each row.

pub mod cpu;
pub mod cuda;
mod reference;

pub use reference::{linear, linear_transposed};
