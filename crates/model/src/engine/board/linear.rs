//! Linear layers as matrix products.

use wattle_ops::board::{Board, BoardError, DevicePtr, Elem, Epilogue, Gemm, Matrix};

use crate::engine::network::Linear;

/// What products are made with.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub(super) board: &'a dyn Board,
    /// Type of activations and working weights.
    pub(super) elem: Elem,
    /// Weights as passes read them.
    pub(super) working: DevicePtr,
    /// Flat gradients, `f32`.
    pub(super) gradients: DevicePtr,
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
        out: DevicePtr,
        x: DevicePtr,
        linear: &Linear,
        with_bias: bool,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, bias, .. } = linear;
        let weight = self.weight(linear);
        self.board.gemm(&Gemm {
            m: self.n,
            n: n_out,
            k: n_in,
            a: self.rows(x, n_in),
            b: if output_first { weight.transposed() } else { weight },
            c: self.rows(out, n_out),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: match bias {
                Some(bias) if with_bias => Epilogue::Bias(self.working.add(bias, self.elem)),
                _ => Epilogue::None,
            },
        })
    }

    /// `grad_x = grad_out·Wᵀ`
    ///
    /// # Shapes
    /// `grad_out` (n, out) → `grad_x` (n, in), overwritten.
    pub(super) fn bwd_x(
        &self,
        grad_x: DevicePtr,
        grad_out: DevicePtr,
        linear: &Linear,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, .. } = linear;
        let weight = self.weight(linear);
        self.board.gemm(&Gemm {
            m: self.n,
            n: n_in,
            k: n_out,
            a: self.rows(grad_out, n_out),
            b: if output_first { weight } else { weight.transposed() },
            c: self.rows(grad_x, n_in),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: Epilogue::None,
        })
    }

    /// `grad_W += xᵀ·grad_out`
    ///
    /// # Shapes
    /// `grad_out` (n, out), `x` (n, in).
    pub(super) fn bwd_weight(
        &self,
        grad_out: DevicePtr,
        x: DevicePtr,
        linear: &Linear,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, weight, .. } = linear;
        let (x, grad_out) = (self.rows(x, n_in), self.rows(grad_out, n_out));
        let (m, n, a, b) = if output_first { (n_out, n_in, grad_out, x) } else { (n_in, n_out, x, grad_out) };
        self.board.gemm(&Gemm {
            m,
            n,
            k: self.n,
            a: a.transposed(),
            b,
            c: Matrix::new(self.gradients.add(weight, Elem::F32), Elem::F32, n),
            alpha: 1.0,
            accumulate: true,
            batch: 1,
            epilogue: Epilogue::None,
        })
    }

    fn rows(&self, ptr: DevicePtr, width: usize) -> Matrix {
        Matrix::new(ptr, self.elem, width)
    }

    /// As it is stored.
    fn weight(&self, linear: &Linear) -> Matrix {
        let width = if linear.output_first { linear.n_in } else { linear.n_out };
        Matrix::new(self.working.add(linear.weight, self.elem), self.elem, width)
    }
}
