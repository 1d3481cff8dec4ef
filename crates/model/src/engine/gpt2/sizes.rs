//! The sizes of a GPT-2, as the operations want them.

use wattle_ops::Activation;
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
    /// Width of the residual stream.
    pub(super) c: usize,
    /// Width of the feed-forward block.
    pub(super) ff: usize,
    /// Rows of a sequence.
    pub(super) t: usize,
    /// Rows of the token table.
    pub(super) v: usize,
    pub(super) activation: Activation,
}

impl Sizes {
    pub(super) fn new(config: &ModelConfig, vocab_size: usize) -> Self {
        Self {
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            c: config.d_model,
            ff: config.feed_forward_width(),
            t: config.context,
            v: vocab_size,
            activation: config.activation.into(),
        }
    }

    /// Of the projection to query, key and value.
    pub(super) fn attention_in(&self) -> Shape {
        linear(self.c, 3 * self.c)
    }

    /// Of the projection from heads to the residual stream.
    pub(super) fn attention_out(&self) -> Shape {
        linear(self.c, self.c)
    }

    /// Of the projection to the feed-forward width.
    pub(super) fn mlp_in(&self) -> Shape {
        linear(self.c, self.ff)
    }

    /// Of the projection back.
    pub(super) fn mlp_out(&self) -> Shape {
        linear(self.ff, self.c)
    }

    pub(super) fn attention(&self) -> attention::Shape {
        let Self { t, n_heads, c, .. } = *self;
        attention::Shape { t, n_heads, n_kv_heads: n_heads, head_width: c / n_heads, kind: Kind::Causal }
    }

    pub(super) fn classifier(&self) -> classifier::Shape {
        classifier::Shape { n_in: self.c, n_vocab: self.v }
    }

    /// Numbers in the largest group of norms and biases whose gradients are summed together: a block's.
    pub(super) fn most_vectors(&self, has_biases: bool) -> usize {
        2 * self.c + if has_biases { 7 * self.c + self.ff } else { 0 }
    }

    /// Of the buffers, where `most_vectors` numbers are in the largest group of norms and biases.
    pub(super) fn arena(&self, options: EngineOptions, most_vectors: usize, n_threads: usize) -> ArenaSizes {
        ArenaSizes {
            n_layers: self.n_layers,
            options,
            attention: self.attention(),
            classifier: self.classifier(),
            mean: 1,
            before: self.ff,
            after: self.ff,
            grad_before: 0,
            most_vectors,
            n_threads,
        }
    }
}

fn linear(n_in: usize, n_out: usize) -> Shape {
    Shape { n_in, n_out, layout: Layout::InputFirst }
}
