//! AdamW on a board: one launch for all parameters.

use super::Hyperparameters;
use crate::bf16::Noise;
use crate::board::args::{args, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Elem, GradNorm, Launch, Ptr, StepState};

/// One update of flat buffers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Master weights (n), `f32`.
    pub weights: Ptr<f32>,
    /// m (n), `f32` or bfloat16.
    pub mean: DeviceTensor,
    /// v (n), of the type of m.
    pub mean_square: DeviceTensor,
    /// The run's seed, for moments in bfloat16, which are rounded at random.
    pub seed: u64,
    /// The weights in bfloat16 (n), written beside the masters; absent if passes read the masters.
    pub working: Option<DeviceTensor>,
    /// Gradients (n), `f32` or bfloat16.
    pub gradients: DeviceTensor,
    /// Elements.
    pub n: usize,
    /// Which of all parameters the first one is, a multiple of 4: moments are rounded by their place among all.
    pub first: usize,
    /// How many of the first ones decay.
    pub n_decaying: usize,
    /// β₁, β₂ and ε. The decay λ is in the state.
    pub hyperparameters: Hyperparameters,
    /// What differs from step to step.
    pub state: Ptr<StepState>,
    /// What [`grad_norm`](crate::grad_norm::board) left.
    pub norm: Ptr<GradNorm>,
}

/// Makes the update, unless the run is halted. The same bits as on the CPU.
///
/// # Errors
/// If the launch fails.
pub fn step(board: &dyn Board, step: &Step) -> Result<(), BoardError> {
    let Hyperparameters { beta1, beta2, eps, .. } = step.hyperparameters;
    let stem = if step.gradients.elem() == Elem::F32 { "adamw" } else { "adamw_of_bf16" };
    board.launch(&Launch {
        kernel: &symbol(stem, step.mean.elem()),
        grid: [step.n.div_ceil(4 * 256) as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![
            step.weights,
            step.mean,
            step.mean_square,
            step.working,
            step.gradients,
            step.n as u64,
            step.n_decaying as u64,
            beta1 as f32,
            (1.0 - beta1) as f32,
            beta2 as f32,
            (1.0 - beta2) as f32,
            eps as f32,
            step.state,
            step.norm,
            step.seed,
            Noise::purpose(),
            step.first as u64,
        ],
    })
}
