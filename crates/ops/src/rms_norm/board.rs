//! RMSNorm on a board.

use crate::board::args::{are_packs, args, pack_grid, pack_len, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Job, Launch, Ptr, Way};
use crate::dropout::board::Site;
use crate::linear::board::{ColumnSums, Parts, scratch_len};

/// Rows of a block, a warp each.
const ROWS_A_BLOCK: usize = 4;
/// Packs of a row that a lane may hold: there is a kernel for each.
const HELD_PACKS: [usize; 2] = [4, 8];
/// Most threads of a block that has a thread for each pack of a row.
const MOST_THREADS: usize = 512;

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
    scratch_len(n, c)
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
    let plain = || {
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
    };
    let held = || {
        let packs = HELD_PACKS.into_iter().find(|packs| c <= packs * 32 * pack_len(elem)).unwrap_or_default();
        board.launch(&Launch {
            kernel: &symbol(&format!("rms_norm_residual_fwd_held{packs}"), elem),
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
            ],
        })
    };
    let mut ways = vec![Way::new("plain", &plain)];
    let mut rows = vec![sum, normed.out, x, addend.rows, weight];
    rows.extend(addend.bias);
    let fits = c <= HELD_PACKS[1] * 32 * pack_len(elem);
    if fits && addend.site.probability == 0.0 && are_packs(c, &rows) {
        ways.push(Way::new("held", &held));
    }
    let job = Job::new("rms_norm_residual_fwd", elem, &[("n", n), ("c", c)]).moving(4 * n * c * elem.bytes());
    board.choose(&job, &ways)
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
    /// (c) `f32`, left to column sums.
    pub weight: Ptr<f32>,
}

/// The gradients of [`fwd`]. Sums over rows are always made in the same order.
///
/// # Shapes
/// `grad_out`, `x` (n, c). Gradients of parameters are left to `sums`, which wants [`bwd_scratch_len`] floats for them.
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
    sums: &mut ColumnSums,
) -> Result<(), BoardError> {
    let &Norm { n, c, weight, .. } = norm;
    let elem = weight.elem();
    let Parts { n_parts, rows_a_part } = Parts::of(n);
    let partial = sums.add(gradients.weight, n, c).at;
    let accumulate = i32::from(gradients.accumulate);
    let apart = || {
        board.launch(&Launch {
            kernel: &symbol("rms_norm_bwd_weight", elem),
            grid: [pack_grid(c, elem, 128), n_parts as u32, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            args: &args![partial, grad_out, x, normed.rstd, n as i32, c as i32, rows_a_part as i32],
        })?;
        board.launch(&Launch {
            kernel: &symbol("rms_norm_bwd_x", elem),
            grid: [n.div_ceil(ROWS_A_BLOCK) as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            args: &args![gradients.x, grad_out, x, normed.rstd, weight, n as i32, c as i32, accumulate],
        })
    };
    let threads = c.div_ceil(pack_len(elem)).next_multiple_of(32);
    let fused = || {
        board.launch(&Launch {
            kernel: &symbol("rms_norm_bwd_fused", elem),
            grid: [n_parts as u32, 1, 1],
            block: [threads as u32, 1, 1],
            shared_bytes: 0,
            args: &args![
                gradients.x,
                partial,
                grad_out,
                x,
                normed.rstd,
                weight,
                n as i32,
                c as i32,
                rows_a_part as i32,
                accumulate,
            ],
        })
    };
    let mut ways = vec![Way::new("apart", &apart)];
    if threads <= MOST_THREADS && are_packs(c, &[gradients.x, grad_out, x, weight]) {
        ways.push(Way::new("fused", &fused));
    }
    let sizes = [("n", n), ("c", c), ("accumulate", usize::from(gradients.accumulate))];
    let n_tensors = 3 + usize::from(gradients.accumulate);
    let job = Job::new("rms_norm_bwd", elem, &sizes).moving(n_tensors * n * c * elem.bytes());
    board.choose(&job, &ways)
}
