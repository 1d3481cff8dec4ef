//! The nonlinearities.

use candle_core::Result;

use super::sum_tolerance;
use crate::Activation;
use crate::activation::cpu::{bias_bwd, bias_fwd, bwd, fwd};
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};

/// All of them, by name, with the tolerances near 0 and far from it.
const ALL: [(Activation, &str, [[f64; 2]; 2]); 4] = [
    (Activation::Gelu, "gelu", TOLERANCES),
    (Activation::GeluTanh, "gelu_tanh", TOLERANCES),
    (Activation::Relu, "relu", TOLERANCES),
    (Activation::Relu2, "relu2", TOLERANCES_OF_SQUARE),
];

/// (n, c)
const TABLE: [[usize; 2]; 4] = [[9, 1], [9, 41], [9, 130], [64, 1536]];

/// Both parts of x·Φ have errors of about 1.2e-7 of x, by construction and by rounding, and x goes to 12.
const NEAR: f64 = 5e-6;
/// Far outside, out is 0 or x: the rounding of 1e4.
const FAR: f64 = 1e-3;
/// Of a value and of a slope.
const TOLERANCES: [[f64; 2]; 2] = [[NEAR, NEAR], [FAR, NEAR]];
/// A square goes to 144 where x goes to 12, and its slope to 24.
const TOLERANCES_OF_SQUARE: [[f64; 2]; 2] = [[16.0 * NEAR; 2], [16.0 * FAR; 2]];

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for (activation, name, [of_near, of_far]) in ALL {
        let near: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.00301).collect();
        let far = vec![-1e4, -100.0, -30.0, 30.0, 100.0, 1e4];
        all.extend(check(activation, format!("{name}, |x| to 12"), &near, of_near)?);
        all.extend(check(activation, format!("{name}, |x| to 1e4"), &far, of_far)?);
        for [n, c] in TABLE {
            all.extend(check_bias(activation, format!("{name} ({n}, {c}), bias"), [n, c], of_near[0])?);
        }
    }
    Ok(all)
}

fn check(
    activation: Activation,
    shape: String,
    x: &[f32],
    [of_value, of_slope]: [f64; 2],
) -> Result<Vec<Check>> {
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
        subject.compare("out", &out, &values(&expected)?, of_value),
        // Slopes of about 1, or twice what goes in, times gradients of up to 4.
        subject.compare("grad_x", &grad, &grad_x, of_slope),
    ])
}

fn check_bias(
    activation: Activation,
    shape: String,
    [n, c]: [usize; 2],
    tolerance: f64,
) -> Result<Vec<Check>> {
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
        subject.compare("out", &out, &values(&expected)?, tolerance),
        subject.compare("grad_x", &grad, &grad_x, tolerance),
        subject.compare("grad_bias", &got_bias, &grad_bias, tolerance + sum_tolerance(n)),
    ])
}
