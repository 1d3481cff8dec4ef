//! The backward pass: gradients of activations by slices of the batch, those of weights over all of it.

use wattle_ops::layer_norm::cpu::{self as layer_norm, Saved};
use wattle_ops::linear::cpu as linear;
use wattle_ops::{Dropout, Store, activation, attention, dropout};

use super::forward::Network;
use super::parameters::{Affine, Block};
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
        let BackwardSlice { first, x, attention_norm, mlp_norm, kept, hidden, branch, scratch, .. } = slice;
        self.norm(attention_norm, x, &block.attention_norm);
        if recompute == Recompute::Block {
            let addend = self.attend(layer_idx, *first, attention_norm.out, kept, branch, scratch);
            self.residual_norm(kept.middle, mlp_norm, x, &addend, &block.mlp_norm);
        } else {
            self.norm(mlp_norm, kept.middle, &block.mlp_norm);
        }
        if recompute != Recompute::None {
            self.expand(layer_idx, mlp_norm.out, hidden);
        }
    }

    fn mlp_backward(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>) {
        let block = &self.parameters.blocks[layer_idx];
        let &Sizes { t, c, .. } = self.sizes;
        let BackwardSlice { first, mlp_norm, kept, hidden, gradients, branch, partials, .. } = slice;
        let site = self.sites.block(layer_idx, *first).mlp_out;
        branch_gradient(gradients.mlp_out, gradients.x, t * c, site);
        add_bias(partials, &block.mlp_out, gradients.mlp_out, t * c);

        let weight = block.mlp_out.of(self.weights).0;
        linear::bwd_x(gradients.after, Store::Overwrite, gradients.mlp_out, weight, &self.sizes.mlp_out());
        self.activation_backward(&block.mlp_in, gradients.after, hidden.before, partials);

        let weight = block.mlp_in.of(self.weights).0;
        linear::bwd_x(branch, Store::Overwrite, gradients.after, weight, &self.sizes.mlp_in());
        self.norm_backward(&block.mlp_norm, gradients.x, branch, kept.middle, mlp_norm, partials);
    }

    fn attention_backward(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>) {
        let block = &self.parameters.blocks[layer_idx];
        let &Sizes { t, c, .. } = self.sizes;
        let BackwardSlice { first, x, attention_norm, kept, gradients, branch, partials, scratch, .. } =
            slice;
        let sites = self.sites.block(layer_idx, *first);
        branch_gradient(gradients.attention_out, gradients.x, t * c, sites.attention_out);
        add_bias(partials, &block.attention_out, gradients.attention_out, t * c);

        let weight = block.attention_out.of(self.weights).0;
        let shape = self.sizes.attention_out();
        linear::bwd_x(branch, Store::Overwrite, gradients.attention_out, weight, &shape);
        let shape = self.sizes.attention();
        let layout = attention::cpu::QkvLayout::fused(&shape);
        let saved =
            attention::cpu::Saved { out: kept.attended, log_sum_exp: kept.log_sum_exp, qkv: kept.qkv };
        let site = sites.attention.as_ref();
        attention::cpu::bwd(gradients.qkv, branch, saved, &layout, &shape, None, site, scratch);
        add_bias(partials, &block.attention_in, gradients.qkv, 3 * t * c);

        let weight = block.attention_in.of(self.weights).0;
        linear::bwd_x(branch, Store::Overwrite, gradients.qkv, weight, &self.sizes.attention_in());
        self.norm_backward(&block.attention_norm, gradients.x, branch, x, attention_norm, partials);
    }

    /// In place, sequence by sequence where there is a bias.
    fn activation_backward(
        &self,
        affine: &Affine,
        grad: &mut [f32],
        before: &[f32],
        partials: &mut Partials<'_>,
    ) {
        let kind = self.sizes.activation;
        let (Some(range), Some(bias)) = (&affine.bias, affine.of(self.weights).1) else {
            return activation::cpu::bwd(kind, grad, before);
        };
        let per_sequence = self.sizes.t * self.sizes.ff;
        let range = partials.local(range);
        let sequences = grad.chunks_exact_mut(per_sequence).zip(before.chunks_exact(per_sequence));
        for ((grad, before), row) in sequences.zip(partials.rows()) {
            activation::cpu::bias_bwd(kind, grad, &mut row[range.clone()], before, bias);
        }
    }

    /// Adds the gradient of a norm's input to that of the residual stream, sequence by sequence.
    fn norm_backward(
        &self,
        affine: &Affine,
        grad_x: &mut [f32],
        grad_out: &[f32],
        x: &[f32],
        normed: &Normed<&mut [f32]>,
        partials: &mut Partials<'_>,
    ) {
        let range = partials.local(&affine.vectors());
        let &Sizes { t, c, .. } = self.sizes;
        let rows =
            grad_x.chunks_exact_mut(t * c).zip(grad_out.chunks_exact(t * c)).zip(x.chunks_exact(t * c));
        let stats = normed.mean.chunks_exact(t).zip(normed.rstd.chunks_exact(t));
        for ((((grad_x, grad_out), x), (mean, rstd)), row) in rows.zip(stats).zip(partials.rows()) {
            let saved = Saved { x, mean, rstd };
            self.sequence_norm_backward(
                affine,
                grad_x,
                Store::Accumulate,
                &mut row[range.clone()],
                grad_out,
                saved,
            );
        }
    }

    /// `partial` has a norm's weight and bias side by side.
    fn sequence_norm_backward(
        &self,
        affine: &Affine,
        grad_x: &mut [f32],
        store: Store,
        partial: &mut [f32],
        grad_out: &[f32],
        saved: Saved<'_>,
    ) {
        let (weight, bias) = affine.of(self.weights);
        let (grad_weight, grad_bias) = partial.split_at_mut(weight.len());
        layer_norm::bwd(grad_x, store, grad_weight, bias.map(|_| grad_bias), grad_out, saved, weight);
    }

    /// The last norm: the gradient of its output, in `branch`, becomes that of the residual stream.
    pub(super) fn final_norm_backward(&self, slice: FinalNormSlice<'_>) {
        let &Sizes { t, c, .. } = self.sizes;
        let affine = &self.parameters.final_norm;
        let partials = slice.partials.chunks_exact_mut(affine.vectors().len());
        let rows = slice.grad_x.chunks_exact_mut(t * c).zip(slice.grad_out.chunks_exact(t * c));
        let saved =
            slice.x.chunks_exact(t * c).zip(slice.mean.chunks_exact(t)).zip(slice.rstd.chunks_exact(t));
        for (((grad_x, grad_out), ((x, mean), rstd)), partial) in rows.zip(saved).zip(partials) {
            partial.fill(0.0);
            let saved = Saved { x, mean, rstd };
            self.sequence_norm_backward(affine, grad_x, Store::Overwrite, partial, grad_out, saved);
        }
    }
}

/// The gradient of what was added to the residual stream, past its dropout.
fn branch_gradient(grad: &mut [f32], grad_x: &[f32], per_sequence: usize, site: Option<Dropout>) {
    grad.copy_from_slice(grad_x);
    if let Some(site) = site {
        dropout::cpu::bwd(grad, per_sequence, &site);
    }
}

/// `bias += Σ over rows of grad_out`, of each sequence.
fn add_bias(partials: &mut Partials<'_>, affine: &Affine, grad_out: &[f32], per_sequence: usize) {
    let Some(bias) = &affine.bias else { return };
    let bias = partials.local(bias);
    for (row, grad_out) in partials.rows().zip(grad_out.chunks_exact(per_sequence)) {
        linear::bwd_bias(&mut row[bias.clone()], grad_out);
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
            place: block.mlp_out.weight.clone(),
            grad_out: &grads.mlp_out,
            x: &hidden.after,
            shape: sizes.mlp_out(),
        },
        WeightGradient {
            place: block.mlp_in.weight.clone(),
            grad_out: &grads.after,
            x: &arena.mlp_norm.out,
            shape: sizes.mlp_in(),
        },
        WeightGradient {
            place: block.attention_out.weight.clone(),
            grad_out: &grads.attention_out,
            x: &kept.attended,
            shape: sizes.attention_out(),
        },
        WeightGradient {
            place: block.attention_in.weight.clone(),
            grad_out: &grads.qkv,
            x: &arena.attention_norm.out,
            shape: sizes.attention_in(),
        },
    ]
}
