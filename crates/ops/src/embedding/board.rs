//! Rows of tables on a board.

use crate::board::args::{are_packs, args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Elem, Job, Launch, Ptr, Way};
use crate::dropout::board::Site;

/// The rows of one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// (n) `u32`, each in the table.
    pub tokens: Ptr<u32>,
    /// How many, n.
    pub n: usize,
    /// Rows of a sequence.
    pub t: usize,
    /// Width.
    pub c: usize,
    /// (n) `u32`: the row of its sequence at which each row's document starts; absent, each sequence is one.
    pub documents: Option<Ptr<u32>>,
}

/// `out[r] = dropped(token_table[tokens[r]] + position_table[p])`, with p the row's position in its document;
/// `position_table` may be absent.
///
/// # Shapes
/// `token_table` (v, c), `position_table` (≥ t, c) → `out` (n, c).
///
/// # Errors
/// If the launch fails.
pub fn fwd(
    board: &dyn Board,
    out: DeviceTensor,
    rows: &Rows,
    token_table: DeviceTensor,
    position_table: Option<DeviceTensor>,
    site: &Site,
) -> Result<(), BoardError> {
    let &Rows { tokens, n, t, c, documents } = rows;
    let [probability, seed, purpose, first_element, state] = site.args();
    board.launch(&Launch {
        kernel: &symbol("embedding_fwd", out.elem()),
        grid: [n as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![
            out,
            tokens,
            token_table,
            position_table,
            documents,
            t as i32,
            c as i32,
            probability,
            seed,
            purpose,
            first_element,
            state,
        ],
    })
}

/// Rows of a chunk, as the kernel has them.
const CHUNK: usize = 32;

/// Floats of scratch that [`bwd`] wants.
pub fn bwd_scratch_len(n: usize, c: usize) -> usize {
    n.div_ceil(CHUNK) * 2 * c
}

/// Adds rows of `grad_out` to the rows of the tables' gradients that they came from, always in the same order;
/// `grad_position_table` may be absent.
///
/// # Shapes
/// `grad_out` (n, c), `order` (n) `u32`: the rows sorted by token, equals in their order → `grad_token_table` (v, c),
/// `grad_position_table` (≥ t, c), `f32`, accumulated; `scratch`, [`bwd_scratch_len`] floats.
///
/// # Errors
/// If a launch fails.
pub fn bwd(
    board: &dyn Board,
    grad_token_table: Ptr<f32>,
    grad_position_table: Option<Ptr<f32>>,
    grad_out: DeviceTensor,
    rows: &Rows,
    order: Ptr<u32>,
    scratch: Ptr<f32>,
) -> Result<(), BoardError> {
    let &Rows { tokens, n, t, c, documents } = rows;
    let elem = grad_out.elem();
    let by_token = || {
        board.launch(&Launch {
            kernel: &symbol("embedding_bwd", elem),
            grid: [n as u32, pack_grid(c, elem, 32), 1],
            block: [32, 8, 1],
            shared_bytes: 0,
            args: &args![grad_token_table, grad_out, tokens, order, n as i32, c as i32],
        })
    };
    let chunks = || {
        let grid = [n.div_ceil(CHUNK) as u32, pack_grid(c, elem, 128), 1];
        board.launch(&Launch {
            kernel: &symbol("embedding_bwd_chunks", elem),
            grid,
            block: [128, 1, 1],
            shared_bytes: 0,
            args: &args![grad_token_table, scratch, grad_out, tokens, order, n as i32, c as i32],
        })?;
        board.launch(&Launch {
            kernel: &symbol("embedding_bwd_joins", elem),
            grid,
            block: [128, 1, 1],
            shared_bytes: 0,
            args: &args![grad_token_table, scratch, tokens, order, n as i32, c as i32],
        })
    };
    let mut ways = vec![Way::new("by_token", &by_token)];
    if are_packs(c, &[grad_out, grad_token_table.into(), scratch.into()]) {
        ways.push(Way::new("chunks", &chunks));
    }
    // A row of the gradient is read, and a row of the table is read and written.
    let bytes = n * c * (elem.bytes() + 2 * Elem::F32.bytes());
    board.choose(&Job::new("embedding_bwd", elem, &[("n", n), ("c", c)]).moving(bytes), &ways)?;
    let Some(grad_position_table) = grad_position_table else { return Ok(()) };
    board.launch(&Launch {
        kernel: &symbol("embedding_position_bwd", elem),
        grid: [t as u32, pack_grid(c, elem, 128), 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![grad_position_table, grad_out, documents, n as i32, t as i32, c as i32],
    })
}
