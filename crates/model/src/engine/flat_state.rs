//! Weights, gradients and moments in flat buffers.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use wattle_ops::adamw::Update;
use wattle_ops::board::HostMemory;
use wattle_ops::grad_norm::cpu as grad_norm;

use super::flat_tensors::{self, slice};
use super::layout::{Entry, Layout};
use super::moments::{FlatMoments, Moments};
use super::muon::{FlatMuon, scratch_bytes};
use super::ranges::Ranges;
use super::snapshot::FlatSnapshot;
use super::split::{Share, Split};
use crate::copies::{copy, with_values};
use crate::differences::shape_fault;
use crate::error::ModelError;
use crate::moments::{MatrixUpdate, check_moments_of};
use crate::parameter::Parameter;

/// Elements that one thread sets to zero at once.
const BLOCK: usize = 1 << 16;

/// All that is learnt, and what it is learnt with. Each buffer has the places of one [`Layout`]. Of several processes that
/// train together each has all weights and gradients, and the moments of its part: see [`Split`].
///
/// A model's [`Parameter`]s are candle tensors that anybody can read. While an engine trains, they are as they
/// were when [`FlatState::publish`] was last called.
pub struct FlatState {
    layout: Layout,
    split: Split,
    pub(super) weights: Vec<f32>,
    pub(super) gradients: Vec<f32>,
    moments: FlatMoments,
    muon: Option<FlatMuon>,
}

impl FlatState {
    /// The values of `parameters`, without gradients or moments yet.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn new(
        parameters: &[Parameter],
        moments: Moments,
        matrices: MatrixUpdate,
        share: Share,
    ) -> Result<Self> {
        let layout = Layout::new(parameters).updated_by(matrices);
        let split = Split::of_layout(&layout, share);
        let zeros = || vec![0f32; layout.len()];
        let (weights, gradients) = (zeros(), zeros());
        let moments = FlatMoments::zeros(moments, &layout, split.own().updated.clone());
        let muon = FlatMuon::new(&layout, split.own());
        let mut state = Self { layout, split, weights, gradients, moments, muon };
        state.take(parameters)?;
        Ok(state)
    }

    /// The places of parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which part each process keeps.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The gradients, flat.
    pub fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    /// The gradients, flat, to be changed; their number stays.
    pub fn gradients_mut(&mut self) -> &mut Vec<f32> {
        &mut self.gradients
    }

    /// The weights, flat.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The weights, flat, to be changed.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// Takes over the values of `parameters`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn take(&mut self, parameters: &[Parameter]) -> Result<()> {
        for (entry, parameter) in self.layout.entries().iter().zip(parameters) {
            copy_to(&mut self.weights, entry, &parameter.var)?;
        }
        Ok(())
    }

    /// Gives `parameters` the values here.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn publish(&self, parameters: &[Parameter]) -> Result<()> {
        flat_tensors::publish(&self.weights, &self.layout, parameters)
    }

    /// Sets all gradients to zero.
    pub fn zero_gradients(&mut self) {
        self.gradients.par_chunks_mut(BLOCK).for_each(|block| block.fill(0.0));
    }

    /// Sets all gradients to −0, which stays where nothing is added: what [`FlatState::take_marks`] looks for.
    /// It is zero in every sum, and `-0 + 0 = 0` shows that something was added even where that was zero.
    pub fn mark_gradients(&mut self) {
        self.gradients.par_chunks_mut(BLOCK).for_each(|block| block.fill(-0.0));
    }

    /// Names of parameters to which nothing was added since [`FlatState::mark_gradients`]; the marks that are left
    /// elsewhere, as in rows of tokens that did not come, become plain zeros.
    pub fn take_marks(&mut self) -> Vec<String> {
        let is_marked = |g: &f32| g.to_bits() == (-0.0f32).to_bits();
        let is_untouched = |entry: &&Entry| self.gradients[entry.range.clone()].iter().all(is_marked);
        let untouched = self.layout.entries().iter().filter(is_untouched).map(|e| e.name.clone()).collect();
        // −0 + 0 = 0, and every other number stays as it is.
        self.gradients.par_chunks_mut(BLOCK).for_each(|block| block.iter_mut().for_each(|g| *g += 0.0));
        untouched
    }

    /// Writes to all memory of moments, whose values stay, and of gradients, which are zero then.
    pub fn touch(&mut self) {
        self.zero_gradients();
        self.moments.touch();
        if let Some(muon) = &mut self.muon {
            muon.touch();
        }
    }

    /// The Euclidean norm of all gradients together.
    pub fn grad_norm(&self) -> f64 {
        grad_norm::norm_par(&self.gradients)
    }

    /// The sums of squares of the gradients of this process's [blocks](crate::Part::blocks), in their order.
    pub fn own_sums_of_squares(&self) -> Vec<f64> {
        let sums = |range: &Range<usize>| {
            grad_norm::sums_of_squares_par(&self.gradients[range.clone()], self.split.block_len())
        };
        self.split.own().in_blocks.iter().flat_map(sums).collect()
    }

    /// Names of parameters whose gradient is zero in every element.
    pub fn zero_gradient_names(&self) -> Vec<String> {
        let is_zero = |entry: &&Entry| self.gradients[entry.range.clone()].iter().all(|&g| g == 0.0);
        self.layout.entries().iter().filter(is_zero).map(|entry| entry.name.clone()).collect()
    }

    /// The gradients as tensors, in the model's order.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn gradient_tensors(&self) -> Result<Vec<Tensor>> {
        self.layout.entries().iter().map(|entry| tensor(&self.gradients, entry)).collect()
    }

    /// Makes one update, of this process's part.
    pub fn update(&mut self, update: &Update) {
        self.moments.update(&mut self.weights, &self.gradients, &self.layout.ranges(), update);
        if let Some(muon) = &mut self.muon {
            muon.update(&mut self.weights, &self.gradients, &mut self.moments, update);
        }
    }

    /// Writes the moments to a safetensors file, under their [names](MatrixUpdate::moment_names). No more than one of them is copied at
    /// a time.
    ///
    /// # Errors
    /// If the file cannot be written; what was written of it is left for the caller to remove.
    ///
    /// # Panics
    /// If another process has a part of the moments.
    pub fn write_moments(&self, path: &Path) -> std::result::Result<(), ModelError> {
        flat_tensors::write_moments(path, &self.layout, |range| self.moments.of(range))
    }

    /// Moments of this process's part.
    pub(super) fn n_moments(&self) -> usize {
        self.layout.n_moments_of(&self.split.own().updated)
    }

    /// Bytes of memory for the updates that Muon makes here.
    pub(super) fn muon_bytes(&self) -> u64 {
        scratch_bytes(&self.layout, self.split.own())
    }

    /// Where one of the moments of the part of `rank` lies in a [snapshot](FlatState::snapshot): 0 is the mean, 1 that of
    /// squares.
    pub fn moment_places(&self, which: usize, rank: usize) -> Ranges {
        let updated = &self.split.part(rank).updated;
        match which {
            0 => updated.clone(),
            _ => Ranges::of(updated.iter().map(|range| self.layout.mean_squares().range(range))),
        }
    }

    /// Numbers of memory that [`FlatState::snapshot`] takes.
    pub fn snapshot_len(&self) -> usize {
        FlatSnapshot::len_of_moments(&self.layout)
    }

    /// A copy of the moments in `memory`; of those of this process's part, where others have the rest. Together with the
    /// parameters, once the weights are [published](FlatState::publish) to them, it is all that a run goes on from.
    ///
    /// # Panics
    /// If `memory` has not room for [`FlatState::snapshot_len`] numbers.
    pub fn snapshot(&self, memory: HostMemory) -> FlatSnapshot {
        let mut snapshot = FlatSnapshot::new(&self.layout, memory);
        for own in self.split.own().updated.iter() {
            let places = [own.clone(), self.layout.mean_squares().range(own)];
            let own = self.moments.of(own).into_iter().zip(places);
            for (moment, (own, place)) in snapshot.moments_mut().into_iter().zip(own) {
                own.copy_to(&mut moment[place]);
            }
        }
        snapshot
    }

    /// Copies this process's part of one of the moments, widened: 0 is the mean, 1 that of squares.
    ///
    /// # Shapes
    /// `out` is as long as [`FlatState::moment_places`] of this process.
    pub fn copy_own_moment(&self, which: usize, out: &mut [f32]) {
        self.moments.copy_to(which, out);
    }

    /// Takes over moments as [`FlatState::write_moments`] writes them: see
    /// [`moment_faults`](crate::moment_faults).
    ///
    /// # Errors
    /// If one is missing, extra or of another shape, and nothing is changed then; or if a tensor operation fails.
    pub fn set_moments(&mut self, moments: &HashMap<String, Tensor>) -> Result<()> {
        let matrices = self.layout.matrices();
        check_moments_of(self.layout.shapes(), matrices, moments)?;
        for entry in self.layout.entries() {
            for (which, name) in matrices.moment_names(&entry.name, &entry.dims).into_iter().enumerate() {
                let tensor = checked(entry, &moments[&name])?;
                with_values(tensor, |values| self.moments.set(which, &entry.range, values))?;
            }
        }
        Ok(())
    }

    /// Bytes that were allocated.
    pub(super) fn bytes(&self) -> u64 {
        let buffers = [&self.weights, &self.gradients];
        let floats: u64 = buffers.iter().map(|buffer| (buffer.capacity() * size_of::<f32>()) as u64).sum();
        floats + self.moments.bytes() + self.muon.as_ref().map_or(0, FlatMuon::bytes)
    }
}

fn tensor(buffer: &[f32], entry: &Entry) -> Result<Tensor> {
    Tensor::from_slice(slice(buffer, entry), entry.dims.as_slice(), &Device::Cpu)
}

/// Copies a tensor of the parameter of `entry` to its place in `buffer`.
fn copy_to(buffer: &mut [f32], entry: &Entry, tensor: &Tensor) -> Result<()> {
    with_values(checked(entry, tensor)?, |values| copy(&mut buffer[entry.range.clone()], values))
}

/// A tensor of the shape of the parameter of `entry`.
fn checked<'a>(entry: &Entry, tensor: &'a Tensor) -> Result<&'a Tensor> {
    match shape_fault(&entry.name, tensor.dims(), &entry.dims) {
        Some(fault) => bail!("{fault}"),
        None => Ok(tensor),
    }
}
