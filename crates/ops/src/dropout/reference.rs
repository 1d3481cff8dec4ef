use candle_core::{Result, Tensor};

use super::Dropout;

/// `out = x · mask`, `mask[i] = (u[i] ≥ p) / (1 − p)` with uniform `u` addressed by the element's position in
/// the whole batch.
///
/// # Shapes
/// `x` (b, …) → the same.
///
/// # References
/// Srivastava et al., *Dropout*, JMLR 15, 2014, section 4 (here scaled in training and not in evaluation).
pub(super) fn dropout(x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    if dropout.probability == 0.0 {
        return Ok(x.clone());
    }
    let per_sequence = x.elem_count() / x.dim(0)?;
    let mut mask = vec![0f32; x.elem_count()];
    dropout.stream.fill_uniform((dropout.first_sequence * per_sequence) as u64, &mut mask);
    let scale = 1.0 / (1.0 - dropout.probability);
    for u in &mut mask {
        *u = if *u >= dropout.probability { scale } else { 0.0 };
    }
    let mask = Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?;
    x * mask
}
