//! Results of steps in a ring on a board.

use crate::board::args::args;
use crate::board::{Board, BoardError, GradNorm, Launch, Ptr, StepResult, StepState};

/// Sums losses and hits in a fixed order into the step's place in the ring. A sum that is not finite halts the run.
///
/// # Shapes
/// `losses` (n) `f32`, `correct` (n) `u32`; `norm` and `state` may be absent: then nothing is halted, and
/// the place is the first.
///
/// # Errors
/// If the launch fails.
pub fn store(
    board: &dyn Board,
    ring: Ptr<StepResult>,
    norm: Option<Ptr<GradNorm>>,
    losses: Ptr<f32>,
    correct: Ptr<u32>,
    n: usize,
    state: Option<Ptr<StepState>>,
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: "results_f32",
        grid: [1, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        args: &args![ring, norm, losses, correct, n as u64, state],
    })
}

/// A step's sums by rank, for [`store_of_ranks`].
#[derive(Clone, Copy, Debug)]
pub struct RankSums {
    /// A row for each rank: sums of squares of its part of the gradients, then its losses and hits.
    pub rows: Ptr<f64>,
    /// Ranks.
    pub world: usize,
    /// Sums of squares of each.
    pub n_parts: usize,
}

impl RankSums {
    /// Numbers of a row: the sums of squares, the loss and the hits.
    pub fn width(&self) -> usize {
        self.n_parts + 2
    }

    /// The row of `rank`.
    pub fn row(&self, rank: usize) -> Ptr<f64> {
        self.rows.add(rank * self.width())
    }
}

/// Sums a rank's losses and hits into its row.
///
/// # Shapes
/// `losses` (n) `f32`, `correct` (n) `u32`.
///
/// # Errors
/// If the launch fails.
pub fn sum_of_rank(
    board: &dyn Board,
    sums: &RankSums,
    rank: usize,
    losses: Ptr<f32>,
    correct: Ptr<u32>,
    n: usize,
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: "row_sums_f32",
        grid: [1, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        args: &args![sums.row(rank), sums.n_parts as i32, losses, correct, n as u64],
    })
}

/// Adds the rows of all ranks, in a fixed order: to the gradient's norm and what clipping to `clip_norm` makes of it, and to
/// what the step said, at its place in the ring. A sum or a norm that is not finite halts the run.
///
/// # Errors
/// If the launch fails.
pub fn store_of_ranks(
    board: &dyn Board,
    ring: Ptr<StepResult>,
    norm: Ptr<GradNorm>,
    sums: &RankSums,
    clip_norm: f64,
    state: Ptr<StepState>,
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: "result_of_rows_f32",
        grid: [1, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        args: &args![ring, norm, sums.rows, sums.world as i32, sums.n_parts as i32, clip_norm, state],
    })
}
