//! The backward pass.

use std::ops::Range;

use super::forward::{score, whole_panels};
use super::pack::{self, Head};
use super::seen::{Prefix, Ranges, Seen};
use super::softmax::grad_row;
use super::{BLOCK, QkvLayout, Saved, Shape, first_probability};
use crate::attention::{AttentionDropout, Kind};
use crate::heads::HeadRows;
use crate::lanes;
use crate::simd::{Simd, dispatch};
use crate::store::Store;
use crate::tile::{Left, Right, STRIP, strip};

/// The gradients of [`fwd`](super::fwd).
///
/// # Shapes
/// `grad_out` (b·t, h·d) → `grad_qkv` as `layout` says, of which q, k and v are overwritten. `documents` and `dropout` are
/// those of the forward. `scratch` has [`Shape::bwd_scratch_len`] floats, of any value.
///
/// # Panics
/// As [`fwd`](super::fwd).
#[expect(clippy::too_many_arguments, reason = "what the passes of an operation share")]
pub fn bwd(
    grad_qkv: &mut [f32],
    grad_out: &[f32],
    saved: Saved<'_>,
    layout: &QkvLayout,
    shape: &Shape,
    documents: Option<&[u32]>,
    dropout: Option<&AttentionDropout>,
    scratch: &mut [f32],
) {
    shape.n_sequences(saved.out.len(), saved.log_sum_exp.len(), saved.qkv.len(), layout, documents);
    assert_eq!(grad_out.len(), saved.out.len(), "elements of an output's gradient");
    assert_eq!(grad_qkv.len(), saved.qkv.len(), "elements of the gradients of q, k and v");
    assert!(scratch.len() >= shape.bwd_scratch_len(), "scratch of {} floats", shape.bwd_scratch_len());
    let dropout = dropout.filter(|dropout| dropout.probability > 0.0);
    match (shape.kind, documents) {
        (Kind::Causal, None) => {
            let seen = Prefix;
            dispatch!(kernel::<Prefix>(
                grad_qkv: &mut [f32],
                grad_out: &[f32],
                saved: Saved<'_>,
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
                grad_qkv: &mut [f32],
                grad_out: &[f32],
                saved: Saved<'_>,
                layout: &QkvLayout,
                shape: &Shape,
                seen: Ranges<'_>,
                dropout: Option<&AttentionDropout>,
                scratch: &mut [f32],
            ));
        }
    }
}

/// Scratch of one head of keys.
struct KvHead<'a> {
    /// Keys, transposed.
    key_panels: &'a mut [f32],
    /// Values, transposed.
    value_panels: &'a mut [f32],
    /// Keys.
    keys: &'a mut [f32],
    grad_keys: &'a mut [f32],
    grad_values: &'a mut [f32],
}

/// Scratch of a block of queries.
struct Block<'a> {
    queries: &'a mut [f32],
    grad_out: &'a mut [f32],
    /// Scores, then probabilities.
    scores: &'a mut [f32],
    grad_scores: &'a mut [f32],
    mask: &'a mut [f32],
    grad_queries: &'a mut [f32],
}

/// Which block of rows of which head.
#[derive(Clone, Copy)]
struct Place {
    sequence: usize,
    head: usize,
    first: usize,
    n: usize,
}

impl Place {
    /// The keys that some row of the strip that begins with row `first` of the block sees.
    #[inline(always)]
    fn keys(&self, seen: impl Seen, first: usize) -> Range<usize> {
        seen.keys_of_rows(self.sequence, self.first + first, STRIP)
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "those of the operation")]
fn kernel<S: Simd, K: Seen>(
    grad_qkv: &mut [f32],
    grad_out: &[f32],
    saved: Saved<'_>,
    layout: &QkvLayout,
    shape: &Shape,
    seen: K,
    dropout: Option<&AttentionDropout>,
    scratch: &mut [f32],
) {
    let &Shape { t, n_heads, n_kv_heads, head_width, .. } = shape;
    let (mut kv, mut block) = split_scratch(scratch, shape);
    let group = n_heads / n_kv_heads;
    for sequence in 0..saved.out.len() / (t * n_heads * head_width) {
        for kv_head in 0..n_kv_heads {
            kv.load(&saved, layout, shape, sequence, kv_head);
            for head in kv_head * group..(kv_head + 1) * group {
                for first in (0..t).step_by(BLOCK) {
                    let place = Place { sequence, head, first, n: BLOCK.min(t - first) };
                    block.load(&saved, grad_out, layout, shape, place);
                    block.grad_scores::<S, K>(&kv, &saved, shape, seen, dropout, place);
                    block.store_grad_queries(grad_qkv, &kv, layout, shape, seen, place);
                    block.add_grad_keys_and_values(&mut kv, shape, seen, place);
                }
            }
            kv.store_grads(grad_qkv, layout, shape, sequence, kv_head);
        }
    }
}

fn split_scratch<'a>(scratch: &'a mut [f32], shape: &Shape) -> (KvHead<'a>, Block<'a>) {
    let (d, stride) = (shape.padded_width(), shape.score_stride());
    let mut rest = scratch;
    let mut take = |len: usize| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        part
    };
    let kv_len = shape.padded_t() * d;
    let kv = KvHead {
        key_panels: take(kv_len),
        value_panels: take(kv_len),
        keys: take(kv_len),
        grad_keys: take(kv_len),
        grad_values: take(kv_len),
    };
    let block = Block {
        queries: take(BLOCK * d),
        grad_out: take(BLOCK * d),
        scores: take(BLOCK * stride),
        grad_scores: take(BLOCK * stride),
        mask: take(stride),
        grad_queries: take(STRIP * d),
    };
    (kv, block)
}

impl KvHead<'_> {
    #[inline(always)]
    fn load(&mut self, saved: &Saved<'_>, layout: &QkvLayout, shape: &Shape, sequence: usize, head: usize) {
        let of = |rows| Head { values: saved.qkv, rows, head, width: shape.head_width };
        let first = sequence * shape.t;
        pack::panels(self.key_panels, of(layout.k), first, shape.t);
        pack::panels(self.value_panels, of(layout.v), first, shape.t);
        pack::rows(self.keys, of(layout.k), first, shape.t, 1.0, shape.padded_width());
        self.grad_keys.fill(0.0);
        self.grad_values.fill(0.0);
    }

    #[inline(always)]
    fn store_grads(
        &self,
        grad_qkv: &mut [f32],
        layout: &QkvLayout,
        shape: &Shape,
        sequence: usize,
        head: usize,
    ) {
        let (d, d_padded) = (shape.head_width, shape.padded_width());
        for (rows, grad) in [(layout.k, &self.grad_keys), (layout.v, &self.grad_values)] {
            for (row, grad) in grad.chunks_exact(d_padded).take(shape.t).enumerate() {
                let start = rows.start(sequence * shape.t + row, head, d);
                grad_qkv[start..start + d].copy_from_slice(&grad[..d]);
            }
        }
    }
}

impl Block<'_> {
    /// Copies queries (times 1/√d) and the output's gradient.
    #[inline(always)]
    fn load(&mut self, saved: &Saved<'_>, grad_out: &[f32], layout: &QkvLayout, shape: &Shape, place: Place) {
        let (d, d_padded) = (shape.head_width, shape.padded_width());
        let first = place.sequence * shape.t + place.first;
        let q = Head { values: saved.qkv, rows: layout.q, head: place.head, width: d };
        pack::rows(self.queries, q, first, place.n, shape.scale(), d_padded);
        let rows = HeadRows { offset: 0, row_stride: shape.n_heads * d };
        let grad_out = Head { values: grad_out, rows, head: place.head, width: d };
        pack::rows(self.grad_out, grad_out, first, place.n, 1.0, d_padded);
    }

    /// Probabilities times their mask, and the gradient of scores, of all rows of the block.
    #[inline(always)]
    fn grad_scores<S: Simd, K: Seen>(
        &mut self,
        kv: &KvHead<'_>,
        saved: &Saved<'_>,
        shape: &Shape,
        seen: K,
        dropout: Option<&AttentionDropout>,
        place: Place,
    ) {
        let (d, d_padded, stride) = (shape.head_width, shape.padded_width(), shape.score_stride());
        for first in (0..place.n).step_by(STRIP) {
            let panels = whole_panels(place.keys(seen, first));
            let (rows, vectors) = (first * stride.., first * d_padded..);
            let scores = &mut self.scores[rows.clone()];
            score(scores, stride, &self.queries[vectors.clone()], d_padded, kv.key_panels, d, panels.clone());
            let grads = &mut self.grad_scores[rows];
            score(grads, stride, &self.grad_out[vectors], d_padded, kv.value_panels, d, panels.clone());
            let columns = panels.start..panels.end.next_multiple_of(16);
            for i in 0..STRIP {
                let row = place.first + first + i;
                let scores = &mut scores[i * stride..][columns.clone()];
                let grads = &mut grads[i * stride..][columns.clone()];
                if first + i >= place.n {
                    scores.fill(0.0);
                    grads.fill(0.0);
                    continue;
                }
                let keys = seen.keys(place.sequence, row);
                let seen = keys.start - panels.start..keys.end - panels.start;
                let start = ((place.sequence * shape.t + row) * shape.n_heads + place.head) * d;
                let grad_out = &self.grad_out[(first + i) * d_padded..][..d];
                let level = lanes::dot::<S>(grad_out, &saved.out[start..start + d]);
                let lse = saved.log_sum_exp[(place.sequence * shape.n_heads + place.head) * shape.t + row];
                let mask = dropout.map(|dropout| {
                    let first = first_probability(dropout, shape, place.sequence, place.head, row);
                    let mask = &mut self.mask[..columns.len()];
                    mask[..seen.start].fill(0.0);
                    dropout.fill_mask(first + keys.start as u64, &mut mask[seen.clone()]);
                    mask[seen.end..].fill(0.0);
                    &*mask
                });
                grad_row::<S>(scores, grads, mask, seen, lse, level);
            }
        }
    }

    /// `grad_q = grad_s · k / √d`
    #[inline(always)]
    fn store_grad_queries(
        &mut self,
        grad_qkv: &mut [f32],
        kv: &KvHead<'_>,
        layout: &QkvLayout,
        shape: &Shape,
        seen: impl Seen,
        place: Place,
    ) {
        let (d, d_padded, stride) = (shape.head_width, shape.padded_width(), shape.score_stride());
        let scale = shape.scale();
        for first in (0..place.n).step_by(STRIP) {
            let keys = place.keys(seen, first);
            let grads = &self.grad_scores[first * stride + keys.start..];
            let left = Left { values: grads, row_stride: stride, column_stride: 1 };
            let right = Right { values: &kv.keys[keys.start * d_padded..], row_stride: d_padded };
            strip(self.grad_queries, d_padded, Store::Overwrite, left, right, d_padded, keys.len());
            for i in 0..STRIP.min(place.n - first) {
                let row = place.sequence * shape.t + place.first + first + i;
                let start = layout.q.start(row, place.head, d);
                let grads = &self.grad_queries[i * d_padded..];
                for (out, &grad) in grad_qkv[start..start + d].iter_mut().zip(grads) {
                    *out = grad * scale;
                }
            }
        }
    }

    /// `grad_k += grad_sᵀ · q / √d` and `grad_v += (p ∘ mask)ᵀ · grad_out`, over the rows of the block.
    #[inline(always)]
    fn add_grad_keys_and_values(&self, kv: &mut KvHead<'_>, shape: &Shape, seen: impl Seen, place: Place) {
        let (d_padded, stride) = (shape.padded_width(), shape.score_stride());
        let keys = place.keys(seen, 0).start..place.keys(seen, (place.n - 1) / STRIP * STRIP).end;
        // The keys of a strip begin and end no earlier than those of the strip before, so the strips that see a key
        // follow one another: those from row `first` to before row `end`.
        let (mut first, mut end) = (0, 0);
        for key in (keys.start / STRIP * STRIP..keys.end).step_by(STRIP) {
            while place.keys(seen, first).end <= key {
                first += STRIP;
            }
            while end < place.n && place.keys(seen, end).start < key + STRIP {
                end += STRIP;
            }
            let depth = place.n.min(end) - first;
            let at = first * stride + key;
            let pairs = [
                (&mut *kv.grad_values, &*self.scores, &*self.grad_out),
                (&mut *kv.grad_keys, &*self.grad_scores, &*self.queries),
            ];
            for (grad, left, right) in pairs {
                let left = Left { values: &left[at..], row_stride: 1, column_stride: stride };
                let right = Right { values: &right[first * d_padded..], row_stride: d_padded };
                let grad = &mut grad[key * d_padded..];
                strip(grad, d_padded, Store::Accumulate, left, right, d_padded, depth);
            }
        }
    }
}
