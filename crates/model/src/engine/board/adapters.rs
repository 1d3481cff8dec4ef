//! What adapters add to the products of blocks, and their gradients.

use wattle_ops::Store;
use wattle_ops::board::{Board, BoardError, DeviceTensor, Elem, Ptr, StepState};
use wattle_ops::dropout::board::{self as dropout, Site};
use wattle_ops::lora::board::Factors;

use super::cutter::Cutter;
use super::gradients::FlatGradients;
use crate::engine::adapters::{AdaptedLayer, Adapter, Adapters};
use crate::engine::network::Linear;

/// Memory for what lies between the factors of a layer's adapters.
#[derive(Clone, Copy, Debug)]
pub(super) struct LowRank {
    /// Of one adapter, (n, r).
    low: DeviceTensor,
    /// Of each adapter of a layer, one behind the other.
    grad_low: DeviceTensor,
    /// What adapters read, (n, in), where elements of it are dropped.
    dropped: DeviceTensor,
}

impl LowRank {
    /// Cuts room for `n` rows.
    pub(super) fn cut(cutter: &mut Cutter, adapters: &Adapters, n: usize, elem: Elem) -> Self {
        let most = |of: fn(&AdaptedLayer) -> usize| adapters.layers().map(of).max().unwrap_or(0);
        let width = if adapters.dropout > 0.0 { most(|layer| layer.n_in) } else { 0 };
        let ranks = most(AdaptedLayer::ranks);
        Self {
            low: cutter.take(n * ranks, elem),
            grad_low: cutter.take(n * ranks, elem),
            dropped: cutter.take(n * width, elem),
        }
    }
}

/// The adapters of some rows.
#[derive(Clone, Copy)]
pub(super) struct AdapterProducts<'a> {
    pub(super) adapters: &'a Adapters,
    pub(super) memory: LowRank,
    /// The flat buffer of factors as passes read them.
    pub(super) factors: DeviceTensor,
    /// Flat gradients of factors.
    pub(super) gradients: FlatGradients,
    /// Where elements may be dropped.
    pub(super) training: Option<Training>,
    /// Rows.
    pub(super) n: usize,
}

/// What places of dropout depend on.
#[derive(Clone, Copy)]
pub(super) struct Training {
    pub(super) seed: u64,
    pub(super) state: Ptr<StepState>,
    /// The first of the rows, counted from the start of the step's whole batch.
    pub(super) first_row: usize,
}

impl AdapterProducts<'_> {
    /// Whether a layer has adapters.
    pub(super) fn has(&self, linear: &Linear) -> bool {
        self.adapters.at(linear.weight).is_some()
    }

    /// Adds to `out` what the adapters of `linear` make of `x`.
    pub(super) fn fwd(
        &self,
        board: &dyn Board,
        out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
    ) -> Result<(), BoardError> {
        let Some(layer) = self.adapters.at(linear.weight) else { return Ok(()) };
        let x = self.dropped(board, x, layer)?;
        self.each(layer).try_for_each(|(adapter, factors)| factors.fwd(board, out, x, &adapter.shape, self.n))
    }

    /// The gradients of the factors of `linear`, as `store` says.
    pub(super) fn bwd_factors(
        &self,
        board: &dyn Board,
        grad_out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
        store: Store,
    ) -> Result<(), BoardError> {
        let Some(layer) = self.adapters.at(linear.weight) else { return Ok(()) };
        let x = self.dropped(board, x, layer)?;
        self.each(layer).try_for_each(|(adapter, factors)| {
            factors.make_grad_low(board, grad_out, &adapter.shape, self.n)?;
            let gradients = [adapter.a, adapter.b].map(|start| self.gradients.wide(start));
            factors.bwd_factors(board, gradients, store, [grad_out, x], &adapter.shape, self.n)
        })
    }

    /// Adds to `grad_x` what passes through the adapters of `linear`. To be called after [`AdapterProducts::bwd_factors`]
    /// with the same gradient.
    pub(super) fn bwd_x(
        &self,
        board: &dyn Board,
        grad_x: DeviceTensor,
        linear: &Linear,
    ) -> Result<(), BoardError> {
        let Some(layer) = self.adapters.at(linear.weight) else { return Ok(()) };
        let Some(site) = self.site(layer) else {
            return self.each(layer).try_for_each(|(adapter, factors)| {
                factors.bwd_x(board, grad_x, Store::Accumulate, &adapter.shape, self.n)
            });
        };
        let (through, len) = (self.memory.dropped, self.n * layer.n_in);
        for (idx, (adapter, factors)) in self.each(layer).enumerate() {
            let store = if idx == 0 { Store::Overwrite } else { Store::Accumulate };
            factors.bwd_x(board, through, store, &adapter.shape, self.n)?;
        }
        dropout::add(board, grad_x, through, len, &site)
    }

    /// The adapters of a layer with their factors.
    fn each<'b>(&'b self, layer: &'b AdaptedLayer) -> impl Iterator<Item = (&'b Adapter, Factors)> {
        let LowRank { low, grad_low, .. } = self.memory;
        layer.adapters.iter().scan(0, move |before, adapter| {
            let grad_low = grad_low.add(self.n * *before);
            *before += adapter.shape.rank;
            let [a, b] = [adapter.a, adapter.b].map(|start| self.factors.add(start));
            Some((adapter, Factors { a, b, scale: self.adapters.scale, low, grad_low }))
        })
    }

    /// What adapters read.
    fn dropped(
        &self,
        board: &dyn Board,
        x: DeviceTensor,
        layer: &AdaptedLayer,
    ) -> Result<DeviceTensor, BoardError> {
        let Some(site) = self.site(layer) else { return Ok(x) };
        dropout::fwd(board, self.memory.dropped, x, self.n * layer.n_in, &site)?;
        Ok(self.memory.dropped)
    }

    fn site(&self, layer: &AdaptedLayer) -> Option<Site> {
        let Training { seed, state, first_row } = self.training.filter(|_| self.adapters.dropout > 0.0)?;
        let first_element = (first_row * layer.n_in) as u64;
        Some(Site::new(self.adapters.dropout, seed, layer.site_idx, first_element, state))
    }
}
