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
    let mut sums = [0f64; MAX_BLOCKS];
    for (sum, block) in sums.iter_mut().zip(gradients.chunks(block_len(gradients))) {
        *sum = sum_of_squares(block);
    }
    sums.iter().sum::<f64>().sqrt()
}

/// [`norm`] on rayon's threads; the same bits.
pub fn norm_par(gradients: &[f32]) -> f64 {
    let mut sums = [0f64; MAX_BLOCKS];
    sums.par_iter_mut()
        .zip(gradients.par_chunks(block_len(gradients)))
        .for_each(|(sum, block)| *sum = sum_of_squares(block));
    sums.iter().sum::<f64>().sqrt()
}

/// What to multiply gradients of this norm by so that it is at most `clip_norm`: `min(1, clip_norm / norm)`,
/// with 1e-6 added to the norm as in PyTorch's `clip_grad_norm_`.
///
/// A norm that is not a number gives a factor that is none: it must show.
pub fn clip_factor(norm: f64, clip_norm: f64) -> f32 {
    let factor = clip_norm / (norm + 1e-6);
    if factor > 1.0 { 1.0 } else { factor as f32 }
}

fn block_len(gradients: &[f32]) -> usize {
    gradients.len().div_ceil(MAX_BLOCKS).max(MIN_BLOCK)
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
