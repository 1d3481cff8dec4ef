//! The forward pass of a slice of the batch.

use wattle_ops::head_norm::cpu::Heads;
use wattle_ops::layer_norm::cpu::{self as layer_norm, Addend, Stats};
use wattle_ops::rms_norm::cpu as rms_norm;
use wattle_ops::rope::Rotary;
use wattle_ops::{Dropout, HeadRows, activation, attention, dropout, embedding, head_norm, rope, swiglu};

use super::adapters::AdapterPass;
use super::arena::{Hidden, Kept, Normed};
use super::forward_slice::ForwardSlice;
use super::sites::Sites;
use crate::engine::Sequences;
use crate::engine::network::{Linear, MlpKind, Network, Norm, NormKind, NormPlace, QueryKeyNorms, Sizes};

/// What all slices of a pass share.
#[derive(Clone, Copy)]
pub(super) struct Passes<'a> {
    pub(super) network: &'a Network,
    /// Those of products in eight bits are rounded.
    pub(super) weights: &'a [f32],
    /// Whether the blocks' products are in eight bits.
    pub(super) is_fp8: bool,
    pub(super) sites: &'a Sites,
    pub(super) rotary: Option<&'a Rotary>,
    /// Those of the micro-batch.
    pub(super) sequences: Sequences<'a>,
    /// Where the weights are frozen.
    pub(super) adapters: Option<AdapterPass<'a>>,
    /// Position in the micro-batch of the first sequence of the slice at hand.
    pub(super) first: usize,
}

impl Passes<'_> {
    /// Those of the slice that starts with the micro-batch's sequence `first`.
    pub(super) fn from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// The forward pass up to the normalized rows of the last block.
    pub(super) fn forward(&self, mut slice: ForwardSlice<'_>) {
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
        let Network { blocks, sizes, .. } = self.network;
        let first = sequences.start;
        self.embed(x[0], &self.sequences.inputs[first * sizes.t..sequences.end * sizes.t], first);
        if sizes.norm_place == NormPlace::After {
            for layer_idx in 0..blocks.len() {
                let (before, after) = x.split_at_mut(layer_idx + 1);
                let (kept, hidden) = (kept.at_mut(layer_idx), hidden.at_mut(layer_idx));
                let x = &*before[layer_idx];
                self.attend_then_norm(layer_idx, first, x, attention_norm, kept, scratch);
                self.expand(layer_idx, kept.middle, hidden);
                self.contract_then_norm(layer_idx, first, hidden, mlp_norm, kept);
                add(after[0], kept.middle, mlp_norm.out);
            }
            return self.norm(final_norm, x[blocks.len()], &self.network.final_norm);
        }
        self.norm(attention_norm, x[0], &blocks[0].attention_norm);
        for (layer_idx, block) in blocks.iter().enumerate() {
            let (before, after) = x.split_at_mut(layer_idx + 1);
            let (kept, hidden) = (kept.at_mut(layer_idx), hidden.at_mut(layer_idx));
            let addend = self.attend(layer_idx, first, attention_norm.out, kept, branch, scratch);
            self.residual_norm(kept.middle, mlp_norm, before[layer_idx], &addend, &block.mlp_norm);
            self.expand(layer_idx, mlp_norm.out, hidden);
            let site = self.sites.block(layer_idx, first).mlp_out;
            let addend = self.project(branch, hidden.after, &block.mlp_out, site);
            let (next, norm) = match blocks.get(layer_idx + 1) {
                Some(block) => (&mut *attention_norm, &block.attention_norm),
                None => (&mut *final_norm, &self.network.final_norm),
            };
            self.residual_norm(after[0], next, kept.middle, &addend, norm);
        }
    }

    /// The attention half where its result is normalized, from a block's input to the residual stream between the
    /// halves.
    pub(super) fn attend_then_norm(
        &self,
        layer_idx: usize,
        first: usize,
        x: &[f32],
        normed: &mut Normed<&mut [f32]>,
        kept: &mut Kept<&mut [f32]>,
        scratch: &mut [f32],
    ) {
        let block = &self.network.blocks[layer_idx];
        let added = std::mem::take(&mut kept.attention_added);
        self.attend(layer_idx, first, x, kept, added, scratch);
        kept.attention_added = added;
        self.norm(normed, kept.attention_added, &block.attention_norm);
        add(kept.middle, x, normed.out);
    }

    /// The rest of the feed-forward half where its result is normalized: that, and it normalized.
    pub(super) fn contract_then_norm(
        &self,
        layer_idx: usize,
        first: usize,
        hidden: &Hidden<&mut [f32]>,
        normed: &mut Normed<&mut [f32]>,
        kept: &mut Kept<&mut [f32]>,
    ) {
        let block = &self.network.blocks[layer_idx];
        let site = self.sites.block(layer_idx, first).mlp_out;
        self.project(kept.mlp_added, hidden.after, &block.mlp_out, site);
        self.norm(normed, kept.mlp_added, &block.mlp_norm);
    }

    fn embed(&self, x: &mut [f32], tokens: &[u32], first: usize) {
        let &Sizes { t, c, v, .. } = &self.network.sizes;
        let table = |start: usize, n_rows: usize| &self.weights[start..start + n_rows * c];
        let positions = self.network.position_table().map(|start| table(start, t));
        let documents = self.documents(first, tokens.len());
        embedding::cpu::fwd(x, tokens, table(self.network.token_table, v), positions, documents, t, c);
        if let Some(site) = self.sites.embedding(first) {
            dropout::cpu::fwd(x, t * c, &site);
        }
    }

    /// Attention, from what its projections read to what is added to the residual stream.
    pub(super) fn attend<'b>(
        &'b self,
        layer_idx: usize,
        first: usize,
        x: &[f32],
        kept: &mut Kept<&mut [f32]>,
        branch: &'b mut [f32],
        scratch: &mut [f32],
    ) -> Addend<'b> {
        let (block, sizes) = (&self.network.blocks[layer_idx], &self.network.sizes);
        let sites = self.sites.block(layer_idx, first);
        self.linear_fwd(kept.qkv, x, &block.attention_in, true);
        if let Some(norms) = &block.query_key_norms {
            for heads in self.query_key_heads(norms, x.len() / sizes.c) {
                head_norm::cpu::fwd(kept.qkv, kept.query_key, kept.query_key_rstd, &heads);
            }
        }
        let documents = self.documents(first, x.len() / sizes.c);
        if let Some(rotary) = self.rotary {
            let (rows, n_heads) = sizes.turning();
            rope::cpu::fwd(kept.qkv, rows, x.len() / sizes.c, n_heads, sizes.t, documents, rotary);
        }
        let shape = sizes.attention_shape(block.attention);
        let layout = attention::cpu::QkvLayout::fused(&shape);
        let site = sites.attention.as_ref();
        let (out, log_sum_exp) = (&mut *kept.attended, &mut *kept.log_sum_exp);
        attention::cpu::fwd(out, log_sum_exp, kept.qkv, &layout, &shape, documents, site, scratch);
        self.project(branch, kept.attended, &block.attention_out, sites.attention_out)
    }

    /// Where the documents start of `n` rows, which begin with the micro-batch's sequence `first`.
    pub(super) fn documents(&self, first: usize, n: usize) -> Option<&[u32]> {
        let start = first * self.network.sizes.t;
        self.sequences.documents.map(|documents| &documents[start..start + n])
    }

    /// Queries, and keys, of `n` rows as they are normalized.
    pub(super) fn query_key_heads<'b>(&'b self, norms: &QueryKeyNorms, n: usize) -> [Heads<'b>; 2] {
        let sizes = &self.network.sizes;
        let (q_width, k_width) = (sizes.heads(), sizes.kv());
        let (n_q, n_k) = (q_width / norms.q.width, k_width / norms.k.width);
        let heads = |norm: &Norm, n_heads: usize, offset: usize, rstd_offset: usize| Heads {
            n_rows: n,
            n_heads,
            rows: HeadRows { offset, row_stride: sizes.qkv() },
            saved: HeadRows { offset, row_stride: q_width + k_width },
            rstd: HeadRows { offset: rstd_offset, row_stride: n_q + n_k },
            norm: rms_norm::Norm { weight: norm.of(self.weights).0, eps: sizes.norm_eps },
        };
        [heads(&norms.q, n_q, 0, 0), heads(&norms.k, n_k, q_width, n_q)]
    }

    /// The feed-forward half up to what stands between its products.
    pub(super) fn expand(&self, layer_idx: usize, normed: &[f32], hidden: &mut Hidden<&mut [f32]>) {
        let mlp_in = &self.network.blocks[layer_idx].mlp_in;
        match self.network.sizes.mlp {
            MlpKind::Plain(kind) => {
                self.linear_fwd(hidden.before, normed, mlp_in, false);
                match mlp_in.of(self.weights).1 {
                    Some(bias) => activation::cpu::bias_fwd(kind, hidden.after, hidden.before, bias),
                    None => activation::cpu::fwd(kind, hidden.after, hidden.before),
                }
            }
            MlpKind::Gated => {
                self.linear_fwd(hidden.before, normed, mlp_in, true);
                let ff = self.network.sizes.ff;
                let rows = hidden.after.chunks_exact_mut(ff).zip(hidden.before.chunks_exact(2 * ff));
                for (out, row) in rows {
                    let (gate, up) = row.split_at(ff);
                    swiglu::cpu::fwd(out, gate, up);
                }
            }
        }
    }

    /// What one half of a block adds to the residual stream. A bias is left to the addition where that can add one,
    /// unless elements are dropped before.
    fn project<'b>(
        &'b self,
        branch: &'b mut [f32],
        x: &[f32],
        linear: &Linear,
        site: Option<Dropout>,
    ) -> Addend<'b> {
        let &Sizes { t, c, norm, norm_place, .. } = &self.network.sizes;
        let branch = &mut branch[..x.len() / linear.n_in * c];
        if norm == NormKind::Layer && norm_place == NormPlace::Before && site.is_none() {
            self.linear_fwd(branch, x, linear, false);
            return Addend { rows: branch, bias: linear.of(self.weights).1 };
        }
        self.linear_fwd(branch, x, linear, true);
        if let Some(site) = site {
            dropout::cpu::fwd(branch, t * c, &site);
        }
        Addend { rows: branch, bias: None }
    }

    /// Normalizes rows.
    pub(super) fn norm(&self, normed: &mut Normed<&mut [f32]>, x: &[f32], norm: &Norm) {
        let (weight, bias) = norm.of(self.weights);
        let eps = self.network.sizes.norm_eps;
        match self.network.sizes.norm {
            NormKind::Layer => {
                let stats = Stats { mean: normed.mean, rstd: normed.rstd };
                layer_norm::fwd(normed.out, stats, x, &layer_norm::Norm { weight, bias, eps });
            }
            NormKind::Rms => rms_norm::fwd(normed.out, normed.rstd, x, &rms_norm::Norm { weight, eps }),
        }
    }

    /// Adds to the residual stream and normalizes the sum.
    pub(super) fn residual_norm(
        &self,
        sum: &mut [f32],
        normed: &mut Normed<&mut [f32]>,
        x: &[f32],
        addend: &Addend<'_>,
        norm: &Norm,
    ) {
        let (weight, bias) = norm.of(self.weights);
        let eps = self.network.sizes.norm_eps;
        match self.network.sizes.norm {
            NormKind::Layer => {
                let stats = Stats { mean: normed.mean, rstd: normed.rstd };
                let norm = layer_norm::Norm { weight, bias, eps };
                layer_norm::residual_fwd(sum, normed.out, stats, x, addend, &norm);
            }
            NormKind::Rms => {
                let norm = rms_norm::Norm { weight, eps };
                rms_norm::residual_fwd(sum, normed.out, normed.rstd, x, addend.rows, &norm);
            }
        }
    }
}

/// `sum = x + y`
fn add(sum: &mut [f32], x: &[f32], y: &[f32]) {
    for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
        *sum = x + y;
    }
}
