//! RMSNorm on a board.

use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch, Ptr};
use crate::dropout::board::Site;
use crate::linear::board::{Parts, column_sum};

/// Rows of a block, a warp each.
const ROWS_A_BLOCK: usize = 4;

/// The rows, and what they are normalized with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Rows.
    pub n: usize,
    /// Width.
    pub c: usize,
    /// (c)
    pub weight: DeviceTensor,
    /// ε
    pub eps: f32,
}

/// A normalization's result and statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normed {
    /// (n, c)
    pub out: DeviceTensor,
    /// One over the standard deviation of each row (n), `f32`.
    pub rstd: Ptr<f32>,
}

/// What is added to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Addend<'a> {
    /// (n, c)
    pub rows: DeviceTensor,
    /// (c), added to each row; absent for none.
    pub bias: Option<DeviceTensor>,
    /// Where elements of their sum are dropped.
    pub site: &'a Site,
}

/// Floats of scratch that [`bwd`] wants.
pub fn bwd_scratch_len(n: usize, c: usize) -> usize {
    Parts::of(n).n_parts * c
}

/// `normed = RMSNorm(x)`
///
/// # Shapes
/// `x` (n, c) → `normed`, overwritten.
///
/// # Errors
/// If the launch fails.
pub fn fwd(board: &dyn Board, normed: &Normed, x: DeviceTensor, norm: &Norm) -> Result<(), BoardError> {
    let &Norm { n, c, weight, eps } = norm;
    let elem = weight.elem();
    board.launch(&Launch {
        kernel: &symbol("rms_norm_fwd", elem),
        grid: [n.div_ceil(ROWS_A_BLOCK) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![normed.out, normed.rstd, x, weight, n as i32, c as i32, eps],
    })
}

/// `sum = x + dropped(addend)`, `normed = RMSNorm(sum)`
///
/// # Shapes
/// `x`, `sum` (n, c); `sum` may be `x`.
///
/// # Errors
/// If the launch fails.
pub fn residual_fwd(
    board: &dyn Board,
    sum: DeviceTensor,
    normed: &Normed,
    x: DeviceTensor,
    addend: &Addend<'_>,
    norm: &Norm,
) -> Result<(), BoardError> {
    let &Norm { n, c, weight, eps } = norm;
    let elem = weight.elem();
    let [probability, seed, purpose, first_element, state] = addend.site.args();
    board.launch(&Launch {
        kernel: &symbol("rms_norm_residual_fwd", elem),
        grid: [n.div_ceil(ROWS_A_BLOCK) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![
            sum,
            normed.out,
            normed.rstd,
            x,
            addend.rows,
            addend.bias,
            weight,
            n as i32,
            c as i32,
            eps,
            probability,
            seed,
            purpose,
            first_element,
            state,
        ],
    })
}

/// `sum = x + RMSNorm(added)`
///
/// # Shapes
/// `x`, `added`, `sum` (n, c); `sum` may be `x`. `rstd` (n), of `added`. Overwritten.
///
/// # Errors
/// If the launch fails.
pub fn add_fwd(
    board: &dyn Board,
    sum: DeviceTensor,
    rstd: Ptr<f32>,
    x: DeviceTensor,
    added: DeviceTensor,
    norm: &Norm,
) -> Result<(), BoardError> {
    let &Norm { n, c, weight, eps } = norm;
    board.launch(&Launch {
        kernel: &symbol("rms_norm_add_fwd", weight.elem()),
        grid: [n.div_ceil(ROWS_A_BLOCK) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![sum, rstd, x, added, weight, n as i32, c as i32, eps],
    })
}

/// Where gradients go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gradients {
    /// (n, c), overwritten or, with `accumulate`, added to.
    pub x: DeviceTensor,
    /// Whether the gradient of x is added to what is there.
    pub accumulate: bool,
    /// (c) `f32`, added to.
    pub weight: Ptr<f32>,
}

/// The gradients of [`fwd`]. Sums over rows are always made in the same order.
///
/// # Shapes
/// `grad_out`, `x` (n, c); `scratch`, [`bwd_scratch_len`] floats.
///
/// # Errors
/// If a launch fails.
pub fn bwd(
    board: &dyn Board,
    gradients: &Gradients,
    grad_out: DeviceTensor,
    x: DeviceTensor,
    normed: &Normed,
    norm: &Norm,
    scratch: Ptr<f32>,
) -> Result<(), BoardError> {
    let &Norm { n, c, weight, .. } = norm;
    let elem = weight.elem();
    let Parts { n_parts, rows_a_part } = Parts::of(n);
    board.launch(&Launch {
        kernel: &symbol("rms_norm_bwd_weight", elem),
        grid: [pack_grid(c, elem, 128), n_parts as u32, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![scratch, grad_out, x, normed.rstd, n as i32, c as i32, rows_a_part as i32,],
    })?;
    column_sum(board, gradients.weight, scratch, n_parts, c)?;
    board.launch(&Launch {
        kernel: &symbol("rms_norm_bwd_x", elem),
        grid: [n.div_ceil(ROWS_A_BLOCK) as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![
            gradients.x,
            grad_out,
            x,
            normed.rstd,
            weight,
            n as i32,
            c as i32,
            i32::from(gradients.accumulate),
        ],
    })
}
