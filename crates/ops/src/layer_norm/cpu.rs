//! Layer normalization of rows of `f32`.
//!
//! ```text
//! x̂ = (x − mean) · rstd          rstd = 1 / √(var + eps)          out = x̂ · weight + bias
//! g = grad_out · weight          grad_x = rstd · (g − mean(g) − x̂ · mean(g · x̂))
//! grad_weight += Σ over rows of grad_out · x̂          grad_bias += Σ over rows of grad_out
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
    /// (c)
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

/// What the backward wants to know of each row.
#[derive(Debug)]
pub struct Stats<'a> {
    /// (n)
    pub mean: &'a mut [f32],
    /// 1 / √(variance + eps), (n)
    pub rstd: &'a mut [f32],
}

/// What the forward saw and found.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The rows that were normalized, (n, c).
    pub x: &'a [f32],
    /// (n)
    pub mean: &'a [f32],
    /// (n)
    pub rstd: &'a [f32],
}

/// What is added to the residual stream before it is normalized.
#[derive(Clone, Copy, Debug)]
pub struct Addend<'a> {
    /// (n, c)
    pub rows: &'a [f32],
    /// Added to each row: the bias of the projection that made them. (c)
    pub bias: Option<&'a [f32]>,
}

/// `out = norm(x)`
///
/// # Shapes
/// `x` (n, c) → `out` (n, c), `stats` (n), all overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn fwd(out: &mut [f32], stats: Stats<'_>, x: &[f32], norm: &Norm<'_>) {
    check(norm, out.len(), &[x.len()], stats.mean.len(), stats.rstd.len());
    dispatch!(fwd_kernel(out: &mut [f32], stats: Stats<'_>, x: &[f32], norm: &Norm<'_>));
}

/// `sum = x + addend`, `out = norm(sum)`: a residual connection and the norm after it in one pass.
///
/// # Shapes
/// `x` (n, c), `addend` (n, c) → `sum` (n, c), `out` (n, c), `stats` (n), all overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn residual_fwd(
    sum: &mut [f32],
    out: &mut [f32],
    stats: Stats<'_>,
    x: &[f32],
    addend: &Addend<'_>,
    norm: &Norm<'_>,
) {
    check(norm, out.len(), &[x.len(), sum.len(), addend.rows.len()], stats.mean.len(), stats.rstd.len());
    assert!(addend.bias.is_none_or(|bias| bias.len() == norm.weight.len()), "elements of an addend's bias");
    dispatch!(residual_kernel(
        sum: &mut [f32], out: &mut [f32], stats: Stats<'_>, x: &[f32], addend: &Addend<'_>, norm: &Norm<'_>
    ));
}

/// The gradients of [`fwd`]. With [`Store::Accumulate`], `grad_x` is added to the gradient that came past the
/// norm along the residual stream.
///
/// # Shapes
/// `grad_out` (n, c) → `grad_x` (n, c) as `store` says; `grad_weight` (c) and `grad_bias` (c), accumulated.
///
/// # Panics
/// If a slice has another length.
pub fn bwd(
    grad_x: &mut [f32],
    store: Store,
    grad_weight: &mut [f32],
    grad_bias: Option<&mut [f32]>,
    grad_out: &[f32],
    saved: Saved<'_>,
    weight: &[f32],
) {
    let norm = Norm { weight, bias: None, eps: 0.0 };
    check(&norm, grad_out.len(), &[grad_x.len(), saved.x.len()], saved.mean.len(), saved.rstd.len());
    assert_eq!(grad_weight.len(), weight.len(), "elements of a weight's gradient");
    let bias_fits = grad_bias.as_ref().is_none_or(|grad_bias| grad_bias.len() == weight.len());
    assert!(bias_fits, "elements of a bias's gradient");
    dispatch!(bwd_kernel(
        grad_x: &mut [f32],
        store: Store,
        grad_weight: &mut [f32],
        grad_bias: Option<&mut [f32]>,
        grad_out: &[f32],
        saved: Saved<'_>,
        weight: &[f32],
    ));
}

fn check(norm: &Norm<'_>, len: usize, same: &[usize], n_mean: usize, n_rstd: usize) {
    let c = norm.weight.len();
    assert!(c > 0 && len.is_multiple_of(c), "whole rows of {c} in a slice of {len}");
    assert!(same.iter().all(|&other| other == len), "slices of {len} elements, got {same:?}");
    assert!(n_mean == len / c && n_rstd == len / c, "statistics of {} rows, got {n_mean}, {n_rstd}", len / c);
    assert!(norm.bias.is_none_or(|bias| bias.len() == c), "elements of a norm's bias");
}

#[inline(always)]
fn fwd_kernel<S: Simd>(out: &mut [f32], stats: Stats<'_>, x: &[f32], norm: &Norm<'_>) {
    let c = norm.weight.len();
    let rows = out.chunks_exact_mut(c).zip(x.chunks_exact(c));
    for ((out, x), (mean, rstd)) in rows.zip(stats.mean.iter_mut().zip(stats.rstd)) {
        (*mean, *rstd) = row_fwd::<S>(out, x, norm);
    }
}

#[inline(always)]
fn residual_kernel<S: Simd>(
    sum: &mut [f32],
    out: &mut [f32],
    stats: Stats<'_>,
    x: &[f32],
    addend: &Addend<'_>,
    norm: &Norm<'_>,
) {
    let c = norm.weight.len();
    let rows = sum.chunks_exact_mut(c).zip(out.chunks_exact_mut(c));
    let inputs = x.chunks_exact(c).zip(addend.rows.chunks_exact(c));
    let stats = stats.mean.iter_mut().zip(stats.rstd);
    for (((sum, out), (x, y)), (mean, rstd)) in rows.zip(inputs).zip(stats) {
        match addend.bias {
            Some(bias) => {
                for (((sum, &x), &y), &bias) in sum.iter_mut().zip(x).zip(y).zip(bias) {
                    *sum = x + (y + bias);
                }
            }
            None => {
                for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
                    *sum = x + y;
                }
            }
        }
        (*mean, *rstd) = row_fwd::<S>(out, sum, norm);
    }
}

/// Normalizes one row and returns its mean and 1 / √(variance + eps).
#[inline(always)]
fn row_fwd<S: Simd>(out: &mut [f32], x: &[f32], norm: &Norm<'_>) -> (f32, f32) {
    let c = x.len() as f32;
    let mean = lanes::sum(x) / c;
    let rstd = 1.0 / (lanes::sum_of_squares::<S>(x, mean) / c + norm.eps).sqrt();
    match norm.bias {
        Some(bias) => {
            for (((out, &x), &weight), &bias) in out.iter_mut().zip(x).zip(norm.weight).zip(bias) {
                *out = S::mul_add((x - mean) * rstd, weight, bias);
            }
        }
        None => {
            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(norm.weight) {
                *out = (x - mean) * rstd * weight;
            }
        }
    }
    (mean, rstd)
}

#[inline(always)]
fn bwd_kernel<S: Simd>(
    grad_x: &mut [f32],
    store: Store,
    grad_weight: &mut [f32],
    mut grad_bias: Option<&mut [f32]>,
    grad_out: &[f32],
    saved: Saved<'_>,
    weight: &[f32],
) {
    let c = weight.len();
    let rows = grad_x.chunks_exact_mut(c).zip(grad_out.chunks_exact(c)).zip(saved.x.chunks_exact(c));
    let stats = saved.mean.iter().zip(saved.rstd);
    for (((grad_x, grad_out), x), (&mean, &rstd)) in rows.zip(stats) {
        let (g, g_xhat) = row_sums::<S>(grad_weight, grad_out, x, weight, mean, rstd);
        if let Some(grad_bias) = &mut grad_bias {
            for (grad_bias, &grad) in grad_bias.iter_mut().zip(grad_out) {
                *grad_bias += grad;
            }
        }
        // grad_x = rstd · g − (x − mean) · slope − level
        let slope = rstd * rstd * (g_xhat / c as f32);
        let level = rstd * (g / c as f32);
        let row = grad_x.iter_mut().zip(grad_out).zip(x).zip(weight);
        match store {
            Store::Overwrite => {
                for (((grad_x, &grad), &x), &weight) in row {
                    *grad_x = S::mul_add(mean - x, slope, S::mul_add(rstd, grad * weight, -level));
                }
            }
            Store::Accumulate => {
                for (((grad_x, &grad), &x), &weight) in row {
                    *grad_x += S::mul_add(mean - x, slope, S::mul_add(rstd, grad * weight, -level));
                }
            }
        }
    }
}

/// `Σ g` and `Σ g · x̂` of a row; adds the row's part to the weight's gradient on the way.
#[inline(always)]
fn row_sums<S: Simd>(
    grad_weight: &mut [f32],
    grad_out: &[f32],
    x: &[f32],
    weight: &[f32],
    mean: f32,
    rstd: f32,
) -> (f32, f32) {
    let (mut g_lanes, mut gx_lanes) = ([0f32; LANES], [0f32; LANES]);
    let whole = x.len() / LANES * LANES;
    let (grad_weight, grad_weight_rest) = grad_weight.split_at_mut(whole);
    let chunks = grad_out.chunks_exact(LANES).zip(x.chunks_exact(LANES)).zip(weight.chunks_exact(LANES));
    for (grad_weight, ((grad, x), weight)) in grad_weight.chunks_exact_mut(LANES).zip(chunks) {
        for lane in 0..LANES {
            let x_hat = (x[lane] - mean) * rstd;
            let g = grad[lane] * weight[lane];
            g_lanes[lane] += g;
            gx_lanes[lane] = S::mul_add(g, x_hat, gx_lanes[lane]);
            grad_weight[lane] = S::mul_add(grad[lane], x_hat, grad_weight[lane]);
        }
    }
    let rest = grad_out[whole..].iter().zip(&x[whole..]).zip(&weight[whole..]);
    for (lane, (((&grad, &x), &weight), grad_weight)) in rest.zip(grad_weight_rest).enumerate() {
        let x_hat = (x - mean) * rstd;
        g_lanes[lane] += grad * weight;
        gx_lanes[lane] = S::mul_add(grad * weight, x_hat, gx_lanes[lane]);
        *grad_weight = S::mul_add(grad, x_hat, *grad_weight);
    }
    (lanes::fold(g_lanes), lanes::fold(gx_lanes))
}
