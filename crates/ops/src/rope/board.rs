//! Rotary position embedding on a board, in place.

use crate::board::args::{are_packs, args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Job, Launch, Ptr, Way};

/// Heads within rows, and the angles that they are turned by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Rows.
    pub n: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Heads, side by side from the start of a row.
    pub n_heads: usize,
    /// Width of a head.
    pub d: usize,
    /// Rows of a sequence.
    pub t: usize,
    /// (≥ t, d/2) `f32`
    pub cos: Ptr<f32>,
    /// (≥ t, d/2) `f32`
    pub sin: Ptr<f32>,
    /// (n) `u32`: the row of its sequence at which each row's document starts; absent, each sequence is one.
    pub documents: Option<Ptr<u32>>,
}

/// Turns the heads of `x`.
///
/// # Errors
/// If the launch fails.
pub fn fwd(board: &dyn Board, x: DeviceTensor, heads: &Heads) -> Result<(), BoardError> {
    launch(board, "rope_fwd", x, heads)
}

/// Turns the gradient back.
///
/// # Errors
/// If the launch fails.
pub fn bwd(board: &dyn Board, grad: DeviceTensor, heads: &Heads) -> Result<(), BoardError> {
    launch(board, "rope_bwd", grad, heads)
}

fn launch(board: &dyn Board, stem: &str, x: DeviceTensor, heads: &Heads) -> Result<(), BoardError> {
    let &Heads { n, row_stride, n_heads, d, t, cos, sin, documents } = heads;
    let elem = x.elem();
    let plain = || {
        board.launch(&Launch {
            kernel: &symbol(stem, elem),
            grid: [n as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            args: &args![x, cos, sin, documents, row_stride as i32, n_heads as i32, d as i32, t as i32],
        })
    };
    let packs = || {
        board.launch(&Launch {
            kernel: &symbol(&format!("{stem}_packs"), elem),
            grid: [pack_grid(n * n_heads * (d / 2), elem, 256), 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: &args![
                x,
                cos,
                sin,
                documents,
                n as i32,
                row_stride as i32,
                n_heads as i32,
                d as i32,
                t as i32
            ],
        })
    };
    let mut ways = vec![Way::new("plain", &plain)];
    if d.is_multiple_of(2) && are_packs(d / 2, &[x]) && are_packs(row_stride, &[x, cos.into(), sin.into()]) {
        ways.push(Way::new("packs", &packs));
    }
    let sizes = [("n", n), ("stride", row_stride), ("heads", n_heads), ("d", d)];
    board.choose(&Job::new(stem, elem, &sizes).moving(2 * n * n_heads * d * elem.bytes()), &ways)
}
