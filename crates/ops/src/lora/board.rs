//! A low-rank adapter on a board: products alone, which are [`Board::gemm`]'s.

use super::Shape;
use crate::board::{Board, BoardError, DeviceTensor, Epilogue, Gemm, Matrix, Ptr};
use crate::store::Store;

/// The two factors of an adapter, and the memory for what lies between them.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    /// A (r, in)
    pub a: DeviceTensor,
    /// B (out, r)
    pub b: DeviceTensor,
    /// What their product is multiplied by.
    pub scale: f32,
    /// Of n rows, (n, r).
    pub low: DeviceTensor,
    /// Its gradient.
    pub grad_low: DeviceTensor,
}

impl Factors {
    /// `out[:, columns] += scale · (x·Aᵀ)·Bᵀ`
    ///
    /// # Shapes
    /// `x` (n, in), `out` (n, row).
    ///
    /// # Errors
    /// If a launch fails.
    pub fn fwd(
        &self,
        board: &dyn Board,
        out: DeviceTensor,
        x: DeviceTensor,
        shape: &Shape,
        n: usize,
    ) -> Result<(), BoardError> {
        self.make_low(board, x, shape, n)?;
        board.gemm(&Gemm {
            accumulate: true,
            ..plain(
                [n, shape.n_out, shape.rank],
                Matrix::new(self.low, shape.rank),
                Matrix::new(self.b, shape.rank).transposed(),
                Matrix::new(out.add(shape.first), shape.row),
            )
        })
    }

    /// `grad_low = scale · grad_out[:, columns]·B`, which [`Factors::bwd_x`] and [`Factors::bwd_factors`] read.
    ///
    /// # Shapes
    /// `grad_out` (n, row).
    ///
    /// # Errors
    /// If the launch fails.
    pub fn make_grad_low(
        &self,
        board: &dyn Board,
        grad_out: DeviceTensor,
        shape: &Shape,
        n: usize,
    ) -> Result<(), BoardError> {
        board.gemm(&Gemm {
            alpha: self.scale,
            ..plain(
                [n, shape.rank, shape.n_out],
                Matrix::new(grad_out.add(shape.first), shape.row),
                Matrix::new(self.b, shape.rank),
                Matrix::new(self.grad_low, shape.rank),
            )
        })
    }

    /// `grad_x += or = grad_low·A`
    ///
    /// # Shapes
    /// `grad_x` (n, in).
    ///
    /// # Errors
    /// If the launch fails.
    pub fn bwd_x(
        &self,
        board: &dyn Board,
        grad_x: DeviceTensor,
        store: Store,
        shape: &Shape,
        n: usize,
    ) -> Result<(), BoardError> {
        board.gemm(&Gemm {
            accumulate: store == Store::Accumulate,
            ..plain(
                [n, shape.n_in, shape.rank],
                Matrix::new(self.grad_low, shape.rank),
                Matrix::new(self.a, shape.n_in),
                Matrix::new(grad_x, shape.n_in),
            )
        })
    }

    /// `grad_A = or += grad_lowᵀ·x`, `grad_B = or += grad_out[:, columns]ᵀ·low`
    ///
    /// # Shapes
    /// `grad_a` (r, in), `grad_b` (out, r), `grad_out` (n, row), `x` (n, in).
    ///
    /// # Errors
    /// If a launch fails.
    pub fn bwd_factors(
        &self,
        board: &dyn Board,
        [grad_a, grad_b]: [Ptr<f32>; 2],
        store: Store,
        [grad_out, x]: [DeviceTensor; 2],
        shape: &Shape,
        n: usize,
    ) -> Result<(), BoardError> {
        let accumulate = store == Store::Accumulate;
        self.make_low(board, x, shape, n)?;
        board.gemm(&Gemm {
            accumulate,
            ..plain(
                [shape.n_out, shape.rank, n],
                Matrix::new(grad_out.add(shape.first), shape.row).transposed(),
                Matrix::new(self.low, shape.rank),
                Matrix::new(grad_b, shape.rank),
            )
        })?;
        board.gemm(&Gemm {
            accumulate,
            ..plain(
                [shape.rank, shape.n_in, n],
                Matrix::new(self.grad_low, shape.rank).transposed(),
                Matrix::new(x, shape.n_in),
                Matrix::new(grad_a, shape.n_in),
            )
        })
    }

    /// `low = scale · x·Aᵀ`
    fn make_low(
        &self,
        board: &dyn Board,
        x: DeviceTensor,
        shape: &Shape,
        n: usize,
    ) -> Result<(), BoardError> {
        board.gemm(&Gemm {
            alpha: self.scale,
            ..plain(
                [n, shape.rank, shape.n_in],
                Matrix::new(x, shape.n_in),
                Matrix::new(self.a, shape.n_in).transposed(),
                Matrix::new(self.low, shape.rank),
            )
        })
    }
}

/// `c = a·b`
fn plain([m, n, k]: [usize; 3], a: Matrix, b: Matrix, c: Matrix) -> Gemm {
    Gemm { m, n, k, a, b, c, alpha: 1.0, accumulate: false, batch: 1, epilogue: Epilogue::None }
}
