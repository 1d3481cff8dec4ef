//! Numbers in another type, on a board.

use crate::board::args::args;
use crate::board::{Board, BoardError, DeviceTensor, Elem, Launch, Ptr};

/// `out = x`, rounded to `elem`.
///
/// # Shapes
/// `x` (n) `f32` → `out` (n).
///
/// # Errors
/// If the launch or copy fails.
pub fn cast(board: &dyn Board, out: DeviceTensor, x: Ptr<f32>, n: usize) -> Result<(), BoardError> {
    if out.elem() == Elem::F32 {
        return board.copy(out.bytes(), x.bytes(), n * Elem::F32.bytes());
    }
    board.launch(&Launch {
        kernel: "cast_bf16",
        grid: [n.div_ceil(8 * 256) as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, n as u64],
    })
}
