//! The backward pass of a micro-batch. Gradients of parameters are added to the flat buffer as they come.

use wattle_ops::attention::board as attention;
use wattle_ops::board::{AttentionBackward, BoardError, DeviceTensor, Ptr};
use wattle_ops::dropout::board as dropout;
use wattle_ops::embedding::board as embedding;
use wattle_ops::head_norm::board as head_norm;
use wattle_ops::layer_norm::board as layer_norm;
use wattle_ops::linear::board::ColumnSums;
use wattle_ops::rms_norm::board as rms_norm;
use wattle_ops::rope::board as rope;
use wattle_ops::{Store, swiglu};

use super::activations::{Activations, Attention, Normed};
use super::forward::{MicroBatch, Place, added_of};
use crate::engine::Recompute;
use crate::engine::network::{MlpKind, Network, Norm, NormKind, NormPlace};

impl MicroBatch<'_> {
    /// From the gradient of the last normalized rows, in `branch`, to those of the tables.
    pub(super) fn backward(&self) -> Result<(), BoardError> {
        let Network { blocks, final_norm, .. } = self.network;
        let Activations { x, final_norm: normed, .. } = self.activations;
        let Activations { gradients, branch, partials, partials_len, .. } = self.activations;
        let mut sums = ColumnSums::new(*partials, *partials_len, self.store);
        let (x, grad_x) = (x[blocks.len()], gradients.x);
        self.norm_backward(final_norm, normed, x, *branch, (grad_x, Store::Overwrite), &mut sums)?;
        self.finish(&mut sums)?;
        for layer_idx in (0..blocks.len()).rev() {
            // The last block's activations are all still there.
            if layer_idx + 1 < blocks.len() {
                self.recompute(layer_idx)?;
            }
            self.mlp_backward(layer_idx, &mut sums)?;
            self.attention_backward(layer_idx, &mut sums)?;
            self.finish(&mut sums)?;
            if let Some(exchange) = self.exchange {
                exchange.sum_block(self.state.gradients, layer_idx)?;
            }
        }
        if self.network.adapters.is_none() {
            self.embedding_backward()?;
        }
        self.exchange.map_or(Ok(()), |exchange| exchange.sum_rest(self.state.gradients))
    }

    /// The gradients of norms and biases, which frozen ones do not have.
    fn finish(&self, sums: &mut ColumnSums) -> Result<(), BoardError> {
        match self.network.adapters {
            None => sums.finish(self.board),
            Some(_) => {
                sums.discard();
                Ok(())
            }
        }
    }

    /// Brings back what was not kept. Rows that go through the same kernels come out the same to the bit.
    fn recompute(&self, layer_idx: usize) -> Result<(), BoardError> {
        let Activations { x, norms, kept, hidden, .. } = self.activations;
        let block = &self.network.blocks[layer_idx];
        let (normed, kept) = (norms.at(layer_idx), kept.at(layer_idx));
        if self.sizes().norm_place == NormPlace::After {
            // The norms' statistics come with the sums, which are the same again.
            let (normed, hidden) = (norms.at(layer_idx), hidden.at(layer_idx));
            match self.options.recompute {
                Recompute::None => return Ok(()),
                Recompute::Mlp => {
                    let (added, norm) = (added_of(kept).attention, &block.attention_norm);
                    self.add_normed(kept.middle, x[layer_idx], added, &normed.attention, norm)?;
                    self.expand(layer_idx, kept.middle, hidden)?;
                    let (added, sum) = (added_of(kept).mlp, x[layer_idx + 1]);
                    return self.add_normed(sum, kept.middle, added, &normed.mlp, &block.mlp_norm);
                }
                Recompute::Block => {
                    self.attend_then_norm(layer_idx, x[layer_idx], normed, kept)?;
                    self.expand(layer_idx, kept.middle, hidden)?;
                    return self.contract_then_norm(layer_idx, hidden, normed, kept);
                }
            }
        }
        match self.options.recompute {
            Recompute::None => return Ok(()),
            Recompute::Mlp => {
                self.norm(&normed.attention, x[layer_idx], &block.attention_norm)?;
                self.norm(&normed.mlp, kept.middle, &block.mlp_norm)?;
            }
            Recompute::Block => {
                self.norm(&normed.attention, x[layer_idx], &block.attention_norm)?;
                self.attend(layer_idx, x[layer_idx], &normed.attention, kept, &normed.mlp)?;
            }
        }
        self.expand(layer_idx, normed.mlp.out, hidden.at(layer_idx))
    }

    fn mlp_backward(&self, layer_idx: usize, sums: &mut ColumnSums) -> Result<(), BoardError> {
        let Activations { norms, kept, hidden, gradients, branch, .. } = self.activations;
        let block = &self.network.blocks[layer_idx];
        let (normed, kept, hidden) = (norms.at(layer_idx), kept.at(layer_idx), hidden.at(layer_idx));
        let products = self.products();
        let after = kept.added.map(|added| (&block.mlp_norm, &normed.mlp, added.mlp));
        let grad_out = self.addend_gradient(Place::MlpOut(layer_idx), after, sums)?;
        products.bwd_weight_and_bias(grad_out, hidden.after, &block.mlp_out, self.store, sums)?;
        match self.sizes().mlp {
            MlpKind::Plain(kind) => {
                let linears = [&block.mlp_in, &block.mlp_out];
                self.activate_backward(kind, gradients.expanded, grad_out, hidden, linears)?;
            }
            MlpKind::Gated => {
                products.bwd_x(gradients.hidden, grad_out, &block.mlp_out, Store::Overwrite)?;
                let dims = [self.n(), self.sizes().ff];
                let (grad_x, grad_out) = (gradients.expanded, gradients.hidden);
                swiglu::board::bwd(self.board, grad_x, grad_out, hidden.before, dims)?;
            }
        }
        let x = match self.sizes().norm_place {
            NormPlace::Before => normed.mlp.out,
            NormPlace::After => kept.middle,
        };
        products.bwd_weight_and_bias(gradients.expanded, x, &block.mlp_in, self.store, sums)?;
        match self.sizes().norm_place {
            NormPlace::Before => {
                products.bwd_x(*branch, gradients.expanded, &block.mlp_in, Store::Overwrite)?;
                let (grad_x, store) = (gradients.x, Store::Accumulate);
                self.norm_backward(&block.mlp_norm, &normed.mlp, kept.middle, *branch, (grad_x, store), sums)
            }
            NormPlace::After => {
                products.bwd_x(gradients.x, gradients.expanded, &block.mlp_in, Store::Accumulate)
            }
        }
    }

    fn attention_backward(&self, layer_idx: usize, sums: &mut ColumnSums) -> Result<(), BoardError> {
        let Activations { x, norms, kept, gradients, branch, .. } = self.activations;
        let block = &self.network.blocks[layer_idx];
        let (normed, kept) = (norms.at(layer_idx), kept.at(layer_idx));
        let products = self.products();
        let after = kept.added.map(|added| (&block.attention_norm, &normed.attention, added.attention));
        let grad_out = self.addend_gradient(Place::AttentionOut(layer_idx), after, sums)?;
        products.bwd_weight_and_bias(grad_out, kept.attended, &block.attention_out, self.store, sums)?;
        products.bwd_x(*branch, grad_out, &block.attention_out, Store::Overwrite)?;

        match self.activations.attention {
            Attention::Fused { workspace } => {
                let shape = self.sizes().fused_attention(self.b, block.attention);
                let fused = self.board.fused_attention()?;
                let [grad_q, grad_k, grad_v] = self.query_key_value(gradients.qkv);
                let (forward, grad_out) = (self.fused_forward(kept), *branch);
                let tensors = AttentionBackward { forward, grad_out, grad_q, grad_k, grad_v };
                fused.backward(&shape, &tensors, workspace)?;
            }
            Attention::Products { scratch } => {
                let (shape, site) = (self.attention(block), self.site(Place::Attention(layer_idx)));
                let (grad_qkv, lse, qkv) = (gradients.qkv, kept.log_sum_exp, kept.qkv);
                attention::bwd(
                    self.board,
                    grad_qkv,
                    *branch,
                    lse,
                    qkv,
                    &shape,
                    self.slot.documents,
                    &site,
                    scratch,
                )?;
            }
            Attention::Cached(_) => unreachable!("nothing trains on rows of a cache"),
        }
        if let Some(heads) = self.rotary() {
            rope::bwd(self.board, gradients.qkv, &heads)?;
        }
        for norm in self.query_key_norms(block, kept, gradients.qkv) {
            let weight = self.gradient(norm.weight);
            head_norm::bwd(self.board, norm.rows, weight, norm.saved, norm.rstd, &norm.heads, sums)?;
        }
        let read = match self.sizes().norm_place {
            NormPlace::Before => normed.attention.out,
            NormPlace::After => x[layer_idx],
        };
        products.bwd_weight_and_bias(gradients.qkv, read, &block.attention_in, self.store, sums)?;
        // Nothing below is trained.
        if self.network.adapters.is_some() && layer_idx == 0 {
            return Ok(());
        }
        match self.sizes().norm_place {
            NormPlace::Before => {
                products.bwd_x(*branch, gradients.qkv, &block.attention_in, Store::Overwrite)?;
                let (x, store) = (x[layer_idx], Store::Accumulate);
                let (norm, normed) = (&block.attention_norm, &normed.attention);
                self.norm_backward(norm, normed, x, *branch, (gradients.x, store), sums)
            }
            NormPlace::After => {
                products.bwd_x(gradients.x, gradients.qkv, &block.attention_in, Store::Accumulate)
            }
        }
    }

    fn embedding_backward(&self) -> Result<(), BoardError> {
        let grad_x = self.activations.gradients.x;
        if self.dropped_from.is_some() {
            let len = self.n() * self.sizes().c;
            let site = self.site(Place::Embedding);
            dropout::fwd(self.board, grad_x, grad_x, len, &site)?;
        }
        let positions = self.optional_gradient(self.network.position_table());
        let tokens = self.gradient(self.network.token_table);
        let (rows, scratch) = (self.embedding_rows(), self.activations.partials);
        embedding::bwd(self.board, tokens, positions, grad_x, &rows, self.slot.order, scratch)
    }

    /// The gradient of what a half adds to the residual stream, past its norm, where there is one `after` it, and past
    /// its dropout.
    fn addend_gradient(
        &self,
        place: Place,
        after: Option<(&Norm, &Normed, DeviceTensor)>,
        sums: &mut ColumnSums,
    ) -> Result<DeviceTensor, BoardError> {
        let gradients = &self.activations.gradients;
        let mut grad_out = gradients.x;
        if let Some((norm, normed, added)) = after {
            self.norm_backward(norm, normed, added, grad_out, (gradients.addend, Store::Overwrite), sums)?;
            grad_out = gradients.addend;
        }
        if self.dropped_from.is_some() {
            let len = self.n() * self.sizes().c;
            dropout::fwd(self.board, gradients.addend, grad_out, len, &self.site(place))?;
        }
        Ok(gradients.addend)
    }

    /// From the gradient of a norm's result to those of its parameters and of its rows.
    fn norm_backward(
        &self,
        norm: &Norm,
        normed: &Normed,
        x: DeviceTensor,
        grad_out: DeviceTensor,
        (grad_x, store): (DeviceTensor, Store),
        sums: &mut ColumnSums,
    ) -> Result<(), BoardError> {
        let accumulate = store == Store::Accumulate;
        let weight = self.gradient(norm.weight);
        match self.sizes().norm {
            NormKind::Layer => {
                let bias = self.optional_gradient(norm.bias);
                let gradients = layer_norm::Gradients { x: grad_x, accumulate, weight, bias };
                let (normed, norm) = (normed.layer(), self.layer_norm(norm));
                layer_norm::bwd(self.board, &gradients, grad_out, x, &normed, &norm, sums)
            }
            NormKind::Rms => {
                let gradients = rms_norm::Gradients { x: grad_x, accumulate, weight };
                let (normed, norm) = (normed.rms(), self.rms_norm(norm));
                rms_norm::bwd(self.board, &gradients, grad_out, x, &normed, &norm, sums)
            }
        }
    }

    fn gradient(&self, start: usize) -> Ptr<f32> {
        self.state.gradients.add(start)
    }

    fn optional_gradient(&self, start: Option<usize>) -> Option<Ptr<f32>> {
        start.map(|start| self.gradient(start))
    }
}
