//! What a linear layer needs on a board beside its products, which are [`Board::gemm`]'s.

use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch, Ptr};

/// Most parts that sums over rows are made in.
const MAX_PARTS: usize = 512;
/// Fewest rows of a part.
const MIN_ROWS: usize = 16;

/// How sums over `n` rows are divided, by `n` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// How many.
    pub n_parts: usize,
    /// Rows of each; the last may have fewer.
    pub rows_a_part: usize,
}

impl Parts {
    /// The division of `n` rows.
    pub fn of(n: usize) -> Self {
        let rows_a_part = n.div_ceil(MAX_PARTS).max(MIN_ROWS);
        Self { n_parts: n.div_ceil(rows_a_part), rows_a_part }
    }
}

/// Floats of scratch that [`bwd_bias`] wants.
pub fn bias_scratch_len(n: usize, c: usize) -> usize {
    Parts::of(n).n_parts * c
}

/// `grad_bias += Σ over rows of grad_out`, always in the same order.
///
/// # Shapes
/// `grad_out` (n, c) → `grad_bias` (c) `f32`; `scratch`, [`bias_scratch_len`] floats.
///
/// # Errors
/// If a launch fails.
pub fn bwd_bias(
    board: &dyn Board,
    grad_bias: Ptr<f32>,
    grad_out: DeviceTensor,
    [n, c]: [usize; 2],
    scratch: Ptr<f32>,
) -> Result<(), BoardError> {
    let (Parts { n_parts, rows_a_part }, elem) = (Parts::of(n), grad_out.elem());
    board.launch(&Launch {
        kernel: &symbol("linear_bias_bwd", elem),
        grid: [pack_grid(c, elem, 128), n_parts as u32, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![scratch, grad_out, n as i32, c as i32, rows_a_part as i32],
    })?;
    column_sum(board, grad_bias, scratch, n_parts, c)
}

/// `grad += Σ over parts of partial`.
pub(crate) fn column_sum(
    board: &dyn Board,
    grad: Ptr<f32>,
    partial: Ptr<f32>,
    n_parts: usize,
    c: usize,
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: "column_sum_f32",
        grid: [c.div_ceil(32) as u32, 1, 1],
        block: [32, 8, 1],
        shared_bytes: 0,
        args: &args![grad, partial, n_parts as i32, c as i32],
    })
}
