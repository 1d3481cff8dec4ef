//! What training has learnt between two steps, in memory that training does not touch.

use std::path::Path;

use candle_core::Result;
use wattle_ops::board::HostMemory;

use super::flat_tensors;
use super::layout::Layout;
use super::moments::MomentSlice;
use crate::error::ModelError;
use crate::parameter::Parameter;

/// Moments and, from a board, weights: flat buffers one behind the other, each with the places of one [`Layout`].
pub struct FlatSnapshot {
    layout: Layout,
    memory: HostMemory,
}

impl FlatSnapshot {
    /// Numbers that a snapshot of a CPU's engine takes: the moments. The weights are in the model's parameters.
    pub(crate) fn len_of_moments(layout: &Layout) -> usize {
        layout.n_moments()
    }

    /// Numbers that a snapshot of a board's engine takes: the moments and the weights.
    pub(crate) fn len_of_all(layout: &Layout) -> usize {
        layout.n_moments() + layout.len()
    }

    /// A snapshot of parameters that lie as in `layout`. `memory` holds the mean of gradients, then the mean of their
    /// squares, then the weights, if they are there.
    pub(crate) fn new(layout: &Layout, memory: HostMemory) -> Self {
        assert!(memory.len() >= Self::len_of_moments(layout), "memory for a snapshot has room for moments");
        Self { layout: layout.clone(), memory }
    }

    /// The mean of gradients and the mean of their squares, to be filled in.
    pub fn moments_mut(&mut self) -> [&mut [f32]; 2] {
        let (mean, rest) = self.memory.split_at_mut(self.layout.len());
        [mean, &mut rest[..self.layout.n_moments() - self.layout.len()]]
    }

    /// Gives `parameters` the values of the weights, if the snapshot has them; else they have them already.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn publish(&self, parameters: &[Parameter]) -> Result<()> {
        let weights = &self.memory[Self::len_of_moments(&self.layout)..];
        match weights.is_empty() {
            true => Ok(()),
            false => flat_tensors::publish(weights, &self.layout, parameters),
        }
    }

    /// Writes the moments to a safetensors file, under their [names](crate::MatrixUpdate::moment_names).
    ///
    /// # Errors
    /// If the file cannot be written; what was written of it is left for the caller to remove.
    pub fn write_moments(&self, path: &Path) -> std::result::Result<(), ModelError> {
        let (mean, mean_square) = self.memory.split_at(self.layout.len());
        flat_tensors::write_moments(path, &self.layout, |range| {
            let of_mean_square = self.layout.mean_squares().range(range);
            [&mean[range.clone()], &mean_square[of_mean_square]].map(MomentSlice::F32)
        })
    }

    /// The memory, for the next snapshot.
    pub fn into_memory(self) -> HostMemory {
        self.memory
    }
}
