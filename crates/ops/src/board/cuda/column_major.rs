//! A product of row-major matrices as cuBLASLt sees it.
//!
//! What lies row after row is, read column after column, the transpose. So `c = a·b` is computed as `cᵀ = bᵀ·aᵀ`: the
//! factors change places, and each is transposed for cuBLASLt exactly if it is for us.

use crate::board::{BoardError, DevicePtr, Elem, Gemm, Matrix};

/// Beyond this, no kernel asks for more.
pub(super) const MAX_ALIGNMENT: u32 = 256;

/// `out (rows, columns) = op(left)·op(right)`, all column-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ColumnMajor {
    pub(super) left: Factor,
    pub(super) right: Factor,
    pub(super) out: Layout,
    pub(super) batch: usize,
    /// What the pointers' addresses are multiples of: left, right, out.
    pub(super) alignments: [u32; 3],
}

/// A factor and whether it is transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Factor {
    pub(super) layout: Layout,
    pub(super) transposed: bool,
}

/// How a column-major matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Layout {
    pub(super) elem: Elem,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from one column to the next.
    pub(super) leading: usize,
    pub(super) batch_stride: usize,
}

impl ColumnMajor {
    /// The same product; what cuBLASLt has no kernel for is refused.
    pub(super) fn of(gemm: &Gemm) -> Result<Self, BoardError> {
        let Gemm { m, n, k, a, b, c, .. } = *gemm;
        let are_fp8 = a.elem().is_fp8() && b.elem().is_fp8();
        let are_e5m2 = a.elem() == Elem::E5m2 && b.elem() == Elem::E5m2;
        let is_widened = a.elem() == Elem::F32 && c.elem() != Elem::F32;
        if (a.elem() != b.elem() && !are_fp8) || are_e5m2 || is_widened || c.elem().is_fp8() {
            let elems = [a, b, c].map(|matrix| matrix.elem().suffix());
            return Err(refused(format!("{} by {} into {}", elems[0], elems[1], elems[2])));
        }
        if c.transposed {
            return Err(refused("into a transpose".to_owned()));
        }
        if are_fp8 {
            refuse_odd_fp8(gemm)?;
        }
        Ok(Self {
            left: Factor { layout: layout(&b, k, n)?, transposed: b.transposed },
            right: Factor { layout: layout(&a, m, k)?, transposed: a.transposed },
            out: layout(&c, m, n)?,
            batch: gemm.batch,
            alignments: [b, a, c].map(|matrix| alignment_of_batch(&matrix, gemm.batch)),
        })
    }
}

/// What cuBLASLt has FP8 kernels for, on every board that has any.
fn refuse_odd_fp8(gemm: &Gemm) -> Result<(), BoardError> {
    let Gemm { m, n, k, a, b, batch, .. } = *gemm;
    if a.transposed || !b.transposed {
        return Err(refused("in eight bits, of factors that do not lie along the inner size".to_owned()));
    }
    if batch != 1 || !crate::fp8::fits(&[m, n, k, a.row_stride, b.row_stride]) {
        return Err(refused(format!(
            "in eight bits, ({m}, {k}) by ({k}, {n}): sizes are to be multiples of {}",
            crate::fp8::MULTIPLE
        )));
    }
    match a.scale.and(b.scale) {
        Some(_) => Ok(()),
        None => Err(refused("in eight bits without scales".to_owned())),
    }
}

/// What an address is a multiple of.
pub(super) fn alignment(ptr: DevicePtr) -> u32 {
    power_of_two(ptr.address())
}

/// `matrix`, of `rows` by `columns` once it is read as it is meant.
fn layout(matrix: &Matrix, rows: usize, columns: usize) -> Result<Layout, BoardError> {
    let (stored_rows, stored_columns) = if matrix.transposed { (columns, rows) } else { (rows, columns) };
    if matrix.row_stride < stored_columns {
        return Err(refused(format!("rows of {stored_columns} at a distance of {}", matrix.row_stride)));
    }
    Ok(Layout {
        elem: matrix.elem(),
        rows: stored_columns,
        columns: stored_rows,
        leading: matrix.row_stride,
        batch_stride: matrix.batch_stride,
    })
}

fn alignment_of_batch(matrix: &Matrix, batch: usize) -> u32 {
    let stride = if batch > 1 { matrix.batch_stride * matrix.elem().bytes() } else { 0 };
    power_of_two(matrix.bytes().address() | stride as u64)
}

fn power_of_two(number: u64) -> u32 {
    1 << number.trailing_zeros().min(MAX_ALIGNMENT.trailing_zeros())
}

fn refused(what: String) -> BoardError {
    BoardError::Product(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{DeviceTensor, Epilogue, Ptr};

    /// Where the tests' matrices begin, in elements, of one buffer.
    const A: usize = 0;
    const B: usize = 4096;
    const C: usize = 8192;

    #[test]
    fn a_column_major_machine_computes_the_row_major_product() {
        for case in 0..16 {
            let bit = |i: usize| case >> i & 1 == 1;
            let (m, n, k) = (3, 5, 7);
            let batch = if bit(2) { 3 } else { 1 };
            let gap = if bit(3) { 2 } else { 0 };
            let gemm = Gemm {
                m,
                n,
                k,
                a: matrix(A, m, k, gap, bit(0)),
                b: matrix(B, k, n, gap, bit(1)),
                c: matrix(C, m, n, gap, false),
                alpha: 1.0,
                accumulate: false,
                batch,
                epilogue: Epilogue::None,
            };
            let mut row_major: Vec<f64> = (0..12_288).map(|i| f64::from(i * 37 % 101)).collect();
            let mut column_major = row_major.clone();
            by_rows(&gemm, &mut row_major);
            by_columns(&ColumnMajor::of(&gemm).unwrap(), &gemm, &mut column_major);
            assert_eq!(row_major, column_major, "case {case}");
        }
    }

    #[test]
    fn alignment_is_that_of_every_matrix_of_a_batch() {
        let matrix = Matrix::new(DeviceTensor::new(DevicePtr::new(4096), Elem::Bf16), 64).batched(24);
        assert_eq!(alignment_of_batch(&matrix, 1), 256);
        assert_eq!(alignment_of_batch(&matrix, 2), 16);
        assert_eq!(alignment(DevicePtr::new(4096 + 8)), 8);
    }

    #[test]
    fn what_has_no_kernel_is_refused() {
        let gemm = |a: Elem, b: Elem, c: Elem, row_stride: usize| Gemm {
            m: 2,
            n: 2,
            k: 2,
            a: Matrix::new(DeviceTensor::new(DevicePtr::new(0), a), row_stride),
            b: Matrix::new(DeviceTensor::new(DevicePtr::new(0), b), 2),
            c: Matrix::new(DeviceTensor::new(DevicePtr::new(0), c), 2),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: Epilogue::None,
        };
        use Elem::{Bf16, F32};
        let said = |gemm| ColumnMajor::of(&gemm).unwrap_err().to_string();
        assert!(said(gemm(F32, Bf16, F32, 2)).contains("f32 by bf16 into f32"));
        assert!(said(gemm(F32, F32, Bf16, 2)).contains("f32 by f32 into bf16"));
        assert!(said(gemm(F32, F32, F32, 1)).contains("rows of 2 at a distance of 1"));
        assert!(ColumnMajor::of(&gemm(Bf16, Bf16, F32, 2)).is_ok());
        use Elem::{E4m3, E5m2};
        assert!(said(gemm(E5m2, E5m2, F32, 2)).contains("e5m2 by e5m2 into f32"));
        assert!(said(gemm(E4m3, Bf16, F32, 2)).contains("e4m3 by bf16 into f32"));
        assert!(said(gemm(E4m3, E4m3, E4m3, 2)).contains("e4m3 by e4m3 into e4m3"));
        assert!(said(gemm(E4m3, E4m3, F32, 2)).contains("do not lie along the inner size"));
        let mut fp8 = gemm(E4m3, E5m2, F32, 32);
        fp8.b = fp8.b.transposed();
        assert!(said(fp8).contains("multiples of 16"));
        (fp8.m, fp8.n, fp8.k, fp8.b.row_stride, fp8.c.row_stride) = (16, 48, 32, 32, 48);
        assert!(said(fp8).contains("without scales"));
        let scale = Ptr::new(DevicePtr::new(4));
        (fp8.a, fp8.b) = (fp8.a.scaled(scale), fp8.b.scaled(scale));
        assert!(ColumnMajor::of(&fp8).is_ok());
    }

    fn matrix(first: usize, rows: usize, columns: usize, gap: usize, transposed: bool) -> Matrix {
        let (stored_rows, stored_columns) = if transposed { (columns, rows) } else { (rows, columns) };
        let row_stride = stored_columns + gap;
        let matrix = Matrix::new(Ptr::<f32>::new(DevicePtr::new(0)).add(first), row_stride);
        let matrix = matrix.batched(stored_rows * row_stride + 3);
        if transposed { matrix.transposed() } else { matrix }
    }

    /// [`Gemm`]'s contract, word for word.
    fn by_rows(gemm: &Gemm, memory: &mut [f64]) {
        let place = |x: &Matrix, batch: usize, row: usize, column: usize| {
            let (row, column) = if x.transposed { (column, row) } else { (row, column) };
            x.bytes().address() as usize / 4 + batch * x.batch_stride + row * x.row_stride + column
        };
        for batch in 0..gemm.batch {
            for (i, j) in (0..gemm.m).flat_map(|i| (0..gemm.n).map(move |j| (i, j))) {
                let term = |l| memory[place(&gemm.a, batch, i, l)] * memory[place(&gemm.b, batch, l, j)];
                memory[place(&gemm.c, batch, i, j)] = (0..gemm.k).map(term).sum();
            }
        }
    }

    /// What cuBLASLt does with its layouts: `out = op(left)·op(right)`, the inner size from the left factor.
    fn by_columns(product: &ColumnMajor, gemm: &Gemm, memory: &mut [f64]) {
        let place = |first: DevicePtr, x: &Layout, batch: usize, row: usize, column: usize| {
            assert!(row < x.rows && column < x.columns, "{x:?} has no ({row}, {column})");
            first.address() as usize / 4 + batch * x.batch_stride + column * x.leading + row
        };
        let of_factor = |first: DevicePtr, x: &Factor, batch: usize, row: usize, column: usize| {
            let (row, column) = if x.transposed { (column, row) } else { (row, column) };
            place(first, &x.layout, batch, row, column)
        };
        let left = product.left;
        let inner = if left.transposed { left.layout.rows } else { left.layout.columns };
        for batch in 0..product.batch {
            for (i, j) in (0..product.out.rows).flat_map(|i| (0..product.out.columns).map(move |j| (i, j))) {
                let term = |l| {
                    memory[of_factor(gemm.b.bytes(), &product.left, batch, i, l)]
                        * memory[of_factor(gemm.a.bytes(), &product.right, batch, l, j)]
                };
                memory[place(gemm.c.bytes(), &product.out, batch, i, j)] = (0..inner).map(term).sum();
            }
        }
    }
}
