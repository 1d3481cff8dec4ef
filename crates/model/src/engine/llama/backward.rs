//! The backward pass: gradients of activations by slices of the batch, those of weights over all of it.

use std::ops::Range;

use wattle_ops::linear::cpu as linear;
use wattle_ops::rms_norm::cpu::{self as rms_norm, Saved};
use wattle_ops::{Store, attention, rope, swiglu};

use super::forward::Network;
use super::parameters::Block;
use super::sizes::Sizes;
use crate::engine::Recompute;
use crate::engine::arena::{Arena, Normed};
use crate::engine::backward_slice::{BackwardSlice, FinalNormSlice, Partials, WeightGradient};

impl Network<'_> {
    /// One block: the gradient of its output becomes that of its input.
    pub(super) fn backward(&self, layer_idx: usize, mut slice: BackwardSlice<'_>, recompute: Recompute) {
        // The last block's activations are all still there.
        if layer_idx + 1 < self.sizes.n_layers {
            self.recompute(layer_idx, &mut slice, recompute);
        }
        slice.partials.clear();
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
        linear::bwd_x(gradients.after, Store::Overwrite, gradients.mlp_out, weight, &self.sizes.mlp_out());
        let rows = gradients.before.chunks_exact_mut(2 * ff).zip(gradients.after.chunks_exact(ff));
        for ((grad, grad_out), row) in rows.zip(hidden.before.chunks_exact(2 * ff)) {
            let ((grad_gate, grad_up), (gate, up)) = (grad.split_at_mut(ff), row.split_at(ff));
            swiglu::cpu::bwd(grad_gate, grad_up, grad_out, gate, up);
        }

        let weight = &self.weights[block.mlp_in.clone()];
        linear::bwd_x(branch, Store::Overwrite, gradients.before, weight, &self.sizes.mlp_in());
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
        attention::cpu::bwd(gradients.qkv, branch, saved, &layout, &shape, None, None, scratch);
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
        let local = partials.local(weight);
        let weight = &self.weights[weight.clone()];
        let &Sizes { t, c, .. } = self.sizes;
        let rows =
            grad_x.chunks_exact_mut(t * c).zip(grad_out.chunks_exact(t * c)).zip(x.chunks_exact(t * c));
        for ((((grad_x, grad_out), x), rstd), row) in
            rows.zip(normed.rstd.chunks_exact(t)).zip(partials.rows())
        {
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

/// The gradients of a block's weights that are left when all its slices are done.
pub(super) fn weight_gradients<'a>(
    arena: &'a Arena,
    layer_idx: usize,
    block: &Block,
    sizes: &Sizes,
) -> [WeightGradient<'a>; 4] {
    let (kept, hidden) = (arena.kept.at(layer_idx), arena.hidden.at(layer_idx));
    let grads = &arena.gradients;
    [
        WeightGradient {
            place: block.mlp_out.clone(),
            grad_out: &grads.mlp_out,
            x: &hidden.after,
            shape: sizes.mlp_out(),
        },
        WeightGradient {
            place: block.mlp_in.clone(),
            grad_out: &grads.before,
            x: &arena.mlp_norm.out,
            shape: sizes.mlp_in(),
        },
        WeightGradient {
            place: block.attention_out.clone(),
            grad_out: &grads.attention_out,
            x: &kept.attended,
            shape: sizes.attention_out(),
        },
        WeightGradient {
            place: block.attention_in.clone(),
            grad_out: &grads.qkv,
            x: &arena.attention_norm.out,
            shape: sizes.attention_in(),
        },
    ]
}
