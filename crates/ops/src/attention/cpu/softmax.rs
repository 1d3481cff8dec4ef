//! Softmax of one row of scores in place.

use crate::lanes;
use crate::math::exp;
use crate::simd::Simd;

/// Replaces the first `n` scores by `exp(score − max)`, those after them by zero; returns the maximum and the
/// sum. The row is whole vectors of 16, and `n` ends in the last.
#[inline(always)]
pub(super) fn exp_row<S: Simd>(scores: &mut [f32], n: usize) -> (f32, f32) {
    fill_after(scores, n, f32::NEG_INFINITY);
    let max = lanes::max(scores);
    let sum = lanes::exp_minus::<S>(scores, max);
    // What stood for minus infinity is 1e-38 now: too little to have changed a sum that is 1 or more.
    fill_after(scores, n, 0.0);
    (max, sum)
}

/// Sets what comes after the first `n` of a row, which ends in the row's last vector.
#[inline(always)]
fn fill_after(row: &mut [f32], n: usize, value: f32) {
    let n_in_last = (n + 16 - row.len()) as u32;
    if let Some(last) = row.last_chunk_mut::<16>() {
        for (x, lane) in last.iter_mut().zip(0u32..) {
            *x = if lane >= n_in_last { value } else { *x };
        }
    }
}

/// Replaces the first `n` scores by what multiplied the values, probabilities times dropout's `mask`, and
/// `grad`, the gradient of that, by the gradient of the scores; both are zero after that. The row is as in
/// [`exp_row`].
#[inline(always)]
pub(super) fn grad_row<S: Simd>(
    scores: &mut [f32],
    grad: &mut [f32],
    mask: Option<&[f32]>,
    n: usize,
    log_sum_exp: f32,
    level: f32,
) {
    let pairs = scores.chunks_exact_mut(16).zip(grad.chunks_exact_mut(16));
    match mask {
        None => {
            for (scores, grad) in pairs {
                for lane in 0..16 {
                    let p = exp::<S>(scores[lane] - log_sum_exp);
                    scores[lane] = p;
                    grad[lane] = p * (grad[lane] - level);
                }
            }
        }
        Some(mask) => {
            for ((scores, grad), mask) in pairs.zip(mask.chunks_exact(16)) {
                for lane in 0..16 {
                    let p = exp::<S>(scores[lane] - log_sum_exp);
                    scores[lane] = p * mask[lane];
                    grad[lane] = p * (grad[lane] * mask[lane] - level);
                }
            }
        }
    }
    fill_after(scores, n, 0.0);
    fill_after(grad, n, 0.0);
}
