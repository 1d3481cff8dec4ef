//! Muon's updates of the matrices in a flat buffer.

use std::ops::Range;

use wattle_ops::adamw;
use wattle_ops::muon::cpu::{State, scratch_len, step_par};
use wattle_ops::muon::{Hyperparameters, Update};

use super::layout::{Entry, Layout};
use super::moments::FlatMoments;
use super::split::Part;
use crate::moments::MatrixUpdate;

/// The matrices that Muon updates, one after the other, and the memory for it.
pub(super) struct FlatMuon {
    hyperparameters: Hyperparameters,
    matrices: Vec<Matrix>,
    scratch: Vec<f32>,
}

struct Matrix {
    range: Range<usize>,
    shape: [usize; 2],
}

impl FlatMuon {
    /// For the matrices of the part `own`; `None` where AdamW updates all.
    pub(super) fn new(layout: &Layout, own: &Part) -> Option<Self> {
        let MatrixUpdate::Muon(hyperparameters) = layout.matrices() else { return None };
        let matrix = |entry: &Entry| Matrix { range: entry.range.clone(), shape: entry.matrix() };
        let matrices: Vec<Matrix> = owned(layout, own).map(matrix).collect();
        let scratch = vec![0.0; largest_scratch(matrices.iter().map(|matrix| matrix.shape))];
        Some(Self { hyperparameters, matrices, scratch })
    }

    /// Makes one update of every matrix; weights and gradients are whole flat buffers.
    pub(super) fn update(
        &mut self,
        weights: &mut [f32],
        gradients: &[f32],
        moments: &mut FlatMoments,
        update: &adamw::Update,
    ) {
        let step = update.step;
        let update = Update::beside(update, self.hyperparameters);
        for Matrix { range, shape } in &self.matrices {
            let momentum = moments.momentum(range, step);
            let state = State { parameters: &mut weights[range.clone()], momentum };
            step_par(state, &gradients[range.clone()], *shape, &update, &mut self.scratch);
        }
    }

    /// Writes to all memory.
    pub(super) fn touch(&mut self) {
        self.scratch.fill(0.0);
    }

    /// Bytes that were allocated.
    pub(super) fn bytes(&self) -> u64 {
        (self.scratch.capacity() * size_of::<f32>()) as u64
    }
}

/// Bytes of memory for the updates of the matrices that belong to the part `own`.
pub(crate) fn scratch_bytes(layout: &Layout, own: &Part) -> u64 {
    bytes_of(owned(layout, own).map(Entry::matrix))
}

/// Bytes of memory for updates of the matrices among parameters with these names and shapes.
pub(crate) fn scratch_bytes_of<'a>(
    matrices: MatrixUpdate,
    shapes: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> u64 {
    let of_muon = shapes.filter(|(name, dims)| matrices.orthogonalizes(name, dims));
    bytes_of(of_muon.map(|(_, dims)| dims.try_into().expect("Muon updates parameters of two dimensions")))
}

/// The matrices of Muon's in the part `own`.
fn owned<'a>(layout: &'a Layout, own: &'a Part) -> impl Iterator<Item = &'a Entry> {
    layout.orthogonalized().filter(|entry| own.updated.contains(&entry.range))
}

fn bytes_of(shapes: impl Iterator<Item = [usize; 2]>) -> u64 {
    (largest_scratch(shapes) as u64).saturating_mul(size_of::<f32>() as u64)
}

fn largest_scratch(shapes: impl Iterator<Item = [usize; 2]>) -> usize {
    shapes.map(|[n_rows, n_columns]| scratch_len(n_rows, n_columns)).max().unwrap_or(0)
}
