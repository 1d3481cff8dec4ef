use wattle_ops::layer_norm::cpu as layer;
use wattle_ops::rms_norm::cpu as rms;
use wattle_ops::verify::cpu::{layer_norm, rms_norm};

use crate::harness::*;

/// Rows.
const N: usize = 9;
const EPS: f32 = 1e-5;

#[test]
fn layer_norm_is_its_reference() {
    for c in WIDTHS {
        for with_bias in [true, false] {
            assert_hold(layer_norm::check(c, with_bias));
        }
        assert_hold(layer_norm::check_residual(c));
    }
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
        assert_hold(rms_norm::check(c));
    }
}

#[test]
fn a_residual_rms_norm_is_an_addition_and_a_norm() {
    for c in WIDTHS {
        let (x, y, weight) = (normal(0, N * c), normal(4, N * c), normal(1, c));
        let norm = rms::Norm { weight: &weight, eps: EPS };
        let (mut sum, mut fused, mut rstd) = (vec![0.0; N * c], vec![0.0; N * c], vec![0.0; N]);
        rms::residual_fwd(&mut sum, &mut fused, &mut rstd, &x, &y, &norm);
        let added: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        let (mut out, mut rstd_2) = (vec![0.0; N * c], vec![0.0; N]);
        rms::fwd(&mut out, &mut rstd_2, &added, &norm);
        assert_same_bits("sums", &sum, &added);
        assert_same_bits("norms", &fused, &out);
        assert_same_bits("deviations", &rstd, &rstd_2);
    }
}
