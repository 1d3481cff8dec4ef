//! Rotary position embedding of heads within rows of `f32`, in place.
//!
//! ```text
//! (x₁, x₂) ← (x₁·cos − x₂·sin, x₂·cos + x₁·sin)          with x₁, x₂ the halves of a head
//! ```
//! The gradient is turned back by the same angle.

use super::Rotary;
use crate::heads::HeadRows;
use crate::positions::position;
use crate::simd::{Simd, dispatch};

/// Turns all heads of `n_rows` rows by each row's position in its document.
///
/// # Shapes
/// `x` as `rows` says, in place; the other columns are left alone. `documents` (n_rows): the row of its sequence at which
/// each row's document starts; absent, each sequence of `t` rows is one.
///
/// # Panics
/// If the heads do not fit the buffer or the table has fewer than `t` positions.
pub fn fwd(
    x: &mut [f32],
    rows: HeadRows,
    n_rows: usize,
    n_heads: usize,
    t: usize,
    documents: Option<&[u32]>,
    rotary: &Rotary,
) {
    turn(x, Heads { rows, n_rows, n_heads, t, documents }, rotary, 1.0);
}

/// The gradient of [`fwd`], in place: on entry that of its result, on return that of its argument.
///
/// # Shapes
/// As for [`fwd`].
///
/// # Panics
/// As for [`fwd`].
pub fn bwd(
    grad: &mut [f32],
    rows: HeadRows,
    n_rows: usize,
    n_heads: usize,
    t: usize,
    documents: Option<&[u32]>,
    rotary: &Rotary,
) {
    turn(grad, Heads { rows, n_rows, n_heads, t, documents }, rotary, -1.0);
}

#[derive(Clone, Copy)]
struct Heads<'a> {
    rows: HeadRows,
    n_rows: usize,
    n_heads: usize,
    t: usize,
    documents: Option<&'a [u32]>,
}

fn turn(x: &mut [f32], heads: Heads<'_>, rotary: &Rotary, direction: f32) {
    heads.rows.check("rotary embedding", x.len(), heads.n_rows, heads.n_heads * rotary.head_width());
    assert!(heads.t <= rotary.context(), "{} positions, angles for {}", heads.t, rotary.context());
    dispatch!(turn_kernel(x: &mut [f32], heads: Heads<'_>, rotary: &Rotary, direction: f32));
}

#[inline(always)]
fn turn_kernel<S: Simd>(x: &mut [f32], heads: Heads<'_>, rotary: &Rotary, direction: f32) {
    let (width, half_width) = (rotary.head_width(), rotary.half_width);
    for row in 0..heads.n_rows {
        let angle = position(row, heads.t, heads.documents) * half_width;
        let (cos, sin) = (&rotary.cos[angle..][..half_width], &rotary.sin[angle..][..half_width]);
        let start = heads.rows.start(row, 0, width);
        for head in x[start..start + heads.n_heads * width].chunks_exact_mut(width) {
            let (first, second) = head.split_at_mut(half_width);
            for (((x1, x2), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let sin = direction * sin;
                (*x1, *x2) = (S::mul_add(-*x2, sin, *x1 * cos), S::mul_add(*x1, sin, *x2 * cos));
            }
        }
    }
}
