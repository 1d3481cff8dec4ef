//! The forward pass of a slice of the batch.

use wattle_ops::layer_norm::cpu::{self as layer_norm, Addend, Norm, Stats};
use wattle_ops::linear::cpu as linear;
use wattle_ops::{Dropout, activation, attention, dropout, embedding};

use super::parameters::{Affine, Parameters};
use super::sites::Sites;
use super::sizes::Sizes;
use crate::config::NORM_EPS;
use crate::engine::arena::{Hidden, Kept, Normed};
use crate::engine::forward_slice::ForwardSlice;

/// What all slices share.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    pub(super) sizes: &'a Sizes,
    pub(super) parameters: &'a Parameters,
    pub(super) weights: &'a [f32],
    pub(super) sites: &'a Sites,
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
        let first = sequences.start;
        self.embed(x[0], &tokens[first * self.sizes.t..sequences.end * self.sizes.t], first);
        self.norm(attention_norm, x[0], &self.parameters.blocks[0].attention_norm);
        for (layer_idx, block) in self.parameters.blocks.iter().enumerate() {
            let (before, after) = x.split_at_mut(layer_idx + 1);
            let (kept, hidden) = (kept.at_mut(layer_idx), hidden.at_mut(layer_idx));
            let addend = self.attend(layer_idx, first, attention_norm.out, kept, branch, scratch);
            self.residual_norm(kept.middle, mlp_norm, before[layer_idx], &addend, &block.mlp_norm);
            self.expand(layer_idx, mlp_norm.out, hidden);
            let site = self.sites.block(layer_idx, first).mlp_out;
            let addend = self.project(branch, hidden.after, &block.mlp_out, &self.sizes.mlp_out(), site);
            let (next, norm) = match self.parameters.blocks.get(layer_idx + 1) {
                Some(block) => (&mut *attention_norm, &block.attention_norm),
                None => (&mut *final_norm, &self.parameters.final_norm),
            };
            self.residual_norm(after[0], next, kept.middle, &addend, norm);
        }
    }

    fn embed(&self, x: &mut [f32], tokens: &[u32], first: usize) {
        let Parameters { token_table, position_table, .. } = self.parameters;
        let &Sizes { t, c, .. } = self.sizes;
        let tables = (&self.weights[token_table.clone()], &self.weights[position_table.clone()]);
        embedding::cpu::fwd(x, tokens, tables.0, Some(tables.1), t, c);
        if let Some(site) = self.sites.embedding(first) {
            dropout::cpu::fwd(x, t * c, &site);
        }
    }

    /// Attention, from a block's normalized input to what is added to the residual stream.
    pub(super) fn attend<'b>(
        &'b self,
        layer_idx: usize,
        first: usize,
        normed: &[f32],
        kept: &mut Kept<&mut [f32]>,
        branch: &'b mut [f32],
        scratch: &mut [f32],
    ) -> Addend<'b> {
        let block = &self.parameters.blocks[layer_idx];
        let sites = self.sites.block(layer_idx, first);
        let (weight, bias) = block.attention_in.of(self.weights);
        linear::fwd(kept.qkv, normed, weight, bias, &self.sizes.attention_in());
        let shape = self.sizes.attention();
        let layout = attention::cpu::QkvLayout::fused(&shape);
        let site = sites.attention.as_ref();
        attention::cpu::fwd(kept.attended, kept.log_sum_exp, kept.qkv, &layout, &shape, None, site, scratch);
        let shape = self.sizes.attention_out();
        self.project(branch, kept.attended, &block.attention_out, &shape, sites.attention_out)
    }

    /// The feed-forward half up to its activation.
    pub(super) fn expand(&self, layer_idx: usize, normed: &[f32], hidden: &mut Hidden<&mut [f32]>) {
        let (weight, bias) = self.parameters.blocks[layer_idx].mlp_in.of(self.weights);
        linear::fwd(hidden.before, normed, weight, None, &self.sizes.mlp_in());
        match bias {
            Some(bias) => {
                activation::cpu::bias_fwd(self.sizes.activation, hidden.after, hidden.before, bias);
            }
            None => activation::cpu::fwd(self.sizes.activation, hidden.after, hidden.before),
        }
    }

    /// What one half of a block adds to the residual stream. A bias is left to the addition, unless elements
    /// are dropped before.
    fn project<'b>(
        &'b self,
        branch: &'b mut [f32],
        x: &[f32],
        affine: &Affine,
        shape: &linear::Shape,
        site: Option<Dropout>,
    ) -> Addend<'b> {
        let (weight, bias) = affine.of(self.weights);
        match site {
            Some(site) => {
                linear::fwd(branch, x, weight, bias, shape);
                dropout::cpu::fwd(branch, self.sizes.t * self.sizes.c, &site);
                Addend { rows: branch, bias: None }
            }
            None => {
                linear::fwd(branch, x, weight, None, shape);
                Addend { rows: branch, bias }
            }
        }
    }

    pub(super) fn norm(&self, normed: &mut Normed<&mut [f32]>, x: &[f32], affine: &Affine) {
        let (weight, bias) = affine.of(self.weights);
        let norm = Norm { weight, bias, eps: NORM_EPS as f32 };
        layer_norm::fwd(normed.out, Stats { mean: normed.mean, rstd: normed.rstd }, x, &norm);
    }

    pub(super) fn residual_norm(
        &self,
        sum: &mut [f32],
        normed: &mut Normed<&mut [f32]>,
        x: &[f32],
        addend: &Addend<'_>,
        affine: &Affine,
    ) {
        let (weight, bias) = affine.of(self.weights);
        let norm = Norm { weight, bias, eps: NORM_EPS as f32 };
        let stats = Stats { mean: normed.mean, rstd: normed.rstd };
        layer_norm::residual_fwd(sum, normed.out, stats, x, addend, &norm);
    }
}
