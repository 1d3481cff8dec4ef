//! Attention of every kind, with documents and without.

use candle_core::{Device, Result, Tensor, Var};
use wattle_random::{Purpose, Stream};

use crate::attention::cpu::{QkvLayout, Saved, Shape, bwd, fwd};
use crate::attention::{Kind, causal_attention, mask};
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};
use crate::{Dropout, HeadRows};

/// Sequences.
const B: usize = 2;

/// (t, query heads, key heads, head width): around strips, vectors, panels and blocks, odd ones, grouped ones,
/// and heads of GPT-2's width.
pub const TABLE: [[usize; 4]; 13] = [
    [1, 1, 1, 1],
    [3, 2, 2, 15],
    [4, 2, 1, 16],
    [9, 7, 7, 41],
    [16, 1, 1, 17],
    [17, 4, 2, 33],
    [31, 2, 2, 31],
    [32, 2, 2, 32],
    [33, 3, 1, 8],
    [64, 4, 4, 32],
    [65, 2, 1, 64],
    [100, 2, 2, 48],
    [256, 4, 2, 64],
];

/// The shapes that are checked with dropout.
pub const DROPPING: [[usize; 4]; 3] = [[9, 7, 7, 41], [33, 4, 2, 16], [64, 2, 2, 32]];

/// The shapes that are checked with every kind, with documents and without.
pub const MASKED: [[usize; 4]; 5] =
    [[1, 1, 1, 1], [9, 7, 7, 41], [33, 4, 2, 16], [65, 2, 1, 32], [130, 2, 2, 8]];

/// Kinds other than the causal one: windows of one position, within a strip, around a panel, and longer than most of
/// [`MASKED`].
pub const KINDS: [Kind; 6] =
    [Kind::Full, Kind::Window(1), Kind::Window(3), Kind::Window(32), Kind::Window(33), Kind::Window(100)];

/// Where the documents of each row of two sequences start. Those of the first sequence have one row, then end and
/// start around strips of 4, vectors of 16 and panels of 32; the second sequence ends with a document of one row, or is
/// one document if it is a row alone.
pub fn documents(t: usize) -> Vec<u32> {
    let first = [0, 1, 2, 6, 8, 16, 31, 32, 64, 100];
    let second = [0, t - 1];
    let starts = |documents: &[usize]| {
        let start = |row: usize| documents.iter().rev().find(|start| **start <= row).copied();
        (0..t).map(|row| start(row).unwrap_or(0) as u32).collect::<Vec<_>>()
    };
    [starts(&first), starts(&second)].concat()
}

/// Scores are sums of d products with errors of some 6e-8·√d, probabilities have that relative error, and sums
/// over up to 100 rows of products with standard normal numbers about √100 of it: 2e-5 is five times the largest
/// seen.
const TOLERANCE: f64 = 2e-5;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for shape in TABLE.map(shape) {
        all.extend(check(shape, QkvLayout::fused(&shape), None, None)?);
    }
    let stream = Stream::new(3, Purpose::Dropout { site_idx: 1 }, 8);
    let dropout = Dropout { probability: 0.25, stream, first_sequence: 3 };
    for shape in DROPPING.map(shape) {
        all.extend(check(shape, QkvLayout::fused(&shape), None, Some(dropout))?);
    }
    for shape in MASKED.map(shape) {
        let documents = documents(shape.t);
        all.extend(check(shape, QkvLayout::fused(&shape), Some(&documents), None)?);
        for kind in KINDS {
            let shape = Shape { kind, ..shape };
            all.extend(check(shape, QkvLayout::fused(&shape), None, None)?);
            all.extend(check(shape, QkvLayout::fused(&shape), Some(&documents), Some(dropout))?);
        }
    }
    Ok(all)
}

/// The sizes of a row of [`TABLE`], causal.
pub fn shape([t, n_heads, n_kv_heads, head_width]: [usize; 4]) -> Shape {
    Shape { t, n_heads, n_kv_heads, head_width, kind: Kind::Causal }
}

/// Two sequences whose queries, keys and values lie as `layout` says.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check(
    shape: Shape,
    layout: QkvLayout,
    documents: Option<&[u32]>,
    dropout: Option<Dropout>,
) -> Result<Vec<Check>> {
    let Shape { t, n_heads, n_kv_heads, head_width: d, kind } = shape;
    let grouped = if n_kv_heads == n_heads { String::new() } else { format!(", {n_kv_heads} of keys") };
    let dropping = if dropout.is_some() { ", dropout" } else { "" };
    let seen = seen_words(kind, documents.is_some());
    let subject = Subject::f32("attention", format!("({B}, {n_heads}, {t}, {d}){grouped}{seen}{dropping}"));
    let width = (n_heads + 2 * n_kv_heads) * d;
    let (qkv, grad_out) = (normal(0, B * t * width), normal(1, B * t * n_heads * d));
    // One variable holds the buffer; heads are picked from it by index.
    let qkv_var = var(&qkv, &[qkv.len()])?;
    let expected = reference(&qkv_var, &layout, &shape, documents, dropout.as_ref())?;
    let [expected_grad] = gradients(&expected, &grad_out, [&qkv_var])?;

    let mut scratch = vec![f32::NAN; shape.fwd_scratch_len()];
    let (mut out, mut log_sum_exp) = (vec![f32::NAN; grad_out.len()], vec![f32::NAN; B * n_heads * t]);
    fwd(&mut out, &mut log_sum_exp, &qkv, &layout, &shape, documents, dropout.as_ref(), &mut scratch);
    let mut scratch = vec![f32::NAN; shape.bwd_scratch_len()];
    let mut grad = vec![f32::NAN; qkv.len()];
    let saved = Saved { out: &out, log_sum_exp: &log_sum_exp, qkv: &qkv };
    bwd(&mut grad, &grad_out, saved, &layout, &shape, documents, dropout.as_ref(), &mut scratch);
    let tolerance = TOLERANCE * (t as f64 / 100.0).sqrt().max(1.0);
    Ok(vec![
        subject.compare("out", &out, &values(&expected)?, tolerance),
        subject.compare("grad_qkv", &grad, &expected_grad, 5.0 * tolerance),
    ])
}

/// What a query sees, in words; nothing where it is causal.
pub(in crate::verify) fn seen_words(kind: Kind, has_documents: bool) -> String {
    let kind = match kind {
        Kind::Causal => String::new(),
        Kind::Full => ", full".to_owned(),
        Kind::Window(window) => format!(", window {window}"),
    };
    kind + if has_documents { ", documents" } else { "" }
}

/// The outputs of all heads side by side, (b, t, h·d).
fn reference(
    qkv: &Var,
    layout: &QkvLayout,
    shape: &Shape,
    documents: Option<&[u32]>,
    dropout: Option<&Dropout>,
) -> Result<Tensor> {
    let Shape { t, n_heads, n_kv_heads, head_width: d, kind } = *shape;
    let q = heads(qkv, layout.q, shape, n_heads)?;
    let repeated = |rows| {
        let group = n_heads / n_kv_heads;
        let heads_bhtd = heads(qkv, rows, shape, n_kv_heads)?.unsqueeze(2)?;
        heads_bhtd.broadcast_as((B, n_kv_heads, group, t, d))?.reshape((B, n_heads, t, d))
    };
    let mask = mask(kind, t, documents, &Device::Cpu)?;
    let out = causal_attention(&q, &repeated(layout.k)?, &repeated(layout.v)?, &mask, dropout)?;
    out.transpose(1, 2)?.contiguous()
}

/// The heads of a buffer, (b, h, t, d).
fn heads(qkv: &Var, rows: HeadRows, shape: &Shape, n_heads: usize) -> Result<Tensor> {
    let (t, d) = (shape.t, shape.head_width);
    let mut indices = Vec::new();
    for sequence in 0..B {
        for head in 0..n_heads {
            for row in 0..t {
                let start = rows.start(sequence * t + row, head, d);
                indices.extend((start..start + d).map(|index| index as u32));
            }
        }
    }
    let indices = Tensor::new(indices, &Device::Cpu)?;
    qkv.index_select(&indices, 0)?.reshape((B, n_heads, t, d))
}
