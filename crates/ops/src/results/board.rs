//! Results of steps in a ring on a board.

use crate::board::args::args;
use crate::board::{Board, BoardError, Launch, Ptr, StepState};
use crate::grad_norm::board::GradNorm;

/// What one step said.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct StepResult {
    /// Sum of losses in nats.
    pub loss: f64,
    /// Tokens that were the model's first choice.
    pub n_correct: u32,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f32,
}

impl StepResult {
    /// Bytes that it takes.
    pub const BYTES: usize = size_of::<Self>();

    /// As it lies in the ring.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |first: usize| [bytes[first], bytes[first + 1], bytes[first + 2], bytes[first + 3]];
        let [a, b, c, d] = word(0);
        let [e, f, g, h] = word(4);
        Self {
            loss: f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            n_correct: u32::from_ne_bytes(word(8)),
            grad_norm: f32::from_ne_bytes(word(12)),
        }
    }
}

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
