//! The forward pass of a slice of the batch.

use std::ops::Range;

use wattle_ops::linear::cpu as linear;
use wattle_ops::rms_norm::cpu::{self as rms_norm, Norm};
use wattle_ops::rope::Rotary;
use wattle_ops::{attention, embedding, rope, swiglu};

use super::parameters::Parameters;
use super::sizes::Sizes;
use crate::engine::arena::{Hidden, Kept, Normed};
use crate::engine::forward_slice::ForwardSlice;

/// What all slices share.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    pub(super) sizes: &'a Sizes,
    pub(super) parameters: &'a Parameters,
    pub(super) weights: &'a [f32],
    pub(super) rotary: &'a Rotary,
}

impl Network<'_> {
    /// The forward pass up to the normalized rows of the last block. `tokens` are those of the micro-batch.
    pub(super) fn forward(&self, mut slice: ForwardSlice<'_>, tokens: &[u32]) {
        let ForwardSlice {
            sequences,
            x,
            kept,
            hidden,
            attention_norm,
            mlp_norm,
            final_norm,
            branch,
            scratch,
        } = &mut slice;
        let &Sizes { t, c, .. } = self.sizes;
        let Parameters { token_table, blocks, .. } = self.parameters;
        let tokens = &tokens[sequences.start * t..sequences.end * t];
        embedding::cpu::fwd(x[0], tokens, &self.weights[token_table.clone()], None, t, c);
        self.norm(attention_norm, x[0], &blocks[0].attention_norm);
        for (layer_idx, block) in blocks.iter().enumerate() {
            let (before, after) = x.split_at_mut(layer_idx + 1);
            let (kept, hidden) = (kept.at_mut(layer_idx), hidden.at_mut(layer_idx));
            self.attend(layer_idx, attention_norm.out, kept, branch, scratch);
            self.residual_norm(kept.middle, mlp_norm, before[layer_idx], branch, &block.mlp_norm);
            self.expand(layer_idx, mlp_norm.out, hidden);
            let weight = &self.weights[block.mlp_out.clone()];
            linear::fwd(branch, hidden.after, weight, None, &self.sizes.mlp_out());
            let (next, norm) = match blocks.get(layer_idx + 1) {
                Some(block) => (&mut *attention_norm, &block.attention_norm),
                None => (&mut *final_norm, &self.parameters.final_norm),
            };
            self.residual_norm(after[0], next, kept.middle, branch, norm);
        }
    }

    /// Attention, from a block's normalized input to what is added to the residual stream, in `branch`.
    pub(super) fn attend(
        &self,
        layer_idx: usize,
        normed: &[f32],
        kept: &mut Kept<&mut [f32]>,
        branch: &mut [f32],
        scratch: &mut [f32],
    ) {
        let block = &self.parameters.blocks[layer_idx];
        let weight = &self.weights[block.attention_in.clone()];
        linear::fwd(kept.qkv, normed, weight, None, &self.sizes.attention_in());
        let (rows, n_heads) = self.sizes.turning();
        let n_rows = normed.len() / self.sizes.c;
        rope::cpu::fwd(kept.qkv, rows, n_rows, n_heads, self.sizes.t, self.rotary);
        let shape = self.sizes.attention();
        let layout = attention::cpu::QkvLayout::fused(&shape);
        attention::cpu::fwd(kept.attended, kept.log_sum_exp, kept.qkv, &layout, &shape, None, None, scratch);
        let weight = &self.weights[block.attention_out.clone()];
        linear::fwd(branch, kept.attended, weight, None, &self.sizes.attention_out());
    }

    /// The feed-forward half up to its gate.
    pub(super) fn expand(&self, layer_idx: usize, normed: &[f32], hidden: &mut Hidden<&mut [f32]>) {
        let ff = self.sizes.ff;
        let weight = &self.weights[self.parameters.blocks[layer_idx].mlp_in.clone()];
        linear::fwd(hidden.before, normed, weight, None, &self.sizes.mlp_in());
        for (out, row) in hidden.after.chunks_exact_mut(ff).zip(hidden.before.chunks_exact(2 * ff)) {
            let (gate, up) = row.split_at(ff);
            swiglu::cpu::fwd(out, gate, up);
        }
    }

    pub(super) fn norm(&self, normed: &mut Normed<&mut [f32]>, x: &[f32], weight: &Range<usize>) {
        rms_norm::fwd(normed.out, normed.rstd, x, &self.norm_of(weight));
    }

    pub(super) fn residual_norm(
        &self,
        sum: &mut [f32],
        normed: &mut Normed<&mut [f32]>,
        x: &[f32],
        addend: &[f32],
        weight: &Range<usize>,
    ) {
        rms_norm::residual_fwd(sum, normed.out, normed.rstd, x, addend, &self.norm_of(weight));
    }

    fn norm_of(&self, weight: &Range<usize>) -> Norm<'_> {
        Norm { weight: &self.weights[weight.clone()], eps: self.sizes.eps }
    }
}
