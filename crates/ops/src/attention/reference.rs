use candle_core::{D, DType, Device, Result, Tensor};

use super::{AttentionDropout, Kind};

/// `out = softmax(q·kᵀ / √d + mask) · v` for each head, with dropout between softmax and the product with v.
///
/// The softmax is computed in `f32` whatever the dtype.
///
/// # Shapes
/// `q` (b, h, t, d), `k`, `v` (b, h, n, d), `mask` (t, n) or (b, 1, t, n) from [`mask()`], [`mask_after`] or their
/// causal forms → (b, h, t, d).
///
/// # References
/// Vaswani et al., *Attention Is All You Need*, 2017, equation 1.
pub fn scaled_dot_product_attention(
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
    mask(Kind::Causal, t, None, device)
}

/// The causal mask of `t` positions that follow `n_before` others, which they may all look at.
///
/// # Shapes
/// → (t, n_before + t), `f32`.
pub fn causal_mask_after(n_before: usize, t: usize, device: &Device) -> Result<Tensor> {
    mask_after(Kind::Causal, n_before, t, device)
}

/// Zero where position `i` may look at position `j`, and minus infinity elsewhere.
///
/// `documents`, of b sequences, gives for each row the row of its sequence at which its document starts.
///
/// # Shapes
/// `documents` (b·t) → (b, 1, t, t); without documents → (t, t); `f32`.
pub fn mask(kind: Kind, t: usize, documents: Option<&[u32]>, device: &Device) -> Result<Tensor> {
    let Some(documents) = documents else { return mask_after(kind, 0, t, device) };
    let square = |starts: &[u32]| {
        let sees = |i: usize, j: usize| starts[i] == starts[j] && sees(kind, i, j);
        (0..t).flat_map(|i| (0..t).map(move |j| (i, j))).map(|(i, j)| bias(sees(i, j))).collect::<Vec<_>>()
    };
    let values: Vec<f32> = documents.chunks_exact(t).flat_map(square).collect();
    Tensor::from_vec(values, (documents.len() / t, 1, t, t), device)
}

/// The mask of `t` positions that follow `n_before` others.
///
/// # Shapes
/// → (t, n_before + t), `f32`.
pub fn mask_after(kind: Kind, n_before: usize, t: usize, device: &Device) -> Result<Tensor> {
    let n = n_before + t;
    let row = |i: usize| (0..n).map(move |j| bias(sees(kind, i, j)));
    let values: Vec<f32> = (n_before..n).flat_map(row).collect();
    Tensor::from_vec(values, (t, n), device)
}

/// Whether position `i` sees position `j` of its document.
fn sees(kind: Kind, i: usize, j: usize) -> bool {
    match kind {
        Kind::Causal => j <= i,
        Kind::Full => true,
        Kind::Window(window) => j <= i && i - j < window,
    }
}

fn bias(is_seen: bool) -> f32 {
    if is_seen { 0.0 } else { f32::NEG_INFINITY }
}

/// `softmax(x)` over the last dimension. The maximum is taken out as a constant: it cancels in value and
/// gradient.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}
