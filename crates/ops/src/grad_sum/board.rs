//! Gradients in bfloat16 on a board.

use crate::Store;
use crate::bf16::GradientNoise;
use crate::board::args::args;
use crate::board::{Board, BoardError, DeviceTensor, Launch, Ptr, StepState};

/// What one micro-batch adds to some gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    /// Gradients (n), bfloat16.
    pub grad: DeviceTensor,
    /// What is added (n), `f32`.
    pub x: Ptr<f32>,
    /// Elements.
    pub n: usize,
    /// Place of the first of them in the flat buffer, in which the random numbers count: a multiple of 8.
    pub first: usize,
    /// The run's seed.
    pub seed: u64,
    /// Position of the micro-batch's first sequence in the step's batch.
    pub first_sequence: usize,
    /// What differs from step to step.
    pub state: Ptr<StepState>,
}

/// `grad = x` or `grad += x`, as `store` says, rounded at random. The same bits as on the CPU.
///
/// # Errors
/// If the launch fails.
pub fn add(board: &dyn Board, sum: &Sum, store: Store) -> Result<(), BoardError> {
    let &Sum { grad, x, n, first, seed, first_sequence, state } = sum;
    board.launch(&Launch {
        kernel: "grad_sum_bf16",
        grid: [n.div_ceil(8 * 256) as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![
            grad,
            x,
            n as u64,
            i32::from(store == Store::Accumulate),
            state,
            seed,
            GradientNoise::purpose(),
            GradientNoise::block(first_sequence, first),
        ],
    })
}
