//! RMS normalization of rows of `f32`.
//!
//! ```text
//! x̂ = x · rstd          rstd = 1 / √(mean(x²) + eps)          out = x̂ · weight
//! g = grad_out · weight          grad_x = rstd · (g − x̂ · mean(g · x̂))
//! grad_weight += Σ over rows of grad_out · x̂
//! ```
//! A row's results depend on that row alone; sums over rows go in the order of the rows.

use crate::lanes::{self, LANES};
use crate::simd::{Simd, dispatch};
use crate::store::Store;

/// The parameters of a norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// (c)
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// What the forward saw and found.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The rows that were normalized, (n, c).
    pub x: &'a [f32],
    /// 1 / √(mean square + eps), (n)
    pub rstd: &'a [f32],
}

/// `out = norm(x)`
///
/// # Shapes
/// `x` (n, c) → `out` (n, c), `rstd` (n), overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn fwd(out: &mut [f32], rstd: &mut [f32], x: &[f32], norm: &Norm<'_>) {
    check(norm.weight, out.len(), &[x.len()], rstd.len());
    dispatch!(fwd_kernel(out: &mut [f32], rstd: &mut [f32], x: &[f32], norm: &Norm<'_>));
}

/// `sum = x + y`, `out = norm(sum)`: a residual connection and the norm after it in one pass.
///
/// # Shapes
/// `x`, `y` (n, c) → `sum` (n, c), `out` (n, c), `rstd` (n), overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn residual_fwd(
    sum: &mut [f32],
    out: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    y: &[f32],
    norm: &Norm<'_>,
) {
    check(norm.weight, out.len(), &[x.len(), y.len(), sum.len()], rstd.len());
    dispatch!(residual_kernel(
        sum: &mut [f32], out: &mut [f32], rstd: &mut [f32], x: &[f32], y: &[f32], norm: &Norm<'_>
    ));
}

/// The gradients of [`fwd`]. With [`Store::Accumulate`], `grad_x` is added to the gradient that came past the
/// norm along the residual stream.
///
/// # Shapes
/// `grad_out` (n, c) → `grad_x` (n, c) as `store` says; `grad_weight` (c), accumulated.
///
/// # Panics
/// If a slice has another length.
pub fn bwd(
    grad_x: &mut [f32],
    store: Store,
    grad_weight: &mut [f32],
    grad_out: &[f32],
    saved: Saved<'_>,
    weight: &[f32],
) {
    check(weight, grad_out.len(), &[grad_x.len(), saved.x.len()], saved.rstd.len());
    assert_eq!(grad_weight.len(), weight.len(), "elements of a weight's gradient");
    dispatch!(bwd_kernel(
        grad_x: &mut [f32],
        store: Store,
        grad_weight: &mut [f32],
        grad_out: &[f32],
        saved: Saved<'_>,
        weight: &[f32],
    ));
}

fn check(weight: &[f32], len: usize, same: &[usize], n_rstd: usize) {
    let c = weight.len();
    assert!(c > 0 && len.is_multiple_of(c), "whole rows of {c} in a slice of {len}");
    assert!(same.iter().all(|&other| other == len), "slices of {len} elements, got {same:?}");
    assert_eq!(n_rstd, len / c, "one reciprocal deviation a row");
}

#[inline(always)]
fn fwd_kernel<S: Simd>(out: &mut [f32], rstd: &mut [f32], x: &[f32], norm: &Norm<'_>) {
    let c = norm.weight.len();
    for ((out, x), rstd) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(rstd) {
        *rstd = row_fwd::<S>(out, x, norm);
    }
}

#[inline(always)]
fn residual_kernel<S: Simd>(
    sum: &mut [f32],
    out: &mut [f32],
    rstd: &mut [f32],
    x: &[f32],
    y: &[f32],
    norm: &Norm<'_>,
) {
    let c = norm.weight.len();
    let rows = sum.chunks_exact_mut(c).zip(out.chunks_exact_mut(c));
    for (((sum, out), (x, y)), rstd) in rows.zip(x.chunks_exact(c).zip(y.chunks_exact(c))).zip(rstd) {
        for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
            *sum = x + y;
        }
        *rstd = row_fwd::<S>(out, sum, norm);
    }
}

#[inline(always)]
fn row_fwd<S: Simd>(out: &mut [f32], x: &[f32], norm: &Norm<'_>) -> f32 {
    let rstd = 1.0 / (lanes::sum_of_squares::<S>(x, 0.0) / x.len() as f32 + norm.eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(norm.weight) {
        *out = x * rstd * weight;
    }
    rstd
}

#[inline(always)]
fn bwd_kernel<S: Simd>(
    grad_x: &mut [f32],
    store: Store,
    grad_weight: &mut [f32],
    grad_out: &[f32],
    saved: Saved<'_>,
    weight: &[f32],
) {
    let c = weight.len();
    let rows = grad_x.chunks_exact_mut(c).zip(grad_out.chunks_exact(c)).zip(saved.x.chunks_exact(c));
    for (((grad_x, grad_out), x), &rstd) in rows.zip(saved.rstd) {
        let g_xhat = row_sum::<S>(grad_weight, grad_out, x, weight, rstd);
        let slope = rstd * rstd * (g_xhat / c as f32);
        let row = grad_x.iter_mut().zip(grad_out).zip(x).zip(weight);
        match store {
            Store::Overwrite => {
                for (((grad_x, &grad), &x), &weight) in row {
                    *grad_x = S::mul_add(-x, slope, rstd * (grad * weight));
                }
            }
            Store::Accumulate => {
                for (((grad_x, &grad), &x), &weight) in row {
                    *grad_x += S::mul_add(-x, slope, rstd * (grad * weight));
                }
            }
        }
    }
}

/// `Σ g · x̂` of a row; adds the row's part to the weight's gradient on the way.
#[inline(always)]
fn row_sum<S: Simd>(grad_weight: &mut [f32], grad_out: &[f32], x: &[f32], weight: &[f32], rstd: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = x.len() / LANES * LANES;
    let (grad_weight, grad_weight_rest) = grad_weight.split_at_mut(whole);
    let chunks = grad_out.chunks_exact(LANES).zip(x.chunks_exact(LANES)).zip(weight.chunks_exact(LANES));
    for (grad_weight, ((grad, x), weight)) in grad_weight.chunks_exact_mut(LANES).zip(chunks) {
        for lane in 0..LANES {
            let x_hat = x[lane] * rstd;
            lanes[lane] = S::mul_add(grad[lane] * weight[lane], x_hat, lanes[lane]);
            grad_weight[lane] = S::mul_add(grad[lane], x_hat, grad_weight[lane]);
        }
    }
    let rest = grad_out[whole..].iter().zip(&x[whole..]).zip(&weight[whole..]);
    for (lane, (((&grad, &x), &weight), grad_weight)) in rest.zip(grad_weight_rest).enumerate() {
        let x_hat = x * rstd;
        lanes[lane] = S::mul_add(grad * weight, x_hat, lanes[lane]);
        *grad_weight = S::mul_add(grad, x_hat, *grad_weight);
    }
    lanes::fold(lanes)
}
