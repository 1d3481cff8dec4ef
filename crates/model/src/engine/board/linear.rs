//! Linear layers as matrix products.

use wattle_ops::Store;
use wattle_ops::board::{Board, BoardError, DeviceTensor, Epilogue, Gemm, Matrix, Ptr};

use crate::engine::network::Linear;

/// What products are made with.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub(super) board: &'a dyn Board,
    /// Weights as passes read them.
    pub(super) working: DeviceTensor,
    /// Flat gradients.
    pub(super) gradients: Ptr<f32>,
    /// Rows.
    pub(super) n: usize,
}

impl Products<'_> {
    /// `out = x·W + bias`, with the bias only if `with_bias`.
    ///
    /// # Shapes
    /// `x` (n, in) → `out` (n, out), overwritten.
    pub(super) fn fwd(
        &self,
        out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
        with_bias: bool,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, bias, .. } = linear;
        let weight = self.weight(linear);
        self.board.gemm(&Gemm {
            m: self.n,
            n: n_out,
            k: n_in,
            a: Matrix::new(x, n_in),
            b: if output_first { weight.transposed() } else { weight },
            c: Matrix::new(out, n_out),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: match bias {
                Some(bias) if with_bias => Epilogue::Bias(self.working.add(bias)),
                _ => Epilogue::None,
            },
        })
    }

    /// `grad_x = grad_out·Wᵀ`, or added to what is there.
    ///
    /// # Shapes
    /// `grad_out` (n, out) → `grad_x` (n, in), as `store` says.
    pub(super) fn bwd_x(
        &self,
        grad_x: DeviceTensor,
        grad_out: DeviceTensor,
        linear: &Linear,
        store: Store,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, .. } = linear;
        let weight = self.weight(linear);
        self.board.gemm(&Gemm {
            m: self.n,
            n: n_in,
            k: n_out,
            a: Matrix::new(grad_out, n_out),
            b: if output_first { weight } else { weight.transposed() },
            c: Matrix::new(grad_x, n_in),
            alpha: 1.0,
            accumulate: store == Store::Accumulate,
            batch: 1,
            epilogue: Epilogue::None,
        })
    }

    /// `grad_W = or += xᵀ·grad_out`
    ///
    /// # Shapes
    /// `grad_out` (n, out), `x` (n, in), as `store` says.
    pub(super) fn bwd_weight(
        &self,
        grad_out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
        store: Store,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, weight, .. } = linear;
        let (x, grad_out) = (Matrix::new(x, n_in), Matrix::new(grad_out, n_out));
        let (m, n, a, b) = if output_first { (n_out, n_in, grad_out, x) } else { (n_in, n_out, x, grad_out) };
        self.board.gemm(&Gemm {
            m,
            n,
            k: self.n,
            a: a.transposed(),
            b,
            c: Matrix::new(self.gradients.add(weight), n),
            alpha: 1.0,
            accumulate: store == Store::Accumulate,
            batch: 1,
            epilogue: Epilogue::None,
        })
    }

    /// As it is stored.
    fn weight(&self, linear: &Linear) -> Matrix {
        let width = if linear.output_first { linear.n_in } else { linear.n_out };
        Matrix::new(self.working.add(linear.weight), width)
    }
}
