//! Softmax of one row of scores in place.

use std::ops::Range;

use crate::lanes;
use crate::math::exp;
use crate::simd::Simd;

/// Replaces the scores that are `seen` by `exp(score − max)`, the others by zero; returns the maximum and the sum. The
/// row is whole vectors of 16.
#[inline(always)]
pub(super) fn exp_row<S: Simd>(scores: &mut [f32], seen: Range<usize>) -> (f32, f32) {
    fill_unseen(scores, &seen, f32::NEG_INFINITY);
    let max = lanes::max(scores);
    let sum = lanes::exp_minus::<S>(scores, max);
    // What stood for minus infinity is 1e-38 now: too little to have changed a sum that is 1 or more.
    fill_unseen(scores, &seen, 0.0);
    (max, sum)
}

/// Sets what lies before and after the `seen` part of a row, which is whole vectors of 16. That part has an element.
#[inline(always)]
fn fill_unseen(row: &mut [f32], seen: &Range<usize>, value: f32) {
    let len = row.len();
    // Causal rows begin with the slice and end in its last vector.
    if seen.start > 0 || seen.end + 16 <= len {
        return fill_far(row, seen, value);
    }
    let n_in_last = (seen.end + 16 - len) as u32;
    if let Some(last) = row.last_chunk_mut::<16>() {
        for (x, lane) in last.iter_mut().zip(0u32..) {
            *x = if lane >= n_in_last { value } else { *x };
        }
    }
}

/// [`fill_unseen`] where the part does not begin with the row or does not end in its last vector. It is a call so that the
/// code for causal rows stays small.
#[inline(never)]
fn fill_far(row: &mut [f32], seen: &Range<usize>, value: f32) {
    row[..seen.start].fill(value);
    row[seen.end..].fill(value);
}

/// Replaces the scores that are `seen` by what multiplied the values, probabilities times dropout's `mask`, and
/// `grad`, the gradient of that, by the gradient of the scores; both are zero elsewhere. The row is as in
/// [`exp_row`].
#[inline(always)]
pub(super) fn grad_row<S: Simd>(
    scores: &mut [f32],
    grad: &mut [f32],
    mask: Option<&[f32]>,
    seen: Range<usize>,
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
    fill_unseen(scores, &seen, 0.0);
    fill_unseen(grad, &seen, 0.0);
}
