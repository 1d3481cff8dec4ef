//! SwiGLU on a board, over rows that hold gate and up side by side.

use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch};

/// `out = silu(gate) · up`
///
/// # Shapes
/// `x` (n, 2·ff), gate first → `out` (n, ff).
///
/// # Errors
/// If the launch fails.
pub fn fwd(
    board: &dyn Board,
    out: DeviceTensor,
    x: DeviceTensor,
    [n, ff]: [usize; 2],
) -> Result<(), BoardError> {
    let elem = x.elem();
    board.launch(&Launch {
        kernel: &symbol("swiglu_fwd", elem),
        grid: [n as u32, pack_grid(ff, elem, 256), 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, ff as i32],
    })
}

/// The gradients of [`fwd`].
///
/// # Shapes
/// `grad_out` (n, ff), `x` (n, 2·ff) → `grad_x` (n, 2·ff), overwritten; it may be `x`.
///
/// # Errors
/// If the launch fails.
pub fn bwd(
    board: &dyn Board,
    grad_x: DeviceTensor,
    grad_out: DeviceTensor,
    x: DeviceTensor,
    [n, ff]: [usize; 2],
) -> Result<(), BoardError> {
    let elem = x.elem();
    board.launch(&Launch {
        kernel: &symbol("swiglu_bwd", elem),
        grid: [n as u32, pack_grid(ff, elem, 256), 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![grad_x, grad_out, x, ff as i32],
    })
}
