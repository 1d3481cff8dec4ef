//! `out = x · W + bias` on slices of `f32`.
//!
//! ```text
//! grad_x = grad_out · Wᵀ        grad_W += xᵀ · grad_out        grad_bias += Σ over rows of grad_out
//! ```
//! An element of a result is a sum in an order that depends on the inner dimension alone: rows can be cut into
//! slices anywhere (of 16 rows or more, and 17 columns; for less, the `gemm` crate has other kernels).

use std::ops::Range;

use rayon::prelude::*;

use crate::gemm::{Matrix, product};
use crate::simd::{Simd, dispatch};
use crate::store::Store;

/// Which way round a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (in, out), as GPT-2's.
    InputFirst,
    /// (out, in), as Llama's, and as a token table that also serves as the output head.
    OutputFirst,
}

/// The sizes of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of a row of `x`.
    pub n_in: usize,
    /// Width of a row of `out`.
    pub n_out: usize,
    /// Which of them is the weight's first dimension.
    pub layout: Layout,
}

impl Shape {
    /// The weight as (in, out).
    fn matrix<'a>(&self, weight: &'a [f32]) -> Matrix<'a> {
        match self.layout {
            Layout::InputFirst => Matrix::new(weight, self.n_in, self.n_out),
            Layout::OutputFirst => Matrix::new(weight, self.n_out, self.n_in).transposed(),
        }
    }

    fn n_rows(&self, x: &[f32]) -> usize {
        assert_eq!(x.len() % self.n_in, 0, "rows of {} in a slice of {}", self.n_in, x.len());
        x.len() / self.n_in
    }
}

/// `out = x · W + bias`
///
/// # Shapes
/// `x` (n, in), `weight` as `shape` says, `bias` (out) → `out` (n, out), overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn fwd(out: &mut [f32], x: &[f32], weight: &[f32], bias: Option<&[f32]>, shape: &Shape) {
    let n = shape.n_rows(x);
    let store = match bias {
        Some(bias) => {
            assert_eq!(bias.len(), shape.n_out, "elements of a bias");
            out.chunks_exact_mut(shape.n_out).for_each(|row| row.copy_from_slice(bias));
            Store::Accumulate
        }
        None => Store::Overwrite,
    };
    product(out, store, Matrix::new(x, n, shape.n_in), shape.matrix(weight));
}

/// `grad_x = grad_out · Wᵀ`, or added to what is there.
///
/// # Shapes
/// `grad_out` (n, out), `weight` as `shape` says → `grad_x` (n, in).
///
/// # Panics
/// If a slice has another length.
pub fn bwd_x(grad_x: &mut [f32], store: Store, grad_out: &[f32], weight: &[f32], shape: &Shape) {
    let n = shape.n_rows(grad_x);
    product(grad_x, store, Matrix::new(grad_out, n, shape.n_out), shape.matrix(weight).transposed());
}

/// `grad_weight += xᵀ · grad_out`, in the weight's layout.
///
/// # Shapes
/// `grad_out` (n, out), `x` (n, in) → `grad_weight` as `shape` says.
///
/// # Panics
/// If a slice has another length.
pub fn bwd_weight(grad_weight: &mut [f32], grad_out: &[f32], x: &[f32], shape: &Shape) {
    let (left, right) = weight_factors(grad_out, x, shape);
    product(grad_weight, Store::Accumulate, left, right);
}

/// [`bwd_weight`] on rayon's threads, by blocks of the weight's rows. Each element is summed over all rows of the
/// batch in the same order as there, whatever the number of threads.
///
/// # Shapes
/// As for [`bwd_weight`].
///
/// # Panics
/// If a slice has another length.
pub fn bwd_weight_par(grad_weight: &mut [f32], grad_out: &[f32], x: &[f32], shape: &Shape) {
    let (left, right) = weight_factors(grad_out, x, shape);
    let (n_rows, width) = match shape.layout {
        Layout::InputFirst => (shape.n_in, shape.n_out),
        Layout::OutputFirst => (shape.n_out, shape.n_in),
    };
    assert_eq!(grad_weight.len(), n_rows * width, "elements of a weight's gradient");
    let mut rest = grad_weight;
    let blocks: Vec<_> = blocks(n_rows, rayon::current_num_threads())
        .map(|rows| {
            let (block, after) = std::mem::take(&mut rest).split_at_mut(rows.len() * width);
            rest = after;
            (block, left.rows(rows.start, rows.len()))
        })
        .collect();
    blocks
        .into_par_iter()
        .with_max_len(1)
        .for_each(|(block, left)| product(block, Store::Accumulate, left, right));
}

/// The rows of each block of a weight's gradient. A block packs the whole of the other factor, which takes a tenth
/// of the time of 128 rows and a thirtieth of that of 384: so blocks are as large as leaves work for all threads.
fn blocks(n_rows: usize, n_threads: usize) -> impl Iterator<Item = Range<usize>> {
    const LEAST: usize = 96;
    const MOST: usize = 384;
    /// Tiles of the product's kernels have 6 rows, or 8 with the widest vectors.
    const TILES: usize = 24;
    let n = n_threads.min(n_rows / LEAST).max(n_rows.div_ceil(MOST)).max(1);
    let start = move |i: usize| if i == n { n_rows } else { n_rows / TILES * i / n * TILES };
    (0..n).map(move |i| start(i)..start(i + 1))
}

/// The two matrices whose product is the weight's gradient in its layout.
fn weight_factors<'a>(grad_out: &'a [f32], x: &'a [f32], shape: &Shape) -> (Matrix<'a>, Matrix<'a>) {
    let n = shape.n_rows(x);
    let (x, grad_out) = (Matrix::new(x, n, shape.n_in), Matrix::new(grad_out, n, shape.n_out));
    match shape.layout {
        Layout::InputFirst => (x.transposed(), grad_out),
        Layout::OutputFirst => (grad_out.transposed(), x),
    }
}

/// `grad_bias += Σ over rows of grad_out`, in the order of the rows. It also adds up partial gradients, one a
/// row.
///
/// # Shapes
/// `grad_out` (n, out) → `grad_bias` (out).
///
/// # Panics
/// If `grad_out` is not whole rows.
pub fn bwd_bias(grad_bias: &mut [f32], grad_out: &[f32]) {
    assert_eq!(grad_out.len() % grad_bias.len(), 0, "whole rows of {}", grad_bias.len());
    dispatch!(bwd_bias_kernel(grad_bias: &mut [f32], grad_out: &[f32]));
}

/// Columns that are summed at once, over all rows, in registers.
const COLUMNS: usize = 64;

#[inline(always)]
fn bwd_bias_kernel<S: Simd>(grad_bias: &mut [f32], grad_out: &[f32]) {
    let width = grad_bias.len();
    for (block_idx, block) in grad_bias.chunks_mut(COLUMNS).enumerate() {
        let first = block_idx * COLUMNS;
        match <&mut [f32; COLUMNS]>::try_from(&mut *block) {
            Ok(block) => {
                let mut sums = *block;
                for row in grad_out.chunks_exact(width) {
                    let row = &row[first..first + COLUMNS];
                    for column in 0..COLUMNS {
                        sums[column] += row[column];
                    }
                }
                *block = sums;
            }
            Err(_) => {
                for row in grad_out.chunks_exact(width) {
                    for (sum, &grad) in block.iter_mut().zip(&row[first..]) {
                        *sum += grad;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::blocks;

    /// Of fewer than 16 rows the `gemm` crate would sum in another order.
    #[test]
    fn blocks_follow_each_other_and_are_neither_short_nor_long() {
        for n_rows in [1, 15, 65, 96, 128, 384, 385, 1450, 1536, 50257] {
            for n_threads in [1, 2, 3, 16, 500] {
                let blocks: Vec<_> = blocks(n_rows, n_threads).collect();
                assert_eq!((blocks[0].start, blocks[blocks.len() - 1].end), (0, n_rows));
                assert!(blocks.windows(2).all(|pair| pair[0].end == pair[1].start), "{blocks:?}");
                let sizes = || blocks.iter().map(|block| block.len());
                assert!(sizes().all(|len| len >= n_rows.min(72)), "{blocks:?}");
                assert!(sizes().all(|len| len <= 384 + 24), "{blocks:?}");
            }
        }
        assert_eq!(blocks(384, 2).collect::<Vec<_>>(), [0..192, 192..384]);
        assert_eq!(blocks(1536, 2).count(), 4);
        assert_eq!(blocks(128, 2).count(), 1);
    }
}
