//! Buffers of activations, and their parts that belong to a slice of the batch.

use super::slices::Slices;

/// Room for some numbers of each sequence of a micro-batch, one sequence after the other.
pub(super) struct Rows {
    values: Vec<f32>,
    per_sequence: usize,
}

impl Rows {
    pub(super) fn new(n_sequences: usize, per_sequence: usize) -> Self {
        Self { values: vec![0.0; n_sequences * per_sequence], per_sequence }
    }

    /// What belongs to the first `n_sequences` sequences.
    pub(super) fn of(&self, n_sequences: usize) -> &[f32] {
        &self.values[..n_sequences * self.per_sequence]
    }

    /// All of it.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// All of it, to be changed.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The part of each slice.
    pub(super) fn cut<'a>(&'a self, slices: &Slices) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        self.cut_as(slices, self.per_sequence)
    }

    /// The part of each slice, where there are `per_sequence` numbers of each sequence, at most as many as there is
    /// room for.
    pub(super) fn cut_as<'a>(
        &'a self,
        slices: &Slices,
        per_sequence: usize,
    ) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        slices.ranges().map(move |range| &self.values[range.start * per_sequence..range.end * per_sequence])
    }

    /// Room for each sequence.
    pub(super) fn per_sequence(&self) -> usize {
        self.per_sequence
    }

    /// Writes to all of it.
    pub(super) fn touch(&mut self) {
        self.values.fill(0.0);
    }

    /// Bytes that were allocated.
    pub(super) fn bytes(&self) -> u64 {
        (self.values.capacity() * size_of::<f32>()) as u64
    }
}

/// The parts of each slice of several buffers, to be changed.
pub(super) fn cut_mut<'a, const N: usize>(
    buffers: [&'a mut Rows; N],
    slices: &Slices,
) -> impl Iterator<Item = [&'a mut [f32]; N]> {
    let mut rest = buffers.map(|buffer| (buffer.values.as_mut_slice(), buffer.per_sequence));
    slices.ranges().map(move |range| {
        rest.each_mut().map(|(values, per_sequence)| {
            let (part, after) = std::mem::take(values).split_at_mut(range.len() * *per_sequence);
            *values = after;
            part
        })
    })
}
