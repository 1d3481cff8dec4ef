//! Attention over rows of `f32`, without the matrix of probabilities.
//!
//! ```text
//! s = q · kᵀ / √d        p[i, j] = exp(s[i, j] − lse[i]) for j seen by i   out = (p ∘ mask) · v
//! D[i] = grad_out[i] · out[i]        grad_s = p ∘ ((grad_out · vᵀ) ∘ mask − D)
//! grad_q = grad_s · k / √d        grad_k = grad_sᵀ · q / √d        grad_v = (p ∘ mask)ᵀ · grad_out
//! ```
//! The forward keeps one number a row, the logarithm of the softmax's denominator; the backward computes
//! probabilities again. Each row sees one range of keys ([`Kind`], documents). Four rows are taken at a time, and only
//! the keys that one of them sees, so a window of w costs t·w and a document the square of its own length. What is
//! computed lies in the cache. Sequences do not touch: a batch can be cut between any two.
//!
//! # References
//! Dao et al., *FlashAttention*, 2022, sections 3.1 and B.2 (recomputation, `D`). Rows are short enough here to
//! be held whole, so no softmax is rescaled. Grouped queries: Ainslie et al., *GQA*, 2023, section 2.2.

mod backward;
mod forward;
mod pack;
mod seen;
mod softmax;

pub use backward::bwd;
pub use forward::fwd;

use super::{AttentionDropout, Kind};
use crate::heads::HeadRows;
use crate::tile::STRIP;

/// The sizes of one sequence's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of a sequence.
    pub t: usize,
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values; each serves `n_heads / n_kv_heads` neighbouring heads of queries.
    pub n_kv_heads: usize,
    /// Width of a head, d.
    pub head_width: usize,
    /// Which keys a query sees.
    pub kind: Kind,
}

/// Where queries, keys and values lie in a buffer, and their gradients in another of the same layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QkvLayout {
    /// `n_heads` heads.
    pub q: HeadRows,
    /// `n_kv_heads` heads.
    pub k: HeadRows,
    /// `n_kv_heads` heads.
    pub v: HeadRows,
}

/// What the forward saw and found.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// (b·t, h·d)
    pub out: &'a [f32],
    /// (b, h, t)
    pub log_sum_exp: &'a [f32],
    /// As the layout says.
    pub qkv: &'a [f32],
}

impl QkvLayout {
    /// Rows of q, k and v side by side, as one projection leaves them: (n, (n_heads + 2·n_kv_heads)·d).
    pub fn fused(shape: &Shape) -> Self {
        let (q_width, kv_width) = (shape.n_heads * shape.head_width, shape.n_kv_heads * shape.head_width);
        let at = |offset| HeadRows { offset, row_stride: q_width + 2 * kv_width };
        Self { q: at(0), k: at(q_width), v: at(q_width + kv_width) }
    }
}

impl Shape {
    /// Floats of scratch that [`fwd`] wants.
    pub fn fwd_scratch_len(&self) -> usize {
        let d = self.padded_width();
        self.padded_t() * 2 * d + STRIP * (self.score_stride() + 2 * d)
    }

    /// Floats of scratch that [`bwd`] wants.
    pub fn bwd_scratch_len(&self) -> usize {
        let d = self.padded_width();
        self.padded_t() * 5 * d + (2 * BLOCK + 1) * self.score_stride() + (2 * BLOCK + STRIP) * d
    }

    /// The width of a head in scratch: whole vectors.
    fn padded_width(&self) -> usize {
        self.head_width.next_multiple_of(16)
    }

    /// The rows of a sequence in scratch: whole panels.
    fn padded_t(&self) -> usize {
        self.t.next_multiple_of(PANEL)
    }

    /// From one row of scores to the next; not a power of two, which would put them in few sets of the cache.
    fn score_stride(&self) -> usize {
        self.padded_t() + 16
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_width as f32).sqrt()
    }

    /// Sequences in a buffer of outputs, with all lengths checked.
    fn n_sequences(
        &self,
        out: usize,
        log_sum_exp: usize,
        qkv: usize,
        layout: &QkvLayout,
        documents: Option<&[u32]>,
    ) -> usize {
        let width = self.n_heads * self.head_width;
        let kv_width = self.n_kv_heads * self.head_width;
        let grouped = self.n_kv_heads > 0 && self.n_heads.is_multiple_of(self.n_kv_heads);
        assert!(grouped, "{} heads of queries for {} of keys", self.n_heads, self.n_kv_heads);
        assert!(self.t * width > 0, "attention over nothing");
        let b = out / (self.t * width);
        assert_eq!(out, b * self.t * width, "outputs of whole sequences of {} rows of {width}", self.t);
        assert_eq!(log_sum_exp, b * self.n_heads * self.t, "one log-sum-exp a row and head");
        layout.q.check("queries", qkv, b * self.t, width);
        layout.k.check("keys", qkv, b * self.t, kv_width);
        layout.v.check("values", qkv, b * self.t, kv_width);
        self.kind.check(b, self.t, documents);
        b
    }
}

/// Keys that lie side by side in a transposed panel.
const PANEL: usize = 32;

/// Rows of queries that the backward takes at once.
const BLOCK: usize = 32;

/// The address of the first probability of a row, as dropout counts them: all heads of all sequences, (t, t)
/// each.
fn first_probability(
    dropout: &AttentionDropout,
    shape: &Shape,
    sequence: usize,
    head: usize,
    row: usize,
) -> u64 {
    let head = (dropout.first_sequence + sequence) * shape.n_heads + head;
    ((head * shape.t + row) * shape.t) as u64
}
