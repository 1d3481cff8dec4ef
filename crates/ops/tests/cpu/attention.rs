use wattle_ops::attention::cpu::{self, QkvLayout, Saved, Shape};
use wattle_ops::verify::cpu::attention::{DROPPING, TABLE, check, shape};
use wattle_ops::{Dropout, HeadRows};
use wattle_random::{Purpose, Stream};

use crate::harness::*;

const B: usize = 2;

#[test]
fn attention_is_its_reference() {
    for shape in TABLE.map(shape) {
        assert_hold(check(shape, QkvLayout::fused(&shape), None));
    }
}

#[test]
fn attention_takes_queries_keys_and_values_from_blocks_of_their_own() {
    let shape = Shape { t: 21, n_heads: 4, n_kv_heads: 2, head_width: 12 };
    let (q, kv) = (4 * 12, 2 * 12);
    let n = B * 21;
    let block = |offset, row_stride| HeadRows { offset, row_stride };
    let layout = QkvLayout { q: block(0, q), k: block(n * q, kv), v: block(n * (q + kv), kv) };
    assert_hold(check(shape, layout, None));
}

#[test]
fn attention_drops_what_its_reference_drops() {
    for shape in DROPPING.map(shape) {
        for first_sequence in [0, 3] {
            let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
            let dropout = Dropout { probability: 0.25, stream, first_sequence };
            assert_hold(check(shape, QkvLayout::fused(&shape), Some(dropout)));
        }
    }
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
