//! The nonlinearities.

use candle_core::Result;

use super::sum_tolerance;
use crate::Activation;
use crate::activation::cpu::{bias_bwd, bias_fwd, bwd, fwd};
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};

/// All of them, by name.
const ALL: [(Activation, &str); 3] =
    [(Activation::Gelu, "gelu"), (Activation::GeluTanh, "gelu_tanh"), (Activation::Relu, "relu")];

/// (n, c)
const TABLE: [[usize; 2]; 4] = [[9, 1], [9, 41], [9, 130], [64, 1536]];

/// Both parts of x·Φ have errors of about 1.2e-7 of x, by construction and by rounding, and x goes to 12.
const NEAR: f64 = 5e-6;
/// Far outside, out is 0 or x: the rounding of 1e4.
const FAR: f64 = 1e-3;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for (activation, name) in ALL {
        let near: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.00301).collect();
        let far = vec![-1e4, -100.0, -30.0, 30.0, 100.0, 1e4];
        all.extend(check(activation, format!("{name}, |x| to 12"), &near, NEAR)?);
        all.extend(check(activation, format!("{name}, |x| to 1e4"), &far, FAR)?);
        for [n, c] in TABLE {
            all.extend(check_bias(activation, format!("{name} ({n}, {c}), bias"), n, c)?);
        }
    }
    Ok(all)
}

fn check(activation: Activation, shape: String, x: &[f32], tolerance: f64) -> Result<Vec<Check>> {
    let subject = Subject::f32("activation", shape);
    let grad_out = normal(1, x.len());
    let x_var = var(x, &[x.len()])?;
    let expected = activation.apply(&x_var)?;
    let [grad_x] = gradients(&expected, &grad_out, [&x_var])?;
    let mut out = vec![f32::NAN; x.len()];
    fwd(activation, &mut out, x);
    let mut grad = grad_out.clone();
    bwd(activation, &mut grad, x);
    Ok(vec![
        subject.compare("out", &out, &values(&expected)?, tolerance),
        // Slopes of about 1, times gradients of up to 4.
        subject.compare("grad_x", &grad, &grad_x, NEAR),
    ])
}

fn check_bias(activation: Activation, shape: String, n: usize, c: usize) -> Result<Vec<Check>> {
    let subject = Subject::f32("activation", shape);
    let (x, bias, grad_out) = (normal(0, n * c), normal(1, c), normal(2, n * c));
    let (x_var, bias_var) = (var(&x, &[n, c])?, var(&bias, &[c])?);
    let expected = activation.apply(&x_var.broadcast_add(&bias_var)?)?;
    let [grad_x, grad_bias] = gradients(&expected, &grad_out, [&x_var, &bias_var])?;
    let mut out = vec![f32::NAN; n * c];
    bias_fwd(activation, &mut out, &x, &bias);
    let (mut grad, mut got_bias) = (grad_out.clone(), vec![0.0; c]);
    bias_bwd(activation, &mut grad, &mut got_bias, &x, &bias);
    Ok(vec![
        subject.compare("out", &out, &values(&expected)?, NEAR),
        subject.compare("grad_x", &grad, &grad_x, NEAR),
        subject.compare("grad_bias", &got_bias, &grad_bias, NEAR + sum_tolerance(n)),
    ])
}
