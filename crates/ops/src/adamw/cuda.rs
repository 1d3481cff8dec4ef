//! AdamW on a board: one launch for all parameters.

use crate::board::args::args;
use crate::board::{Board, BoardError, DevicePtr, Launch};

/// One update of flat buffers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Master weights (n), `f32`.
    pub weights: DevicePtr,
    /// m (n), `f32`
    pub mean: DevicePtr,
    /// v (n), `f32`
    pub mean_square: DevicePtr,
    /// The weights in bfloat16 (n), written beside the masters; [`DevicePtr::NULL`] if passes read the masters.
    pub working: DevicePtr,
    /// Gradients (n), `f32`.
    pub gradients: DevicePtr,
    /// Elements.
    pub n: usize,
    /// How many of the first ones decay.
    pub n_decaying: usize,
    /// β₁
    pub beta1: f64,
    /// β₂
    pub beta2: f64,
    /// ε
    pub eps: f64,
    /// A [`StepState`](crate::board::StepState).
    pub state: DevicePtr,
    /// What [`grad_norm`](crate::grad_norm::cuda) left.
    pub norm: DevicePtr,
}

/// Makes the update, unless the run is halted. The same bits as on the CPU.
///
/// # Errors
/// If the launch fails.
pub fn step(board: &dyn Board, step: &Step) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: "adamw_f32",
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
            step.beta1 as f32,
            (1.0 - step.beta1) as f32,
            step.beta2 as f32,
            (1.0 - step.beta2) as f32,
            step.eps as f32,
            step.state,
            step.norm,
        ],
    })
}
