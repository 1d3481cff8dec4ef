use wattle_ops::attention::Kind;
use wattle_ops::attention::cpu::{self, QkvLayout, Saved, Shape};
use wattle_ops::verify::cpu::attention::{DROPPING, KINDS, MASKED, TABLE, check, documents, shape};
use wattle_ops::{Dropout, HeadRows};
use wattle_random::{Purpose, Stream};

use crate::harness::*;

const B: usize = 2;

#[test]
fn attention_is_its_reference() {
    for shape in TABLE.map(shape) {
        assert_hold(check(shape, QkvLayout::fused(&shape), None, None));
    }
}

#[test]
fn attention_takes_queries_keys_and_values_from_blocks_of_their_own() {
    let shape = Shape { t: 21, n_heads: 4, n_kv_heads: 2, head_width: 12, kind: Kind::Causal };
    let (q, kv) = (4 * 12, 2 * 12);
    let n = B * 21;
    let block = |offset, row_stride| HeadRows { offset, row_stride };
    let layout = QkvLayout { q: block(0, q), k: block(n * q, kv), v: block(n * (q + kv), kv) };
    assert_hold(check(shape, layout, None, None));
}

#[test]
fn attention_drops_what_its_reference_drops() {
    for shape in DROPPING.map(shape) {
        for first_sequence in [0, 3] {
            let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
            let dropout = Dropout { probability: 0.25, stream, first_sequence };
            assert_hold(check(shape, QkvLayout::fused(&shape), None, Some(dropout)));
        }
    }
}

#[test]
fn a_slice_of_the_batch_gives_the_bits_of_the_whole() {
    let shape = Shape { t: 37, n_heads: 3, n_kv_heads: 3, head_width: 20, kind: Kind::Causal };
    let layout = QkvLayout::fused(&shape);
    let (width, b) = (3 * 60, 4);
    let qkv = normal(0, b * 37 * width);
    let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
    let run = |qkv: &[f32], first_sequence| {
        let b = qkv.len() / (37 * width);
        let dropout = Dropout { probability: 0.1, stream, first_sequence };
        let (mut out, mut lse) = (vec![0.0; b * 37 * 60], vec![0.0; b * 3 * 37]);
        let mut scratch = vec![0.0; shape.bwd_scratch_len().max(shape.fwd_scratch_len())];
        cpu::fwd(&mut out, &mut lse, qkv, &layout, &shape, None, Some(&dropout), &mut scratch);
        let mut grad = vec![0.0; qkv.len()];
        let saved = Saved { out: &out, log_sum_exp: &lse, qkv };
        cpu::bwd(&mut grad, &out, saved, &layout, &shape, None, Some(&dropout), &mut scratch);
        (out, grad)
    };
    let (out, grad) = run(&qkv, 0);
    let (out_tail, grad_tail) = run(&qkv[37 * width..], 1);
    assert_same_bits("outputs", &out[37 * 60..], &out_tail);
    assert_same_bits("gradients", &grad[37 * width..], &grad_tail);
}

#[test]
fn every_kind_is_its_reference_with_documents_and_dropout() {
    let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
    let dropout = Dropout { probability: 0.25, stream, first_sequence: 2 };
    for of_table in MASKED.map(shape) {
        let documents = documents(of_table.t);
        for kind in KINDS.into_iter().chain([Kind::Causal]) {
            let shape = Shape { kind, ..of_table };
            let layout = QkvLayout::fused(&shape);
            for dropout in [None, Some(dropout)] {
                assert_hold(check(shape, layout, None, dropout));
                assert_hold(check(shape, layout, Some(&documents), dropout));
            }
        }
    }
}

/// The output, log-sum-exp and gradient of q, k and v.
fn run(shape: &Shape, documents: Option<&[u32]>, qkv: &[f32], grad_out: &[f32]) -> [Vec<f32>; 3] {
    let layout = QkvLayout::fused(shape);
    let mut scratch = vec![f32::NAN; shape.bwd_scratch_len().max(shape.fwd_scratch_len())];
    let n_rows = grad_out.len() / (shape.n_heads * shape.head_width);
    let (mut out, mut lse) = (vec![f32::NAN; grad_out.len()], vec![f32::NAN; n_rows * shape.n_heads]);
    cpu::fwd(&mut out, &mut lse, qkv, &layout, shape, documents, None, &mut scratch);
    let mut grad = vec![f32::NAN; qkv.len()];
    let saved = Saved { out: &out, log_sum_exp: &lse, qkv };
    cpu::bwd(&mut grad, grad_out, saved, &layout, shape, documents, None, &mut scratch);
    [out, lse, grad]
}

#[test]
fn no_gradient_crosses_the_border_of_a_document() {
    let (t, n_heads, n_kv_heads, d) = (41, 4, 2, 9);
    let (width, row) = (n_heads * d, (n_heads + 2 * n_kv_heads) * d);
    let borders = [0, 1, 7, 16, 30, 41];
    let start = |i: usize| borders.into_iter().rfind(|border| *border <= i).unwrap_or(0) as u32;
    let documents: Vec<u32> = (0..t).map(start).collect();
    let qkv = normal(0, t * row);
    for kind in [Kind::Causal, Kind::Full, Kind::Window(5)] {
        let shape = Shape { t, n_heads, n_kv_heads, head_width: d, kind };
        for document in borders.windows(2) {
            let document = document[0]..document[1];
            // Only this document has a gradient, so only its rows get one.
            let mut grad_out = normal(1, t * width);
            let outside = |i: usize, width: usize| !document.contains(&(i / width));
            grad_out.iter_mut().enumerate().for_each(|(i, grad)| {
                if outside(i, width) {
                    *grad = 0.0;
                }
            });
            let [out, _, grad] = run(&shape, Some(&documents), &qkv, &grad_out);
            for (i, &grad) in grad.iter().enumerate() {
                if outside(i, row) {
                    assert_eq!(grad, 0.0, "{kind:?} {document:?}: element {i}");
                } else if i % row >= (n_heads + n_kv_heads) * d {
                    // Values have one whatever the softmax does; that of a row that sees itself alone is constant.
                    assert_ne!(grad, 0.0, "{kind:?} {document:?}: element {i}");
                }
            }
            // What other documents hold changes no bit of this one's output.
            let mut changed = normal(2, t * row);
            changed[document.start * row..document.end * row]
                .copy_from_slice(&qkv[document.start * row..document.end * row]);
            let [other, _, _] = run(&shape, Some(&documents), &changed, &grad_out);
            let part = document.start * width..document.end * width;
            assert_same_bits("outputs of a document", &out[part.clone()], &other[part]);
        }
    }
}

#[test]
fn a_document_at_a_panels_border_gives_the_bits_of_a_sequence_of_its_own() {
    let (n_heads, d) = (2, 24);
    let (t, width, row) = (96, n_heads * d, 3 * n_heads * d);
    let documents: Vec<u32> = (0..t).map(|i| if i < 32 { 0 } else { 32 }).collect();
    let (qkv, grad_out) = (normal(0, t * row), normal(1, t * width));
    for kind in [Kind::Causal, Kind::Full, Kind::Window(40)] {
        let shape = Shape { t, n_heads, n_kv_heads: n_heads, head_width: d, kind };
        let [out, _, grad] = run(&shape, Some(&documents), &qkv, &grad_out);
        let alone = Shape { t: 64, ..shape };
        let [out_alone, _, grad_alone] = run(&alone, None, &qkv[32 * row..], &grad_out[32 * width..]);
        assert_same_bits("outputs", &out[32 * width..], &out_alone);
        assert_same_bits("gradients", &grad[32 * row..], &grad_alone);
    }
}

#[test]
fn what_hides_nothing_changes_no_bit() {
    let causal = Shape { t: 37, n_heads: 3, n_kv_heads: 1, head_width: 20, kind: Kind::Causal };
    let (qkv, grad_out) = (normal(0, 2 * 37 * 100), normal(1, 2 * 37 * 60));
    let expected = run(&causal, None, &qkv, &grad_out);
    let one_document = vec![0; 2 * 37];
    for (kind, documents) in [
        (Kind::Causal, Some(&one_document[..])),
        (Kind::Window(37), None),
        (Kind::Window(1000), Some(&one_document)),
    ] {
        let got = run(&Shape { kind, ..causal }, documents, &qkv, &grad_out);
        for (got, expected) in got.iter().zip(&expected) {
            assert_same_bits(&format!("{kind:?}"), got, expected);
        }
    }
}

#[test]
#[should_panic(expected = "sequence 0, row 1: its document starts at 5")]
fn documents_that_do_not_follow_one_another_are_refused() {
    let shape = Shape { t: 3, n_heads: 1, n_kv_heads: 1, head_width: 1, kind: Kind::Causal };
    run(&shape, Some(&[0, 5, 5]), &[0.0; 9], &[0.0; 3]);
}
