//! RMS normalization of heads within rows of `f32`, in place.
//!
//! ```text
//! saved = x          x = saved · rstd · weight          rstd = 1 / √(mean(saved²) + eps)
//! ```
//! A head's results depend on that head alone; sums over heads go in the order of the rows, and within a row in that of
//! the heads.

use crate::heads::HeadRows;
use crate::rms_norm::cpu::{self as rms_norm, Norm, Saved};
use crate::store::Store;

/// Where the heads of some rows are, and what they are normalized with.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// Rows.
    pub n_rows: usize,
    /// Heads of a row, side by side.
    pub n_heads: usize,
    /// In what is normalized, and in its gradient.
    pub rows: HeadRows,
    /// In what is saved.
    pub saved: HeadRows,
    /// One number a head.
    pub rstd: HeadRows,
    /// Weight and epsilon; the weight's length is the width of a head.
    pub norm: Norm<'a>,
}

impl Heads<'_> {
    /// Width of the heads of a row.
    pub fn width(&self) -> usize {
        self.n_heads * self.norm.weight.len()
    }

    /// Where the heads of each row are: in what is normalized, in what is saved, and in the reciprocal deviations.
    fn each(&self) -> impl Iterator<Item = [std::ops::Range<usize>; 3]> + use<> {
        let &Self { rows, saved, rstd, n_heads, .. } = self;
        let width = self.width();
        let at = |heads: HeadRows, row: usize, len: usize| {
            let start = heads.start(row, 0, 0);
            start..start + len
        };
        (0..self.n_rows).map(move |row| [at(rows, row, width), at(saved, row, width), at(rstd, row, n_heads)])
    }

    fn check(&self, x: usize, saved: usize, rstd: usize) {
        self.rows.check("normalized heads", x, self.n_rows, self.width());
        self.saved.check("saved heads", saved, self.n_rows, self.width());
        self.rstd.check("deviations of heads", rstd, self.n_rows, self.n_heads);
    }
}

/// Saves the heads of `x`, and normalizes them.
///
/// # Shapes
/// `x`, `saved` and `rstd` as `heads` says; their other columns are left alone.
///
/// # Panics
/// If the heads do not fit a buffer.
pub fn fwd(x: &mut [f32], saved: &mut [f32], rstd: &mut [f32], heads: &Heads<'_>) {
    heads.check(x.len(), saved.len(), rstd.len());
    for [at, saved_at, rstd_at] in heads.each() {
        let (row, kept) = (&mut x[at], &mut saved[saved_at]);
        kept.copy_from_slice(row);
        rms_norm::fwd(row, &mut rstd[rstd_at], kept, &heads.norm);
    }
}

/// The gradients of [`fwd`]: on entry `grad` is that of its result, on return that of its argument.
///
/// # Shapes
/// `grad`, `saved` and `rstd` as for [`fwd`]; `grad_weight` (width of a head), accumulated; `scratch`,
/// [`Heads::width`] or more.
///
/// # Panics
/// If the heads do not fit a buffer.
pub fn bwd(
    grad: &mut [f32],
    grad_weight: &mut [f32],
    saved: &[f32],
    rstd: &[f32],
    heads: &Heads<'_>,
    scratch: &mut [f32],
) {
    heads.check(grad.len(), saved.len(), rstd.len());
    let grad_out = &mut scratch[..heads.width()];
    for [at, saved_at, rstd_at] in heads.each() {
        let row = &mut grad[at];
        grad_out.copy_from_slice(row);
        let saved = Saved { x: &saved[saved_at], rstd: &rstd[rstd_at] };
        rms_norm::bwd(row, Store::Overwrite, grad_weight, grad_out, saved, heads.norm.weight);
    }
}
