//! Low-rank adapters beside a network whose own weights stay as they are: which layers have some, and where their
//! factors lie in the flat buffers of what is trained.

use std::collections::BTreeMap;
use std::ops::Range;

use wattle_ops::lora::Shape;

use crate::parameter::Parameter;

/// What an engine is told of adapters.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// The factors, named by [`factor_names`].
    pub(crate) parameters: &'a [Parameter],
    /// What the product of two factors is multiplied by.
    pub(crate) scale: f32,
    /// Share of what adapters read that is dropped in training.
    pub(crate) dropout: f32,
}

/// The adapters of a network, by where the weight of their layer lies in the flat buffer of frozen weights.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Adapters {
    pub(super) layers: BTreeMap<usize, AdaptedLayer>,
    /// Elements of the flat buffer of frozen weights.
    pub(crate) frozen_len: usize,
    /// What the product of two factors is multiplied by.
    pub(crate) scale: f32,
    /// Share of what adapters read that is dropped in training.
    pub(crate) dropout: f32,
}

/// A layer with adapters: several where the layer is several matrices side by side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdaptedLayer {
    pub(crate) block_idx: usize,
    /// Which place of dropout what they read is.
    pub(crate) site_idx: u32,
    /// Width of what they read.
    pub(crate) n_in: usize,
    pub(crate) adapters: Vec<Adapter>,
}

/// Where an adapter's factors lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Adapter {
    pub(crate) a: usize,
    pub(crate) b: usize,
    pub(crate) shape: Shape,
}

/// The names of the two factors beside the matrix of `module`.
pub(crate) fn factor_names(module: &str) -> [String; 2] {
    [format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight")]
}

/// Whether a parameter is a first factor: its gradient is zero as long as the second is, as at the start.
pub fn is_first_factor(name: &str) -> bool {
    name.ends_with(".lora_A.weight")
}

impl Adapters {
    /// Those of the layer whose weight starts at `weight`, if it has some.
    pub(crate) fn at(&self, weight: usize) -> Option<&AdaptedLayer> {
        self.layers.get(&weight)
    }

    /// All layers that have some.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &AdaptedLayer> {
        self.layers.values()
    }

    /// Numbers a row that the adapters of one block take for a moment on a CPU, at most: all factors' gradients are made at
    /// once, each from what it reads and from what lies between factors.
    pub(crate) fn most_in_block(&self) -> usize {
        let mut of_blocks = BTreeMap::<usize, usize>::new();
        for layer in self.layers() {
            let dropped = if self.dropout > 0.0 { layer.adapters.len() * layer.n_in } else { 0 };
            *of_blocks.entry(layer.block_idx).or_default() += layer.ranks() + dropped;
        }
        of_blocks.into_values().max().unwrap_or(0)
    }
}

impl AdaptedLayer {
    /// Numbers between the factors of all its adapters, a row.
    pub(crate) fn ranks(&self) -> usize {
        self.adapters.iter().map(|adapter| adapter.shape.rank).sum()
    }
}

impl Adapter {
    pub(crate) fn a_range(&self) -> Range<usize> {
        self.a..self.a + self.shape.a_len()
    }

    pub(crate) fn b_range(&self) -> Range<usize> {
        self.b..self.b + self.shape.b_len()
    }
}
