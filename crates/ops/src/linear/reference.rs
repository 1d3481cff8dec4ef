use candle_core::{Result, Tensor};

use crate::rows::repeat_rows;

/// `out = x · weight + bias`, with the weight stored input first, as GPT-2 stores it.
///
/// Weight and bias are cast to the dtype of `x`.
///
/// # Shapes
/// `x` (b, t, in), `weight` (in, out), `bias` (out) → (b, t, out).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (b, t, n_in) = x.dims3()?;
    let weight = weight.to_dtype(x.dtype())?;
    // One matrix product over all rows: candle would otherwise broadcast the weight over the batch.
    let out = x.reshape((b * t, n_in))?.matmul(&weight)?;
    let out = match bias {
        Some(bias) => (out + repeat_rows(&bias.to_dtype(x.dtype())?, b * t)?)?,
        None => out,
    };
    out.reshape((b, t, ()))
}

/// `out = x · weightᵀ`, with the weight stored output first, as an embedding table is when it also serves as
/// the output head.
///
/// # Shapes
/// `x` (b, t, in), `weight` (out, in) → (b, t, out).
pub fn linear_transposed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    linear(x, &weight.t()?, None)
}
