//! What comes back from steps.

use std::collections::VecDeque;
use std::ops::Range;

use wattle_ops::board::{self as shared, Board, BoardError, DevicePtr, GradNorm, Ptr, StepState};
use wattle_ops::grad_norm::board as grad_norm;
use wattle_ops::results::board::{self as results, RankSums};

use super::cutter::Cutter;
use super::error::EngineError;
use super::shards::{Exchange, Shard, Shards};
use super::{MAX_PENDING_STEPS, StepResult};
use crate::engine::LossSum;

/// Copies from a board, one way or another.
pub(super) trait ReadBytes: FnMut(DevicePtr, &mut [u8]) -> Result<(), BoardError> {}

impl<F: FnMut(DevicePtr, &mut [u8]) -> Result<(), BoardError>> ReadBytes for F {}

/// Which places of the ring hold results that nobody has asked for yet. The oldest are asked for first.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Where the oldest lies.
    first: usize,
    /// What each result is divided by.
    divisors: VecDeque<Divisors>,
}

/// What makes means of a step's sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Divisors {
    /// Of the sum of losses.
    pub(super) loss: f64,
    /// Of the number of right guesses.
    pub(super) n_correct: f64,
}

/// Results that are about to be read.
#[derive(Debug)]
pub(super) struct Places {
    /// Where they lie: up to the ring's end, and from its start.
    pub(super) ranges: [Range<usize>; 2],
    divisors: Vec<Divisors>,
}

impl Pending {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.divisors.len()
    }

    /// The place of a new one.
    ///
    /// # Errors
    /// If the ring is full.
    pub(super) fn next(&self) -> Result<usize, EngineError> {
        if self.len() == MAX_PENDING_STEPS {
            return Err(EngineError::Pending);
        }
        Ok((self.first + self.len()) % MAX_PENDING_STEPS)
    }

    /// [`Pending::next`] is taken.
    pub(super) fn push(&mut self, divisors: Divisors) {
        self.divisors.push_back(divisors);
    }

    /// Takes out the oldest `n`.
    pub(super) fn take(&mut self, n: usize) -> Places {
        let to_end = n.min(MAX_PENDING_STEPS - self.first);
        let ranges = [self.first..self.first + to_end, 0..n - to_end];
        self.first = (self.first + n) % MAX_PENDING_STEPS;
        Places { ranges, divisors: self.divisors.drain(..n).collect() }
    }
}

/// Losses, norms, and a ring of what steps said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Results {
    rows: RowResults,
    /// Of a step's whole batch.
    n_rows: usize,
    /// The gradient's norm, and what follows from it.
    pub(super) norm: Ptr<GradNorm>,
    norm_scratch: Ptr<f64>,
    /// Of a step whose sequences are those of several ranks.
    of_ranks: Option<RankSums>,
    ring: Ptr<shared::StepResult>,
    /// Of an evaluation.
    evaluated: Ptr<shared::StepResult>,
}

/// What each row said.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowResults {
    /// (n)
    pub(super) losses: Ptr<f32>,
    /// (n)
    pub(super) correct: Ptr<u32>,
}

impl RowResults {
    /// The same, from row `first` on.
    pub(super) fn from(self, first: usize) -> Self {
        Self { losses: self.losses.add(first), correct: self.correct.add(first) }
    }
}

impl Results {
    /// Cuts room for a batch of `n_rows`.
    pub(super) fn cut(cutter: &mut Cutter, n_rows: usize, shards: &Shards) -> Self {
        let rows = RowResults { losses: cutter.take_of(n_rows), correct: cutter.take_of(n_rows) };
        Self {
            rows,
            n_rows,
            norm: cutter.take_of(1),
            norm_scratch: cutter.take_of(grad_norm::SCRATCH_LEN),
            of_ranks: shards.are_exchanged().then(|| {
                let world = shards.share().world;
                let n_parts = |rank| shards.lens_of(rank).map(grad_norm::n_parts).sum();
                let n_parts = (0..world).map(n_parts).max().unwrap_or(0);
                let sums = RankSums { rows: Ptr::new(DevicePtr::new(0)), world, n_parts };
                RankSums { rows: cutter.take_of(world * sums.width()), ..sums }
            }),
            ring: cutter.take_of(MAX_PENDING_STEPS),
            evaluated: cutter.take_of(1),
        }
    }

    /// Where each row of the batch leaves its own.
    pub(super) fn rows(&self) -> RowResults {
        self.rows
    }

    /// Takes the norm of `n` gradients, and puts what the step said into the ring.
    pub(super) fn store(
        &self,
        board: &dyn Board,
        gradients: Ptr<f32>,
        n: usize,
        clip_norm: f64,
        state: Ptr<StepState>,
    ) -> Result<(), EngineError> {
        grad_norm::norm(board, self.norm, gradients, n, clip_norm, self.norm_scratch)?;
        let RowResults { losses, correct } = self.rows;
        Ok(results::store(board, self.ring, Some(self.norm), losses, correct, self.n_rows, Some(state))?)
    }

    /// [`Results::store`] over ranks, once the gradients of `shards` are sums over all of them.
    pub(super) fn store_of_ranks(
        &self,
        board: &dyn Board,
        exchange: &Exchange<'_>,
        gradients: Ptr<f32>,
        shards: &Shards,
        clip_norm: f64,
        state: Ptr<StepState>,
    ) -> Result<(), EngineError> {
        let sums = self.of_ranks.expect("there is room for the sums of ranks");
        let (rank, RowResults { losses, correct }) = (shards.share().rank, self.rows);
        let mut n_parts = 0;
        for Shard { range, .. } in shards.own() {
            let parts = sums.row(rank).add(n_parts);
            grad_norm::sums_of_squares(board, parts, gradients.add(range.start), range.len())?;
            n_parts += grad_norm::n_parts(range.len());
        }
        if n_parts < sums.n_parts {
            // Others have more parts.
            let rest = sums.row(rank).add(n_parts).bytes();
            board.zero(rest, (sums.n_parts - n_parts) * size_of::<f64>())?;
        }
        results::sum_of_rank(board, &sums, rank, losses, correct, self.n_rows)?;
        exchange.gather_rows(sums.rows.bytes(), sums.width() * size_of::<f64>())?;
        Ok(results::store_of_ranks(board, self.ring, self.norm, &sums, clip_norm, state)?)
    }

    /// What the ring holds in `places`, read by `read`: [`Board::read`] waits for all work before,
    /// [`Board::read_beside`] is for finished steps.
    pub(super) fn read(
        &self,
        places: &Places,
        mut read: impl ReadBytes,
    ) -> Result<Vec<StepResult>, EngineError> {
        let mut bytes = vec![0; places.divisors.len() * shared::StepResult::BYTES];
        let mut rest = bytes.as_mut_slice();
        for range in places.ranges.iter().filter(|range| !range.is_empty()) {
            let (part, after) = rest.split_at_mut(range.len() * shared::StepResult::BYTES);
            read(self.ring.add(range.start).bytes(), part)?;
            rest = after;
        }
        let (stored, _) = bytes.as_chunks();
        let result = |(place, divisors): (_, &Divisors)| {
            let shared::StepResult { loss, n_correct, grad_norm } = shared::StepResult::from_bytes(place);
            StepResult {
                loss: (loss / divisors.loss) as f32,
                accuracy: (f64::from(n_correct) / divisors.n_correct) as f32,
                grad_norm,
            }
        };
        Ok(stored.iter().zip(&places.divisors).map(result).collect())
    }

    /// The sum over the first `n` rows, once all work before is done.
    pub(super) fn sum_of_rows(&self, board: &dyn Board, n: usize) -> Result<LossSum, EngineError> {
        let RowResults { losses, correct } = self.rows;
        results::store(board, self.evaluated, None, losses, correct, n, None)?;
        let mut place = [0; shared::StepResult::BYTES];
        board.read(self.evaluated.bytes(), &mut place)?;
        let shared::StepResult { loss, n_correct, .. } = shared::StepResult::from_bytes(&place);
        Ok(LossSum { loss, n_correct: n_correct as usize })
    }

    /// Whether the run is halted: a loss or a norm was not finite, and nothing was updated since.
    pub(super) fn is_halted(&self, board: &dyn Board) -> Result<bool, EngineError> {
        let mut bytes = [0; GradNorm::BYTES];
        board.read(self.norm.bytes(), &mut bytes)?;
        Ok(GradNorm::from_bytes(&bytes).halted != 0)
    }

    /// Lets updates be made again.
    pub(super) fn unhalt(&self, board: &dyn Board) -> Result<(), EngineError> {
        Ok(board.zero(self.norm.bytes(), GradNorm::BYTES)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_round_and_the_oldest_are_taken_first() {
        let mut pending = Pending::default();
        let push = |pending: &mut Pending, n: usize| {
            let places: Vec<_> = (0..n)
                .map(|_| {
                    let place = pending.next().unwrap();
                    pending.push(Divisors { loss: 1.0, n_correct: 1.0 });
                    place
                })
                .collect();
            (places[0], places[n - 1])
        };
        assert_eq!(push(&mut pending, MAX_PENDING_STEPS - 1), (0, MAX_PENDING_STEPS - 2));
        assert_eq!(pending.take(MAX_PENDING_STEPS - 3).ranges, [0..MAX_PENDING_STEPS - 3, 0..0]);
        assert_eq!(push(&mut pending, 4), (MAX_PENDING_STEPS - 1, 2));
        assert_eq!(pending.take(5).ranges, [MAX_PENDING_STEPS - 3..MAX_PENDING_STEPS, 0..2]);
        assert_eq!((pending.len(), pending.next().unwrap()), (1, 3));
        push(&mut pending, MAX_PENDING_STEPS - 1);
        assert!(matches!(pending.next(), Err(EngineError::Pending)));
    }
}
