//! An affine map of each row.

use candle_core::Result;

use super::sum_tolerance;
use crate::Store;
use crate::linear::cpu::{Layout, Shape, bwd_bias, bwd_weight, bwd_x, fwd};
use crate::linear::{linear, linear_transposed};
use crate::verify::numbers::{gradients, normal, twice, values, var};
use crate::verify::{Check, Subject};

/// (n, in, out): around strips and vectors, deep, tall, and a projection of GPT-2's.
pub const TABLE: [[usize; 3]; 7] =
    [[1, 1, 1], [9, 7, 41], [16, 33, 17], [33, 64, 65], [40, 600, 31], [600, 15, 130], [128, 768, 768]];

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for [n, n_in, n_out] in TABLE {
        for layout in [Layout::InputFirst, Layout::OutputFirst] {
            all.extend(check(n, Shape { n_in, n_out, layout })?);
        }
    }
    Ok(all)
}

/// `n` rows.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check(n: usize, shape: Shape) -> Result<Vec<Check>> {
    let Shape { n_in, n_out, layout } = shape;
    let (weight_shape, transposed) = match layout {
        Layout::InputFirst => ([n_in, n_out], ""),
        Layout::OutputFirst => ([n_out, n_in], ", output first"),
    };
    let subject = Subject::f32("linear", format!("({n}, {n_in}, {n_out}){transposed}"));
    let (x, weight, bias) = (normal(0, n * n_in), normal(1, n_in * n_out), normal(2, n_out));
    let grad_out = normal(3, n * n_out);
    let (x_var, weight_var, bias_var) =
        (var(&x, &[1, n, n_in])?, var(&weight, &weight_shape)?, var(&bias, &[n_out])?);
    let without_bias = match layout {
        Layout::InputFirst => linear(&x_var, &weight_var, None)?,
        Layout::OutputFirst => linear_transposed(&x_var, &weight_var)?,
    };
    let expected = without_bias.broadcast_add(&bias_var)?;
    let [grad_x, grad_weight, grad_bias] = gradients(&expected, &grad_out, [&x_var, &weight_var, &bias_var])?;

    let mut out = vec![f32::NAN; n * n_out];
    fwd(&mut out, &x, &weight, Some(&bias), &shape);
    let mut checks = vec![subject.compare("out", &out, &values(&expected)?, sum_tolerance(n_in))];
    fwd(&mut out, &x, &weight, None, &shape);
    let expected = values(&without_bias)?;
    checks.push(subject.compare("out, no bias", &out, &expected, sum_tolerance(n_in)));

    let mut got = vec![f32::NAN; n * n_in];
    bwd_x(&mut got, Store::Overwrite, &grad_out, &weight, &shape);
    checks.push(subject.compare("grad_x", &got, &grad_x, sum_tolerance(n_out)));
    bwd_x(&mut got, Store::Accumulate, &grad_out, &weight, &shape);
    checks.push(subject.compare("grad_x, added", &got, &twice(&grad_x), 2.0 * sum_tolerance(n_out)));

    let mut got = vec![0.0; n_in * n_out];
    bwd_weight(&mut got, &grad_out, &x, &shape);
    checks.push(subject.compare("grad_weight", &got, &grad_weight, sum_tolerance(n)));
    bwd_weight(&mut got, &grad_out, &x, &shape);
    checks.push(subject.compare("grad_weight, added", &got, &twice(&grad_weight), 2.0 * sum_tolerance(n)));

    let mut got = vec![0.0; n_out];
    bwd_bias(&mut got, &grad_out);
    checks.push(subject.compare("grad_bias", &got, &grad_bias, sum_tolerance(n)));
    bwd_bias(&mut got, &grad_out);
    checks.push(subject.compare("grad_bias, added", &got, &twice(&grad_bias), 2.0 * sum_tolerance(n)));
    Ok(checks)
}
