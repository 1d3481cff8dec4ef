//! The forward pass of a micro-batch.

use std::ops::Range;

use wattle_ops::attention::board as attention;
use wattle_ops::board::{AttentionForward, Board, BoardError, DeviceTensor, Ptr};
use wattle_ops::classifier::board as classifier;
use wattle_ops::decode::board as decode;
use wattle_ops::dropout::board::{self as dropout, Site};
use wattle_ops::embedding::board as embedding;
use wattle_ops::head_norm::board as head_norm;
use wattle_ops::layer_norm::board as layer_norm;
use wattle_ops::rms_norm::board as rms_norm;
use wattle_ops::rope::board as rope;
use wattle_ops::{Store, activation, swiglu};

use super::DeviceEngineOptions;
use super::activations::{Activations, Added, Attention, BlockNorms, Hidden, Kept, Normed};
use super::adapters::{AdapterProducts, Training};
use super::fp8::Fp8;
use super::inputs::Slot;
use super::linear::Products;
use super::results::RowResults;
use super::shards::Exchange;
use super::state::State;
use crate::engine::network::{Block, Linear, MlpKind, Network, Norm, NormKind, NormPlace, Sizes};

/// A micro-batch on its way, and where everything is that it needs.
#[derive(Clone, Copy)]
pub(super) struct MicroBatch<'a> {
    pub(super) board: &'a dyn Board,
    pub(super) network: &'a Network,
    pub(super) options: &'a DeviceEngineOptions,
    pub(super) state: &'a State,
    pub(super) fp8: Option<&'a Fp8>,
    /// With the micro-batch's own tokens.
    pub(super) slot: Slot,
    pub(super) activations: &'a Activations,
    /// Position of its first sequence in the step's batch; `None` where nothing is dropped.
    pub(super) dropped_from: Option<usize>,
    /// The same, dropped or not; `None` where nothing is trained.
    pub(super) trained_from: Option<usize>,
    /// Sequences.
    pub(super) b: usize,
    /// Whether products are made row by row, where rows are few: see [`Products`].
    pub(super) by_rows: bool,
    /// Whether gradients of parameters are added to what is there. Those of tables are in any case.
    pub(super) store: Store,
    /// Where these sequences complete a step's gradients: what ranks exchange of them as they come.
    pub(super) exchange: Option<Exchange<'a>>,
}

/// A norm of queries or of keys within rows that have queries, keys and values.
pub(super) struct QueryKeyNorm {
    /// Where its weight lies in a flat buffer.
    pub(super) weight: usize,
    /// Where its heads begin.
    pub(super) rows: DeviceTensor,
    pub(super) saved: DeviceTensor,
    pub(super) rstd: Ptr<f32>,
    pub(super) heads: head_norm::Heads,
}

/// A place where elements are dropped.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Embedding,
    /// Of the block with this index: attention's probabilities.
    Attention(usize),
    AttentionOut(usize),
    MlpOut(usize),
}

impl Place {
    /// In the order in which [`Pass`](crate::Pass) counts them.
    fn site_idx(self) -> usize {
        match self {
            Self::Embedding => 0,
            Self::Attention(layer_idx) => 1 + 3 * layer_idx,
            Self::AttentionOut(layer_idx) => 2 + 3 * layer_idx,
            Self::MlpOut(layer_idx) => 3 + 3 * layer_idx,
        }
    }
}

impl<'a> MicroBatch<'a> {
    /// The rows of the last block, normalized.
    pub(super) fn forward(&self) -> Result<(), BoardError> {
        let Network { blocks, final_norm, .. } = self.network;
        let Activations { x, norms, kept, hidden, .. } = self.activations;
        self.embed(x[0])?;
        if self.sizes().norm_place == NormPlace::After {
            for (layer_idx, &x) in x[..blocks.len()].iter().enumerate() {
                let (kept, hidden, normed) = (kept.at(layer_idx), hidden.at(layer_idx), norms.at(layer_idx));
                self.attend_then_norm(layer_idx, x, normed, kept)?;
                self.expand(layer_idx, kept.middle, hidden)?;
                self.contract_then_norm(layer_idx, hidden, normed, kept)?;
            }
            return self.norm(&self.activations.final_norm, x[blocks.len()], final_norm);
        }
        self.norm(&norms.at(0).attention, x[0], &blocks[0].attention_norm)?;
        for (layer_idx, block) in blocks.iter().enumerate() {
            let (kept, hidden, normed) = (kept.at(layer_idx), hidden.at(layer_idx), norms.at(layer_idx));
            self.attend(layer_idx, x[layer_idx], &normed.attention, kept, &normed.mlp)?;
            self.expand(layer_idx, normed.mlp.out, hidden)?;
            let (next, norm) = match blocks.get(layer_idx + 1) {
                Some(block) => (&norms.at(layer_idx + 1).attention, &block.attention_norm),
                None => (&self.activations.final_norm, final_norm),
            };
            self.add(
                x[layer_idx + 1],
                kept.middle,
                hidden.after,
                &block.mlp_out,
                Place::MlpOut(layer_idx),
                (next, norm),
            )?;
        }
        Ok(())
    }

    fn embed(&self, x: DeviceTensor) -> Result<(), BoardError> {
        let tokens = self.weight(self.network.token_table);
        let positions = self.optional_weight(self.network.position_table());
        if let Attention::Cached(cached) = &self.activations.attention {
            return decode::embed(self.board, x, &cached.rows(self.n()), tokens, positions, self.sizes().c);
        }
        let site = self.site(Place::Embedding);
        embedding::fwd(self.board, x, &self.embedding_rows(), tokens, positions, &site)
    }

    /// A block's first half: from its input `x` and that normalized to the residual stream between the halves.
    pub(super) fn attend(
        &self,
        layer_idx: usize,
        x: DeviceTensor,
        normed: &Normed,
        kept: &Kept,
        mlp_normed: &Normed,
    ) -> Result<(), BoardError> {
        let block = &self.network.blocks[layer_idx];
        self.attention_forward(layer_idx, normed.out, kept)?;
        self.add(
            kept.middle,
            x,
            kept.attended,
            &block.attention_out,
            Place::AttentionOut(layer_idx),
            (mlp_normed, &block.mlp_norm),
        )
    }

    /// The attention half where its result is normalized, from a block's input `x` to the residual stream between the
    /// halves.
    pub(super) fn attend_then_norm(
        &self,
        layer_idx: usize,
        x: DeviceTensor,
        normed: &BlockNorms,
        kept: &Kept,
    ) -> Result<(), BoardError> {
        let block = &self.network.blocks[layer_idx];
        let added = added_of(kept).attention;
        self.attention_forward(layer_idx, x, kept)?;
        self.project(added, kept.attended, &block.attention_out, Place::AttentionOut(layer_idx))?;
        self.add_normed(kept.middle, x, added, &normed.attention, &block.attention_norm)
    }

    /// The rest of the feed-forward half where its result is normalized, to the next block's input.
    pub(super) fn contract_then_norm(
        &self,
        layer_idx: usize,
        hidden: &Hidden,
        normed: &BlockNorms,
        kept: &Kept,
    ) -> Result<(), BoardError> {
        let block = &self.network.blocks[layer_idx];
        let (added, sum) = (added_of(kept).mlp, self.activations.x[layer_idx + 1]);
        self.project(added, hidden.after, &block.mlp_out, Place::MlpOut(layer_idx))?;
        self.add_normed(sum, kept.middle, added, &normed.mlp, &block.mlp_norm)
    }

    /// Heads side by side, from what the projections read.
    fn attention_forward(&self, layer_idx: usize, x: DeviceTensor, kept: &Kept) -> Result<(), BoardError> {
        let block = &self.network.blocks[layer_idx];
        self.products().fwd(kept.qkv, x, &block.attention_in, true)?;
        for norm in self.query_key_norms(block, kept, kept.qkv) {
            head_norm::fwd(self.board, norm.rows, norm.saved, norm.rstd, &norm.heads)?;
        }
        match self.activations.attention {
            Attention::Fused { workspace } => {
                self.turn(kept.qkv)?;
                let shape = self.sizes().fused_attention(self.b, block.attention);
                let fused = self.board.fused_attention()?;
                fused.forward(&shape, &self.fused_forward(kept), workspace)?;
            }
            Attention::Products { scratch } => {
                self.turn(kept.qkv)?;
                let (shape, site) = (self.attention(block), self.site(Place::Attention(layer_idx)));
                let Kept { attended, log_sum_exp, qkv, .. } = *kept;
                attention::fwd(
                    self.board,
                    attended,
                    log_sum_exp,
                    qkv,
                    &shape,
                    self.slot.documents,
                    &site,
                    scratch,
                )?;
            }
            Attention::Cached(cached) => {
                let (layer, n, angles) = ((layer_idx, block.attention), self.n(), self.activations.rotary);
                cached.attend(self.board, kept.attended, kept.qkv, layer, n, angles)?;
            }
        }
        Ok(())
    }

    /// Turns queries and keys by their positions, where positions are rotations.
    fn turn(&self, qkv: DeviceTensor) -> Result<(), BoardError> {
        self.rotary().map_or(Ok(()), |heads| rope::fwd(self.board, qkv, &heads))
    }

    /// The norms of queries and of keys in `rows` of all three, if a block has them.
    pub(super) fn query_key_norms(
        &self,
        block: &Block,
        kept: &Kept,
        rows: DeviceTensor,
    ) -> impl Iterator<Item = QueryKeyNorm> + use<> {
        let sizes = self.sizes();
        let (q_width, k_width) = (sizes.heads(), sizes.kv());
        let norms = block.query_key_norms.as_ref().zip(kept.query_key).map(|(norms, query_key)| {
            [
                (norms.q, 0, q_width, query_key.q_rstd, query_key.saved),
                (norms.k, q_width, k_width, query_key.k_rstd, query_key.saved),
            ]
        });
        let heads = norms.into_iter().flatten().map(|(norm, offset, width, rstd, saved)| QueryKeyNorm {
            weight: norm.weight,
            rows: rows.add(offset),
            saved: saved.add(offset),
            rstd,
            heads: head_norm::Heads {
                n: self.n(),
                n_heads: width / norm.width,
                width: norm.width,
                row_stride: sizes.qkv(),
                saved_stride: q_width + k_width,
                weight: self.weight(norm.weight),
                eps: sizes.norm_eps,
            },
        });
        heads.collect::<Vec<_>>().into_iter()
    }

    /// `out = dropped(x·W + bias)`
    fn project(
        &self,
        out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
        place: Place,
    ) -> Result<(), BoardError> {
        self.products().fwd(out, x, linear, true)?;
        match self.dropped_from {
            Some(_) => dropout::fwd(self.board, out, out, self.n() * linear.n_out, &self.site(place)),
            None => Ok(()),
        }
    }

    /// `sum = x + norm(added)`
    pub(super) fn add_normed(
        &self,
        sum: DeviceTensor,
        x: DeviceTensor,
        added: DeviceTensor,
        normed: &Normed,
        norm: &Norm,
    ) -> Result<(), BoardError> {
        match self.sizes().norm {
            NormKind::Rms => rms_norm::add_fwd(self.board, sum, normed.rstd, x, added, &self.rms_norm(norm)),
            NormKind::Layer => unreachable!("no family normalizes what is added to mean 0"),
        }
    }

    /// The feed-forward half up to what stands between its products.
    pub(super) fn expand(
        &self,
        layer_idx: usize,
        x: DeviceTensor,
        hidden: &Hidden,
    ) -> Result<(), BoardError> {
        let linear = &self.network.blocks[layer_idx].mlp_in;
        match self.sizes().mlp {
            MlpKind::Plain(kind) => self.activate(kind, x, hidden, linear),
            MlpKind::Gated => {
                self.products().fwd(hidden.before, x, linear, true)?;
                let dims = [self.n(), self.sizes().ff];
                swiglu::board::fwd(self.board, hidden.after, hidden.before, dims)
            }
        }
    }

    /// `sum = x + dropped(addend·W + bias)`, and that normalized.
    fn add(
        &self,
        sum: DeviceTensor,
        x: DeviceTensor,
        addend: DeviceTensor,
        linear: &Linear,
        place: Place,
        (normed, norm): (&Normed, &Norm),
    ) -> Result<(), BoardError> {
        let (rows, site) = (self.activations.branch, self.site(place));
        self.products().fwd(rows, addend, linear, false)?;
        let bias = self.optional_weight(linear.bias);
        match self.sizes().norm {
            NormKind::Layer => {
                let addend = layer_norm::Addend { rows, bias, site: &site };
                let norm = self.layer_norm(norm);
                layer_norm::residual_fwd(self.board, sum, &normed.layer(), x, &addend, &norm)
            }
            NormKind::Rms => {
                let addend = rms_norm::Addend { rows, bias, site: &site };
                rms_norm::residual_fwd(self.board, sum, &normed.rms(), x, &addend, &self.rms_norm(norm))
            }
        }
    }

    pub(super) fn norm(&self, normed: &Normed, x: DeviceTensor, norm: &Norm) -> Result<(), BoardError> {
        match self.sizes().norm {
            NormKind::Layer => layer_norm::fwd(self.board, &normed.layer(), x, &self.layer_norm(norm)),
            NormKind::Rms => rms_norm::fwd(self.board, &normed.rms(), x, &self.rms_norm(norm)),
        }
    }

    /// The loss of each row.
    pub(super) fn losses(&self, results: RowResults) -> Result<(), BoardError> {
        self.chunks().try_for_each(|rows| {
            self.logits(&rows)?;
            classifier::fwd(self.board, &self.classifier_rows(&rows, results))
        })
    }

    /// The loss of each row, the gradient of the output head, and that of the normalized rows in `branch`.
    pub(super) fn losses_and_gradients(&self, results: RowResults, scale: f32) -> Result<(), BoardError> {
        let Activations { final_norm, branch, logits, .. } = *self.activations;
        let (head, width) = (self.network.board_head(), self.sizes().c);
        self.chunks().try_for_each(|rows| {
            self.logits(&rows)?;
            classifier::fwd_bwd(self.board, &self.classifier_rows(&rows, results), scale)?;
            let products = Products { n: rows.len(), ..self.products() };
            let at = |rows_of: DeviceTensor| rows_of.add(rows.start * width);
            // Later rows add to what the first have written.
            let store = if rows.start == 0 { self.store } else { Store::Accumulate };
            products.bwd_weight(logits, at(final_norm.out), &head, store)?;
            products.bwd_x(at(branch), logits, &head, Store::Overwrite)
        })
    }

    fn logits(&self, rows: &Range<usize>) -> Result<(), BoardError> {
        let Activations { final_norm, logits, .. } = *self.activations;
        let x = final_norm.out.add(rows.start * self.sizes().c);
        Products { n: rows.len(), ..self.products() }.fwd(logits, x, &self.network.board_head(), false)
    }

    /// Rows whose logits exist at once.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n, most) = (self.n(), self.activations.logits_rows);
        (0..n).step_by(most).map(move |first| first..n.min(first + most))
    }

    fn classifier_rows(&self, rows: &Range<usize>, results: RowResults) -> classifier::Rows {
        let RowResults { losses, correct } = results.from(rows.start);
        classifier::Rows {
            logits: self.activations.logits,
            targets: self.slot.targets.add(rows.start),
            target_weights: self.slot.weights.map(|weights| weights.add(rows.start)),
            losses,
            correct,
            n: rows.len(),
            v: self.sizes().v,
            v_padded: self.sizes().v_padded(),
            logit_cap: self.sizes().logit_cap,
        }
    }

    /// Rows.
    pub(super) fn n(&self) -> usize {
        self.b * self.sizes().t
    }

    pub(super) fn sizes(&self) -> &'a Sizes {
        &self.network.sizes
    }

    /// The place in a flat buffer of weights that passes read.
    pub(super) fn weight(&self, start: usize) -> DeviceTensor {
        self.state.weights().add(start)
    }

    pub(super) fn optional_weight(&self, start: Option<usize>) -> Option<DeviceTensor> {
        start.map(|start| self.weight(start))
    }

    pub(super) fn products(&self) -> Products<'a> {
        let &Self { board, state, fp8, by_rows, .. } = self;
        let (working, gradients) = (state.weights(), state.gradients);
        Products { board, working, gradients, fp8, n: self.n(), by_rows, adapters: self.adapters() }
    }

    /// The adapters of its rows, where weights are frozen.
    pub(super) fn adapters(&self) -> Option<AdapterProducts<'a>> {
        let (adapters, memory) = (self.network.adapters.as_ref()?, self.activations.low_rank?);
        let training = self.trained_from.map(|first_sequence| Training {
            seed: self.options.seed,
            state: self.slot.state,
            first_row: first_sequence * self.sizes().t,
        });
        let (factors, gradients) = (self.state.working, self.state.gradients);
        Some(AdapterProducts { adapters, memory, factors, gradients, training, n: self.n() })
    }

    pub(super) fn embedding_rows(&self) -> embedding::Rows {
        let &Sizes { t, c, .. } = self.sizes();
        embedding::Rows { tokens: self.slot.tokens, n: self.n(), t, c, documents: self.slot.documents }
    }

    pub(super) fn hidden_rows(&self, hidden: &Hidden, linear: &Linear) -> activation::board::Input {
        let (n, c) = (self.n(), linear.n_out);
        activation::board::Input { x: hidden.before, bias: self.optional_weight(linear.bias), n, c }
    }

    pub(super) fn attention(&self, block: &Block) -> attention::Shape {
        self.sizes().attention(self.b, self.options.elem, block.attention)
    }

    pub(super) fn fused_forward(&self, kept: &Kept) -> AttentionForward {
        let [q, k, v] = self.query_key_value(kept.qkv);
        AttentionForward { q, k, v, out: kept.attended, stats: kept.log_sum_exp }
    }

    /// Where queries, keys and values start in rows that have all three.
    pub(super) fn query_key_value(&self, rows: DeviceTensor) -> [DeviceTensor; 3] {
        let &Sizes { n_heads, n_kv_heads, head_width, .. } = self.sizes();
        [0, n_heads, n_heads + n_kv_heads].map(|head| rows.add(head * head_width))
    }

    /// Queries and keys as they are turned by their positions, where they are.
    pub(super) fn rotary(&self) -> Option<rope::Heads> {
        let [cos, sin] = self.activations.rotary?;
        let &Sizes { n_heads, n_kv_heads, head_width, t, .. } = self.sizes();
        Some(rope::Heads {
            n: self.n(),
            row_stride: self.sizes().qkv(),
            n_heads: n_heads + n_kv_heads,
            d: head_width,
            t,
            cos,
            sin,
            documents: self.slot.documents,
        })
    }

    pub(super) fn layer_norm(&self, norm: &Norm) -> layer_norm::Norm {
        let &Sizes { c, norm_eps: eps, .. } = self.sizes();
        let (weight, bias) = (self.weight(norm.weight), self.optional_weight(norm.bias));
        layer_norm::Norm { n: self.n(), c, weight, bias, eps }
    }

    pub(super) fn rms_norm(&self, norm: &Norm) -> rms_norm::Norm {
        let &Sizes { c, norm_eps: eps, .. } = self.sizes();
        rms_norm::Norm { n: self.n(), c, weight: self.weight(norm.weight), eps }
    }

    /// Where elements are dropped, for rows that start with this micro-batch's.
    pub(super) fn site(&self, place: Place) -> Site {
        let Some(first_sequence) = self.dropped_from else { return Site::NONE };
        let &Sizes { t, c, n_heads, .. } = self.sizes();
        let per_sequence = match place {
            Place::Attention(_) => n_heads * t * t,
            Place::Embedding | Place::AttentionOut(_) | Place::MlpOut(_) => t * c,
        };
        let DeviceEngineOptions { dropout, seed, .. } = *self.options;
        let first_element = (first_sequence * per_sequence) as u64;
        Site::new(dropout, seed, place.site_idx() as u32, first_element, self.slot.state)
    }
}

/// What a block's halves add, where that is normalized.
pub(super) fn added_of(kept: &Kept) -> Added {
    kept.added.expect("there is room for it where it is normalized")
}
