//! The norm of a flat buffer of `f32`.
//!
//! Squares are summed in `f64`, in at most 256 blocks whose bounds depend on the length alone; the blocks are
//! added in their order.

use rayon::prelude::*;

use crate::simd::{Simd, dispatch};

const MAX_BLOCKS: usize = 256;
const MIN_BLOCK: usize = 4096;

/// `√ Σ x²`
pub fn norm(gradients: &[f32]) -> f64 {
    let blocks = gradients.chunks(block_len(gradients.len()));
    norm_of_sums(&blocks.map(sum_of_squares).collect::<Vec<_>>())
}

/// [`norm`] on rayon's threads; the same bits.
pub fn norm_par(gradients: &[f32]) -> f64 {
    norm_of_sums(&sums_of_squares_par(gradients, block_len(gradients.len())))
}

/// The sum of squares of each block of `block_len` elements, on rayon's threads; the last block may have fewer.
pub fn sums_of_squares_par(gradients: &[f32], block_len: usize) -> Vec<f64> {
    gradients.par_chunks(block_len).map(sum_of_squares).collect()
}

/// The norm of a buffer, from the sums of all its blocks in their order.
pub fn norm_of_sums(sums: &[f64]) -> f64 {
    sums.iter().sum::<f64>().sqrt()
}

/// Elements of a block of a buffer of `len` elements.
pub fn block_len(len: usize) -> usize {
    len.div_ceil(MAX_BLOCKS).max(MIN_BLOCK)
}

/// What to multiply gradients of this norm by so that it is at most `clip_norm`: `min(1, clip_norm / norm)`,
/// with 1e-6 added to the norm as in PyTorch's `clip_grad_norm_`.
///
/// A norm that is not a number gives a factor that is none: it must show.
pub fn clip_factor(norm: f64, clip_norm: f64) -> f32 {
    let factor = clip_norm / (norm + 1e-6);
    if factor > 1.0 { 1.0 } else { factor as f32 }
}

fn sum_of_squares(block: &[f32]) -> f64 {
    dispatch!(sum_of_squares_kernel(block: &[f32]) -> f64)
}

#[inline(always)]
fn sum_of_squares_kernel<S: Simd>(block: &[f32]) -> f64 {
    const LANES: usize = 32;
    let mut lanes = [0f64; LANES];
    let mut chunks = block.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let x = f64::from(chunk[lane]);
            lanes[lane] += x * x;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += f64::from(x) * f64::from(x);
    }
    lanes.iter().sum()
}
