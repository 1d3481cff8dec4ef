use candle_core::{Result, Tensor};

use crate::cross_entropy::{cross_entropy_sum, weighted_cross_entropy_sum};

/// The sum over rows of the cross-entropy of `x · weightᵀ`.
///
/// # Shapes
/// `x` (n, c), `weight` (v, c), `targets` (n) of `u32` → a scalar.
pub fn classifier_loss(x: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<Tensor> {
    cross_entropy_sum(&x.matmul(&weight.t()?)?, targets)
}

/// The same with a weight for each row, see [`weighted_cross_entropy_sum`].
///
/// # Shapes
/// As for [`classifier_loss`]; `weights` (n) → a scalar.
pub fn weighted_classifier_loss(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    weights: &Tensor,
) -> Result<Tensor> {
    weighted_cross_entropy_sum(&x.matmul(&weight.t()?)?, targets, weights)
}

/// `cap · tanh(logits / cap)`: logits kept between `-cap` and `cap`, of which small ones stay as they are.
///
/// # References
/// Gemma team, *Gemma 2*, 2024, section 2.
pub fn soft_cap(logits: &Tensor, cap: f64) -> Result<Tensor> {
    (logits / cap)?.tanh()? * cap
}
