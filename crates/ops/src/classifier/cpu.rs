//! Output head, softmax and cross-entropy on slices of `f32`, some rows at a time.
//!
//! ```text
//! logits = x · Wᵀ, or cap · tanh(x · Wᵀ / cap)
//! loss[r] = w[r] · (ln Σ exp(logits[r]) − logits[r, target[r]])
//! grad_logits[r] = scale · w[r] · (softmax(logits[r]) − onehot(target[r]))
//! With a cap, the gradient of a logit before it is that after it times 1 − (logits / cap)².
//! grad_x = grad_logits · W          grad_W += grad_logitsᵀ · x
//! ```
//! How many rows are taken at once depends on the vocabulary alone ([`Shape::chunk_rows`]), so the order in
//! which `grad_W` is summed does too. Losses are given row by row: their sum is the caller's, in its order. Weights w are
//! 1 unless given. A row of weight 0 is not counted: its loss and gradient are 0, and it is no right guess.

use rayon::prelude::*;

use crate::lanes;
use crate::linear::cpu as linear;
use crate::math::{exp, tanh};
use crate::simd::{Simd, dispatch};
use crate::store::Store;

/// The sizes of an output head, stored (v, c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of a row of `x`, c.
    pub n_in: usize,
    /// Tokens of the vocabulary, v.
    pub n_vocab: usize,
}

/// What a loss is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// (n, c)
    pub x: &'a [f32],
    /// (v, c)
    pub weight: &'a [f32],
    /// (n), each below v.
    pub targets: &'a [u32],
    /// (n), at least 0: how much each row counts; all 1 if there are none.
    pub target_weights: Option<&'a [f32]>,
    /// What logits are kept below: see [`soft_cap`](super::soft_cap).
    pub logit_cap: Option<f32>,
}

impl Shape {
    /// Rows whose logits exist at once: a power of two from 64 to 512, so that they take 32 MiB or less where
    /// the vocabulary is below 131,072.
    pub fn chunk_rows(&self) -> usize {
        let rows = (8 << 20) / self.n_vocab.max(1);
        (1 << rows.max(1).ilog2()).clamp(64, 512)
    }

    /// Floats of scratch that `n` rows want.
    pub fn scratch_len(&self, n: usize) -> usize {
        n.min(self.chunk_rows()) * self.n_vocab
    }

    pub(super) fn head(&self) -> linear::Shape {
        linear::Shape { n_in: self.n_in, n_out: self.n_vocab, layout: linear::Layout::OutputFirst }
    }

    pub(super) fn check(&self, losses: &[f32], input: &Input<'_>, scratch: &[f32]) {
        let n = input.targets.len();
        assert_eq!(input.x.len(), n * self.n_in, "a row of {} for each target", self.n_in);
        assert_eq!(input.weight.len(), self.n_vocab * self.n_in, "elements of an output head");
        assert_eq!(losses.len(), n, "one loss a row");
        if let Some(weights) = input.target_weights {
            assert_eq!(weights.len(), n, "one weight a row");
            let fault = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0));
            assert!(fault.is_none(), "target weight {fault:?}: expected a finite number of at least 0");
        }
        assert!(scratch.len() >= self.scratch_len(n), "scratch of {} floats", self.scratch_len(n));
        let outside = input.targets.iter().find(|&&target| target as usize >= self.n_vocab);
        assert!(outside.is_none(), "target {outside:?} of a vocabulary of {}", self.n_vocab);
    }
}

/// The weighted loss of each row, and in how many rows of a weight above 0 the largest logit is the target's (the first,
/// of equals).
///
/// # Shapes
/// `input` as its fields say → `losses` (n), overwritten. `scratch` has [`Shape::scratch_len`] floats.
///
/// # Panics
/// If a slice has another length, a target is not in the vocabulary, or a weight is negative or not finite.
pub fn fwd(losses: &mut [f32], input: &Input<'_>, shape: &Shape, scratch: &mut [f32]) -> usize {
    shape.check(losses, input, scratch);
    let mut n_correct = 0;
    for (losses, chunk) in losses.chunks_mut(shape.chunk_rows()).zip(chunks(input, shape)) {
        let logits = &mut scratch[..losses.len() * shape.n_vocab];
        linear::fwd(logits, chunk.x, chunk.weight, None, &shape.head());
        n_correct += losses_of(losses, logits, &chunk, 0.0);
    }
    n_correct
}

/// [`fwd`], and the gradients of `scale · Σ losses`.
///
/// # Shapes
/// As for [`fwd`]; → `grad_x` (n, c), overwritten, `grad_weight` (v, c), accumulated.
///
/// # Panics
/// As for [`fwd`].
pub fn fwd_bwd(
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
    losses: &mut [f32],
    input: &Input<'_>,
    scale: f32,
    shape: &Shape,
    scratch: &mut [f32],
) -> usize {
    shape.check(losses, input, scratch);
    assert_eq!(grad_x.len(), input.x.len(), "elements of a gradient");
    let (rows, head) = (shape.chunk_rows(), shape.head());
    let mut n_correct = 0;
    let outs = grad_x.chunks_mut(rows * shape.n_in).zip(losses.chunks_mut(rows));
    for ((grad_x, losses), chunk) in outs.zip(chunks(input, shape)) {
        let logits = &mut scratch[..losses.len() * shape.n_vocab];
        linear::fwd(logits, chunk.x, chunk.weight, None, &head);
        n_correct += losses_of(losses, logits, &chunk, scale);
        linear::bwd_x(grad_x, Store::Overwrite, logits, chunk.weight, &head);
        linear::bwd_weight(grad_weight, logits, chunk.x, &head);
    }
    n_correct
}

/// [`fwd_bwd`] on rayon's threads, for the whole batch: each chunk of rows is cut into four, and the weight's
/// gradient into blocks of the vocabulary. The result is that of [`fwd_bwd`] whatever the number of threads.
///
/// # Shapes
/// As for [`fwd_bwd`].
///
/// # Panics
/// As for [`fwd`].
pub fn fwd_bwd_par(
    grad_x: &mut [f32],
    grad_weight: &mut [f32],
    losses: &mut [f32],
    input: &Input<'_>,
    scale: f32,
    shape: &Shape,
    scratch: &mut [f32],
) -> usize {
    by_chunks_par(grad_x, Some(grad_weight), losses, input, scale, shape, scratch)
}

/// [`fwd_bwd_par`] of a head that is not trained: its own gradient is not made.
///
/// # Shapes
/// As for [`fwd_bwd`].
///
/// # Panics
/// As for [`fwd`].
pub fn fwd_bwd_x_par(
    grad_x: &mut [f32],
    losses: &mut [f32],
    input: &Input<'_>,
    scale: f32,
    shape: &Shape,
    scratch: &mut [f32],
) -> usize {
    by_chunks_par(grad_x, None, losses, input, scale, shape, scratch)
}

fn by_chunks_par(
    grad_x: &mut [f32],
    mut grad_weight: Option<&mut [f32]>,
    losses: &mut [f32],
    input: &Input<'_>,
    scale: f32,
    shape: &Shape,
    scratch: &mut [f32],
) -> usize {
    shape.check(losses, input, scratch);
    assert_eq!(grad_x.len(), input.x.len(), "elements of a gradient");
    let (rows, head) = (shape.chunk_rows(), shape.head());
    let mut n_correct = 0;
    let outs = grad_x.chunks_mut(rows * shape.n_in).zip(losses.chunks_mut(rows));
    for ((grad_x, losses), chunk) in outs.zip(chunks(input, shape)) {
        let logits = &mut scratch[..losses.len() * shape.n_vocab];
        let part = rows / 4;
        n_correct += logits
            .par_chunks_mut(part * shape.n_vocab)
            .zip(grad_x.par_chunks_mut(part * shape.n_in))
            .zip(losses.par_chunks_mut(part))
            .enumerate()
            .map(|(part_idx, ((logits, grad_x), losses))| {
                let chunk = chunk.rows(part_idx * part, losses.len(), shape);
                linear::fwd(logits, chunk.x, chunk.weight, None, &head);
                let n_correct = losses_of(losses, logits, &chunk, scale);
                linear::bwd_x(grad_x, Store::Overwrite, logits, chunk.weight, &head);
                n_correct
            })
            .sum::<usize>();
        if let Some(grad_weight) = grad_weight.as_deref_mut() {
            linear::bwd_weight_par(grad_weight, logits, chunk.x, &head);
        }
    }
    n_correct
}

impl<'a> Input<'a> {
    /// Rows `first..first + n`.
    pub fn rows(&self, first: usize, n: usize, shape: &Shape) -> Self {
        Self {
            x: &self.x[first * shape.n_in..][..n * shape.n_in],
            targets: &self.targets[first..][..n],
            target_weights: self.target_weights.map(|weights| &weights[first..][..n]),
            ..*self
        }
    }
}

pub(super) fn chunks<'a>(input: &Input<'a>, shape: &Shape) -> impl Iterator<Item = Input<'a>> {
    let (rows, n) = (shape.chunk_rows(), input.targets.len());
    (0..n).step_by(rows).map(move |first| input.rows(first, rows.min(n - first), shape))
}

/// The loss of each row of logits, which are replaced by their gradients.
pub(super) fn losses_of(losses: &mut [f32], logits: &mut [f32], input: &Input<'_>, scale: f32) -> usize {
    let &Input { targets, target_weights: weights, logit_cap: cap, .. } = input;
    dispatch!(losses_kernel(
        losses: &mut [f32],
        logits: &mut [f32],
        targets: &[u32],
        weights: Option<&[f32]>,
        scale: f32,
        cap: Option<f32>,
    ) -> usize)
}

/// Replaces each logit by `cap · tanh(logit / cap)`.
pub fn cap_logits(logits: &mut [f32], cap: f32) {
    dispatch!(cap_kernel(logits: &mut [f32], cap: f32));
}

#[inline(always)]
fn cap_kernel<S: Simd>(logits: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for logit in logits {
        *logit = cap * tanh::<S>(*logit * inverse);
    }
}

#[inline(always)]
fn losses_kernel<S: Simd>(
    losses: &mut [f32],
    logits: &mut [f32],
    targets: &[u32],
    weights: Option<&[f32]>,
    scale: f32,
    cap: Option<f32>,
) -> usize {
    let v = logits.len() / losses.len();
    let mut n_correct = 0;
    let rows = losses.iter_mut().zip(logits.chunks_exact_mut(v)).zip(targets);
    for (row, ((loss, logits), &target)) in rows.enumerate() {
        let target = target as usize;
        let weight = weights.map_or(1.0, |weights| weights[row]);
        if weight == 0.0 {
            // Written, not multiplied: 0 times an infinite logit would not be 0.
            *loss = 0.0;
            logits.fill(0.0);
            continue;
        }
        if let Some(cap) = cap {
            cap_kernel::<S>(logits, cap);
        }
        let max = lanes::max(logits);
        let of_target = logits[target];
        n_correct += usize::from(of_target == max && logits[..target].iter().all(|&logit| logit < max));
        let sum = match cap {
            None => lanes::exp_minus::<S>(logits, max),
            Some(_) => lanes::sum_exp_minus::<S>(logits, max),
        };
        *loss = weight * (sum.ln() + (max - of_target));
        let scale = weight * scale;
        let factor = scale / sum;
        let Some(cap) = cap else {
            for logit in &mut *logits {
                *logit *= factor;
            }
            logits[target] -= scale;
            continue;
        };
        // The logits are needed for their slopes, so that exponentials are made a second time.
        let inverse = 1.0 / cap;
        let slope = |logit: f32| 1.0 - (logit * inverse) * (logit * inverse);
        for logit in &mut *logits {
            *logit = exp::<S>(*logit - max) * factor * slope(*logit);
        }
        logits[target] -= scale * slope(of_target);
    }
    n_correct
}
