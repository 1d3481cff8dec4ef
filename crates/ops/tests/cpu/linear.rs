use wattle_ops::Store;
use wattle_ops::linear::cpu::{self, Layout, Shape};
use wattle_ops::linear::{linear, linear_transposed};

use crate::harness::*;

/// (n, in, out, atol). Sums of up to 600 products of standard normal numbers: the rounding of each addition is
/// half a unit of the partial sum, √600 · 6e-8 of about 25; ten times that.
const TABLE: [(usize, usize, usize, f64); 6] = [
    (1, 1, 1, 1e-6),
    (9, 7, 41, 1e-5),
    (16, 33, 17, 2e-5),
    (33, 64, 65, 2e-5),
    (40, 600, 31, 3e-4),
    (600, 15, 130, 3e-4),
];

#[test]
fn linear_is_its_reference_both_ways_round() {
    for (n, n_in, n_out, atol) in TABLE {
        for layout in [Layout::InputFirst, Layout::OutputFirst] {
            check(n, Shape { n_in, n_out, layout }, atol);
        }
    }
}

fn check(n: usize, shape: Shape, atol: f64) {
    let Shape { n_in, n_out, layout } = shape;
    let what = format!("{n} rows of {shape:?}");
    let (x, weight, bias) = (normal(0, n * n_in), normal(1, n_in * n_out), normal(2, n_out));
    let grad_out = normal(3, n * n_out);
    let weight_shape = if layout == Layout::InputFirst { [n_in, n_out] } else { [n_out, n_in] };
    let (x_var, weight_var, bias_var) =
        (var(&x, &[1, n, n_in]), var(&weight, &weight_shape), var(&bias, &[n_out]));
    let expected = match layout {
        Layout::InputFirst => linear(&x_var, &weight_var, Some(&bias_var)).unwrap(),
        Layout::OutputFirst => {
            linear_transposed(&x_var, &weight_var).unwrap().broadcast_add(&bias_var).unwrap()
        }
    };
    let [grad_x, grad_weight, grad_bias] = gradients(&expected, &grad_out, [&x_var, &weight_var, &bias_var]);

    let mut out = vec![f32::NAN; n * n_out];
    cpu::fwd(&mut out, &x, &weight, Some(&bias), &shape);
    assert_close(&what, &out, &values(&expected), atol, 1e-6);
    cpu::fwd(&mut out, &x, &weight, None, &shape);
    let without_bias = values(&expected.broadcast_sub(&bias_var).unwrap());
    assert_close(&what, &out, &without_bias, atol, 1e-6);

    let mut got = vec![f32::NAN; n * n_in];
    cpu::bwd_x(&mut got, Store::Overwrite, &grad_out, &weight, &shape);
    assert_close(&what, &got, &grad_x, atol, 1e-6);
    cpu::bwd_x(&mut got, Store::Accumulate, &grad_out, &weight, &shape);
    assert_close(&what, &got, &twice(&grad_x), 2.0 * atol, 1e-6);

    let mut got = vec![0.0; n_in * n_out];
    cpu::bwd_weight(&mut got, &grad_out, &x, &shape);
    assert_close(&what, &got, &grad_weight, atol, 1e-6);
    cpu::bwd_weight(&mut got, &grad_out, &x, &shape);
    assert_close(&what, &got, &twice(&grad_weight), 2.0 * atol, 1e-6);

    let mut got = vec![0.0; n_out];
    cpu::bwd_bias(&mut got, &grad_out);
    cpu::bwd_bias(&mut got, &grad_out);
    assert_close(&what, &got, &twice(&grad_bias), 2.0 * atol, 1e-6);
}

fn twice(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| 2.0 * x).collect()
}

#[test]
fn rows_do_not_depend_on_how_the_batch_is_cut() {
    // Deep enough for several sums of the inner dimension, and small sizes for which gemm takes other ways.
    let shape = Shape { n_in: 1100, n_out: 70, layout: Layout::InputFirst };
    let (x, weight) = (normal(0, 96 * 1100), normal(1, 1100 * 70));
    let mut whole = vec![0.0; 96 * 70];
    cpu::fwd(&mut whole, &x, &weight, None, &shape);
    for n in [16, 32, 48] {
        let mut parts = vec![0.0; 96 * 70];
        for (out, x) in parts.chunks_mut(n * 70).zip(x.chunks(n * 1100)) {
            cpu::fwd(out, x, &weight, None, &shape);
        }
        assert_same_bits(&format!("slices of {n} rows"), &whole, &parts);
    }
}

#[test]
fn a_weights_gradient_does_not_depend_on_threads() {
    for layout in [Layout::InputFirst, Layout::OutputFirst] {
        let shape = Shape { n_in: 200, n_out: 150, layout };
        let (grad_out, x) = (normal(0, 700 * 150), normal(1, 700 * 200));
        let par = assert_threads_do_not_matter(|| {
            let mut grad = vec![1.0; 200 * 150];
            cpu::bwd_weight_par(&mut grad, &grad_out, &x, &shape);
            grad
        });
        let mut serial = vec![1.0; 200 * 150];
        cpu::bwd_weight(&mut serial, &grad_out, &x, &shape);
        assert_same_bits("in blocks and whole", &par, &serial);
    }
}
