//! Products of large matrices, on one thread, by the `gemm` crate.

use gemm::Parallelism;

use crate::store::Store;

/// How much of the inner dimension is summed in one go. The crate cuts longer sums by a rule of its own that
/// looks at the whole shape; cut here, an element's value does not depend on how many others there are.
const DEPTH: usize = 512;

/// A matrix in a slice, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    n_rows: usize,
    n_columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other.
    pub(crate) fn new(values: &'a [f32], n_rows: usize, n_columns: usize) -> Self {
        assert_eq!(values.len(), n_rows * n_columns, "a matrix of {n_rows} rows and {n_columns} columns");
        Self { values, n_rows, n_columns, row_stride: n_columns, column_stride: 1 }
    }

    /// Rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            n_rows: self.n_columns,
            n_columns: self.n_rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    pub(crate) fn n_columns(self) -> usize {
        self.n_columns
    }

    /// Rows `first..first + n_rows`.
    pub(crate) fn rows(self, first: usize, n_rows: usize) -> Self {
        assert!(first + n_rows <= self.n_rows, "rows {first}..{} of {}", first + n_rows, self.n_rows);
        let values = if n_rows == 0 { &[] } else { &self.values[first * self.row_stride..] };
        Self { values, n_rows, ..self }
    }

    /// Columns `first..first + n_columns`.
    pub(crate) fn columns(self, first: usize, n_columns: usize) -> Self {
        self.transposed().rows(first, n_columns).transposed()
    }
}

/// `out = a · b` or `out += a · b`, with the rows of `out` one after the other.
///
/// # Shapes
/// `a` (m, k), `b` (k, n) → (m, n).
pub(crate) fn product(out: &mut [f32], store: Store, a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(out.len(), a.n_rows * b.n_columns, "elements of a matrix product");
    if a.n_columns == 0 && store == Store::Overwrite {
        out.fill(0.0);
    }
    product_into(out, b.n_columns, 0, store, a, b);
}

/// [`product`] into columns of `out`: those from `first_column` on of rows of `row_stride` elements.
pub(crate) fn product_into(
    out: &mut [f32],
    row_stride: usize,
    first_column: usize,
    store: Store,
    a: Matrix<'_>,
    b: Matrix<'_>,
) {
    assert_eq!(a.n_columns, b.n_rows, "inner dimensions of a matrix product");
    assert_eq!(out.len(), a.n_rows * row_stride, "rows of a matrix product");
    assert!(first_column + b.n_columns <= row_stride, "columns of a matrix product");
    let out = if out.is_empty() { out } else { &mut out[first_column..] };
    for first in (0..a.n_columns).step_by(DEPTH) {
        let depth = DEPTH.min(a.n_columns - first);
        let store = if first == 0 { store } else { Store::Accumulate };
        product_of_depth(out, row_stride, store, a.columns(first, depth), b.rows(first, depth));
    }
}

fn product_of_depth(out: &mut [f32], row_stride: usize, store: Store, a: Matrix<'_>, b: Matrix<'_>) {
    let accumulate = store == Store::Accumulate;
    // SAFETY: `Matrix` has all the elements that its sizes and strides speak of, by the checks of `new` and
    // `rows`; `product_into` checked that the inner sizes agree and that `out` has all rows and columns of the
    // result. `out` is borrowed mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            a.n_rows,
            b.n_columns,
            a.n_columns,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
