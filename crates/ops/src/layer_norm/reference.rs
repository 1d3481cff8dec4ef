use candle_core::{D, DType, Result, Tensor};

use crate::rows::repeat_rows;

/// `out = (x − mean(x)) / √(var(x) + eps) · weight + bias` over the last dimension, with the biased variance.
///
/// Computed in `f32` whatever the dtype of `x`, and returned in that dtype.
///
/// # Shapes
/// `x` (…, c), `weight` (c), `bias` (c) → (…, c).
///
/// # References
/// Ba, Kiros and Hinton, *Layer Normalization*, 2016, equation 4.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = if dtype == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
    let rows = x.flatten_to(D::Minus2)?;
    let n = rows.dim(0)?;
    let centered = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normalized = centered.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let out = (normalized * repeat_rows(weight, n)?)?;
    let out = match bias {
        Some(bias) => (out + repeat_rows(bias, n)?)?,
        None => out,
    };
    out.reshape(x.shape())?.to_dtype(dtype)
}
