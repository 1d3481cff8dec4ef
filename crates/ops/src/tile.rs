//! Products of small matrices that lie in the cache, four rows at a time.

use crate::simd::{Simd, dispatch};
use crate::store::Store;

/// Rows of a strip.
pub(crate) const STRIP: usize = 4;

/// The left factor of a strip: element (i, k) is `values[i · row_stride + k · column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

/// The right factor: row k is `values[k · row_stride..]`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
}

/// `out[i, j] (+)= Σₖ a[i, k] · b[k, j]` for four rows i and `n` columns j, a multiple of 16; row i of `out`
/// starts at `i · out_stride`. Each element is summed in the order of k.
///
/// It is a call even from within a kernel: inlined into a long one, the compiler no longer keeps the sums in
/// registers.
pub(crate) fn strip(
    out: &mut [f32],
    out_stride: usize,
    store: Store,
    a: Left<'_>,
    b: Right<'_>,
    n: usize,
    depth: usize,
) {
    debug_assert_eq!(n % 16, 0, "whole vectors");
    match store {
        Store::Overwrite => dispatch!(strip_kernel::<Overwrite>(
            out: &mut [f32], out_stride: usize, a: Left<'_>, b: Right<'_>, n: usize, depth: usize
        )),
        Store::Accumulate => dispatch!(strip_kernel::<Accumulate>(
            out: &mut [f32], out_stride: usize, a: Left<'_>, b: Right<'_>, n: usize, depth: usize
        )),
    }
}

/// A [`Store`] that is known when the kernel is compiled.
trait Start {
    const ACCUMULATE: bool;
}

struct Overwrite;

struct Accumulate;

impl Start for Overwrite {
    const ACCUMULATE: bool = false;
}

impl Start for Accumulate {
    const ACCUMULATE: bool = true;
}

#[inline(always)]
fn strip_kernel<S: Simd, T: Start>(
    out: &mut [f32],
    out_stride: usize,
    a: Left<'_>,
    b: Right<'_>,
    n: usize,
    depth: usize,
) {
    let mut column = 0;
    // 4 × 32 sums are eight of the widest registers, 4 × 16 are eight of the next: as many as keep two
    // multipliers busy, and the loops are short enough to be unrolled whole.
    while S::WIDE && column + 32 <= n {
        tile::<S, T, 32>(&mut out[column..], out_stride, a, b.starting_at(column), depth);
        column += 32;
    }
    while column < n {
        tile::<S, T, 16>(&mut out[column..], out_stride, a, b.starting_at(column), depth);
        column += 16;
    }
}

impl Right<'_> {
    #[inline(always)]
    fn starting_at(self, column: usize) -> Self {
        Self { values: &self.values[column..], ..self }
    }
}

#[inline(always)]
fn tile<S: Simd, T: Start, const WIDTH: usize>(
    out: &mut [f32],
    out_stride: usize,
    a: Left<'_>,
    b: Right<'_>,
    depth: usize,
) {
    let mut sums = [[0f32; WIDTH]; STRIP];
    if T::ACCUMULATE {
        for (i, sums) in sums.iter_mut().enumerate() {
            sums.copy_from_slice(&out[i * out_stride..][..WIDTH]);
        }
    }
    let sums = products::<S, WIDTH>(sums, a, b, depth);
    for (i, sums) in sums.iter().enumerate() {
        out[i * out_stride..][..WIDTH].copy_from_slice(sums);
    }
}

/// Each row of sums has a name of its own: an array of rows would not be kept in registers.
#[inline(always)]
fn products<S: Simd, const WIDTH: usize>(
    sums: [[f32; WIDTH]; STRIP],
    a: Left<'_>,
    b: Right<'_>,
    depth: usize,
) -> [[f32; WIDTH]; STRIP] {
    if depth == 0 {
        return sums;
    }
    assert!(a.values.len() > (STRIP - 1) * a.row_stride + (depth - 1) * a.column_stride);
    assert!(b.values.len() >= (depth - 1) * b.row_stride + WIDTH);
    let [mut sums_0, mut sums_1, mut sums_2, mut sums_3] = sums;
    for k in 0..depth {
        // SAFETY: the last row ends within `b`, by the assertion above.
        let b_row = unsafe { &*b.values.as_ptr().add(k * b.row_stride).cast::<[f32; WIDTH]>() };
        // SAFETY: the last element lies within `a`, by the assertion above.
        let a = |i: usize| unsafe { *a.values.get_unchecked(i * a.row_stride + k * a.column_stride) };
        let [a_0, a_1, a_2, a_3] = [a(0), a(1), a(2), a(3)];
        for j in 0..WIDTH {
            sums_0[j] = S::mul_add(a_0, b_row[j], sums_0[j]);
        }
        for j in 0..WIDTH {
            sums_1[j] = S::mul_add(a_1, b_row[j], sums_1[j]);
        }
        for j in 0..WIDTH {
            sums_2[j] = S::mul_add(a_2, b_row[j], sums_2[j]);
        }
        for j in 0..WIDTH {
            sums_3[j] = S::mul_add(a_3, b_row[j], sums_3[j]);
        }
    }
    [sums_0, sums_1, sums_2, sums_3]
}
