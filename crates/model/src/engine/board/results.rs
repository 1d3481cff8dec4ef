//! What comes back from steps.

use wattle_ops::board::{Board, DevicePtr, Elem};
use wattle_ops::grad_norm::cuda::{self as grad_norm, NORM_BYTES};
use wattle_ops::results::cuda::{self as results, RESULT_BYTES};

use super::cutter::Cutter;
use super::error::EngineError;
use super::{MAX_PENDING_STEPS, StepResult};
use crate::engine::LossSum;

/// Losses, norms, and a ring of what steps said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Results {
    rows: RowResults,
    /// Of a step's whole batch.
    n_rows: usize,
    /// The gradient's norm, and what follows from it.
    pub(super) norm: DevicePtr,
    norm_scratch: DevicePtr,
    ring: DevicePtr,
    /// Of an evaluation.
    evaluated: DevicePtr,
}

/// What each row said.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowResults {
    /// (n) `f32`
    pub(super) losses: DevicePtr,
    /// (n) `u32`
    pub(super) correct: DevicePtr,
}

impl RowResults {
    /// The same, from row `first` on.
    pub(super) fn from(self, first: usize) -> Self {
        // Both have four bytes an element.
        Self { losses: self.losses.add(first, Elem::F32), correct: self.correct.add(first, Elem::F32) }
    }
}

impl Results {
    /// Cuts room for a batch of `n_rows`.
    pub(super) fn cut(cutter: &mut Cutter, n_rows: usize) -> Self {
        let rows =
            RowResults { losses: cutter.take(n_rows, Elem::F32), correct: cutter.take(n_rows, Elem::F32) };
        Self {
            rows,
            n_rows,
            norm: cutter.take_bytes(NORM_BYTES),
            norm_scratch: cutter.take_bytes(grad_norm::SCRATCH_BYTES),
            ring: cutter.take_bytes(MAX_PENDING_STEPS * RESULT_BYTES),
            evaluated: cutter.take_bytes(RESULT_BYTES),
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
        gradients: DevicePtr,
        n: usize,
        clip_norm: f64,
        state: DevicePtr,
    ) -> Result<(), EngineError> {
        grad_norm::norm(board, self.norm, gradients, n, clip_norm, self.norm_scratch)?;
        let RowResults { losses, correct } = self.rows;
        Ok(results::store(board, self.ring, self.norm, losses, correct, self.n_rows, state)?)
    }

    /// What the first `n` places of the ring hold, once all work before is done.
    pub(super) fn read(&self, board: &dyn Board, n: usize) -> Result<Vec<StepResult>, EngineError> {
        let mut bytes = vec![0; n * RESULT_BYTES];
        if n > 0 {
            board.read(self.ring, &mut bytes)?;
        }
        let mean = |sum: f64| (sum / self.n_rows as f64) as f32;
        let (places, _) = bytes.as_chunks();
        let result = |place| {
            let results::StepResult { loss, n_correct, grad_norm } = results::StepResult::from_bytes(place);
            StepResult { loss: mean(loss), accuracy: mean(f64::from(n_correct)), grad_norm }
        };
        Ok(places.iter().map(result).collect())
    }

    /// The sum over the first `n` rows, once all work before is done.
    pub(super) fn sum_of_rows(&self, board: &dyn Board, n: usize) -> Result<LossSum, EngineError> {
        let RowResults { losses, correct } = self.rows;
        let null = DevicePtr::NULL;
        results::store(board, self.evaluated, null, losses, correct, n, null)?;
        let mut place = [0; RESULT_BYTES];
        board.read(self.evaluated, &mut place)?;
        let results::StepResult { loss, n_correct, .. } = results::StepResult::from_bytes(&place);
        Ok(LossSum { loss, n_correct: n_correct as usize })
    }

    /// Whether the run is halted: a loss or a norm was not finite, and nothing was updated since.
    pub(super) fn is_halted(&self, board: &dyn Board) -> Result<bool, EngineError> {
        let mut bytes = [0; NORM_BYTES];
        board.read(self.norm, &mut bytes)?;
        Ok(bytes[12..].iter().any(|&byte| byte != 0))
    }

    /// Lets updates be made again.
    pub(super) fn unhalt(&self, board: &dyn Board) -> Result<(), EngineError> {
        Ok(board.zero(self.norm, NORM_BYTES)?)
    }
}
