//! One step's sums and weights over ranks.

use std::ops::Range;
use std::time::Duration;

use wattle_dist::DistError;
use wattle_model::Split;
use wattle_model::engine::{FlatState, LossSum};

use super::Ranks;
use super::tree::add_pieces;

/// Numbers that go out at once, over all ranks.
const AT_ONCE: usize = 1 << 21;

/// What ranks send in a step, and the memory for it.
pub(crate) struct Between {
    ranks: Ranks,
    split: Split,
    own: Vec<f32>,
    all: Vec<f32>,
}

impl Between {
    /// For parameters that are split like this.
    pub(crate) fn new(ranks: Ranks, split: Split) -> Self {
        let piece = split.longest().min(AT_ONCE / split.world()).max(1);
        let zeros = || vec![0.0; if split.world() > 1 { piece * split.world() } else { 0 }];
        Self { own: zeros(), all: zeros(), ranks, split }
    }

    /// Bytes of the memory for what is sent.
    pub(crate) fn bytes(&self) -> u64 {
        ((self.own.capacity() + self.all.capacity()) * size_of::<f32>()) as u64
    }

    /// Replaces the gradients of this rank's part by their sum over ranks; the others' parts are of no use afterwards.
    pub(crate) fn sum_gradients(&mut self, gradients: &mut [f32], within: Duration) -> Result<(), DistError> {
        for chunk in self.chunks() {
            let piece = self.piece();
            for (rank, own) in self.own.chunks_exact_mut(piece).enumerate() {
                let part = chunk_of(self.split.part(rank), &chunk);
                own[..part.len()].copy_from_slice(&gradients[part]);
            }
            let (own, all) = (bytemuck::cast_slice(&self.own), bytemuck::cast_slice_mut(&mut self.all));
            self.ranks.fabric().exchange(own, all, within)?;
            let part = chunk_of(self.split.own(), &chunk);
            add_pieces(&mut self.all, piece, part.len());
            let n = part.len();
            gradients[part].copy_from_slice(&self.all[..n]);
        }
        Ok(())
    }

    /// Gives every rank the weights of each rank's part.
    pub(crate) fn gather_weights(&mut self, weights: &mut [f32], within: Duration) -> Result<(), DistError> {
        for chunk in self.chunks() {
            let piece = self.piece();
            let part = chunk_of(self.split.own(), &chunk);
            let own = &mut self.own[..piece];
            own[..part.len()].copy_from_slice(&weights[part]);
            let all = bytemuck::cast_slice_mut(&mut self.all);
            self.ranks.fabric().all_gather(bytemuck::cast_slice(own), all, within)?;
            for (rank, piece) in self.all.chunks_exact(piece).enumerate() {
                let part = chunk_of(self.split.part(rank), &chunk);
                let n = part.len();
                weights[part].copy_from_slice(&piece[..n]);
            }
        }
        Ok(())
    }

    /// The sums of squares of all blocks of the gradients, in their order.
    pub(crate) fn sums_of_squares(&self, state: &FlatState, within: Duration) -> Result<Vec<f64>, DistError> {
        let mut own = state.own_sums_of_squares();
        if !self.ranks.are_several() {
            return Ok(own);
        }
        let blocks_of = |rank| self.split.blocks(rank).len();
        let most = (0..self.split.world()).map(blocks_of).max().unwrap_or(0);
        own.resize(most, 0.0);
        let all = self.ranks.all_gather(&own, within)?;
        let of_ranks = all.chunks_exact(most.max(1)).enumerate();
        Ok(of_ranks.flat_map(|(rank, sums)| &sums[..blocks_of(rank)]).copied().collect())
    }

    fn piece(&self) -> usize {
        self.own.len() / self.split.world()
    }

    /// Which elements of each part are sent together, counted from the part's start.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (piece, longest) = (self.piece().max(1), self.split.longest());
        let is_several = self.ranks.are_several();
        (0..longest).step_by(piece).filter(move |_| is_several).map(move |start| start..start + piece)
    }
}

/// The elements of `part` that are in `chunk`, which counts from the part's start.
fn chunk_of(part: Range<usize>, chunk: &Range<usize>) -> Range<usize> {
    let place = |offset: usize| (part.start + offset).min(part.end);
    place(chunk.start)..place(chunk.end)
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
