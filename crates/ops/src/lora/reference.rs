use candle_core::{Result, Tensor};

use crate::linear::linear_transposed;

/// `scale · (x · Aᵀ) · Bᵀ`
///
/// # Shapes
/// `x` (b, t, in), `a` (r, in), `b` (out, r) → (b, t, out).
///
/// # Errors
/// If a shape does not fit.
pub fn low_rank(x: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    linear_transposed(&linear_transposed(x, a)?, b)? * scale
}
