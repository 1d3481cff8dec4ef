//! The output head in eight bits on a CPU: rows, weight and the gradients of logits are rounded as a board's products
//! have them; sums and losses are in `f32`. Rows and gradients have one scale for each chunk of rows.

use rayon::prelude::*;

use super::cpu::{Input, Shape, chunks, losses_of};
use crate::Store;
use crate::fp8::Format;
use crate::fp8::cpu::round_par;
use crate::linear::cpu as linear;

/// [`cpu::fwd`](super::cpu::fwd), on rayon's threads.
///
/// # Shapes
/// As there.
///
/// # Panics
/// As there.
pub fn fwd_par(losses: &mut [f32], input: &Input<'_>, shape: &Shape, scratch: &mut [f32]) -> usize {
    shape.check(losses, input, scratch);
    let weight = rounded(input.weight, Format::E4m3);
    let mut n_correct = 0;
    for (losses, chunk) in losses.chunks_mut(shape.chunk_rows()).zip(chunks(input, shape)) {
        let x = rounded(chunk.x, Format::E4m3);
        let chunk = Input { x: &x, weight: &weight, ..chunk };
        let logits = &mut scratch[..losses.len() * shape.n_vocab];
        n_correct += logits_and_losses(logits, losses, &chunk, 0.0, shape);
    }
    n_correct
}

/// [`cpu::fwd_bwd_par`](super::cpu::fwd_bwd_par).
///
/// # Shapes
/// As there.
///
/// # Panics
/// As there.
pub fn fwd_bwd_par(
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
    let weight = rounded(input.weight, Format::E4m3);
    let (rows, head) = (shape.chunk_rows(), shape.head());
    let mut n_correct = 0;
    let outs = grad_x.chunks_mut(rows * shape.n_in).zip(losses.chunks_mut(rows));
    for ((grad_x, losses), chunk) in outs.zip(chunks(input, shape)) {
        let x = rounded(chunk.x, Format::E4m3);
        let chunk = Input { x: &x, weight: &weight, ..chunk };
        let logits = &mut scratch[..losses.len() * shape.n_vocab];
        n_correct += logits_and_losses(logits, losses, &chunk, scale, shape);
        let grad_logits = rounded(logits, Format::E5m2);
        let parts = grad_x.par_chunks_mut(part(shape) * shape.n_in);
        parts.zip(grad_logits.par_chunks(part(shape) * shape.n_vocab)).for_each(|(grad_x, grad_logits)| {
            linear::bwd_x(grad_x, Store::Overwrite, grad_logits, &weight, &head);
        });
        linear::bwd_weight_par(grad_weight, &grad_logits, &x, &head);
    }
    n_correct
}

/// The losses of a chunk, whose logits are replaced by their gradients.
fn logits_and_losses(
    logits: &mut [f32],
    losses: &mut [f32],
    chunk: &Input<'_>,
    scale: f32,
    shape: &Shape,
) -> usize {
    logits
        .par_chunks_mut(part(shape) * shape.n_vocab)
        .zip(losses.par_chunks_mut(part(shape)))
        .enumerate()
        .map(|(part_idx, (logits, losses))| {
            let rows = chunk.rows(part_idx * part(shape), losses.len(), shape);
            linear::fwd(logits, rows.x, rows.weight, None, &shape.head());
            losses_of(losses, logits, &rows, scale)
        })
        .sum()
}

/// Rows that one thread takes at once.
fn part(shape: &Shape) -> usize {
    shape.chunk_rows() / 4
}

fn rounded(x: &[f32], format: Format) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    round_par(&mut out, x, format);
    out
}
