//! An affine map of each row.

mod reference;

pub use reference::{linear, linear_transposed};
