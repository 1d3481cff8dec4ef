//! What adapters add to the products of blocks, and their gradients.

use rayon::prelude::*;
use wattle_ops::lora::cpu::{self as lora, Factors};
use wattle_ops::{Dropout, dropout};
use wattle_random::{Purpose, Stream};

use crate::engine::adapters::{AdaptedLayer, Adapter, Adapters};
use crate::engine::network::Linear;
use crate::pass::TrainingPass;

/// The adapters of a pass.
#[derive(Clone, Copy)]
pub(super) struct AdapterPass<'a> {
    pub(super) adapters: &'a Adapters,
    /// The flat buffer of factors.
    pub(super) factors: &'a [f32],
    /// Where there are gradients: elements may be dropped.
    pub(super) training: Option<TrainingPass>,
    /// Rows of a sequence.
    pub(super) t: usize,
}

/// What passed a layer, over all rows of a micro-batch.
pub(super) struct Passed<'a> {
    /// Where the layer's weight starts in the flat buffer of frozen weights.
    pub(super) weight: usize,
    pub(super) grad_out: &'a [f32],
    pub(super) x: &'a [f32],
}

impl AdapterPass<'_> {
    /// Adds to `out` what the adapters of `linear` make of `x`, whose first row is that of the micro-batch's sequence
    /// `first`.
    pub(super) fn fwd(&self, out: &mut [f32], x: &[f32], linear: &Linear, first: usize) {
        let Some(layer) = self.adapters.at(linear.weight) else { return };
        let dropped = self.dropped(x, layer, first);
        let x = dropped.as_deref().unwrap_or(x);
        for adapter in &layer.adapters {
            let mut low = vec![0.0; x.len() / layer.n_in * adapter.shape.rank];
            lora::fwd(out, x, &self.factors_of(adapter), &adapter.shape, &mut low);
        }
    }

    /// Adds to `grad_x` what passes through the adapters of `linear`.
    pub(super) fn bwd_x(&self, grad_x: &mut [f32], grad_out: &[f32], linear: &Linear, first: usize) {
        let Some(layer) = self.adapters.at(linear.weight) else { return };
        let site = self.site(layer, first);
        let mut through = vec![0.0; if site.is_some() { grad_x.len() } else { 0 }];
        let grad = if site.is_some() { &mut through[..] } else { &mut *grad_x };
        for adapter in &layer.adapters {
            let mut low = vec![0.0; grad.len() / layer.n_in * adapter.shape.rank];
            lora::bwd_x(grad, grad_out, &self.factors_of(adapter), &adapter.shape, &mut low);
        }
        if let Some(site) = site {
            dropout::cpu::bwd(&mut through, self.t * layer.n_in, &site);
            grad_x.iter_mut().zip(through).for_each(|(grad_x, through)| *grad_x += through);
        }
    }

    /// Adds the gradients of the factors of a block's adapters to the flat `gradients`, given what passed its layers.
    pub(super) fn add_gradients(&self, gradients: &mut [f32], passed: &[Passed<'_>]) {
        let mut of_adapters: Vec<_> = passed
            .iter()
            .filter_map(|passed| Some((passed, self.adapters.at(passed.weight)?)))
            .flat_map(|(passed, layer)| layer.adapters.iter().map(move |adapter| (adapter, layer, passed)))
            .collect();
        of_adapters.sort_by_key(|(adapter, ..)| adapter.a);
        let (mut rest, mut at) = (gradients, 0);
        let mut cut = |end: usize| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(end - at);
            (rest, at) = (after, end);
            part
        };
        let jobs: Vec<_> = of_adapters
            .into_iter()
            .map(|(adapter, layer, passed)| {
                let [a, b] = [adapter.a_range(), adapter.b_range()].map(|range| {
                    cut(range.start);
                    cut(range.end)
                });
                ([a, b], adapter, layer, passed)
            })
            .collect();
        jobs.into_par_iter().with_max_len(1).for_each(|(gradients, adapter, layer, passed)| {
            let &Passed { grad_out, x, .. } = passed;
            let dropped = self.dropped(x, layer, 0);
            let x = dropped.as_deref().unwrap_or(x);
            let mut low = vec![0.0; x.len() / layer.n_in * adapter.shape.rank];
            lora::bwd_factors_par(
                gradients,
                grad_out,
                x,
                &self.factors_of(adapter),
                &adapter.shape,
                &mut low,
            );
        });
    }

    fn factors_of(&self, adapter: &Adapter) -> Factors<'_> {
        let [a, b] = [adapter.a_range(), adapter.b_range()].map(|range| &self.factors[range]);
        Factors { a, b, scale: self.adapters.scale }
    }

    /// What adapters read, where elements of it are dropped.
    fn dropped(&self, x: &[f32], layer: &AdaptedLayer, first: usize) -> Option<Vec<f32>> {
        let site = self.site(layer, first)?;
        let mut dropped = x.to_vec();
        dropout::cpu::fwd(&mut dropped, self.t * layer.n_in, &site);
        Some(dropped)
    }

    fn site(&self, layer: &AdaptedLayer, first: usize) -> Option<Dropout> {
        let training = self.training.filter(|_| self.adapters.dropout > 0.0)?;
        Some(Dropout {
            probability: self.adapters.dropout,
            stream: Stream::new(training.seed, Purpose::Dropout { site_idx: layer.site_idx }, training.step),
            first_sequence: training.first_sequence + first,
        })
    }
}
