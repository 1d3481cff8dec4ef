//! RMSNorm of heads within rows on a board, in place.

use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch, Ptr};
use crate::linear::board::{ColumnSums, Parts, scratch_len};

/// Heads of a block, a warp each.
const HEADS_A_BLOCK: usize = 4;

/// Heads within rows, and what they are normalized with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Rows.
    pub n: usize,
    /// Heads of a row, side by side.
    pub n_heads: usize,
    /// Width of a head.
    pub width: usize,
    /// Elements from one row to the next of what is normalized, and of its gradient.
    pub row_stride: usize,
    /// Elements from one row to the next of what is saved.
    pub saved_stride: usize,
    /// (width)
    pub weight: DeviceTensor,
    /// ε
    pub eps: f32,
}

/// Floats of scratch that [`bwd`] wants.
pub fn bwd_scratch_len(n: usize, n_heads: usize, width: usize) -> usize {
    scratch_len(n * n_heads, width)
}

/// Saves the heads of `x`, and normalizes them.
///
/// # Shapes
/// `x` and `saved` as `heads` says, from the first head on; `rstd` (n, n_heads). All are overwritten.
///
/// # Errors
/// If the launch fails.
pub fn fwd(
    board: &dyn Board,
    x: DeviceTensor,
    saved: DeviceTensor,
    rstd: Ptr<f32>,
    heads: &Heads,
) -> Result<(), BoardError> {
    let &Heads { n, n_heads, width, row_stride, saved_stride, weight, eps } = heads;
    board.launch(&Launch {
        kernel: &symbol("head_norm_fwd", weight.elem()),
        grid: [(n * n_heads).div_ceil(HEADS_A_BLOCK) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![
            x,
            saved,
            rstd,
            weight,
            n as i32,
            n_heads as i32,
            width as i32,
            row_stride as i32,
            saved_stride as i32,
            eps,
        ],
    })
}

/// The gradients of [`fwd`]: `grad`, that of its result, becomes that of its argument. Sums over heads are always made
/// in the same order.
///
/// # Shapes
/// `grad`, `saved` and `rstd` as for [`fwd`]; `grad_weight` (width), left to `sums`, which wants
/// [`bwd_scratch_len`] floats for it.
///
/// # Errors
/// If a launch fails.
pub fn bwd(
    board: &dyn Board,
    grad: DeviceTensor,
    grad_weight: Ptr<f32>,
    saved: DeviceTensor,
    rstd: Ptr<f32>,
    heads: &Heads,
    sums: &mut ColumnSums,
) -> Result<(), BoardError> {
    let &Heads { n, n_heads, width, row_stride, saved_stride, weight, .. } = heads;
    let elem = weight.elem();
    let Parts { n_parts, rows_a_part } = Parts::of(n * n_heads);
    let partial = sums.add(grad_weight, n * n_heads, width).at;
    board.launch(&Launch {
        kernel: &symbol("head_norm_bwd_weight", elem),
        grid: [pack_grid(width, elem, 128), n_parts as u32, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![
            partial,
            grad,
            saved,
            rstd,
            n as i32,
            n_heads as i32,
            width as i32,
            row_stride as i32,
            saved_stride as i32,
            rows_a_part as i32,
        ],
    })?;
    board.launch(&Launch {
        kernel: &symbol("head_norm_bwd_x", elem),
        grid: [(n * n_heads).div_ceil(HEADS_A_BLOCK) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![
            grad,
            saved,
            rstd,
            weight,
            n as i32,
            n_heads as i32,
            width as i32,
            row_stride as i32,
            saved_stride as i32,
        ],
    })
}
