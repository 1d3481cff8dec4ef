use candle_core::{Device, Tensor, Var};
use wattle_ops::attention::cpu::{self, QkvLayout, Saved, Shape};
use wattle_ops::attention::{causal_attention, causal_mask};
use wattle_ops::{Dropout, HeadRows};
use wattle_random::{Purpose, Stream};

use crate::harness::*;

const B: usize = 2;

/// (t, query heads, key heads, head width): around strips, vectors, panels and blocks, and odd ones.
const TABLE: [(usize, usize, usize, usize); 12] = [
    (1, 1, 1, 1),
    (3, 2, 2, 15),
    (4, 2, 1, 16),
    (9, 7, 7, 41),
    (16, 1, 1, 17),
    (17, 4, 2, 33),
    (31, 2, 2, 31),
    (32, 2, 2, 32),
    (33, 3, 1, 8),
    (64, 4, 4, 32),
    (65, 2, 1, 64),
    (100, 2, 2, 48),
];

/// Scores are sums of d products with errors of some 6e-8·√d, probabilities have that relative error, and
/// sums over up to 100 rows of products with standard normal numbers about √100 of it: 1e-5 is three times the
/// largest seen.
const ATOL: f64 = 1e-5;
const RTOL: f64 = 1e-5;

#[test]
fn attention_is_its_reference() {
    for (t, n_heads, n_kv_heads, head_width) in TABLE {
        let shape = Shape { t, n_heads, n_kv_heads, head_width };
        check(shape, QkvLayout::fused(&shape), None);
    }
}

#[test]
fn attention_takes_queries_keys_and_values_from_blocks_of_their_own() {
    let shape = Shape { t: 21, n_heads: 4, n_kv_heads: 2, head_width: 12 };
    let (q, kv) = (4 * 12, 2 * 12);
    let n = B * 21;
    let block = |offset, row_stride| HeadRows { offset, row_stride };
    let layout = QkvLayout { q: block(0, q), k: block(n * q, kv), v: block(n * (q + kv), kv) };
    check(shape, layout, None);
}

#[test]
fn attention_drops_what_its_reference_drops() {
    for (t, n_heads, n_kv_heads, head_width) in [(9, 7, 7, 41), (33, 4, 2, 16), (64, 2, 2, 32)] {
        let shape = Shape { t, n_heads, n_kv_heads, head_width };
        for first_sequence in [0, 3] {
            let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
            let dropout = Dropout { probability: 0.25, stream, first_sequence };
            check(shape, QkvLayout::fused(&shape), Some(dropout));
        }
    }
}

fn check(shape: Shape, layout: QkvLayout, dropout: Option<Dropout>) {
    let Shape { t, n_heads, n_kv_heads, head_width: d } = shape;
    let what = format!("{shape:?}, dropout {dropout:?}");
    let width = (n_heads + 2 * n_kv_heads) * d;
    let qkv = normal(0, B * t * width);
    let grad_out = normal(1, B * t * n_heads * d);

    // One variable holds the buffer; heads are picked from it by index.
    let qkv_var = var(&qkv, &[qkv.len()]);
    let q = heads(&qkv_var, layout.q, &shape, n_heads);
    let [k, v] = [layout.k, layout.v].map(|rows| {
        let heads_bhtd = heads(&qkv_var, rows, &shape, n_kv_heads);
        let group = n_heads / n_kv_heads;
        let repeated = heads_bhtd.unsqueeze(2).unwrap().broadcast_as((B, n_kv_heads, group, t, d)).unwrap();
        repeated.reshape((B, n_heads, t, d)).unwrap()
    });
    let mask = causal_mask(t, &Device::Cpu).unwrap();
    let expected = causal_attention(&q, &k, &v, &mask, dropout.as_ref()).unwrap();
    let expected = expected.transpose(1, 2).unwrap().contiguous().unwrap();

    let mut scratch = vec![f32::NAN; shape.fwd_scratch_len()];
    let (mut out, mut log_sum_exp) = (vec![f32::NAN; grad_out.len()], vec![f32::NAN; B * n_heads * t]);
    cpu::fwd(&mut out, &mut log_sum_exp, &qkv, &layout, &shape, dropout.as_ref(), &mut scratch);
    assert_close(&what, &out, &values(&expected), ATOL, RTOL);

    let [expected_grad] = gradients(&expected, &grad_out, [&qkv_var]);
    let mut scratch = vec![f32::NAN; shape.bwd_scratch_len()];
    let mut grad = vec![f32::NAN; qkv.len()];
    let saved = Saved { out: &out, log_sum_exp: &log_sum_exp, qkv: &qkv };
    cpu::bwd(&mut grad, &grad_out, saved, &layout, &shape, dropout.as_ref(), &mut scratch);
    assert_close(&what, &grad, &expected_grad, 5.0 * ATOL, RTOL);
}

/// The heads of a buffer, (b, h, t, d).
fn heads(qkv: &Var, rows: HeadRows, shape: &Shape, n_heads: usize) -> Tensor {
    let (t, d) = (shape.t, shape.head_width);
    let mut indices = Vec::new();
    for sequence in 0..B {
        for head in 0..n_heads {
            for row in 0..t {
                let start = rows.offset + (sequence * t + row) * rows.row_stride + head * d;
                indices.extend((start..start + d).map(|index| index as u32));
            }
        }
    }
    let indices = Tensor::new(indices, &Device::Cpu).unwrap();
    qkv.index_select(&indices, 0).unwrap().reshape((B, n_heads, t, d)).unwrap()
}

#[test]
fn a_slice_of_the_batch_gives_the_bits_of_the_whole() {
    let shape = Shape { t: 37, n_heads: 3, n_kv_heads: 3, head_width: 20 };
    let layout = QkvLayout::fused(&shape);
    let (width, b) = (3 * 60, 4);
    let qkv = normal(0, b * 37 * width);
    let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
    let run = |qkv: &[f32], first_sequence| {
        let b = qkv.len() / (37 * width);
        let dropout = Dropout { probability: 0.1, stream, first_sequence };
        let (mut out, mut lse) = (vec![0.0; b * 37 * 60], vec![0.0; b * 3 * 37]);
        let mut scratch = vec![0.0; shape.bwd_scratch_len().max(shape.fwd_scratch_len())];
        cpu::fwd(&mut out, &mut lse, qkv, &layout, &shape, Some(&dropout), &mut scratch);
        let mut grad = vec![0.0; qkv.len()];
        let saved = Saved { out: &out, log_sum_exp: &lse, qkv };
        cpu::bwd(&mut grad, &out, saved, &layout, &shape, Some(&dropout), &mut scratch);
        (out, grad)
    };
    let (out, grad) = run(&qkv, 0);
    let (out_tail, grad_tail) = run(&qkv[37 * width..], 1);
    assert_same_bits("outputs", &out[37 * 60..], &out_tail);
    assert_same_bits("gradients", &grad[37 * width..], &grad_tail);
}
