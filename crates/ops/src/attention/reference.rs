use candle_core::{D, DType, Device, Result, Tensor};

use super::AttentionDropout;

/// `out = softmax(q·kᵀ / √d + mask) · v` for each head, with dropout between softmax and the product with v.
///
/// The softmax is computed in `f32` whatever the dtype.
///
/// # Shapes
/// `q` (b, h, t, d), `k`, `v` (b, h, n, d), `mask` (t, n) from [`causal_mask`] or [`causal_mask_after`] → (b, h, t, d).
///
/// # References
/// Vaswani et al., *Attention Is All You Need*, 2017, equation 1.
pub fn causal_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
    dropout: Option<&AttentionDropout>,
) -> Result<Tensor> {
    let head_width = q.dim(D::Minus1)? as f64;
    let scores = (q * (1.0 / head_width.sqrt()))?.contiguous()?.matmul(&k.t()?.contiguous()?)?;
    let scores = if scores.dtype() == DType::F64 { scores } else { scores.to_dtype(DType::F32)? };
    let probabilities =
        softmax(&scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?)?.to_dtype(v.dtype())?;
    let probabilities = match dropout {
        Some(dropout) => dropout.apply(&probabilities)?,
        None => probabilities,
    };
    probabilities.matmul(&v.contiguous()?)
}

/// Zero where position `i` may look at position `j ≤ i`, and minus infinity elsewhere.
///
/// # Shapes
/// → (t, t), `f32`.
pub fn causal_mask(t: usize, device: &Device) -> Result<Tensor> {
    causal_mask_after(0, t, device)
}

/// The mask of `t` positions that follow `n_before` others, which they may all look at.
///
/// # Shapes
/// → (t, n_before + t), `f32`.
pub fn causal_mask_after(n_before: usize, t: usize, device: &Device) -> Result<Tensor> {
    let n = n_before + t;
    let row = |i: usize| (0..n).map(move |j| if j <= n_before + i { 0.0 } else { f32::NEG_INFINITY });
    let mask: Vec<f32> = (0..t).flat_map(row).collect();
    Tensor::from_vec(mask, (t, n), device)
}

/// `softmax(x)` over the last dimension. The maximum is taken out as a constant: it cancels in value and
/// gradient.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}
