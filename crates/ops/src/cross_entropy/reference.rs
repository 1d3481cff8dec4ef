use candle_core::{D, DType, Result, Tensor};

/// `Σ over rows of (log Σ exp logits[row] − logits[row, target[row]])`, in nats.
///
/// A sum and not a mean, so that micro-batches of different sizes can be weighed rightly.
///
/// # Shapes
/// `logits` (n, v) in `f32` or `f64`, `targets` (n) of `u32` → a scalar.
pub fn cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    losses(logits, targets)?.sum_all()
}

/// `Σ over rows of weight[row] · loss[row]`, with the losses of [`cross_entropy_sum`].
///
/// A row of weight 0 is not counted. The mean over the rows that are counted is this sum divided by the sum of weights,
/// which is the caller's to take: micro-batches count different numbers of rows.
///
/// # Shapes
/// `logits` (n, v) in `f32` or `f64`, `targets` (n) of `u32`, `weights` (n), at least 0 → a scalar.
pub fn weighted_cross_entropy_sum(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let losses = losses(logits, targets)?.squeeze(1)?;
    (&losses * weights.to_dtype(losses.dtype())?)?.sum_all()
}

/// The loss of each row, (n, 1).
fn losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let log_sum_exp = (logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?.log()? + max)?;
    let picked = logits.gather(&targets.unsqueeze(1)?, D::Minus1)?;
    log_sum_exp - picked
}

/// In how many rows the largest logit is the target's; of equal logits the first counts.
///
/// # Shapes
/// `logits` (n, v), `targets` (n) of `u32` → a scalar of `f32`.
pub fn n_correct(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    logits.detach().argmax(D::Minus1)?.eq(targets)?.to_dtype(DType::F32)?.sum_all()
}

/// The same over the rows whose weight is above 0; whether a row counts does not depend on how much.
///
/// # Shapes
/// As for [`n_correct`]; `weights` (n).
pub fn weighted_n_correct(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let correct = logits.detach().argmax(D::Minus1)?.eq(targets)?.to_dtype(DType::F32)?;
    (correct * weights.gt(0f64)?.to_dtype(DType::F32)?)?.sum_all()
}
