//! A vector repeated for each row.

use candle_core::{Result, Tensor};

/// `out[row] = vector` for `n` rows, as a product with ones.
///
/// A broadcast would say the same, but candle sums its gradient element by element, which takes a quarter of a
/// small model's step; the gradient of a product is a product.
///
/// # Shapes
/// `vector` (c) → (n, c).
pub(crate) fn repeat_rows(vector: &Tensor, n: usize) -> Result<Tensor> {
    let ones = Tensor::ones((n, 1), vector.dtype(), vector.device())?;
    ones.matmul(&vector.unsqueeze(0)?)
}
