//! What there is of each layer, or once for all.

use crate::engine::Recompute;

/// Something of each layer, or one thing for all.
pub(super) struct PerLayer<T>(Vec<T>);

/// How many layers have activations of their own.
pub(super) struct Layers {
    pub(super) n_blocks: usize,
    pub(super) n_hidden: usize,
}

impl Layers {
    pub(super) fn new(n_layers: usize, recompute: Recompute) -> Self {
        match recompute {
            Recompute::None => Self { n_blocks: n_layers, n_hidden: n_layers },
            Recompute::Mlp => Self { n_blocks: n_layers, n_hidden: 1 },
            Recompute::Block => Self { n_blocks: 1, n_hidden: 1 },
        }
    }
}

impl<T> PerLayer<T> {
    pub(super) fn new(n: usize, make: impl FnMut() -> T) -> Self {
        Self(std::iter::repeat_with(make).take(n).collect())
    }

    pub(super) fn at(&self, layer_idx: usize) -> &T {
        &self.0[layer_idx.min(self.0.len() - 1)]
    }

    pub(super) fn at_mut(&mut self, layer_idx: usize) -> &mut T {
        let last = self.0.len() - 1;
        &mut self.0[layer_idx.min(last)]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }

    pub(super) fn push(&mut self, item: T) {
        self.0.push(item);
    }
}

impl<T> Default for PerLayer<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
