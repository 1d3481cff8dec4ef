//! Normalization by the root of the mean square.

use candle_core::Result;

use super::WIDTHS;
use crate::Store;
use crate::rms_norm::cpu::{Norm, Saved, bwd, fwd, residual_fwd};
use crate::rms_norm::rms_norm;
use crate::verify::numbers::{gradients, normal, tensor, twice, values, var};
use crate::verify::{Check, Subject};

/// Rows.
const N: usize = 9;
const EPS: f32 = 1e-5;
/// Sums of nine products of numbers of up to 4, with some roundings each.
const TOLERANCE: f64 = 3e-5;
/// A small element of a narrow row has a reciprocal of hundreds, and the gradient is the difference of two such.
const TOLERANCE_OF_ONE: f64 = 1e-3;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for c in WIDTHS {
        all.extend(check(c)?);
    }
    Ok(all)
}

/// Rows of width `c`: the norm, the norm of a sum, and their gradients.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check(c: usize) -> Result<Vec<Check>> {
    let subject = Subject::f32("rms_norm", format!("({N}, {c})"));
    let (x, weight, grad_out) = (normal(0, N * c), normal(1, c), normal(3, N * c));
    let (x_var, weight_var) = (var(&x, &[N, c])?, var(&weight, &[c])?);
    let expected = rms_norm(&x_var, &weight_var, f64::from(EPS))?;
    let [grad_x, grad_weight] = gradients(&expected, &grad_out, [&x_var, &weight_var])?;

    let norm = Norm { weight: &weight, eps: EPS };
    let (mut out, mut rstd) = (vec![f32::NAN; N * c], vec![f32::NAN; N]);
    fwd(&mut out, &mut rstd, &x, &norm);
    let saved = Saved { x: &x, rstd: &rstd };
    let (mut got_x, mut got_weight) = (vec![f32::NAN; N * c], vec![0.0; c]);
    bwd(&mut got_x, Store::Overwrite, &mut got_weight, &grad_out, saved, &weight);
    let tolerance = if c == 1 { TOLERANCE_OF_ONE } else { TOLERANCE };
    let mut checks = vec![
        subject.compare("out", &out, &values(&expected)?, TOLERANCE),
        subject.compare("grad_x", &got_x, &grad_x, tolerance),
        subject.compare("grad_weight", &got_weight, &grad_weight, TOLERANCE),
    ];
    bwd(&mut got_x, Store::Accumulate, &mut got_weight, &grad_out, saved, &weight);
    checks.push(subject.compare("grad_x, added", &got_x, &twice(&grad_x), 2.0 * tolerance));
    checks.push(subject.compare("grad_weight, added", &got_weight, &twice(&grad_weight), 2.0 * TOLERANCE));
    checks.extend(check_residual(c, &x, &norm)?);
    Ok(checks)
}

fn check_residual(c: usize, x: &[f32], norm: &Norm<'_>) -> Result<[Check; 2]> {
    let subject = Subject::f32("rms_norm", format!("({N}, {c}), residual"));
    let y = normal(4, N * c);
    let expected_sum = (tensor(x, &[N, c])? + tensor(&y, &[N, c])?)?;
    let expected = rms_norm(&expected_sum, &tensor(norm.weight, &[c])?, f64::from(EPS))?;
    let (mut sum, mut out, mut rstd) = (vec![f32::NAN; N * c], vec![f32::NAN; N * c], vec![f32::NAN; N]);
    residual_fwd(&mut sum, &mut out, &mut rstd, x, &y, norm);
    Ok([
        // One addition of numbers of size 4.
        subject.compare("sum", &sum, &values(&expected_sum)?, 1e-6),
        subject.compare("out", &out, &values(&expected)?, TOLERANCE),
    ])
}
