use wattle_ops::head_norm::cpu as head;
use wattle_ops::layer_norm::cpu as layer;
use wattle_ops::rms_norm::cpu as rms;
use wattle_ops::verify::cpu::{layer_norm, rms_norm};
use wattle_ops::{HeadRows, Store};

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

/// Each head is a row of its own to the norm of rows, and other columns are left alone.
#[test]
fn a_norm_of_heads_is_that_of_rows_of_their_width() {
    const HEADS: usize = 3;
    for c in WIDTHS {
        let (offset, row_stride) = (2, HEADS * c + 5);
        let (x, grad_out, weight) = (normal(0, N * row_stride), normal(4, N * row_stride), normal(1, c));
        let gathered = |rows: &[f32]| -> Vec<f32> {
            rows.chunks_exact(row_stride).flat_map(|row| row[offset..][..HEADS * c].to_vec()).collect()
        };
        let beside = |rows: &[f32]| -> Vec<f32> {
            let ends = |row: &[f32]| [&row[..offset], &row[offset + HEADS * c..]].concat();
            rows.chunks_exact(row_stride).flat_map(ends).collect()
        };
        let norm = rms::Norm { weight: &weight, eps: EPS };
        let heads = head::Heads {
            n_rows: N,
            n_heads: HEADS,
            rows: HeadRows { offset, row_stride },
            saved: HeadRows { offset: 0, row_stride: HEADS * c },
            rstd: HeadRows { offset: 0, row_stride: HEADS },
            norm,
        };
        let (mut out, mut saved, mut rstd) = (x.clone(), vec![0.0; N * HEADS * c], vec![0.0; N * HEADS]);
        head::fwd(&mut out, &mut saved, &mut rstd, &heads);
        let (mut expected, mut rstd_2) = (vec![0.0; N * HEADS * c], vec![0.0; N * HEADS]);
        rms::fwd(&mut expected, &mut rstd_2, &gathered(&x), &norm);
        assert_same_bits("saved", &saved, &gathered(&x));
        assert_same_bits("norms", &gathered(&out), &expected);
        assert_same_bits("deviations", &rstd, &rstd_2);
        assert_same_bits("columns beside", &beside(&out), &beside(&x));

        let (mut grad, mut grad_weight) = (grad_out.clone(), vec![0.25; c]);
        head::bwd(&mut grad, &mut grad_weight, &saved, &rstd, &heads, &mut vec![0.0; HEADS * c]);
        let (mut expected, mut expected_weight) = (vec![0.0; N * HEADS * c], vec![0.25; c]);
        let of_rows = rms::Saved { x: &saved, rstd: &rstd };
        let (store, grads) = (Store::Overwrite, gathered(&grad_out));
        rms::bwd(&mut expected, store, &mut expected_weight, &grads, of_rows, &weight);
        assert_same_bits("gradients", &gathered(&grad), &expected);
        assert_same_bits("gradients of the weight", &grad_weight, &expected_weight);
        assert_same_bits("gradients beside", &beside(&grad), &beside(&grad_out));
    }
}
