//! The backward pass: gradients of activations by slices of the batch, those of weights over all of it.

use wattle_ops::linear::cpu as linear;
use wattle_ops::{
    Dropout, Store, activation, attention, dropout, head_norm, layer_norm, rms_norm, rope, swiglu,
};

use super::arena::{Arena, Kept, Normed};
use super::backward_slice::{BackwardSlice, FinalNormSlice, Partials, WeightGradient};
use super::forward::Passes;
use crate::engine::Recompute;
use crate::engine::network::{Block, Linear, MlpKind, Norm, NormKind, NormPlace, QueryKeyNorms, Sizes};

/// The rows that a norm saw and what it found of them, of one sequence.
#[derive(Clone, Copy)]
struct Saved<'a> {
    x: &'a [f32],
    /// Empty where a norm subtracts no mean.
    mean: &'a [f32],
    rstd: &'a [f32],
}

impl Passes<'_> {
    /// One block: the gradient of its output becomes that of its input.
    pub(super) fn backward(&self, layer_idx: usize, mut slice: BackwardSlice<'_>, recompute: Recompute) {
        // The last block's activations are all still there.
        if layer_idx + 1 < self.network.n_layers() {
            self.recompute(layer_idx, &mut slice, recompute);
        }
        slice.partials.clear();
        self.mlp_backward(layer_idx, &mut slice);
        self.attention_backward(layer_idx, &mut slice);
    }

    /// Computes again what was not kept. Rows that go through the same kernels come out the same to the bit.
    fn recompute(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>, recompute: Recompute) {
        let block = &self.network.blocks[layer_idx];
        let BackwardSlice { first, x, attention_norm, mlp_norm, kept, hidden, branch, scratch, .. } = slice;
        if self.network.sizes.norm_place == NormPlace::After {
            if recompute == Recompute::Block {
                self.attend_then_norm(layer_idx, *first, x, attention_norm, kept, scratch);
                self.expand(layer_idx, kept.middle, hidden);
                self.contract_then_norm(layer_idx, *first, hidden, mlp_norm, kept);
                return;
            }
            self.norm(attention_norm, kept.attention_added, &block.attention_norm);
            self.norm(mlp_norm, kept.mlp_added, &block.mlp_norm);
            if recompute == Recompute::Mlp {
                self.expand(layer_idx, kept.middle, hidden);
            }
            return;
        }
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
        let (block, sizes) = (&self.network.blocks[layer_idx], &self.network.sizes);
        let &Sizes { t, c, ff, .. } = sizes;
        let BackwardSlice { first, mlp_norm, kept, hidden, gradients, branch, partials, .. } = slice;
        let site = self.sites.block(layer_idx, *first).mlp_out;
        match sizes.norm_place {
            NormPlace::Before => gradients.mlp_out.copy_from_slice(gradients.x),
            NormPlace::After => {
                let (grad, store) = (&mut *gradients.mlp_out, Store::Overwrite);
                let x = &*kept.mlp_added;
                self.norm_backward(&block.mlp_norm, grad, store, gradients.x, x, mlp_norm, partials);
            }
        }
        drop_gradient(gradients.mlp_out, t * c, site);
        add_bias(partials, &block.mlp_out, gradients.mlp_out, t);

        self.linear_bwd_x(gradients.after, Store::Overwrite, gradients.mlp_out, &block.mlp_out);
        let grad_expanded: &[f32] = match sizes.mlp {
            MlpKind::Plain(kind) => {
                let linear = &block.mlp_in;
                self.activation_backward(kind, linear, gradients.after, hidden.before, partials);
                gradients.after
            }
            MlpKind::Gated => {
                let rows = gradients.before.chunks_exact_mut(2 * ff).zip(gradients.after.chunks_exact(ff));
                for ((grad, grad_out), row) in rows.zip(hidden.before.chunks_exact(2 * ff)) {
                    let ((grad_gate, grad_up), (gate, up)) = (grad.split_at_mut(ff), row.split_at(ff));
                    swiglu::cpu::bwd(grad_gate, grad_up, grad_out, gate, up);
                }
                add_bias(partials, &block.mlp_in, gradients.before, t);
                gradients.before
            }
        };

        match sizes.norm_place {
            NormPlace::Before => {
                let branch = &mut branch[..gradients.x.len()];
                self.linear_bwd_x(branch, Store::Overwrite, grad_expanded, &block.mlp_in);
                let (grad, store) = (&mut *gradients.x, Store::Accumulate);
                self.norm_backward(&block.mlp_norm, grad, store, branch, kept.middle, mlp_norm, partials);
            }
            NormPlace::After => {
                self.linear_bwd_x(gradients.x, Store::Accumulate, grad_expanded, &block.mlp_in);
            }
        }
    }

    fn attention_backward(&self, layer_idx: usize, slice: &mut BackwardSlice<'_>) {
        let (block, sizes) = (&self.network.blocks[layer_idx], &self.network.sizes);
        let &Sizes { t, c, .. } = sizes;
        let BackwardSlice { first, x, attention_norm, kept, gradients, branch, partials, scratch, .. } =
            slice;
        let sites = self.sites.block(layer_idx, *first);
        match sizes.norm_place {
            NormPlace::Before => gradients.attention_out.copy_from_slice(gradients.x),
            NormPlace::After => {
                let (grad, store) = (&mut *gradients.attention_out, Store::Overwrite);
                let x = &*kept.attention_added;
                self.norm_backward(
                    &block.attention_norm,
                    grad,
                    store,
                    gradients.x,
                    x,
                    attention_norm,
                    partials,
                );
            }
        }
        drop_gradient(gradients.attention_out, t * c, sites.attention_out);
        add_bias(partials, &block.attention_out, gradients.attention_out, t);

        let grad_heads = &mut branch[..kept.attended.len()];
        self.linear_bwd_x(grad_heads, Store::Overwrite, gradients.attention_out, &block.attention_out);
        let shape = sizes.attention_shape(block.attention);
        let layout = attention::cpu::QkvLayout::fused(&shape);
        let saved =
            attention::cpu::Saved { out: kept.attended, log_sum_exp: kept.log_sum_exp, qkv: kept.qkv };
        let site = sites.attention.as_ref();
        let documents = self.documents(*first, x.len() / c);
        attention::cpu::bwd(gradients.qkv, grad_heads, saved, &layout, &shape, documents, site, scratch);
        if let Some(rotary) = self.rotary {
            let (rows, n_heads) = sizes.turning();
            rope::cpu::bwd(gradients.qkv, rows, x.len() / c, n_heads, t, documents, rotary);
        }
        if let Some(norms) = &block.query_key_norms {
            self.query_key_norms_backward(norms, gradients.qkv, kept, partials, scratch);
        }
        add_bias(partials, &block.attention_in, gradients.qkv, t);
        // Nothing below is trained.
        if self.adapters.is_some() && layer_idx == 0 {
            return;
        }

        match sizes.norm_place {
            NormPlace::Before => {
                let branch = &mut branch[..gradients.x.len()];
                self.linear_bwd_x(branch, Store::Overwrite, gradients.qkv, &block.attention_in);
                let (grad, store) = (&mut *gradients.x, Store::Accumulate);
                self.norm_backward(&block.attention_norm, grad, store, branch, x, attention_norm, partials);
            }
            NormPlace::After => {
                self.linear_bwd_x(gradients.x, Store::Accumulate, gradients.qkv, &block.attention_in);
            }
        }
    }

    /// In place: the gradients of normalized queries and keys become those of what the projection gave.
    fn query_key_norms_backward(
        &self,
        norms: &QueryKeyNorms,
        grad_qkv: &mut [f32],
        kept: &Kept<&mut [f32]>,
        partials: &mut Partials<'_>,
        scratch: &mut [f32],
    ) {
        let sizes = &self.network.sizes;
        let t = sizes.t;
        let heads = self.query_key_heads(norms, t);
        let grad_weights = [&norms.q, &norms.k].map(|norm| partials.local(&norm.range()));
        let [n_norms, width] = [heads[0].rstd.row_stride, heads[0].saved.row_stride];
        let saved = kept.query_key.chunks_exact(t * width);
        let saved = saved.zip(kept.query_key_rstd.chunks_exact(t * n_norms));
        let sequences = grad_qkv.chunks_exact_mut(t * sizes.qkv()).zip(saved);
        for ((grad, (saved, rstd)), partial) in sequences.zip(partials.rows()) {
            for (heads, grad_weight) in heads.iter().zip(&grad_weights) {
                head_norm::cpu::bwd(grad, &mut partial[grad_weight.clone()], saved, rstd, heads, scratch);
            }
        }
    }

    /// In place, sequence by sequence where there is a bias.
    fn activation_backward(
        &self,
        kind: wattle_ops::Activation,
        linear: &Linear,
        grad: &mut [f32],
        before: &[f32],
        partials: &mut Partials<'_>,
    ) {
        let (Some(range), Some(bias)) = (linear.bias_range(), linear.of(self.weights).1) else {
            return activation::cpu::bwd(kind, grad, before);
        };
        let per_sequence = self.network.sizes.t * linear.n_out;
        let range = partials.local(&range);
        let sequences = grad.chunks_exact_mut(per_sequence).zip(before.chunks_exact(per_sequence));
        for ((grad, before), row) in sequences.zip(partials.rows()) {
            activation::cpu::bias_bwd(kind, grad, &mut row[range.clone()], before, bias);
        }
    }

    /// The gradients of a norm of rows of the residual stream's width, sequence by sequence.
    #[expect(clippy::too_many_arguments, reason = "a norm's own, and where its gradients go")]
    fn norm_backward(
        &self,
        norm: &Norm,
        grad_x: &mut [f32],
        store: Store,
        grad_out: &[f32],
        x: &[f32],
        normed: &Normed<&mut [f32]>,
        partials: &mut Partials<'_>,
    ) {
        let local = partials.local(&norm.range());
        let per_sequence = self.network.sizes.t * norm.width;
        let rows = grad_x.chunks_exact_mut(per_sequence).zip(grad_out.chunks_exact(per_sequence));
        let saved = self.saved(x, normed.mean, normed.rstd);
        for (((grad_x, grad_out), saved), partial) in rows.zip(saved).zip(partials.rows()) {
            let partial = &mut partial[local.clone()];
            self.sequence_norm_backward(norm, grad_x, store, partial, grad_out, saved);
        }
    }

    /// The last norm: the gradient of its output, in `branch`, becomes that of the residual stream.
    pub(super) fn final_norm_backward(&self, slice: FinalNormSlice<'_>) {
        let norm = &self.network.final_norm;
        let per_sequence = self.network.sizes.t * norm.width;
        let partials = slice.partials.chunks_exact_mut(norm.range().len());
        let rows = slice.grad_x.chunks_exact_mut(per_sequence).zip(slice.grad_out.chunks_exact(per_sequence));
        let saved = self.saved(slice.x, slice.mean, slice.rstd);
        for (((grad_x, grad_out), saved), partial) in rows.zip(saved).zip(partials) {
            partial.fill(0.0);
            self.sequence_norm_backward(norm, grad_x, Store::Overwrite, partial, grad_out, saved);
        }
    }

    /// What a norm saved, sequence by sequence.
    fn saved<'b>(
        &self,
        x: &'b [f32],
        mean: &'b [f32],
        rstd: &'b [f32],
    ) -> impl Iterator<Item = Saved<'b>> + use<'b> {
        let &Sizes { t, c, .. } = &self.network.sizes;
        let x = x.chunks_exact(t * c);
        x.zip(rstd.chunks_exact(t)).enumerate().map(move |(idx, (x, rstd))| {
            let mean = if mean.is_empty() { mean } else { &mean[idx * t..(idx + 1) * t] };
            Saved { x, mean, rstd }
        })
    }

    /// `partial` has a norm's weight and bias side by side.
    fn sequence_norm_backward(
        &self,
        norm: &Norm,
        grad_x: &mut [f32],
        store: Store,
        partial: &mut [f32],
        grad_out: &[f32],
        saved: Saved<'_>,
    ) {
        let Saved { x, mean, rstd } = saved;
        let (weight, bias) = norm.of(self.weights);
        match self.network.sizes.norm {
            NormKind::Layer => {
                let (grad_weight, grad_bias) = partial.split_at_mut(weight.len());
                let grad_bias = bias.map(|_| grad_bias);
                let saved = layer_norm::cpu::Saved { x, mean, rstd };
                layer_norm::cpu::bwd(grad_x, store, grad_weight, grad_bias, grad_out, saved, weight);
            }
            NormKind::Rms => {
                let saved = rms_norm::cpu::Saved { x, rstd };
                rms_norm::cpu::bwd(grad_x, store, partial, grad_out, saved, weight);
            }
        }
    }
}

/// The gradient of elements some of which were dropped, in place.
fn drop_gradient(grad: &mut [f32], per_sequence: usize, site: Option<Dropout>) {
    if let Some(site) = site {
        dropout::cpu::bwd(grad, per_sequence, &site);
    }
}

/// `bias += Σ over rows of grad_out`, of each sequence of `t` rows.
fn add_bias(partials: &mut Partials<'_>, linear: &Linear, grad_out: &[f32], t: usize) {
    let Some(bias) = linear.bias_range() else { return };
    let bias = partials.local(&bias);
    for (row, grad_out) in partials.rows().zip(grad_out.chunks_exact(t * linear.n_out)) {
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
    let (attention_x, mlp_x) = match sizes.norm_place {
        NormPlace::Before => (&arena.attention_norm.out, &arena.mlp_norm.out),
        NormPlace::After => (&arena.x[layer_idx], &kept.middle),
    };
    let grad_expanded = match sizes.mlp {
        MlpKind::Plain(_) => &grads.after,
        MlpKind::Gated => &grads.before,
    };
    [
        WeightGradient::of(&block.mlp_out, &grads.mlp_out, &hidden.after),
        WeightGradient::of(&block.mlp_in, grad_expanded, mlp_x),
        WeightGradient::of(&block.attention_out, &grads.attention_out, &kept.attended),
        WeightGradient::of(&block.attention_in, &grads.qkv, attention_x),
    ]
}
