use candle_core::{D, Result, Tensor};

/// Turns each pair `(x[i], x[i + d/2])` by its position's angle:
/// `out = (x₁·cos − x₂·sin, x₂·cos + x₁·sin)`, halves as in Hugging Face's models.
///
/// # Shapes
/// `x` (b, h, t, d), `cos` and `sin` (t, d/2) → (b, h, t, d).
///
/// # References
/// Su et al., *RoFormer*, 2021, section 3.2.2; there the pairs are neighbours.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half_width = x.dim(D::Minus1)? / 2;
    let (first, second) = (x.narrow(D::Minus1, 0, half_width)?, x.narrow(D::Minus1, half_width, half_width)?);
    let turned_first = (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?;
    let turned_second = (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?;
    Tensor::cat(&[turned_first, turned_second], D::Minus1)
}
