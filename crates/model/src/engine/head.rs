//! The output head and the loss.

use rayon::prelude::*;
use wattle_ops::classifier::cpu::{self as classifier, Input, Shape};

use super::LossSum;

/// The losses of rows, without gradients. As many rows at a time as in training, in fixed parts.
pub(super) fn evaluate(losses: &mut [f32], input: &Input<'_>, shape: &Shape, logits: &mut [f32]) -> LossSum {
    let rows = shape.chunk_rows();
    let part = rows / 4;
    let chunks =
        losses.chunks_mut(rows).zip(input.x.chunks(rows * shape.n_in)).zip(input.targets.chunks(rows));
    let n_correct = chunks
        .map(|((losses, x), targets)| {
            losses
                .par_chunks_mut(part)
                .zip(x.par_chunks(part * shape.n_in))
                .zip(targets.par_chunks(part))
                .zip(logits.par_chunks_mut(part * shape.n_vocab))
                .map(|(((losses, x), targets), logits)| {
                    classifier::fwd(losses, &Input { x, weight: input.weight, targets }, shape, logits)
                })
                .sum::<usize>()
        })
        .sum();
    LossSum { loss: sum(losses), n_correct }
}

/// In the order of the rows.
pub(super) fn sum(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum()
}
