//! The kernels of a board, in `f32` and bfloat16, against those of the CPU, which are held against `f64`.
//!
//! A board gets numbers that its type holds exactly, the CPU computes with the same ones in `f32`: what differs is
//! rounding alone. The very same checks run on a GPU and, in tests, on the stand-in of `tests/kernel_shim`.

mod attention;
mod bench;
mod decode;
mod elementwise;
mod embedding;
mod fp8;
mod heads;
mod norms;
mod optimizer;
mod products;

use super::Check;
use crate::board::{Board, BoardError, Elem};

use bench::Bench;

/// The checks of some operations.
type Checks = fn(&mut Bench<'_>) -> Result<Vec<Check>, BoardError>;

/// Bytes that all checks share.
const ARENA_BYTES: usize = 64 << 20;

/// All operations, forward and backward, at shapes that fill packs of 16 bytes and at odd ones.
///
/// # Errors
/// If the board fails.
pub fn checks(board: &dyn Board) -> Result<Vec<Check>, BoardError> {
    let mut bench = Bench::new(board, ARENA_BYTES)?;
    let mut all = Vec::new();
    for elem in [Elem::F32, Elem::Bf16] {
        let ops: [Checks; 9] = [
            products::checks,
            embedding::checks,
            norms::checks,
            elementwise::checks,
            heads::checks,
            attention::checks,
            decode::checks,
            optimizer::checks,
            fp8::checks,
        ];
        bench.elem = elem;
        for op in ops {
            all.extend(op(&mut bench)?);
        }
    }
    Ok(all)
}

/// Rows and widths: an odd one, one that does not fill packs, and one of a real model.
const SHAPES: [[usize; 2]; 4] = [[1, 8], [9 * 7, 41], [37, 130], [20, 768]];
