//! Matrix products on a board.

use super::memory::{DevicePtr, DeviceTensor, Elem, Ptr};

/// `c = a·b`, or `c += a·b`, for one pair of matrices or many at equal distances. Sums are in `f32`.
///
/// Factors in eight bits are stored with the k elements of a row of `a` and of a column of `b` side by side, sizes are
/// multiples of 16, and e5m2 goes with e4m3 alone.
///
/// # Shapes
/// `a` (m, k), `b` (k, n), `c` (m, n), row-major.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Left factor.
    pub a: Matrix,
    /// Right factor.
    pub b: Matrix,
    /// Result; never transposed.
    pub c: Matrix,
    /// Factor of the product.
    pub alpha: f32,
    /// Whether the product is added to what is there.
    pub accumulate: bool,
    /// Number of products.
    pub batch: usize,
    /// What is done with the product before it is stored.
    pub epilogue: Epilogue,
}

impl Gemm {
    /// Bytes of both factors and the result, once each; of a result that is added to, twice.
    pub fn bytes(&self) -> usize {
        let &Self { m, n, k, a, b, c, accumulate, batch, .. } = self;
        let of_result = m * n * c.elem().bytes() * (1 + usize::from(accumulate));
        batch * (m * k * a.elem().bytes() + k * n * b.elem().bytes() + of_result)
    }

    /// Multiplications and additions.
    pub fn flops(&self) -> usize {
        2 * self.batch * self.m * self.n * self.k
    }
}

/// What is done with a product, in `f32`, before it is stored. Only for one product (`batch` 1), stored and not
/// added, but for the sums of factors.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// `c = a·b + bias`, with the n values of `bias`, of the type of `c`, added to each row.
    Bias(DeviceTensor),
    /// `before = a·b + bias`, `c = gelu_tanh(before)`; `before` lies as `c` does, and is of its type.
    GeluTanh {
        /// As in [`Epilogue::Bias`]; absent for none.
        bias: Option<DeviceTensor>,
        /// What GELU is taken of, kept for the way back.
        before: DeviceTensor,
    },
    /// `c = a·b · gelu_tanh′(before)`; `before` lies as `c` does, and is of its type.
    GeluTanhSlope {
        /// What GELU was taken of.
        before: DeviceTensor,
    },
    /// Besides the product, `sums[i] = Σ_k a[i, k]` (m), of the type of `c`.
    SumsOfA(DeviceTensor),
    /// Besides the product, `sums[j] = Σ_k b[k, j]` (n), of the type of `c`.
    SumsOfB(DeviceTensor),
}

impl Epilogue {
    /// Whether the product may be added to what is there.
    pub fn may_be_added(&self) -> bool {
        matches!(self, Self::None | Self::SumsOfA(_) | Self::SumsOfB(_))
    }
}

/// Where a matrix lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matrix {
    /// Its elements.
    pub tensor: DeviceTensor,
    /// Elements from one stored row to the next.
    pub row_stride: usize,
    /// Whether what is stored is the transpose.
    pub transposed: bool,
    /// Elements from one matrix of the batch to the next.
    pub batch_stride: usize,
    /// What its elements are multiplied by, on the board; for elements of eight bits alone.
    pub scale: Option<Ptr<f32>>,
}

impl Matrix {
    /// Rows side by side, one matrix.
    pub fn new(tensor: impl Into<DeviceTensor>, row_stride: usize) -> Self {
        Self { tensor: tensor.into(), row_stride, transposed: false, batch_stride: 0, scale: None }
    }

    /// Where it lies.
    pub fn bytes(&self) -> DevicePtr {
        self.tensor.bytes()
    }

    /// Type of its elements.
    pub fn elem(&self) -> Elem {
        self.tensor.elem()
    }

    /// The same memory, read as the transpose.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// The same, whose elements are multiplied by what lies at `scale`.
    #[must_use]
    pub fn scaled(self, scale: Ptr<f32>) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// The same, one of a batch.
    #[must_use]
    pub fn batched(self, batch_stride: usize) -> Self {
        Self { batch_stride, ..self }
    }
}
