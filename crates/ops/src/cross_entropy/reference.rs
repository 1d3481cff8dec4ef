use candle_core::{D, DType, Result, Tensor};

/// `Σ over rows of (log Σ exp logits[row] − logits[row, target[row]])`, in nats.
///
/// A sum and not a mean, so that micro-batches of different sizes can be weighed rightly.
///
/// # Shapes
/// `logits` (n, v) in `f32` or `f64`, `targets` (n) of `u32` → a scalar.
pub fn cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let log_sum_exp = (logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?;
    let picked = logits.gather(&targets.unsqueeze(1)?, D::Minus1)?;
    (log_sum_exp - picked)?.sum_all()
}

/// In how many rows the largest logit is the target's; of equal logits the first counts.
///
/// # Shapes
/// `logits` (n, v), `targets` (n) of `u32` → a scalar of `f32`.
pub fn n_correct(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    logits.detach().argmax(D::Minus1)?.eq(targets)?.to_dtype(DType::F32)?.sum_all()
}
