//! The backward pass: gradients of activations by slices of the batch, those of weights over all of it.

use std::ops::Range;

use rayon::prelude::*;
use wattle_ops::layer_norm::cpu::{self as layer_norm, Saved};
use wattle_ops::linear::cpu as linear;
use wattle_ops::{Dropout, Store, activation, attention, dropout};

use super::arena::{Arena, Gradients, Hidden, Kept, Normed};
use super::forward::Network;
use super::parameters::{Affine, Block};
use super::sizes::Sizes;
use crate::engine::Recompute;
use crate::engine::rows::cut_mut;
use crate::engine::slices::Slices;

/// Some sequences of a micro-batch in one block.
pub(super) struct BackwardSlice<'a> {
    /// Position of its first sequence in the micro-batch.
    first: usize,
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

/// Gradients of a block's norms and biases, one row a sequence.
struct Partials<'a> {
    rows: &'a mut [f32],
    /// Where the block's norms and biases start in the flat buffers.
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
                        first: sequences.start,
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

impl Partials<'_> {
    /// The part of each sequence.
    fn rows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.rows.chunks_exact_mut(self.width)
    }

    /// A place in the flat buffers as a place in a row.
    fn local(&self, range: &Range<usize>) -> Range<usize> {
        range.start - self.start..range.end - self.start
    }

    /// `bias += Σ over rows of grad_out`, of each sequence.
    fn add_bias(&mut self, affine: &Affine, grad_out: &[f32], per_sequence: usize) {
        let Some(bias) = &affine.bias else { return };
        let bias = self.local(bias);
        for (row, grad_out) in self.rows().zip(grad_out.chunks_exact(per_sequence)) {
            linear::bwd_bias(&mut row[bias.clone()], grad_out);
        }
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
        partials.add_bias(&block.mlp_out, gradients.mlp_out, t * c);

        let weight = block.mlp_out.of(self.weights).0;
        linear::bwd_x(gradients.hidden, Store::Overwrite, gradients.mlp_out, weight, &self.sizes.mlp_out());
        self.activation_backward(&block.mlp_in, gradients.hidden, hidden.before, partials);

        let weight = block.mlp_in.of(self.weights).0;
        linear::bwd_x(branch, Store::Overwrite, gradients.hidden, weight, &self.sizes.mlp_in());
        self.norm_backward(&block.mlp_norm, gradients.x, branch, kept.middle, mlp_norm, partials);
    }

    fn attention_backward(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>) {
        let block = &self.parameters.blocks[layer_idx];
        let &Sizes { t, c, .. } = self.sizes;
        let BackwardSlice { first, x, attention_norm, kept, gradients, branch, partials, scratch, .. } =
            slice;
        let sites = self.sites.block(layer_idx, *first);
        branch_gradient(gradients.attention_out, gradients.x, t * c, sites.attention_out);
        partials.add_bias(&block.attention_out, gradients.attention_out, t * c);

        let weight = block.attention_out.of(self.weights).0;
        let shape = self.sizes.attention_out();
        linear::bwd_x(branch, Store::Overwrite, gradients.attention_out, weight, &shape);
        let shape = self.sizes.attention();
        let layout = attention::cpu::QkvLayout::fused(&shape);
        let saved =
            attention::cpu::Saved { out: kept.attended, log_sum_exp: kept.log_sum_exp, qkv: kept.qkv };
        let site = sites.attention.as_ref();
        attention::cpu::bwd(gradients.qkv, branch, saved, &layout, &shape, site, scratch);
        partials.add_bias(&block.attention_in, gradients.qkv, 3 * t * c);

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

/// Some sequences of a micro-batch at the last norm.
pub(super) struct FinalNormSlice<'a> {
    x: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
    grad_out: &'a [f32],
    grad_x: &'a mut [f32],
    partials: &'a mut [f32],
}

impl<'a> FinalNormSlice<'a> {
    /// Cuts an arena.
    pub(super) fn cut(arena: &'a mut Arena, n_vectors: usize, slices: &Slices) -> Vec<Self> {
        let x = &arena.x[arena.x.len() - 1];
        let norm = &arena.final_norm;
        let saved = x.cut(slices).zip(norm.mean.cut(slices)).zip(norm.rstd.cut(slices));
        let mut partials = arena.partials.values_mut();
        let gradients = cut_mut([&mut arena.gradients.x], slices);
        slices
            .ranges()
            .zip(saved)
            .zip(arena.branch.cut(slices).zip(gradients))
            .map(|((sequences, ((x, mean), rstd)), (grad_out, [grad_x]))| {
                let (part, rest) = std::mem::take(&mut partials).split_at_mut(sequences.len() * n_vectors);
                partials = rest;
                FinalNormSlice { x, mean, rstd, grad_out, grad_x, partials: part }
            })
            .collect()
    }
}

/// The gradient of what was added to the residual stream, past its dropout.
fn branch_gradient(grad: &mut [f32], grad_x: &[f32], per_sequence: usize, site: Option<Dropout>) {
    grad.copy_from_slice(grad_x);
    if let Some(site) = site {
        dropout::cpu::bwd(grad, per_sequence, &site);
    }
}

/// Adds the gradients of a block's weights, norms and biases to the flat `gradients`.
///
/// Those of weights are products over all rows of the micro-batch, by blocks of the weight; those of norms and
/// biases were summed for each sequence and are added in the order of the sequences.
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
        (&block.mlp_in, &grads.hidden, &arena.mlp_norm.out, sizes.mlp_in()),
        (&block.attention_out, &grads.attention_out, &kept.attended, sizes.attention_out()),
        (&block.attention_in, &grads.qkv, &arena.attention_norm.out, sizes.attention_in()),
    ];
    let ranges = products.each_ref().map(|(affine, ..)| affine.weight.clone());
    let weights = gradients.get_disjoint_mut(ranges).expect("weights do not overlap");
    let products: Vec<_> = weights.into_iter().zip(products).collect();
    products.into_par_iter().with_max_len(1).for_each(|(grad_weight, (_, grad_out, x, shape))| {
        linear::bwd_weight_par(grad_weight, grad_out.of(n), x.of(n), &shape);
    });
    add_vector_gradients(&mut gradients[block.vectors.clone()], arena, n_sequences);
}

/// Adds the partial gradients of all sequences to those of some norms and biases.
pub(super) fn add_vector_gradients(gradients: &mut [f32], arena: &Arena, n_sequences: usize) {
    let partials = &arena.partials.values()[..n_sequences * gradients.len()];
    linear::bwd_bias(gradients, partials);
}
