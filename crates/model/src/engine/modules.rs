//! The matrices of a network that can have adapters, and a network with some.

use std::collections::BTreeMap;

use wattle_ops::lora::Shape;

use super::adapters::{AdaptedLayer, Adapter, Adapters, factor_names};
use super::layout::{Entry, Layout};
use super::network::{Linear, Network};

/// A matrix of a block that can have an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its weight's name without `.weight`, as in `transformer.h.0.attn.c_attn`.
    pub(crate) name: String,
    pub(crate) n_in: usize,
    pub(crate) n_out: usize,
    /// Whether the weight is stored (out, in), else (in, out).
    pub(crate) output_first: bool,
}

impl Network {
    /// The matrices of all blocks that can have adapters, in the model's order. The network's parameters lie as in
    /// `layout`.
    pub(crate) fn modules(&self, layout: &Layout) -> Vec<Module> {
        let linears = || self.blocks.iter().flat_map(|block| block.linears());
        let module = |entry: &Entry| {
            let linear = linears().find(|linear| lies_in(entry, linear))?;
            let name = entry.name.strip_suffix(".weight")?.to_owned();
            let n_out = entry.range.len() / linear.n_in;
            Some(Module { name, n_in: linear.n_in, n_out, output_first: linear.output_first })
        };
        layout.entries().iter().filter_map(module).collect()
    }

    /// The same network with adapters, whose factors lie as in `own`; its frozen parameters lie as in `layout`.
    pub(crate) fn with_adapters(self, layout: &Layout, own: &Layout, scale: f32, dropout: f32) -> Self {
        let mut layers = BTreeMap::new();
        for (block_idx, block) in self.blocks.iter().enumerate() {
            for (linear_idx, linear) in block.linears().into_iter().enumerate() {
                let matrices = layout.entries().iter().filter(|entry| lies_in(entry, linear));
                let adapters: Vec<Adapter> =
                    matrices.filter_map(|matrix| adapter(matrix, linear, own)).collect();
                if !adapters.is_empty() {
                    let site_idx = site_idx(self.n_layers(), block_idx, linear_idx);
                    let layer = AdaptedLayer { block_idx, site_idx, n_in: linear.n_in, adapters };
                    layers.insert(linear.weight, layer);
                }
            }
        }
        let adapters = Adapters { layers, frozen_len: layout.len(), scale, dropout };
        Self { adapters: Some(adapters), ..self }
    }
}

/// The place of dropout before the adapters of a layer. They come after those of the network itself.
fn site_idx(n_layers: usize, layer_idx: usize, linear_idx: usize) -> u32 {
    const OF_BLOCK: usize = 3;
    const LINEARS: usize = 4;
    (1 + OF_BLOCK * n_layers + LINEARS * layer_idx + linear_idx) as u32
}

/// Whether a matrix is a layer's weight or part of it.
fn lies_in(entry: &Entry, linear: &Linear) -> bool {
    let weight = linear.weight_range();
    weight.contains(&entry.range.start) && entry.range.end <= weight.end && entry.dims.len() == 2
}

/// The adapter of `matrix`, if `own` has its factors.
fn adapter(matrix: &Entry, linear: &Linear, own: &Layout) -> Option<Adapter> {
    let [a, b] = factor_names(matrix.name.strip_suffix(".weight")?).map(|name| own.find(&name));
    let (a, b) = (a?, b?);
    let n_in = linear.n_in;
    let shape = Shape {
        n_in,
        n_out: matrix.range.len() / n_in,
        rank: a.len() / n_in,
        // Stored output first, matrices side by side lie one behind the other; stored input first, a layer is one.
        first: (matrix.range.start - linear.weight) / n_in,
        row: linear.n_out,
    };
    Some(Adapter { a: a.start, b: b.start, shape })
}
