//! What one thread works on in a forward pass.

use std::ops::Range;

use super::arena::{Arena, Hidden, Kept, Normed};
use super::per_layer::PerLayer;
use super::rows::cut_mut;
use super::slices::Slices;

/// Some sequences of a micro-batch, and where their activations go.
pub(super) struct ForwardSlice<'a> {
    pub(super) sequences: Range<usize>,
    pub(super) x: Vec<&'a mut [f32]>,
    pub(super) kept: PerLayer<Kept<&'a mut [f32]>>,
    pub(super) hidden: PerLayer<Hidden<&'a mut [f32]>>,
    pub(super) attention_norm: Normed<&'a mut [f32]>,
    pub(super) mlp_norm: Normed<&'a mut [f32]>,
    pub(super) final_norm: Normed<&'a mut [f32]>,
    pub(super) branch: &'a mut [f32],
    pub(super) scratch: &'a mut [f32],
}

impl<'a> ForwardSlice<'a> {
    /// Cuts an arena.
    pub(super) fn cut(arena: &'a mut Arena, slices: &Slices) -> Vec<Self> {
        let norms = cut_mut(arena.attention_norm.each_mut(), slices)
            .zip(cut_mut(arena.mlp_norm.each_mut(), slices))
            .zip(cut_mut(arena.final_norm.each_mut(), slices));
        let others = cut_mut([&mut arena.branch], slices).zip(&mut arena.scratch);
        let mut cut: Vec<Self> = slices
            .ranges()
            .zip(norms.zip(others))
            .map(|(sequences, (((attention_norm, mlp_norm), final_norm), ([branch], scratch)))| Self {
                sequences,
                x: Vec::new(),
                kept: PerLayer::default(),
                hidden: PerLayer::default(),
                attention_norm: attention_norm.into(),
                mlp_norm: mlp_norm.into(),
                final_norm: final_norm.into(),
                branch,
                scratch,
            })
            .collect();
        for x in &mut arena.x {
            cut.iter_mut().zip(cut_mut([x], slices)).for_each(|(slice, [x])| slice.x.push(x));
        }
        for kept in arena.kept.iter_mut() {
            let parts = cut_mut(kept.each_mut(), slices);
            cut.iter_mut().zip(parts).for_each(|(slice, part)| slice.kept.push(part.into()));
        }
        for hidden in arena.hidden.iter_mut() {
            let parts = cut_mut(hidden.each_mut(), slices);
            cut.iter_mut().zip(parts).for_each(|(slice, part)| slice.hidden.push(part.into()));
        }
        cut
    }
}
