//! The norm of a flat gradient on a board, where it stays.

use crate::board::args::args;
use crate::board::{Board, BoardError, DevicePtr, Launch};

/// Most blocks of the first stage.
const MAX_PARTS: usize = 512;
/// Elements that are worth a block.
const PART: usize = 1 << 14;

/// Bytes of scratch.
pub const SCRATCH_BYTES: usize = MAX_PARTS * size_of::<f64>();

/// Bytes of a norm: the norm itself (`f64`), the factor that clips (`f32`), and whether the run is halted (`u32`),
/// which is zero at first and never goes back.
pub const NORM_BYTES: usize = 16;

/// `norm = √ Σ x²` and the factor that brings it to `clip_norm` at most, 1 if `clip_norm` is 0. A norm that is not
/// finite halts the run.
///
/// # Shapes
/// `x` (n) `f32` → `norm`, [`NORM_BYTES`]; `scratch`, [`SCRATCH_BYTES`].
///
/// # Errors
/// If a launch fails.
pub fn norm(
    board: &dyn Board,
    norm: DevicePtr,
    x: DevicePtr,
    n: usize,
    clip_norm: f64,
    scratch: DevicePtr,
) -> Result<(), BoardError> {
    let n_parts = n.div_ceil(PART).clamp(1, MAX_PARTS);
    board.launch(&Launch {
        kernel: "grad_norm_partial_f32",
        grid: [n_parts as u32, 1, 1],
        block: [512, 1, 1],
        shared_bytes: 0,
        args: &args![scratch, x, n as u64],
    })?;
    board.launch(&Launch {
        kernel: "grad_norm_f32",
        grid: [1, 1, 1],
        block: [1024, 1, 1],
        shared_bytes: 0,
        args: &args![norm, scratch, n_parts as i32, clip_norm.to_bits()],
    })
}
