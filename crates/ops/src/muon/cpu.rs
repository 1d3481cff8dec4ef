//! Muon on slices of `f32`, on rayon's threads.
//!
//! Products are cut into blocks of rows whose bounds depend on the shape alone, so the bits are the same for any number
//! of threads.

use rayon::prelude::*;

use super::{COEFFICIENTS, EPS, Hyperparameters, Update};
use crate::bf16::{self, Noise};
use crate::gemm::{Matrix, product};
use crate::grad_norm::cpu::norm_par;
use crate::simd::{Simd, dispatch};
use crate::store::Store;

/// Elements that one thread takes at once.
const BLOCK: usize = 1 << 12;

/// Rows of a product that one thread computes at once.
const ROWS: usize = 64;

/// A matrix of parameters and its momentum, row by row.
#[derive(Debug)]
pub struct State<'a> {
    /// The values.
    pub parameters: &'a mut [f32],
    /// m
    pub momentum: Momentum<'a>,
}

/// The momentum of a matrix, in the type in which it is kept.
#[derive(Debug)]
pub enum Momentum<'a> {
    /// `f32`.
    F32(&'a mut [f32]),
    /// bfloat16. The update is made in `f32`, and what it leaves is rounded at random.
    Bf16 {
        /// The numbers.
        values: &'a mut [u16],
        /// What they are rounded by.
        noise: Noise,
        /// Place of the first in the buffer that the noise counts in.
        first: usize,
    },
}

/// Numbers of scratch that an update of a matrix takes.
pub fn scratch_len(n_rows: usize, n_columns: usize) -> usize {
    let side = n_rows.min(n_columns);
    2 * n_rows * n_columns + 2 * side * side
}

/// Makes one update of a matrix.
///
/// # Shapes
/// `state` and `gradients` (`n_rows`, `n_columns`); `scratch` is at least [`scratch_len`] long.
///
/// # Panics
/// If they are not.
pub fn step_par(
    state: State<'_>,
    gradients: &[f32],
    [n_rows, n_columns]: [usize; 2],
    update: &Update,
    scratch: &mut [f32],
) {
    let State { parameters, momentum } = state;
    let len = n_rows * n_columns;
    let lens = [parameters.len(), momentum.len(), gradients.len()];
    assert_eq!(lens, [len; 3], "parameters, momentum and gradients of {n_rows} rows and {n_columns} columns");
    let (x, rest) = scratch.split_at_mut(len);
    direct(momentum, gradients, x, &Factors::of(update));
    let inverse_norm = (1.0 / norm_par(x).max(EPS)) as f32;
    x.par_chunks_mut(BLOCK).for_each(|x| x.iter_mut().for_each(|x| *x *= inverse_norm));
    let x = orthogonalize(x, rest, [n_rows, n_columns], update.hyperparameters.ns_steps);
    let (decay, rate) = (update.decay() as f32, update.adjusted_rate(n_rows, n_columns) as f32);
    let blocks = parameters.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK));
    blocks.for_each(|(parameters, x)| {
        parameters.iter_mut().zip(x).for_each(|(parameter, x)| *parameter = *parameter * decay - x * rate);
    });
}

impl Momentum<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16 { values, .. } => values.len(),
        }
    }
}

/// What gradients and momentum are multiplied by, each rounded once.
#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    momentum: [f32; 2],
    nesterov: bool,
}

impl Factors {
    fn of(update: &Update) -> Self {
        let Hyperparameters { momentum, nesterov, .. } = update.hyperparameters;
        let momentum = [momentum as f32, (1.0 - momentum) as f32];
        Self { gradient: update.gradient_factor, momentum, nesterov }
    }
}

/// Updates the momentum, and writes to `x` what is to be orthogonalized.
fn direct(momentum: Momentum<'_>, gradients: &[f32], x: &mut [f32], factors: &Factors) {
    let blocks = x.par_chunks_mut(BLOCK).zip(gradients.par_chunks(BLOCK));
    match momentum {
        Momentum::F32(momentum) => {
            let blocks = blocks.zip(momentum.par_chunks_mut(BLOCK));
            blocks.for_each(|((x, gradients), momentum)| direct_block(momentum, gradients, x, factors));
        }
        Momentum::Bf16 { values, noise, first } => {
            let blocks = blocks.zip(values.par_chunks_mut(BLOCK)).enumerate();
            blocks.for_each(|(idx, ((x, gradients), narrow))| {
                let first = first + idx * BLOCK;
                let mut wide = [0.0; BLOCK];
                let wide = &mut wide[..narrow.len()];
                wide.iter_mut().zip(&*narrow).for_each(|(wide, &narrow)| *wide = bf16::widen(narrow));
                direct_block(wide, gradients, x, factors);
                let words = noise.words(first..first + narrow.len());
                for ((narrow, &wide), word) in narrow.iter_mut().zip(&*wide).zip(words) {
                    *narrow = bf16::at_random(wide, word as u16);
                }
            });
        }
    }
}

fn direct_block(momentum: &mut [f32], gradients: &[f32], x: &mut [f32], factors: &Factors) {
    dispatch!(direct_kernel(momentum: &mut [f32], gradients: &[f32], x: &mut [f32], factors: &Factors));
}

#[inline(always)]
fn direct_kernel<S: Simd>(momentum: &mut [f32], gradients: &[f32], x: &mut [f32], factors: &Factors) {
    let &Factors { gradient: factor, momentum: [kept, taken], nesterov } = factors;
    for ((momentum, &gradient), x) in momentum.iter_mut().zip(gradients).zip(x) {
        let gradient = gradient * factor;
        *momentum = *momentum * kept + gradient * taken;
        *x = if nesterov { *momentum * kept + gradient * taken } else { *momentum };
    }
}

/// A matrix with the singular vectors of `x` and singular values near 1, in one of two buffers: `x` and the first part of
/// `rest`.
fn orthogonalize<'a>(
    mut x: &'a mut [f32],
    rest: &'a mut [f32],
    [n_rows, n_columns]: [usize; 2],
    n_steps: usize,
) -> &'a [f32] {
    let [a, b, c] = COEFFICIENTS.map(|coefficient| coefficient as f32);
    let side = n_rows.min(n_columns);
    let (mut next, rest) = rest.split_at_mut(x.len());
    let (gram, rest) = rest.split_at_mut(side * side);
    let polynomial = &mut rest[..side * side];
    for _ in 0..n_steps {
        let matrix = Matrix::new(x, n_rows, n_columns);
        let is_tall = n_rows > n_columns;
        let wide = if is_tall { matrix.transposed() } else { matrix };
        product_par(gram, wide, wide.transposed(), |_, _| ());
        let gram_matrix = Matrix::new(gram, side, side);
        product_par(polynomial, gram_matrix, gram_matrix, |first, block| {
            add_scaled(block, c, &gram[first..][..block.len()], b);
        });
        let factor = Matrix::new(polynomial, side, side);
        let (left, right) = if is_tall { (matrix, factor) } else { (factor, matrix) };
        product_par(next, left, right, |first, block| add_scaled(block, 1.0, &x[first..][..block.len()], a));
        std::mem::swap(&mut x, &mut next);
    }
    x
}

/// `out = a · b`, then `finish` of each block of rows and the place of its first element.
fn product_par(
    out: &mut [f32],
    a: Matrix<'_>,
    b: Matrix<'_>,
    finish: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let len = ROWS * b.n_columns();
    out.par_chunks_mut(len).enumerate().for_each(|(idx, block)| {
        let n_rows = block.len() / b.n_columns();
        product(block, Store::Overwrite, a.rows(idx * ROWS, n_rows), b);
        finish(idx * len, block);
    });
}

/// `out = out · of_out + other · of_other`
fn add_scaled(out: &mut [f32], of_out: f32, other: &[f32], of_other: f32) {
    out.iter_mut().zip(other).for_each(|(out, other)| *out = *out * of_out + other * of_other);
}
