use wattle_ops::Store;
use wattle_ops::layer_norm::{cpu as layer, layer_norm};
use wattle_ops::rms_norm::{cpu as rms, rms_norm};

use crate::harness::*;

/// Rows.
const N: usize = 9;
const EPS: f32 = 1e-5;
/// A row of one element has no deviation: x − mean is 0 ± rounding, times 1/√eps = 316.
const ATOL: f64 = 1e-5;
const RTOL: f64 = 1e-5;

#[test]
fn layer_norm_is_its_reference() {
    for c in WIDTHS {
        for with_bias in [true, false] {
            check_layer_norm(c, with_bias);
        }
    }
}

fn check_layer_norm(c: usize, with_bias: bool) {
    let what = format!("width {c}, bias {with_bias}");
    // Off centre, so that a variance by differences of large numbers would show.
    let x: Vec<f32> = normal(0, N * c).iter().map(|x| x + 10.0).collect();
    let (weight, bias, grad_out) = (normal(1, c), normal(2, c), normal(3, N * c));
    let (x_var, weight_var, bias_var) = (var(&x, &[N, c]), var(&weight, &[c]), var(&bias, &[c]));
    let bias_tensor = with_bias.then_some(bias_var.as_tensor());
    let expected = layer_norm(&x_var, &weight_var, bias_tensor, f64::from(EPS)).unwrap();

    let norm = layer::Norm { weight: &weight, bias: with_bias.then_some(&bias[..]), eps: EPS };
    let (mut out, mut mean, mut rstd) = (vec![f32::NAN; N * c], vec![f32::NAN; N], vec![f32::NAN; N]);
    layer::fwd(&mut out, layer::Stats { mean: &mut mean, rstd: &mut rstd }, &x, &norm);
    // With the mean at 10, x − mean carries the rounding of 10, 5e-7, into deviations of about 1.
    assert_close(&what, &out, &values(&expected), 10.0 * ATOL, RTOL);

    let saved = layer::Saved { x: &x, mean: &mean, rstd: &rstd };
    let [grad_x, grad_weight] = gradients(&expected, &grad_out, [&x_var, &weight_var]);
    let mut got_weight = vec![0.0; c];
    let mut got_bias = vec![0.0; c];
    let mut got_x = vec![f32::NAN; N * c];
    let bias_slot = with_bias.then_some(&mut got_bias[..]);
    layer::bwd(&mut got_x, Store::Overwrite, &mut got_weight, bias_slot, &grad_out, saved, &weight);
    // One element: all is cancellation, of terms 316 times as large.
    let atol = if c == 1 { 1e-3 } else { 20.0 * ATOL };
    assert_close(&what, &got_x, &grad_x, atol, RTOL);
    assert_close(&what, &got_weight, &grad_weight, 20.0 * ATOL, RTOL);
    if with_bias {
        let [grad_bias] = gradients(&expected, &grad_out, [&bias_var]);
        assert_close(&what, &got_bias, &grad_bias, ATOL, RTOL);
    }

    let before = got_x.clone();
    layer::bwd(&mut got_x, Store::Accumulate, &mut got_weight, None, &grad_out, saved, &weight);
    let doubled: Vec<f64> = before.iter().map(|&x| 2.0 * f64::from(x)).collect();
    assert_close(&what, &got_x, &doubled, 0.0, 0.0);
    let doubled: Vec<f64> = grad_weight.iter().map(|x| 2.0 * x).collect();
    assert_close(&what, &got_weight, &doubled, 40.0 * ATOL, RTOL);
}

#[test]
fn a_residual_layer_norm_is_an_addition_and_a_norm() {
    for c in WIDTHS {
        let (x, y, bias) = (normal(0, N * c), normal(1, N * c), normal(2, c));
        let weight = normal(3, c);
        let norm = layer::Norm { weight: &weight, bias: Some(&bias), eps: EPS };
        for addend_bias in [None, Some(&bias[..])] {
            let (mut sum, mut out) = (vec![f32::NAN; N * c], vec![f32::NAN; N * c]);
            let (mut mean, mut rstd) = (vec![0.0; N], vec![0.0; N]);
            let stats = layer::Stats { mean: &mut mean, rstd: &mut rstd };
            let addend = layer::Addend { rows: &y, bias: addend_bias };
            layer::residual_fwd(&mut sum, &mut out, stats, &x, &addend, &norm);
            let added: Vec<f32> =
                (0..N * c).map(|i| x[i] + addend_bias.map_or(y[i], |bias| y[i] + bias[i % c])).collect();
            assert_same_bits("sums", &sum, &added);
            let mut expected = vec![f32::NAN; N * c];
            let (mut mean_2, mut rstd_2) = (vec![0.0; N], vec![0.0; N]);
            layer::fwd(&mut expected, layer::Stats { mean: &mut mean_2, rstd: &mut rstd_2 }, &added, &norm);
            assert_same_bits("norms", &out, &expected);
            assert_same_bits("means", &mean, &mean_2);
            assert_same_bits("deviations", &rstd, &rstd_2);
        }
    }
}

#[test]
fn rms_norm_is_its_reference() {
    for c in WIDTHS {
        let what = format!("width {c}");
        let (x, weight, grad_out) = (normal(0, N * c), normal(1, c), normal(3, N * c));
        let (x_var, weight_var) = (var(&x, &[N, c]), var(&weight, &[c]));
        let expected = rms_norm(&x_var, &weight_var, f64::from(EPS)).unwrap();
        let norm = rms::Norm { weight: &weight, eps: EPS };
        let (mut out, mut rstd) = (vec![f32::NAN; N * c], vec![f32::NAN; N]);
        rms::fwd(&mut out, &mut rstd, &x, &norm);
        assert_close(&what, &out, &values(&expected), ATOL, RTOL);

        let saved = rms::Saved { x: &x, rstd: &rstd };
        let [grad_x, grad_weight] = gradients(&expected, &grad_out, [&x_var, &weight_var]);
        let (mut got_x, mut got_weight) = (vec![f32::NAN; N * c], vec![0.0; c]);
        rms::bwd(&mut got_x, Store::Overwrite, &mut got_weight, &grad_out, saved, &weight);
        // A small element of a narrow row has a reciprocal of hundreds, and the difference of two such.
        let atol = if c == 1 { 1e-3 } else { ATOL };
        assert_close(&what, &got_x, &grad_x, atol, RTOL);
        assert_close(&what, &got_weight, &grad_weight, ATOL, RTOL);
        let before: Vec<f64> = got_x.iter().map(|&x| 2.0 * f64::from(x)).collect();
        rms::bwd(&mut got_x, Store::Accumulate, &mut got_weight, &grad_out, saved, &weight);
        assert_close(&what, &got_x, &before, 0.0, 0.0);

        let y = normal(4, N * c);
        let (mut sum, mut fused, mut rstd_2) = (vec![0.0; N * c], vec![0.0; N * c], vec![0.0; N]);
        rms::residual_fwd(&mut sum, &mut fused, &mut rstd_2, &x, &y, &norm);
        let added: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        rms::fwd(&mut out, &mut rstd, &added, &norm);
        assert_same_bits(&what, &sum, &added);
        assert_same_bits(&what, &fused, &out);
        assert_same_bits(&what, &rstd, &rstd_2);
    }
}
