//! One step's sums and weights over ranks.

use std::ops::Range;
use std::time::Duration;

use wattle_dist::DistError;
use wattle_model::engine::{FlatState, LossSum};
use wattle_model::{Ranges, Split};

use super::Ranks;
use super::tree::add_pieces;

/// Numbers that go out at once, over all ranks.
const AT_ONCE: usize = 1 << 21;

/// What ranks send in a step, and the memory for it.
pub(crate) struct Between {
    ranks: Ranks,
    split: Split,
    /// What this rank lends each for sums of squares.
    lent: Vec<Ranges>,
    /// What it borrows of each.
    borrowed: Vec<Ranges>,
    /// The most that one rank lends another.
    most_lent: usize,
    own: Vec<f32>,
    all: Vec<f32>,
}

impl Between {
    /// For parameters that are split like this.
    pub(crate) fn new(ranks: Ranks, split: Split) -> Self {
        let piece = split.longest().min(AT_ONCE / split.world()).max(1);
        let zeros = || vec![0.0; if split.world() > 1 { piece * split.world() } else { 0 }];
        let (own, all) = (zeros(), zeros());
        let (world, rank) = (split.world(), ranks.share().rank);
        let lent = (0..world).map(|other| split.lent(rank, other)).collect();
        let borrowed = (0..world).map(|other| split.lent(other, rank)).collect();
        let pairs = (0..world).flat_map(|from| (0..world).map(move |to| (from, to)));
        let most_lent = pairs.map(|(from, to)| split.lent(from, to).len()).max().unwrap_or(0);
        Self { ranks, split, lent, borrowed, most_lent, own, all }
    }

    /// Bytes of the memory for what is sent.
    pub(crate) fn bytes(&self) -> u64 {
        ((self.own.capacity() + self.all.capacity()) * size_of::<f32>()) as u64
    }

    /// Replaces the gradients of this rank's part by their sum over ranks; the others' parts are of no use afterwards.
    pub(crate) fn sum_gradients(&mut self, gradients: &mut [f32], within: Duration) -> Result<(), DistError> {
        for chunk in self.chunks(self.split.longest()) {
            let piece = self.piece();
            for (part, own) in self.split.parts().iter().zip(self.own.chunks_exact_mut(piece)) {
                part.updated.pack(&chunk, gradients, own);
            }
            self.exchange(within)?;
            let n = self.split.own().updated.len().saturating_sub(chunk.start).min(piece);
            add_pieces(&mut self.all, piece, n);
            self.split.own().updated.unpack(&chunk, &self.all[..n], gradients);
        }
        Ok(())
    }

    /// Gives every rank the weights of each rank's part.
    pub(crate) fn gather_weights(&mut self, weights: &mut [f32], within: Duration) -> Result<(), DistError> {
        for chunk in self.chunks(self.split.longest()) {
            let piece = self.piece();
            let own = &mut self.own[..piece];
            self.split.own().updated.pack(&chunk, weights, own);
            let all = bytemuck::cast_slice_mut(&mut self.all);
            self.ranks.fabric().all_gather(bytemuck::cast_slice(own), all, within)?;
            for (part, piece) in self.split.parts().iter().zip(self.all.chunks_exact(piece)) {
                part.updated.unpack(&chunk, piece, weights);
            }
        }
        Ok(())
    }

    /// The sums of squares of all blocks of the gradients, in their order, once those of each rank's part are
    /// [summed](Between::sum_gradients).
    pub(crate) fn sums_of_squares(
        &mut self,
        state: &mut FlatState,
        within: Duration,
    ) -> Result<Vec<f64>, DistError> {
        self.lend(state.gradients_mut(), within)?;
        let mut own = state.own_sums_of_squares();
        if !self.ranks.are_several() {
            return Ok(own);
        }
        let parts = self.split.parts();
        let most = parts.iter().map(|part| part.blocks.len()).max().unwrap_or(0);
        own.resize(most, 0.0);
        let all = self.ranks.all_gather(&own, within)?;
        let mut sums = vec![0.0; self.split.n_blocks()];
        for (part, of_rank) in parts.iter().zip(all.chunks_exact(most.max(1))) {
            part.blocks.iter().zip(of_rank).for_each(|(&block, &sum)| sums[block] = sum);
        }
        Ok(sums)
    }

    /// Gives every rank the gradients that others have of its blocks.
    fn lend(&mut self, gradients: &mut [f32], within: Duration) -> Result<(), DistError> {
        for chunk in self.chunks(self.most_lent) {
            let piece = self.piece();
            for (lent, own) in self.lent.iter().zip(self.own.chunks_exact_mut(piece)) {
                lent.pack(&chunk, gradients, own);
            }
            self.exchange(within)?;
            for (borrowed, piece) in self.borrowed.iter().zip(self.all.chunks_exact(piece)) {
                borrowed.unpack(&chunk, piece, gradients);
            }
        }
        Ok(())
    }

    fn exchange(&mut self, within: Duration) -> Result<(), DistError> {
        let (own, all) = (bytemuck::cast_slice(&self.own), bytemuck::cast_slice_mut(&mut self.all));
        self.ranks.fabric().exchange(own, all, within)
    }

    fn piece(&self) -> usize {
        self.own.len() / self.split.world()
    }

    /// Which elements of each part are sent together, of at most `longest`, counted from the part's start.
    fn chunks(&self, longest: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let piece = self.piece().max(1);
        let is_several = self.ranks.are_several();
        (0..longest).step_by(piece).filter(move |_| is_several).map(move |start| start..start + piece)
    }
}

/// What some of a step's or an evaluation's sequences were worth.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worth {
    /// Their losses.
    pub(crate) sum: LossSum,
    /// The weight of their targets.
    pub(crate) weight: f64,
    /// Targets that count.
    pub(crate) n_counted: usize,
}

/// Numbers of a [`Worth`] between ranks. Counts are exact below 2⁵³.
const NUMBERS: usize = 4;

impl Worth {
    fn numbers(self) -> [f64; NUMBERS] {
        [self.sum.loss, self.sum.n_correct as f64, self.weight, self.n_counted as f64]
    }

    fn of(numbers: &[f64]) -> Self {
        let sum = LossSum { loss: numbers[0], n_correct: numbers[1] as usize };
        Self { sum, weight: numbers[2], n_counted: numbers[3] as usize }
    }
}

impl std::ops::AddAssign for Worth {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
        self.n_counted += other.n_counted;
    }
}

impl Ranks {
    /// What the parts of all ranks were worth, in the order of ranks; each has as many.
    pub(crate) fn worths(&self, own: &[Worth], within: Duration) -> Result<Vec<Worth>, DistError> {
        if !self.are_several() {
            return Ok(own.to_vec());
        }
        let own: Vec<f64> = own.iter().flat_map(|worth| worth.numbers()).collect();
        Ok(self.all_gather(&own, within)?.chunks_exact(NUMBERS).map(Worth::of).collect())
    }
}
