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
