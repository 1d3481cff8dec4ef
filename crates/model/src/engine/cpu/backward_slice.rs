//! What one thread works on in a backward pass, and what is left to be summed afterwards.

use std::ops::Range;

use rayon::prelude::*;
use wattle_ops::linear::cpu as linear;

use super::arena::{Arena, Gradients, Hidden, Kept, Normed};
use super::products::fp8_weight_gradient;
use super::rows::{Rows, cut_mut};
use super::slices::Slices;
use crate::engine::network::Linear;

/// Some sequences of a micro-batch in one block.
pub(super) struct BackwardSlice<'a> {
    /// Position of its first sequence in the micro-batch.
    pub(super) first: usize,
    pub(super) x: &'a [f32],
    pub(super) attention_norm: Normed<&'a mut [f32]>,
    pub(super) mlp_norm: Normed<&'a mut [f32]>,
    pub(super) kept: Kept<&'a mut [f32]>,
    pub(super) hidden: Hidden<&'a mut [f32]>,
    pub(super) gradients: Gradients<&'a mut [f32]>,
    pub(super) branch: &'a mut [f32],
    pub(super) partials: Partials<'a>,
    pub(super) scratch: &'a mut [f32],
}

/// Gradients of a block's norms and biases, one row a sequence.
pub(super) struct Partials<'a> {
    rows: &'a mut [f32],
    /// Where the block's norms and biases start in the flat buffers.
    start: usize,
    width: usize,
}

impl<'a> BackwardSlice<'a> {
    /// Cuts an arena for one block, whose norms and biases are `vectors` of the flat buffers.
    pub(super) fn cut(
        arena: &'a mut Arena,
        layer_idx: usize,
        vectors: &Range<usize>,
        slices: &Slices,
    ) -> Vec<Self> {
        let width = vectors.len();
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
                        partials: Partials { rows, start: vectors.start, width },
                        scratch,
                    }
                },
            )
            .collect()
    }
}

impl Partials<'_> {
    /// Nothing summed yet.
    pub(super) fn clear(&mut self) {
        self.rows.fill(0.0);
    }

    /// The part of each sequence.
    pub(super) fn rows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.rows.chunks_exact_mut(self.width)
    }

    /// A place in the flat buffers as a place in a row.
    pub(super) fn local(&self, range: &Range<usize>) -> Range<usize> {
        range.start - self.start..range.end - self.start
    }
}

/// Some sequences of a micro-batch at the last norm.
pub(super) struct FinalNormSlice<'a> {
    pub(super) x: &'a [f32],
    pub(super) mean: &'a [f32],
    pub(super) rstd: &'a [f32],
    pub(super) grad_out: &'a [f32],
    pub(super) grad_x: &'a mut [f32],
    pub(super) partials: &'a mut [f32],
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
            .zip(arena.branch.cut_as(slices, x.per_sequence()).zip(gradients))
            .map(|((sequences, ((x, mean), rstd)), (grad_out, [grad_x]))| {
                let (part, rest) = std::mem::take(&mut partials).split_at_mut(sequences.len() * n_vectors);
                partials = rest;
                FinalNormSlice { x, mean, rstd, grad_out, grad_x, partials: part }
            })
            .collect()
    }
}

/// A gradient of a weight that is still to be computed, over all rows of the micro-batch.
pub(super) struct WeightGradient<'a> {
    /// Where the weight lies in the flat buffers.
    pub(super) place: Range<usize>,
    pub(super) grad_out: &'a Rows,
    pub(super) x: &'a Rows,
    pub(super) shape: linear::Shape,
}

impl<'a> WeightGradient<'a> {
    /// The gradient of a layer's weight, given that of the layer's result and its argument.
    pub(super) fn of(linear: &Linear, grad_out: &'a Rows, x: &'a Rows) -> Self {
        Self { place: linear.weight_range(), grad_out, x, shape: linear.shape() }
    }
}

/// Adds the gradients of weights, which do not overlap, to the flat `gradients`, by blocks of each.
pub(super) fn add_weight_gradients<const N: usize>(
    gradients: &mut [f32],
    products: [WeightGradient<'_>; N],
    n_sequences: usize,
    is_fp8: bool,
) {
    let places = products.each_ref().map(|product| product.place.clone());
    let weights = gradients.get_disjoint_mut(places).expect("weights do not overlap");
    let products: Vec<_> = weights.into_iter().zip(products).collect();
    if is_fp8 {
        // One after the other, since each rounds its factors into memory of its own.
        return products.into_iter().for_each(|(grad_weight, product)| {
            let WeightGradient { grad_out, x, shape, .. } = product;
            fp8_weight_gradient(grad_weight, grad_out.of(n_sequences), x.of(n_sequences), &shape);
        });
    }
    products.into_par_iter().with_max_len(1).for_each(|(grad_weight, product)| {
        let WeightGradient { grad_out, x, shape, .. } = product;
        linear::bwd_weight_par(grad_weight, grad_out.of(n_sequences), x.of(n_sequences), &shape);
    });
}

/// Adds the partial gradients of all sequences to those of some norms and biases, in the order of the sequences.
pub(super) fn add_vector_gradients(gradients: &mut [f32], arena: &Arena, n_sequences: usize) {
    let partials = &arena.partials.values()[..n_sequences * gradients.len()];
    linear::bwd_bias(gradients, partials);
}
