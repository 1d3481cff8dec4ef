//! The backward pass: gradients of activations by slices of the batch, those of weights over all of it.

use std::ops::Range;

use rayon::prelude::*;
use wattle_ops::linear::cpu as linear;
use wattle_ops::rms_norm::cpu::{self as rms_norm, Saved};
use wattle_ops::{Store, attention, rope, swiglu};

use super::arena::{Arena, Gradients, Hidden, Kept, Normed};
use super::forward::Network;
use super::parameters::Block;
use super::sizes::Sizes;
use crate::engine::Recompute;
use crate::engine::rows::cut_mut;
use crate::engine::slices::Slices;

/// Some sequences of a micro-batch in one block.
pub(super) struct BackwardSlice<'a> {
    x: &'a [f32],
    attention_norm: Normed<&'a mut [f32]>,
    mlp_norm: Normed<&'a mut [f32]>,
    kept: Kept<&'a mut [f32]>,
    hidden: Hidden<&'a mut [f32]>,
    gradients: Gradients<&'a mut [f32]>,
    branch: &'a mut [f32],
    partials: Partials<'a>,
    scratch: &'a mut [f32],
}

/// Gradients of a block's norms, one row a sequence.
struct Partials<'a> {
    rows: &'a mut [f32],
    /// Where the block's norms start in the flat buffers.
    start: usize,
    width: usize,
}

impl<'a> BackwardSlice<'a> {
    /// Cuts an arena for one block.
    pub(super) fn cut(arena: &'a mut Arena, layer_idx: usize, block: &Block, slices: &Slices) -> Vec<Self> {
        let width = block.vectors.len();
        let norms =
            cut_mut(arena.attention_norm.each_mut(), slices).zip(cut_mut(arena.mlp_norm.each_mut(), slices));
        let kept = cut_mut(arena.kept.at_mut(layer_idx).each_mut(), slices);
        let hidden = cut_mut(arena.hidden.at_mut(layer_idx).each_mut(), slices);
        let gradients = cut_mut(arena.gradients.each_mut(), slices);
        let mut partials = arena.partials.values_mut();
        let others = cut_mut([&mut arena.branch], slices).zip(&mut arena.scratch);
        slices
            .ranges()
            .zip(arena.x[layer_idx].cut(slices))
            .zip(norms.zip(kept).zip(hidden))
            .zip(gradients.zip(others))
            .map(
                |(
                    ((sequences, x), (((attention_norm, mlp_norm), kept), hidden)),
                    (gradients, ([branch], scratch)),
                )| {
                    let (rows, rest) = std::mem::take(&mut partials).split_at_mut(sequences.len() * width);
                    partials = rest;
                    Self {
                        x,
                        attention_norm: attention_norm.into(),
                        mlp_norm: mlp_norm.into(),
                        kept: kept.into(),
                        hidden: hidden.into(),
                        gradients: gradients.into(),
                        branch,
                        partials: Partials { rows, start: block.vectors.start, width },
                        scratch,
                    }
                },
            )
            .collect()
    }
}

impl Network<'_> {
    /// One block: the gradient of its output becomes that of its input.
    pub(super) fn backward(&self, layer_idx: usize, mut slice: BackwardSlice<'_>, recompute: Recompute) {
        // The last block's activations are all still there.
        if layer_idx + 1 < self.sizes.n_layers {
            self.recompute(layer_idx, &mut slice, recompute);
        }
        slice.partials.rows.fill(0.0);
        self.mlp_backward(layer_idx, &mut slice);
        self.attention_backward(layer_idx, &mut slice);
    }

    /// Brings back what was not kept. Rows that go through the same kernels come out the same to the bit.
    fn recompute(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>, recompute: Recompute) {
        let block = &self.parameters.blocks[layer_idx];
        let BackwardSlice { x, attention_norm, mlp_norm, kept, hidden, branch, scratch, .. } = slice;
        self.norm(attention_norm, x, &block.attention_norm);
        if recompute == Recompute::Block {
            self.attend(layer_idx, attention_norm.out, kept, branch, scratch);
            self.residual_norm(kept.middle, mlp_norm, x, branch, &block.mlp_norm);
        } else {
            self.norm(mlp_norm, kept.middle, &block.mlp_norm);
        }
        if recompute != Recompute::None {
            self.expand(layer_idx, mlp_norm.out, hidden);
        }
    }

    fn mlp_backward(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>) {
        let block = &self.parameters.blocks[layer_idx];
        let ff = self.sizes.ff;
        let BackwardSlice { mlp_norm, kept, hidden, gradients, branch, partials, .. } = slice;
        gradients.mlp_out.copy_from_slice(gradients.x);

        let weight = &self.weights[block.mlp_out.clone()];
        linear::bwd_x(gradients.hidden, Store::Overwrite, gradients.mlp_out, weight, &self.sizes.mlp_out());
        let rows = gradients.gate_up.chunks_exact_mut(2 * ff).zip(gradients.hidden.chunks_exact(ff));
        for ((grad, grad_out), row) in rows.zip(hidden.before.chunks_exact(2 * ff)) {
            let ((grad_gate, grad_up), (gate, up)) = (grad.split_at_mut(ff), row.split_at(ff));
            swiglu::cpu::bwd(grad_gate, grad_up, grad_out, gate, up);
        }

        let weight = &self.weights[block.mlp_in.clone()];
        linear::bwd_x(branch, Store::Overwrite, gradients.gate_up, weight, &self.sizes.mlp_in());
        self.norm_backward(&block.mlp_norm, gradients.x, branch, kept.middle, mlp_norm, partials);
    }

    fn attention_backward(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>) {
        let block = &self.parameters.blocks[layer_idx];
        let &Sizes { t, c, .. } = self.sizes;
        let BackwardSlice { x, attention_norm, kept, gradients, branch, partials, scratch, .. } = slice;
        gradients.attention_out.copy_from_slice(gradients.x);

        let weight = &self.weights[block.attention_out.clone()];
        let shape = self.sizes.attention_out();
        linear::bwd_x(branch, Store::Overwrite, gradients.attention_out, weight, &shape);
        let shape = self.sizes.attention();
        let layout = attention::cpu::QkvLayout::fused(&shape);
        let saved =
            attention::cpu::Saved { out: kept.attended, log_sum_exp: kept.log_sum_exp, qkv: kept.qkv };
        attention::cpu::bwd(gradients.qkv, branch, saved, &layout, &shape, None, scratch);
        let (rows, n_heads) = self.sizes.turning();
        rope::cpu::bwd(gradients.qkv, rows, x.len() / c, n_heads, t, self.rotary);

        let weight = &self.weights[block.attention_in.clone()];
        linear::bwd_x(branch, Store::Overwrite, gradients.qkv, weight, &self.sizes.attention_in());
        self.norm_backward(&block.attention_norm, gradients.x, branch, x, attention_norm, partials);
    }

    /// Adds the gradient of a norm's input to that of the residual stream, sequence by sequence.
    fn norm_backward(
        &self,
        weight: &Range<usize>,
        grad_x: &mut [f32],
        grad_out: &[f32],
        x: &[f32],
        normed: &Normed<&mut [f32]>,
        partials: &mut Partials<'_>,
    ) {
        let local = weight.start - partials.start..weight.end - partials.start;
        let weight = &self.weights[weight.clone()];
        let &Sizes { t, c, .. } = self.sizes;
        let rows =
            grad_x.chunks_exact_mut(t * c).zip(grad_out.chunks_exact(t * c)).zip(x.chunks_exact(t * c));
        let partials = partials.rows.chunks_exact_mut(partials.width);
        for ((((grad_x, grad_out), x), rstd), row) in rows.zip(normed.rstd.chunks_exact(t)).zip(partials) {
            let grad_weight = &mut row[local.clone()];
            rms_norm::bwd(grad_x, Store::Accumulate, grad_weight, grad_out, Saved { x, rstd }, weight);
        }
    }

    /// The last norm: the gradient of its output, in `branch`, becomes that of the residual stream.
    pub(super) fn final_norm_backward(&self, slice: FinalNormSlice<'_>) {
        let &Sizes { t, c, .. } = self.sizes;
        let weight = &self.weights[self.parameters.final_norm.clone()];
        let rows = slice.grad_x.chunks_exact_mut(t * c).zip(slice.grad_out.chunks_exact(t * c));
        let saved = slice.x.chunks_exact(t * c).zip(slice.rstd.chunks_exact(t));
        let partials = slice.partials.chunks_exact_mut(weight.len());
        for (((grad_x, grad_out), (x, rstd)), partial) in rows.zip(saved).zip(partials) {
            partial.fill(0.0);
            rms_norm::bwd(grad_x, Store::Overwrite, partial, grad_out, Saved { x, rstd }, weight);
        }
    }
}

/// Some sequences of a micro-batch at the last norm.
pub(super) struct FinalNormSlice<'a> {
    x: &'a [f32],
    rstd: &'a [f32],
    grad_out: &'a [f32],
    grad_x: &'a mut [f32],
    partials: &'a mut [f32],
}

impl<'a> FinalNormSlice<'a> {
    /// Cuts an arena.
    pub(super) fn cut(arena: &'a mut Arena, n_vectors: usize, slices: &Slices) -> Vec<Self> {
        let saved = arena.x[arena.x.len() - 1].cut(slices).zip(arena.final_norm.rstd.cut(slices));
        let mut partials = arena.partials.values_mut();
        let gradients = cut_mut([&mut arena.gradients.x], slices);
        slices
            .ranges()
            .zip(saved)
            .zip(arena.branch.cut(slices).zip(gradients))
            .map(|((sequences, (x, rstd)), (grad_out, [grad_x]))| {
                let (part, rest) = std::mem::take(&mut partials).split_at_mut(sequences.len() * n_vectors);
                partials = rest;
                FinalNormSlice { x, rstd, grad_out, grad_x, partials: part }
            })
            .collect()
    }
}

/// Adds the gradients of a block's weights and norms to the flat `gradients`.
///
/// Those of weights are products over all rows of the micro-batch, by blocks of the weight; those of norms were
/// summed for each sequence and are added in the order of the sequences.
pub(super) fn add_weight_gradients(
    gradients: &mut [f32],
    arena: &Arena,
    layer_idx: usize,
    block: &Block,
    sizes: &Sizes,
    n_sequences: usize,
) {
    let n = n_sequences;
    let (kept, hidden) = (arena.kept.at(layer_idx), arena.hidden.at(layer_idx));
    let grads = &arena.gradients;
    let products = [
        (&block.mlp_out, &grads.mlp_out, &hidden.after, sizes.mlp_out()),
        (&block.mlp_in, &grads.gate_up, &arena.mlp_norm.out, sizes.mlp_in()),
        (&block.attention_out, &grads.attention_out, &kept.attended, sizes.attention_out()),
        (&block.attention_in, &grads.qkv, &arena.attention_norm.out, sizes.attention_in()),
    ];
    let ranges = products.each_ref().map(|(weight, ..)| (*weight).clone());
    let weights = gradients.get_disjoint_mut(ranges).expect("weights do not overlap");
    let products: Vec<_> = weights.into_iter().zip(products).collect();
    products.into_par_iter().with_max_len(1).for_each(|(grad_weight, (_, grad_out, x, shape))| {
        linear::bwd_weight_par(grad_weight, grad_out.of(n), x.of(n), &shape);
    });
    add_vector_gradients(&mut gradients[block.vectors.clone()], arena, n_sequences);
}

/// Adds the partial gradients of all sequences to those of some norms.
pub(super) fn add_vector_gradients(gradients: &mut [f32], arena: &Arena, n_sequences: usize) {
    let partials = &arena.partials.values()[..n_sequences * gradients.len()];
    linear::bwd_bias(gradients, partials);
}
