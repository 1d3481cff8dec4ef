//! Tensors of eight-bit numbers on a board, made from wider ones in two launches: the largest magnitude, then codes.

use super::{Format, MULTIPLE};
use crate::board::args::{args, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Elem, Launch, Ptr};

/// Most parts that the largest magnitude is found in.
pub const MAX_PARTS: usize = 256;
/// Elements that a part has at least, so that small tensors are few blocks.
const MIN_PART: usize = 1 << 13;
/// Rows and columns that one block takes.
const TILE: usize = 64;

/// What a tensor's largest magnitude and scale lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// The bits of the largest magnitude of each part, [`MAX_PARTS`].
    pub parts: Ptr<u32>,
    /// The scale, which a product multiplies by.
    pub scale: Ptr<f32>,
}

/// Where codes go. One of them may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// (rows, columns)
    pub rows: Option<DeviceTensor>,
    /// (columns, rows)
    pub transposed: Option<DeviceTensor>,
}

/// Finds the largest magnitude of `x`, for [`quantize`].
///
/// # Shapes
/// `x` (n), at a multiple of 16 bytes, n a multiple of 16.
///
/// # Errors
/// If the launch fails.
pub fn largest(board: &dyn Board, scale: Scale, x: DeviceTensor, n: usize) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: &symbol("fp8_largest", x.elem()),
        grid: [n_parts(n) as u32, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![scale.parts, x, n as u64],
    })
}

/// `codes = round(x / scale)`, with the scale that [`largest`] of the same `x` leads to, which is written down for
/// products.
///
/// # Shapes
/// `x` (rows, columns), both multiples of 16, at a multiple of 16 bytes → `codes` of one format.
///
/// # Errors
/// If the launch fails.
///
/// # Panics
/// If a size is not a multiple of 16.
pub fn quantize(
    board: &dyn Board,
    format: Format,
    codes: Codes,
    scale: Scale,
    x: DeviceTensor,
    [rows, columns]: [usize; 2],
) -> Result<(), BoardError> {
    assert!(
        super::fits(&[rows, columns]),
        "a tensor of {rows} by {columns}: FP8 takes multiples of {MULTIPLE}"
    );
    let stem = match format {
        Format::E4m3 => "fp8_e4m3",
        Format::E5m2 => "fp8_e5m2",
    };
    board.launch(&Launch {
        kernel: &symbol(stem, x.elem()),
        grid: [columns.div_ceil(TILE) as u32, rows.div_ceil(TILE) as u32, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![
            codes.rows,
            codes.transposed,
            scale.scale,
            x,
            scale.parts,
            n_parts(rows * columns) as i32,
            rows as i32,
            columns as i32,
        ],
    })
}

/// Bytes that a tensor of `n` elements takes in codes.
pub const fn bytes(n: usize) -> usize {
    n * Elem::E4m3.bytes()
}

fn n_parts(n: usize) -> usize {
    n.div_ceil(MIN_PART).clamp(1, MAX_PARTS)
}
