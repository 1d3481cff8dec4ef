use candle_core::Tensor;
use wattle_ops::Activation;
use wattle_ops::activation::cpu;
use wattle_ops::swiglu::{cpu as gated, swiglu};

use crate::harness::*;

const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2];

/// Points over the range where an activation bends, and far outside.
fn points() -> Vec<f32> {
    let near = (-4000..=4000).map(|i| i as f32 * 0.00301);
    near.chain([-1e4, -100.0, -30.0, 30.0, 100.0, 1e4]).collect()
}

/// Both parts of the product have errors of about 1.2e-7 of 1: Φ by construction, and x·Φ by rounding.
const ATOL: f64 = 3e-7;
const RTOL: f64 = 6e-7;

#[test]
fn activations_are_their_references() {
    let x = points();
    let grad_out = normal(1, x.len());
    for activation in ALL {
        let x_var = var(&x, &[x.len()]);
        let expected = activation.apply(&x_var).unwrap();
        let mut out = vec![f32::NAN; x.len()];
        cpu::fwd(activation, &mut out, &x);
        assert_close(&format!("{activation:?}"), &out, &values(&expected), ATOL, RTOL);

        let [grad_x] = gradients(&expected, &grad_out, [&x_var]);
        let mut grad = grad_out.clone();
        cpu::bwd(activation, &mut grad, &x);
        // Times a gradient of up to 4; the tanh form's slope adds a term of up to 3 times the logistic's error.
        assert_close(&format!("{activation:?} gradient"), &grad, &grad_x, 8.0 * ATOL, 2.0 * RTOL);
    }
}

#[test]
fn not_a_number_is_not_hidden() {
    for activation in ALL {
        let mut out = [0.0; 3];
        cpu::fwd(activation, &mut out, &[1.0, f32::NAN, -1.0]);
        assert!(out[1].is_nan() && !out[0].is_nan() && !out[2].is_nan(), "{activation:?}: {out:?}");
    }
}

#[test]
fn a_bias_is_added_before_and_gets_its_gradient() {
    for c in WIDTHS {
        let n = 9;
        let (x, bias, grad_out) = (normal(0, n * c), normal(1, c), normal(2, n * c));
        for activation in ALL {
            let what = format!("{activation:?}, width {c}");
            let (x_var, bias_var) = (var(&x, &[n, c]), var(&bias, &[c]));
            let expected = activation.apply(&x_var.broadcast_add(&bias_var).unwrap()).unwrap();
            let mut out = vec![f32::NAN; n * c];
            cpu::bias_fwd(activation, &mut out, &x, &bias);
            assert_close(&what, &out, &values(&expected), 2.0 * ATOL, RTOL);

            let [grad_x, grad_bias] = gradients(&expected, &grad_out, [&x_var, &bias_var]);
            let (mut grad, mut got_bias) = (grad_out.clone(), vec![0.0; c]);
            cpu::bias_bwd(activation, &mut grad, &mut got_bias, &x, &bias);
            assert_close(&what, &grad, &grad_x, 8.0 * ATOL, 2.0 * RTOL);
            assert_close(&what, &got_bias, &grad_bias, 40.0 * ATOL, 2.0 * RTOL);
        }
    }
}

#[test]
fn swiglu_is_its_reference() {
    let gate: Vec<f32> = points().into_iter().filter(|x| x.abs() < 50.0).collect();
    let (up, grad_out) = (normal(1, gate.len()), normal(2, gate.len()));
    let (gate_var, up_var) = (var(&gate, &[gate.len()]), var(&up, &[gate.len()]));
    let expected: Tensor = swiglu(&gate_var, &up_var).unwrap();
    let mut out = vec![f32::NAN; gate.len()];
    gated::fwd(&mut out, &gate, &up);
    assert_close("swiglu", &out, &values(&expected), ATOL, 2.0 * RTOL);

    let expected_grads = gradients(&expected, &grad_out, [&gate_var, &up_var]);
    let (mut grad_gate, mut grad_up) = (vec![f32::NAN; gate.len()], vec![f32::NAN; gate.len()]);
    gated::bwd(&mut grad_gate, &mut grad_up, &grad_out, &gate, &up);
    // 1 + gate·(1 − σ) cancels for gates near −1.3, with terms of size 1 times gradients of up to 16.
    assert_close("gate", &grad_gate, &expected_grads[0], 20.0 * ATOL, 2.0 * RTOL);
    assert_close("up", &grad_up, &expected_grads[1], ATOL, 2.0 * RTOL);
}
