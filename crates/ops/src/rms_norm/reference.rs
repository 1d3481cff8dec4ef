use candle_core::{D, DType, Result, Tensor};

use crate::rows::repeat_rows;

/// `out = x / √(mean(x²) + eps) · weight` over the last dimension.
///
/// Computed in `f32` whatever the dtype of `x`, and returned in that dtype.
///
/// # Shapes
/// `x` (…, c), `weight` (c) → (…, c).
///
/// # References
/// Zhang and Sennrich, *Root Mean Square Layer Normalization*, 2019, equation 4.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = if dtype == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
    let rows = x.flatten_to(D::Minus2)?;
    let mean_square = rows.sqr()?.mean_keepdim(D::Minus1)?;
    let normalized = rows.broadcast_div(&(mean_square + eps)?.sqrt()?)?;
    let out = (normalized * repeat_rows(weight, rows.dim(0)?)?)?;
    out.reshape(x.shape())?.to_dtype(dtype)
}
