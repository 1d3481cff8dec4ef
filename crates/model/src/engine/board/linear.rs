//! Linear layers as matrix products.

use wattle_ops::Store;
use wattle_ops::board::{Board, BoardError, DeviceTensor, Elem, Epilogue, Gemm, Job, Matrix, Ptr, Way};
use wattle_ops::decode::board as decode;
use wattle_ops::linear::board::{self as linear, ColumnSums};

use super::adapters::AdapterProducts;
use super::fp8::{Fp8, Layer8};
use super::gradients::{FlatGradients, Rounding};
use crate::engine::network::Linear;

/// What products are made with.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub(super) board: &'a dyn Board,
    /// Weights as passes read them.
    pub(super) working: DeviceTensor,
    /// Flat gradients.
    pub(super) gradients: FlatGradients,
    /// How those in bfloat16 are added to.
    pub(super) rounding: Rounding,
    /// Where some are in eight bits.
    pub(super) fp8: Option<&'a Fp8>,
    /// Rows.
    pub(super) n: usize,
    /// Whether results of few rows are made by kernels of our own, which give each row the same bits whatever the others.
    pub(super) by_rows: bool,
    /// Where weights are frozen.
    pub(super) adapters: Option<AdapterProducts<'a>>,
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
        let epilogue = match linear.bias {
            Some(bias) if with_bias => Epilogue::Bias(self.working.add(bias)),
            _ => Epilogue::None,
        };
        match self.in_fp8(linear) {
            Some(layer) => layer.fwd(out, x, epilogue),
            None if self.by_rows && decode::takes(self.n) => self.few_rows(out, x, linear, with_bias),
            None => {
                self.board.gemm(&Gemm { epilogue, ..self.product(out, x, linear) })?;
                self.adapters.map_or(Ok(()), |adapters| adapters.fwd(self.board, out, x, linear))
            }
        }
    }

    /// [`Products::fwd`] of few rows.
    fn few_rows(
        &self,
        out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
        with_bias: bool,
    ) -> Result<(), BoardError> {
        let &Linear { weight, bias, n_in, n_out, output_first } = linear;
        let bias = bias.filter(|_| with_bias).map(|bias| self.working.add(bias));
        let linear = decode::Linear { weight: self.working.add(weight), bias, n_in, n_out, output_first };
        decode::linear(self.board, out, x, &linear, self.n)
    }

    /// `before = x·W + bias`, `out = gelu_tanh(before)`
    ///
    /// # Shapes
    /// `x` (n, in) → `before`, `out` (n, out), overwritten.
    pub(super) fn fwd_gelu(
        &self,
        out: DeviceTensor,
        before: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
    ) -> Result<(), BoardError> {
        let bias = linear.bias.map(|bias| self.working.add(bias));
        let epilogue = Epilogue::GeluTanh { bias, before };
        self.board.gemm(&Gemm { epilogue, ..self.product(out, x, linear) })
    }

    /// `grad_x = grad_out·Wᵀ`, or added to what is there. To be called after [`Products::bwd_weight`] with the same
    /// gradient, whose codes in eight bits it reads.
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
        if let Some(layer) = self.in_fp8(linear) {
            return layer.bwd_x(grad_x, store);
        }
        let accumulate = store == Store::Accumulate;
        self.board.gemm(&Gemm { accumulate, ..self.product_x(grad_x, grad_out, linear) })?;
        self.adapters.map_or(Ok(()), |adapters| adapters.bwd_x(self.board, grad_x, linear))
    }

    /// `grad_before = grad_out·Wᵀ · gelu_tanh′(before)`
    ///
    /// # Shapes
    /// `grad_out` (n, out), `before` (n, in) → `grad_before` (n, in), overwritten.
    pub(super) fn bwd_x_gelu(
        &self,
        grad_before: DeviceTensor,
        grad_out: DeviceTensor,
        linear: &Linear,
        before: DeviceTensor,
    ) -> Result<(), BoardError> {
        let epilogue = Epilogue::GeluTanhSlope { before };
        self.board.gemm(&Gemm { epilogue, ..self.product_x(grad_before, grad_out, linear) })
    }

    /// Whether a layer has adapters.
    pub(super) fn has_adapters(&self, linear: &Linear) -> bool {
        self.adapters.is_some_and(|adapters| adapters.has(linear))
    }

    /// `grad_W = or += xᵀ·grad_out`; of a frozen weight the same of its adapters.
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
        if let Some(adapters) = self.adapters {
            return adapters.bwd_factors(self.board, grad_out, x, linear, store);
        }
        match self.in_fp8(linear) {
            Some(layer) => {
                let (grad_weight, of_product) = self.place(linear, store);
                layer.bwd_weight(grad_weight, grad_out, x, of_product)?;
            }
            None => self.board.gemm(&self.product_weight(grad_out, x, linear, store))?,
        }
        self.add_product(linear, store)
    }

    /// The same, and the gradient of the bias, which is left to `sums`. It is summed by a kernel of its own, or in the
    /// product's epilogue, which reads `grad_out` anyway.
    pub(super) fn bwd_weight_and_bias(
        &self,
        grad_out: DeviceTensor,
        x: DeviceTensor,
        linear: &Linear,
        store: Store,
        sums: &mut ColumnSums,
    ) -> Result<(), BoardError> {
        let &Linear { n_in, n_out, output_first, bias, .. } = linear;
        let Some(bias) = bias.filter(|_| self.adapters.is_none()) else {
            return self.bwd_weight(grad_out, x, linear, store);
        };
        let partials = sums.add(self.gradients.wide(bias), self.n, n_out);
        let sums = &*sums;
        let apart = || {
            linear::bwd_bias(self.board, grad_out, &partials, sums)?;
            self.bwd_weight(grad_out, x, linear, store)
        };
        if self.in_fp8(linear).is_some() {
            return apart();
        }
        let whole = partials.at.into();
        let of_grad_out = if output_first { Epilogue::SumsOfA(whole) } else { Epilogue::SumsOfB(whole) };
        let epilogue = || {
            sums.has_parts(&partials, 1);
            let product = self.product_weight(grad_out, x, linear, store);
            self.board.gemm(&Gemm { epilogue: of_grad_out, ..product })?;
            self.add_product(linear, store)
        };
        let (_, of_product) = self.place(linear, store);
        let is_added = usize::from(of_product == Store::Accumulate);
        let sizes = [("n", self.n), ("in", n_in), ("out", n_out), ("add", is_added)];
        let bytes = self.n * (n_in + n_out) * grad_out.elem().bytes()
            + n_in * n_out * Elem::F32.bytes() * (1 + is_added);
        let job = Job::new("linear_bwd_weight", grad_out.elem(), &sizes)
            .moving(bytes)
            .computing(2 * self.n * n_in * n_out);
        self.board.choose(&job, &[Way::new("apart", &apart), Way::new("sums_epilogue", &epilogue)])
    }

    /// The products of `linear`, where they are in eight bits.
    fn in_fp8(&self, linear: &Linear) -> Option<Layer8<'_>> {
        self.fp8.and_then(|fp8| fp8.of(self.board, linear, self.n))
    }

    /// `out = x·W`
    fn product(&self, out: DeviceTensor, x: DeviceTensor, linear: &Linear) -> Gemm {
        let &Linear { n_in, n_out, output_first, .. } = linear;
        let weight = self.weight(linear);
        Gemm {
            m: self.n,
            n: n_out,
            k: n_in,
            a: Matrix::new(x, n_in),
            b: if output_first { weight.transposed() } else { weight },
            c: Matrix::new(out, n_out),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: Epilogue::None,
        }
    }

    /// `grad_x = grad_out·Wᵀ`
    fn product_x(&self, grad_x: DeviceTensor, grad_out: DeviceTensor, linear: &Linear) -> Gemm {
        let &Linear { n_in, n_out, output_first, .. } = linear;
        let weight = self.weight(linear);
        Gemm {
            m: self.n,
            n: n_in,
            k: n_out,
            a: Matrix::new(grad_out, n_out),
            b: if output_first { weight } else { weight.transposed() },
            c: Matrix::new(grad_x, n_in),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue: Epilogue::None,
        }
    }

    /// Where the product for the gradient of a weight is stored, and how.
    fn place(&self, linear: &Linear, store: Store) -> (Ptr<f32>, Store) {
        self.rounding.place(&self.gradients, linear.weight, store)
    }

    /// Adds that product to the gradient, where it is in bfloat16.
    fn add_product(&self, linear: &Linear, store: Store) -> Result<(), BoardError> {
        let n = linear.n_in * linear.n_out;
        self.rounding.add(self.board, &self.gradients, linear.weight, n, store)
    }

    /// `grad_W = or += xᵀ·grad_out`, in the place of [`Products::place`]
    fn product_weight(&self, grad_out: DeviceTensor, x: DeviceTensor, linear: &Linear, store: Store) -> Gemm {
        let &Linear { n_in, n_out, output_first, .. } = linear;
        let (grad_weight, store) = self.place(linear, store);
        let (x, grad_out) = (Matrix::new(x, n_in), Matrix::new(grad_out, n_out));
        let (m, n, a, b) = if output_first { (n_out, n_in, grad_out, x) } else { (n_in, n_out, x, grad_out) };
        Gemm {
            m,
            n,
            k: self.n,
            a: a.transposed(),
            b,
            c: Matrix::new(grad_weight, n),
            alpha: 1.0,
            accumulate: store == Store::Accumulate,
            batch: 1,
            epilogue: Epilogue::None,
        }
    }

    /// As it is stored.
    fn weight(&self, linear: &Linear) -> Matrix {
        let width = if linear.output_first { linear.n_in } else { linear.n_out };
        Matrix::new(self.working.add(linear.weight), width)
    }
}
