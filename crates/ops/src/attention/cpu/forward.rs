//! The forward pass.

use std::ops::Range;

use super::pack::{self, Head};
use super::seen::{Prefix, Ranges, Seen};
use super::softmax::exp_row;
use super::{PANEL, QkvLayout, Shape, first_probability};
use crate::attention::{AttentionDropout, Kind};
use crate::simd::{Simd, dispatch};
use crate::store::Store;
use crate::tile::{Left, Right, STRIP, strip};

/// `out = softmax(q · kᵀ / √d) · v` for each sequence and head, over the keys that `shape.kind` and `documents` let a
/// query see.
///
/// # Shapes
/// `qkv` as `layout` says, b·t rows → `out` (b·t, h·d), `log_sum_exp` (b, h, t), overwritten. `documents` (b·t): the row
/// of its sequence at which each row's document starts, see [`Kind`](crate::attention::Kind). `scratch` has
/// [`Shape::fwd_scratch_len`] floats, of any value. `dropout.first_sequence` is that of the first row.
///
/// # Panics
/// If a slice has another length, the kind is a window of nothing, or documents do not follow one another.
#[expect(clippy::too_many_arguments, reason = "what the passes of an operation share")]
pub fn fwd(
    out: &mut [f32],
    log_sum_exp: &mut [f32],
    qkv: &[f32],
    layout: &QkvLayout,
    shape: &Shape,
    documents: Option<&[u32]>,
    dropout: Option<&AttentionDropout>,
    scratch: &mut [f32],
) {
    shape.n_sequences(out.len(), log_sum_exp.len(), qkv.len(), layout, documents);
    assert!(scratch.len() >= shape.fwd_scratch_len(), "scratch of {} floats", shape.fwd_scratch_len());
    let dropout = dropout.filter(|dropout| dropout.probability > 0.0);
    match (shape.kind, documents) {
        (Kind::Causal, None) => {
            let seen = Prefix;
            dispatch!(kernel::<Prefix>(
                out: &mut [f32],
                log_sum_exp: &mut [f32],
                qkv: &[f32],
                layout: &QkvLayout,
                shape: &Shape,
                seen: Prefix,
                dropout: Option<&AttentionDropout>,
                scratch: &mut [f32],
            ));
        }
        (kind, documents) => {
            let seen = Ranges { kind, t: shape.t, documents };
            dispatch!(kernel::<Ranges<'_>>(
                out: &mut [f32],
                log_sum_exp: &mut [f32],
                qkv: &[f32],
                layout: &QkvLayout,
                shape: &Shape,
                seen: Ranges<'_>,
                dropout: Option<&AttentionDropout>,
                scratch: &mut [f32],
            ));
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "those of the operation")]
fn kernel<S: Simd, K: Seen>(
    out: &mut [f32],
    log_sum_exp: &mut [f32],
    qkv: &[f32],
    layout: &QkvLayout,
    shape: &Shape,
    seen: K,
    dropout: Option<&AttentionDropout>,
    scratch: &mut [f32],
) {
    let &Shape { t, n_heads, n_kv_heads, head_width: d, .. } = shape;
    let (d_padded, group) = (shape.padded_width(), n_heads / n_kv_heads);
    let (keys, scratch) = scratch.split_at_mut(shape.padded_t() * d_padded);
    let (values, scratch) = scratch.split_at_mut(shape.padded_t() * d_padded);
    let sequences = out.chunks_exact_mut(t * n_heads * d).zip(log_sum_exp.chunks_exact_mut(n_heads * t));
    for (sequence, (out, log_sum_exp)) in sequences.enumerate() {
        let head_of = |rows, head| Head { values: qkv, rows, head, width: d };
        for kv_head in 0..n_kv_heads {
            pack::panels(keys, head_of(layout.k, kv_head), sequence * t, t);
            pack::rows(values, head_of(layout.v, kv_head), sequence * t, t, 1.0, d_padded);
            for head in kv_head * group..(kv_head + 1) * group {
                for first in (0..t).step_by(STRIP) {
                    let strip = Strip { first, n: STRIP.min(t - first), sequence, head };
                    let q = head_of(layout.q, head);
                    strip.fwd::<S, K>(out, log_sum_exp, q, keys, values, shape, seen, dropout, scratch);
                }
            }
        }
    }
}

/// Up to four rows of one head.
struct Strip {
    first: usize,
    n: usize,
    sequence: usize,
    head: usize,
}

impl Strip {
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the inner part of a kernel")]
    fn fwd<S: Simd, K: Seen>(
        &self,
        out: &mut [f32],
        log_sum_exp: &mut [f32],
        q: Head<'_>,
        keys: &[f32],
        values: &[f32],
        shape: &Shape,
        seen: K,
        dropout: Option<&AttentionDropout>,
        scratch: &mut [f32],
    ) {
        let (d, d_padded, stride) = (shape.head_width, shape.padded_width(), shape.score_stride());
        let (queries, scratch) = scratch.split_at_mut(STRIP * d_padded);
        let (sums, scratch) = scratch.split_at_mut(STRIP * d_padded);
        let scores = &mut scratch[..STRIP * stride];
        pack::rows(queries, q, self.sequence * shape.t + self.first, self.n, shape.scale(), d_padded);
        let keys_seen = seen.keys_of_rows(self.sequence, self.first, STRIP);
        let panels = whole_panels(keys_seen.clone());
        score(scores, stride, queries, d_padded, keys, d, panels.clone());

        let mut scales = [0f32; STRIP];
        for i in 0..self.n {
            let row = self.first + i;
            let seen = seen.keys(self.sequence, row);
            let row_scores = &mut scores[i * stride..][panels.start..panels.end.next_multiple_of(16)];
            let (max, sum) = exp_row::<S>(row_scores, seen.start - panels.start..seen.end - panels.start);
            scales[i] = 1.0 / sum;
            log_sum_exp[self.head * shape.t + row] = max + sum.ln();
            if let Some(dropout) = dropout {
                let first = first_probability(dropout, shape, self.sequence, self.head, row);
                let row_scores = &mut row_scores[seen.start - panels.start..seen.end - panels.start];
                drop_row(row_scores, dropout, first + seen.start as u64);
            }
        }
        // Rows after the last are products of zeros, and their sums are not used.
        let left = Left { values: &scores[keys_seen.start..], row_stride: stride, column_stride: 1 };
        let right = Right { values: &values[keys_seen.start * d_padded..], row_stride: d_padded };
        strip(sums, d_padded, Store::Overwrite, left, right, d_padded, keys_seen.len());
        for i in 0..self.n {
            let start = ((self.first + i) * shape.n_heads + self.head) * d;
            for (out, &sum) in out[start..start + d].iter_mut().zip(&sums[i * d_padded..]) {
                *out = sum * scales[i];
            }
        }
    }
}

/// `keys` from the beginning of the panel that holds the first of them: scores are computed by whole panels.
#[inline(always)]
pub(super) fn whole_panels(keys: Range<usize>) -> Range<usize> {
    keys.start / PANEL * PANEL..keys.end
}

/// `scores[i, j] = queries[i] · keys[j]` for a strip of queries and the panels that hold `keys`, whose first key begins
/// one.
#[inline(always)]
pub(super) fn score(
    scores: &mut [f32],
    stride: usize,
    queries: &[f32],
    query_stride: usize,
    panels: &[f32],
    d: usize,
    keys: Range<usize>,
) {
    let left = Left { values: queries, row_stride: query_stride, column_stride: 1 };
    let seen = keys.start / PANEL..keys.end.div_ceil(PANEL);
    let panels = panels[seen.start * PANEL * d..].chunks_exact(PANEL * d);
    for (panel_idx, panel) in seen.zip(panels) {
        let right = Right { values: panel, row_stride: PANEL };
        strip(&mut scores[panel_idx * PANEL..], stride, Store::Overwrite, left, right, PANEL, d);
    }
}

/// Multiplies probabilities by their mask, that of elements `first..`.
#[inline(always)]
fn drop_row(row: &mut [f32], dropout: &AttentionDropout, first: u64) {
    const LEN: usize = 64;
    let mut mask = [0f32; LEN];
    for (part_idx, part) in row.chunks_mut(LEN).enumerate() {
        let mask = &mut mask[..part.len()];
        dropout.fill_mask(first + (part_idx * LEN) as u64, mask);
        for (p, &mask) in part.iter_mut().zip(&*mask) {
            *p *= mask;
        }
    }
}
