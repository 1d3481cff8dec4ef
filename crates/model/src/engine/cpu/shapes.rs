//! The sizes of a network as a CPU's operations take them.

use wattle_ops::HeadRows;
use wattle_ops::attention::{Kind, cpu as attention};
use wattle_ops::classifier::cpu as classifier;
use wattle_ops::linear::cpu as linear;

use super::arena::ArenaSizes;
use crate::engine::EngineOptions;
use crate::engine::adapters::Adapters;
use crate::engine::network::{Block, Linear, MlpKind, Network, Norm, NormKind, NormPlace, Sizes};

impl Sizes {
    /// Of attention.
    pub(super) fn attention_shape(&self, kind: Kind) -> attention::Shape {
        let &Self { t, n_heads, n_kv_heads, head_width, .. } = self;
        attention::Shape { t, n_heads, n_kv_heads, head_width, kind }
    }

    /// Of the output head.
    pub(super) fn classifier_shape(&self) -> classifier::Shape {
        classifier::Shape { n_in: self.c, n_vocab: self.v }
    }

    /// Where the heads are that turn with the position: queries, and keys beside them.
    pub(super) fn turning(&self) -> (HeadRows, usize) {
        (HeadRows { offset: 0, row_stride: self.qkv() }, self.n_heads + self.n_kv_heads)
    }
}

impl Linear {
    /// Its sizes.
    pub(super) fn shape(&self) -> linear::Shape {
        let layout = match self.output_first {
            true => linear::Layout::OutputFirst,
            false => linear::Layout::InputFirst,
        };
        linear::Shape { n_in: self.n_in, n_out: self.n_out, layout }
    }

    /// Its weight and bias in a flat buffer.
    pub(super) fn of<'a>(&self, buffer: &'a [f32]) -> (&'a [f32], Option<&'a [f32]>) {
        (&buffer[self.weight_range()], self.bias_range().map(|bias| &buffer[bias]))
    }
}

impl Norm {
    /// Its weight and bias in a flat buffer.
    pub(super) fn of<'a>(&self, buffer: &'a [f32]) -> (&'a [f32], Option<&'a [f32]>) {
        (&buffer[self.weight_range()], self.bias_range().map(|bias| &buffer[bias]))
    }
}

impl Network {
    /// Of the buffers of an engine for `n_layers` blocks like the first.
    pub(super) fn arena_sizes(&self, n_layers: usize, options: EngineOptions) -> ArenaSizes {
        let sizes = &self.sizes;
        let query_key_norms = self.query_key_norms();
        let vectors = self.blocks.iter().map(Block::vectors).chain([self.final_norm.range()]);
        let linears = self.blocks.iter().flat_map(Block::linears);
        let narrowest = linears.flat_map(|linear| [linear.n_in, linear.n_out]);
        let adapters = self.adapters.iter().flat_map(Adapters::layers).flat_map(|layer| &layer.adapters);
        let ranks = adapters.map(|adapter| adapter.shape.rank);
        ArenaSizes {
            n_layers,
            options,
            // Of any kind: scratch is the same for all.
            attention: sizes.attention_shape(Kind::Causal),
            classifier: sizes.classifier_shape(),
            mean: match sizes.norm {
                NormKind::Layer => 1,
                NormKind::Rms => 0,
            },
            query_key: query_key_norms.map_or(0, |_| sizes.heads() + sizes.kv()),
            query_key_norms: query_key_norms
                .map_or(0, |norms| sizes.heads() / norms.q.width + sizes.kv() / norms.k.width),
            added: match sizes.norm_place {
                NormPlace::Before => 0,
                NormPlace::After => sizes.c,
            },
            before: sizes.expanded(),
            after: sizes.ff,
            grad_before: match sizes.mlp {
                MlpKind::Plain(_) => 0,
                MlpKind::Gated => sizes.expanded(),
            },
            most_vectors: vectors.map(|range| range.len()).max().unwrap_or(0),
            narrowest: narrowest.chain(ranks).min().unwrap_or(sizes.c).min(sizes.v),
            n_threads: rayon::current_num_threads(),
            adapters: self.adapters.as_ref().map_or(0, Adapters::most_in_block),
        }
    }
}
