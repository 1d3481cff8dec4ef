//! Sums and maxima of a row, in an order that depends on its length alone.
//!
//! Element `i` goes to lane `i mod 32`; lanes are added pairwise at the end. So a row gives the same sum
//! whatever vectors the machine has.

use crate::math::exp;
use crate::simd::Simd;

/// Numbers taken in at once: two of the widest registers, so that one addition need not wait for the last.
pub(crate) const LANES: usize = 32;

/// `Σ x`
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += x;
    }
    fold(lanes)
}

/// `Σ (x − mean)²`
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(x: &[f32], mean: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let centered = chunk[lane] - mean;
            lanes[lane] = S::mul_add(centered, centered, lanes[lane]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        let centered = x - mean;
        *lane = S::mul_add(centered, centered, *lane);
    }
    fold(lanes)
}

/// `Σ x · y`
#[inline(always)]
pub(crate) fn dot<S: Simd>(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (mut x_chunks, mut y_chunks) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    for (x, y) in (&mut x_chunks).zip(&mut y_chunks) {
        for lane in 0..LANES {
            lanes[lane] = S::mul_add(x[lane], y[lane], lanes[lane]);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(x_chunks.remainder()).zip(y_chunks.remainder()) {
        *lane = S::mul_add(x, y, *lane);
    }
    fold(lanes)
}

/// The largest element, minus infinity of none. Not a number is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = if x > *lane { x } else { *lane };
    }
    let mut sixteen = [0f32; 16];
    for lane in 0..16 {
        sixteen[lane] = larger(lanes[lane], lanes[lane + 16]);
    }
    let mut eight = [0f32; 8];
    for lane in 0..8 {
        eight[lane] = larger(sixteen[lane], sixteen[lane + 8]);
    }
    let mut four = [0f32; 4];
    for lane in 0..4 {
        four[lane] = larger(eight[lane], eight[lane + 4]);
    }
    larger(larger(four[0], four[2]), larger(four[1], four[3]))
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The sum of all lanes, pairwise.
#[inline(always)]
pub(crate) fn fold(lanes: [f32; LANES]) -> f32 {
    // Steps of known width: a loop over widths is not kept in registers.
    let mut sixteen = [0f32; 16];
    for lane in 0..16 {
        sixteen[lane] = lanes[lane] + lanes[lane + 16];
    }
    let mut eight = [0f32; 8];
    for lane in 0..8 {
        eight[lane] = sixteen[lane] + sixteen[lane + 8];
    }
    let mut four = [0f32; 4];
    for lane in 0..4 {
        four[lane] = eight[lane] + eight[lane + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `Σ exp(x − max)`, which must be 1 or more, as for [`exp_minus`].
#[inline(always)]
pub(crate) fn sum_exp_minus<S: Simd>(x: &[f32], max: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            lanes[lane] += exp::<S>(chunk[lane] - max);
        }
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut padded = [f32::NEG_INFINITY; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        for lane in 0..LANES {
            lanes[lane] += exp::<S>(padded[lane] - max);
        }
    }
    fold(lanes)
}

/// Replaces each `x` by `exp(x − max)` and returns their sum, which must be 1 or more: padding adds up to
/// 16 × 1.2e-38 to it, which changes nothing then.
#[inline(always)]
pub(crate) fn exp_minus<S: Simd>(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            chunk[lane] = exp::<S>(chunk[lane] - max);
            lanes[lane] += chunk[lane];
        }
    }
    let mut halves = chunks.into_remainder().chunks_exact_mut(16);
    for half in &mut halves {
        for lane in 0..16 {
            half[lane] = exp::<S>(half[lane] - max);
            lanes[lane] += half[lane];
        }
    }
    let rest = halves.into_remainder();
    if !rest.is_empty() {
        let mut padded = [f32::NEG_INFINITY; 16];
        padded[..rest.len()].copy_from_slice(rest);
        for lane in 0..16 {
            padded[lane] = exp::<S>(padded[lane] - max);
            lanes[16 + lane] += padded[lane];
        }
        rest.copy_from_slice(&padded[..rest.len()]);
    }
    fold(lanes)
}
