//! A low-rank adapter on slices of `f32`.
//!
//! ```text
//! low = scale · x · Aᵀ                  out[:, columns] += low · Bᵀ
//! grad_low = scale · grad_out[:, columns] · B      grad_x += grad_low · A
//! grad_A += grad_lowᵀ · x               grad_B += grad_out[:, columns]ᵀ · low
//! ```
//! `low` and `grad_low`, of r numbers a row, are made again where they are needed: that costs less than to keep them.

use rayon::prelude::*;

use super::Shape;
use crate::gemm::{Matrix, product, product_into};
use crate::store::Store;

/// Rows of B whose gradient one thread makes at once.
const BLOCK: usize = 384;

/// The two factors of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// A (r, in)
    pub a: &'a [f32],
    /// B (out, r)
    pub b: &'a [f32],
    /// What their product is multiplied by.
    pub scale: f32,
}

/// `out[:, columns] += scale · (x·Aᵀ)·Bᵀ`
///
/// # Shapes
/// `x` (n, in), `out` (n, row); `low` has n·r elements, which are overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn fwd(out: &mut [f32], x: &[f32], factors: &Factors<'_>, shape: &Shape, low: &mut [f32]) {
    let n = n_rows(x, shape.n_in);
    make_low(low, x, factors, shape);
    let low = Matrix::new(low, n, shape.rank);
    let b = Matrix::new(factors.b, shape.n_out, shape.rank);
    product_into(out, shape.row, shape.first, Store::Accumulate, low, b.transposed());
}

/// `grad_x += scale · (grad_out[:, columns]·B)·A`
///
/// # Shapes
/// `grad_out` (n, row), `grad_x` (n, in); `low` has n·r elements, which are overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn bwd_x(grad_x: &mut [f32], grad_out: &[f32], factors: &Factors<'_>, shape: &Shape, low: &mut [f32]) {
    let n = n_rows(grad_x, shape.n_in);
    make_grad_low(low, grad_out, factors, shape);
    let grad_low = Matrix::new(low, n, shape.rank);
    product(grad_x, Store::Accumulate, grad_low, Matrix::new(factors.a, shape.rank, shape.n_in));
}

/// Adds the gradients of both factors, on rayon's threads. Each element is summed over all rows in the same order, whatever
/// the number of threads.
///
/// # Shapes
/// `grad_a` (r, in), `grad_b` (out, r), `grad_out` (n, row), `x` (n, in); `low` has n·r elements, which are overwritten.
///
/// # Panics
/// If a slice has another length.
pub fn bwd_factors_par(
    [grad_a, grad_b]: [&mut [f32]; 2],
    grad_out: &[f32],
    x: &[f32],
    factors: &Factors<'_>,
    shape: &Shape,
    low: &mut [f32],
) {
    let n = n_rows(x, shape.n_in);
    make_low(low, x, factors, shape);
    let grad_columns = Matrix::new(grad_out, n, shape.row).columns(shape.first, shape.n_out).transposed();
    assert_eq!(grad_b.len(), shape.b_len(), "elements of the second factor's gradient");
    grad_b.par_chunks_mut(BLOCK * shape.rank).enumerate().for_each(|(block_idx, grad_b)| {
        let rows = grad_columns.rows(block_idx * BLOCK, grad_b.len() / shape.rank);
        product(grad_b, Store::Accumulate, rows, Matrix::new(low, n, shape.rank));
    });
    make_grad_low(low, grad_out, factors, shape);
    let grad_low = Matrix::new(low, n, shape.rank).transposed();
    product(grad_a, Store::Accumulate, grad_low, Matrix::new(x, n, shape.n_in));
}

/// `weight += scale · B·A`, of a weight stored output first, or its transpose of one stored input first.
///
/// # Shapes
/// `weight` (out, in) or (in, out): all of the layer's, whose columns are the adapter's.
///
/// # Panics
/// If a slice has another length.
pub fn merge(weight: &mut [f32], factors: &Factors<'_>, shape: &Shape, output_first: bool) {
    let b: Vec<f32> = factors.b.iter().map(|b| b * factors.scale).collect();
    let a = Matrix::new(factors.a, shape.rank, shape.n_in);
    let b = Matrix::new(&b, shape.n_out, shape.rank);
    match output_first {
        true => product(weight, Store::Accumulate, b, a),
        false => product(weight, Store::Accumulate, a.transposed(), b.transposed()),
    }
}

/// `low = scale · x·Aᵀ`
fn make_low(low: &mut [f32], x: &[f32], factors: &Factors<'_>, shape: &Shape) {
    let n = n_rows(x, shape.n_in);
    let a = Matrix::new(factors.a, shape.rank, shape.n_in);
    product(low, Store::Overwrite, Matrix::new(x, n, shape.n_in), a.transposed());
    low.iter_mut().for_each(|low| *low *= factors.scale);
}

/// `grad_low = scale · grad_out[:, columns]·B`
fn make_grad_low(low: &mut [f32], grad_out: &[f32], factors: &Factors<'_>, shape: &Shape) {
    let n = n_rows(grad_out, shape.row);
    let columns = Matrix::new(grad_out, n, shape.row).columns(shape.first, shape.n_out);
    product(low, Store::Overwrite, columns, Matrix::new(factors.b, shape.n_out, shape.rank));
    low.iter_mut().for_each(|low| *low *= factors.scale);
}

fn n_rows(rows: &[f32], width: usize) -> usize {
    assert_eq!(rows.len() % width, 0, "rows of {width} in a slice of {}", rows.len());
    rows.len() / width
}
