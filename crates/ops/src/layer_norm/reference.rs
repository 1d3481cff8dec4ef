use candle_core::{D, DType, Result, Tensor};

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
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normalized = centered.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let out = normalized.broadcast_mul(weight)?;
    let out = match bias {
        Some(bias) => out.broadcast_add(bias)?,
        None => out,
    };
    out.to_dtype(dtype)
}
