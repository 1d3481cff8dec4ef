//! Layer normalization.

use candle_core::Result;

use super::WIDTHS;
use crate::Store;
use crate::layer_norm::cpu::{Addend, Norm, Saved, Stats, bwd, fwd, residual_fwd};
use crate::layer_norm::layer_norm;
use crate::verify::numbers::{gradients, normal, twice, values, var};
use crate::verify::{Check, Subject};

/// Rows.
const N: usize = 9;
const EPS: f32 = 1e-5;
/// With the mean at 10, x − mean carries the rounding of 10, 5e-7, into deviations of about 1, which weights of
/// up to 4 multiply; gradients are sums of such.
const TOLERANCE: f64 = 1e-4;
/// A row of one element has no deviation: all is cancellation, of terms 1/√eps = 316 times as large.
const TOLERANCE_OF_ONE: f64 = 1e-3;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for c in WIDTHS {
        all.extend(check(c, true)?);
        all.extend(check(c, false)?);
        all.extend(check_residual(c)?);
    }
    Ok(all)
}

/// Rows of width `c`, off centre, so that a variance by differences of large numbers would show.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check(c: usize, with_bias: bool) -> Result<Vec<Check>> {
    let subject = Subject::f32("layer_norm", format!("({N}, {c}){}", if with_bias { ", bias" } else { "" }));
    let x: Vec<f32> = normal(0, N * c).iter().map(|x| x + 10.0).collect();
    let (weight, bias, grad_out) = (normal(1, c), normal(2, c), normal(3, N * c));
    let (x_var, weight_var, bias_var) = (var(&x, &[N, c])?, var(&weight, &[c])?, var(&bias, &[c])?);
    let bias_tensor = with_bias.then_some(bias_var.as_tensor());
    let expected = layer_norm(&x_var, &weight_var, bias_tensor, f64::from(EPS))?;
    let [grad_x, grad_weight] = gradients(&expected, &grad_out, [&x_var, &weight_var])?;

    let norm = Norm { weight: &weight, bias: with_bias.then_some(&bias[..]), eps: EPS };
    let (mut out, mut mean, mut rstd) = (vec![f32::NAN; N * c], vec![f32::NAN; N], vec![f32::NAN; N]);
    fwd(&mut out, Stats { mean: &mut mean, rstd: &mut rstd }, &x, &norm);
    let saved = Saved { x: &x, mean: &mean, rstd: &rstd };
    let (mut got_x, mut got_weight, mut got_bias) = (vec![f32::NAN; N * c], vec![0.0; c], vec![0.0; c]);
    let bias_slot = with_bias.then_some(&mut got_bias[..]);
    bwd(&mut got_x, Store::Overwrite, &mut got_weight, bias_slot, &grad_out, saved, &weight);

    let tolerance = if c == 1 { TOLERANCE_OF_ONE } else { 2.0 * TOLERANCE };
    let mut checks = vec![
        subject.compare("out", &out, &values(&expected)?, 2.0 * TOLERANCE),
        subject.compare("grad_x", &got_x, &grad_x, tolerance),
        subject.compare("grad_weight", &got_weight, &grad_weight, 2.0 * TOLERANCE),
    ];
    if with_bias {
        let [grad_bias] = gradients(&expected, &grad_out, [&bias_var])?;
        checks.push(subject.compare("grad_bias", &got_bias, &grad_bias, super::sum_tolerance(N)));
    }
    bwd(&mut got_x, Store::Accumulate, &mut got_weight, None, &grad_out, saved, &weight);
    checks.push(subject.compare("grad_x, added", &got_x, &twice(&grad_x), 2.0 * tolerance));
    checks.push(subject.compare("grad_weight, added", &got_weight, &twice(&grad_weight), 4.0 * TOLERANCE));
    Ok(checks)
}

/// An addition with the bias of the projection before, and the norm of the sum.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check_residual(c: usize) -> Result<Vec<Check>> {
    let subject = Subject::f32("layer_norm", format!("({N}, {c}), residual"));
    let (x, y, bias, weight) = (normal(0, N * c), normal(1, N * c), normal(2, c), normal(3, c));
    let (x_var, y_var, bias_var, weight_var) =
        (var(&x, &[N, c])?, var(&y, &[N, c])?, var(&bias, &[c])?, var(&weight, &[c])?);
    let expected_sum = x_var.add(&y_var)?.broadcast_add(&bias_var)?;
    let expected = layer_norm(&expected_sum, &weight_var, Some(&bias_var), f64::from(EPS))?;

    let norm = Norm { weight: &weight, bias: Some(&bias), eps: EPS };
    let (mut sum, mut out) = (vec![f32::NAN; N * c], vec![f32::NAN; N * c]);
    let (mut mean, mut rstd) = (vec![f32::NAN; N], vec![f32::NAN; N]);
    let addend = Addend { rows: &y, bias: Some(&bias) };
    residual_fwd(&mut sum, &mut out, Stats { mean: &mut mean, rstd: &mut rstd }, &x, &addend, &norm);
    Ok(vec![
        // Two additions of numbers of size 4.
        subject.compare("sum", &sum, &values(&expected_sum)?, 2e-6),
        subject.compare("out", &out, &values(&expected)?, if c == 1 { TOLERANCE_OF_ONE } else { TOLERANCE }),
    ])
}
