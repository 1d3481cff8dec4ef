//! The norm of a flat gradient on a board, where it stays.

use crate::board::args::{args, symbol};
use crate::board::{Board, BoardError, DeviceTensor, GradNorm, Launch, Ptr};

/// Most blocks of the first stage.
const MAX_PARTS: usize = 512;
/// Elements that are worth a block.
const PART: usize = 1 << 14;

/// Numbers of scratch that [`norm`] wants for each buffer.
pub const SCRATCH_LEN: usize = MAX_PARTS;

/// `norm = √ Σ x²` and the factor that brings it to `clip_norm` at most, 1 if `clip_norm` is 0. A norm that is not
/// finite halts the run.
///
/// # Shapes
/// `x`, buffers each with its number of elements, which are one vector together; `f32` or bfloat16 → `norm`; `scratch`,
/// [`SCRATCH_LEN`] numbers for each of them.
///
/// # Errors
/// If a launch fails.
pub fn norm(
    board: &dyn Board,
    norm: Ptr<GradNorm>,
    x: &[(DeviceTensor, usize)],
    clip_norm: f64,
    scratch: Ptr<f64>,
) -> Result<(), BoardError> {
    let mut n_all = 0;
    for &(x, n) in x {
        sums_of_squares(board, scratch.add(n_all), x, n)?;
        n_all += n_parts(n);
    }
    board.launch(&Launch {
        kernel: "grad_norm_f32",
        grid: [1, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        args: &args![norm, scratch, n_all as i32, clip_norm],
    })
}

/// Sums that [`sums_of_squares`] makes of `n` elements.
pub fn n_parts(n: usize) -> usize {
    n.div_ceil(PART).clamp(1, MAX_PARTS)
}

/// Sums of squares of parts of `x`, whose sum is the square of its norm.
///
/// # Shapes
/// `x` (n) `f32` or bfloat16 → `parts` ([`n_parts`]).
///
/// # Errors
/// If the launch fails.
pub fn sums_of_squares(
    board: &dyn Board,
    parts: Ptr<f64>,
    x: DeviceTensor,
    n: usize,
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: &symbol("grad_norm_partial", x.elem()),
        grid: [n_parts(n) as u32, 1, 1],
        block: [512, 1, 1],
        shared_bytes: 0,
        args: &args![parts, x, n as u64],
    })
}
