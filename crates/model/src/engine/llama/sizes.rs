//! The sizes of a Llama, as the operations want them.

use wattle_ops::HeadRows;
use wattle_ops::attention::{Kind, cpu as attention};
use wattle_ops::classifier::cpu as classifier;
use wattle_ops::linear::cpu::{Layout, Shape};

use crate::config::ModelConfig;
use crate::engine::EngineOptions;
use crate::engine::arena::ArenaSizes;

/// The sizes of a network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) n_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    /// Width of the residual stream.
    pub(super) c: usize,
    /// Width of query, key and value side by side.
    pub(super) qkv: usize,
    /// Width of the feed-forward block.
    pub(super) ff: usize,
    /// Rows of a sequence.
    pub(super) t: usize,
    /// Rows of the token table.
    pub(super) v: usize,
    /// What norms add to a mean square.
    pub(super) eps: f32,
}

impl Sizes {
    pub(super) fn new(config: &ModelConfig, vocab_size: usize) -> Self {
        let c = config.d_model;
        Self {
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            n_kv_heads: config.kv_heads(),
            c,
            qkv: c + 2 * config.kv_heads() * config.head_width(),
            ff: config.feed_forward_width(),
            t: config.context,
            v: vocab_size,
            eps: config.norm_eps as f32,
        }
    }

    /// Of the projection to query, key and value.
    pub(super) fn attention_in(&self) -> Shape {
        linear(self.c, self.qkv)
    }

    /// Of the projection from heads to the residual stream.
    pub(super) fn attention_out(&self) -> Shape {
        linear(self.c, self.c)
    }

    /// Of the projection to gate and up, side by side.
    pub(super) fn mlp_in(&self) -> Shape {
        linear(self.c, 2 * self.ff)
    }

    /// Of the projection back.
    pub(super) fn mlp_out(&self) -> Shape {
        linear(self.ff, self.c)
    }

    pub(super) fn attention(&self) -> attention::Shape {
        let Self { t, n_heads, n_kv_heads, c, .. } = *self;
        attention::Shape { t, n_heads, n_kv_heads, head_width: c / n_heads, kind: Kind::Causal }
    }

    /// Where the heads are that turn with the position: queries, and keys beside them.
    pub(super) fn turning(&self) -> (HeadRows, usize) {
        (HeadRows { offset: 0, row_stride: self.qkv }, self.n_heads + self.n_kv_heads)
    }

    pub(super) fn classifier(&self) -> classifier::Shape {
        classifier::Shape { n_in: self.c, n_vocab: self.v }
    }

    /// Numbers in the largest group of norms whose gradients are summed together: a block's.
    pub(super) fn most_vectors(&self) -> usize {
        2 * self.c
    }

    /// Of the buffers, where `most_vectors` numbers are in the largest group of norms and biases.
    pub(super) fn arena(&self, options: EngineOptions, most_vectors: usize, n_threads: usize) -> ArenaSizes {
        ArenaSizes {
            n_layers: self.n_layers,
            options,
            attention: self.attention(),
            classifier: self.classifier(),
            mean: 0,
            before: 2 * self.ff,
            after: self.ff,
            grad_before: 2 * self.ff,
            most_vectors,
            n_threads,
        }
    }
}

fn linear(n_in: usize, n_out: usize) -> Shape {
    Shape { n_in, n_out, layout: Layout::OutputFirst }
}
