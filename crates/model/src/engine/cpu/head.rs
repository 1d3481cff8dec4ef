//! The output head and the loss.

use std::ops::Range;

use rayon::prelude::*;
use wattle_ops::classifier::cpu::{self as classifier, Input, Shape};
use wattle_ops::classifier::fp8;

use super::arena::Arena;
use crate::engine::{LossSum, Sequences};

/// The head's place in the flat buffers, and its sizes.
pub(super) struct Head {
    pub(super) weight: Range<usize>,
    pub(super) shape: Shape,
    /// Largest magnitude of a logit.
    pub(super) logit_cap: Option<f32>,
    /// Whether its products are in eight bits.
    pub(super) is_fp8: bool,
}

impl Head {
    /// Losses, the gradient of the head among the flat `gradients` unless the head is frozen, and that of the normalized
    /// rows in `branch`.
    pub(super) fn train(
        &self,
        arena: &mut Arena,
        weights: &[f32],
        gradients: Option<&mut [f32]>,
        sequences: Sequences<'_>,
        scale: f32,
    ) -> LossSum {
        let Self { weight, shape, is_fp8, logit_cap } = self;
        let Sequences { targets, weights: target_weights, .. } = sequences;
        let Arena { final_norm, branch, losses, logits, .. } = arena;
        let x = &final_norm.out.values()[..targets.len() * shape.n_in];
        let logit_cap = *logit_cap;
        let input = Input { x, weight: &weights[weight.clone()], targets, target_weights, logit_cap };
        let grad_x = &mut branch.values_mut()[..x.len()];
        let losses = &mut losses.values_mut()[..targets.len()];
        let Some(gradients) = gradients else {
            let n_correct = classifier::fwd_bwd_x_par(grad_x, losses, &input, scale, shape, logits);
            return LossSum { loss: sum(losses), n_correct };
        };
        let grad_weight = &mut gradients[weight.clone()];
        let fwd_bwd = if *is_fp8 { fp8::fwd_bwd_par } else { classifier::fwd_bwd_par };
        let n_correct = fwd_bwd(grad_x, grad_weight, losses, &input, scale, shape, logits);
        LossSum { loss: sum(losses), n_correct }
    }

    /// Losses without gradients. As many rows at a time as in training, in fixed parts.
    pub(super) fn evaluate(&self, arena: &mut Arena, weights: &[f32], sequences: Sequences<'_>) -> LossSum {
        let Sequences { targets, weights: target_weights, .. } = sequences;
        let Self { weight, shape, is_fp8, logit_cap } = self;
        let weight = &weights[weight.clone()];
        let Arena { final_norm, losses, logits, .. } = arena;
        let losses = &mut losses.values_mut()[..targets.len()];
        let x = &final_norm.out.values()[..targets.len() * shape.n_in];
        let input = Input { x, weight, targets, target_weights, logit_cap: *logit_cap };
        if *is_fp8 {
            let n_correct = fp8::fwd_par(losses, &input, shape, logits);
            return LossSum { loss: sum(losses), n_correct };
        }
        let rows = shape.chunk_rows();
        let part = rows / 4;
        let n_correct = losses
            .chunks_mut(rows)
            .enumerate()
            .map(|(chunk_idx, losses)| {
                losses
                    .par_chunks_mut(part)
                    .zip(logits.par_chunks_mut(part * shape.n_vocab))
                    .enumerate()
                    .map(|(part_idx, (losses, logits))| {
                        let first = chunk_idx * rows + part_idx * part;
                        classifier::fwd(losses, &input.rows(first, losses.len(), shape), shape, logits)
                    })
                    .sum::<usize>()
            })
            .sum();
        LossSum { loss: sum(losses), n_correct }
    }
}

/// In the order of the rows.
fn sum(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum()
}
