//! Attention on a board by matrix products with a softmax between them, one sequence after the other: the scores of all
//! heads of one sequence are what exists at once. Every kind takes the products of all t² scores.

use super::Kind;
use crate::board::args::{args, symbol};
use crate::board::{
    Arg, Board, BoardError, DevicePtr, DeviceTensor, Elem, Epilogue, Gemm, Launch, Matrix, Ptr,
};
use crate::dropout::board::Site;

/// The sizes of an attention whose queries, keys and values lie side by side in rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub b: usize,
    /// Rows of a sequence.
    pub t: usize,
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and of values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d: usize,
    /// Type of rows.
    pub elem: Elem,
    /// Which keys a query sees.
    pub kind: Kind,
}

/// Bytes of scratch that [`fwd`] and [`bwd`] want.
pub fn scratch_bytes(shape: &Shape) -> usize {
    Scratch::new(shape, DevicePtr::new(0)).bytes
}

impl Shape {
    /// Elements of a row of queries, keys and values.
    pub fn qkv(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.d
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }
}

/// Scores and probabilities of all heads of one sequence (h, t, t).
#[derive(Clone, Copy)]
struct Scratch {
    scores: Ptr<f32>,
    grad_probabilities: Ptr<f32>,
    probabilities: DeviceTensor,
    grad_scores: DeviceTensor,
    bytes: usize,
}

impl Scratch {
    fn new(shape: &Shape, at: DevicePtr) -> Self {
        let n = shape.n_heads * shape.t * shape.t;
        let mut bytes = 0;
        let mut take = |elem: Elem| {
            let ptr = at.offset(bytes);
            bytes += (n * elem.bytes()).next_multiple_of(256);
            ptr
        };
        let [scores, grad_probabilities] = [(); 2].map(|()| Ptr::new(take(Elem::F32)));
        let [probabilities, grad_scores] = [(); 2].map(|()| DeviceTensor::new(take(shape.elem), shape.elem));
        Self { scores, grad_probabilities, probabilities, grad_scores, bytes }
    }
}

/// Rows of one sequence.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    board: &'a dyn Board,
    shape: &'a Shape,
    idx: usize,
    /// Where each row's document starts, of all sequences; null without documents.
    documents: Option<Ptr<u32>>,
}

impl Sequence<'_> {
    /// The queries, keys or values in `qkv` as one matrix (t, d) a head, from head `first` on.
    fn heads(&self, qkv: DeviceTensor, first: usize) -> Matrix {
        let &Shape { t, d, .. } = self.shape;
        let width = self.shape.qkv();
        Matrix::new(qkv.add(self.idx * t * width + first * d), width).batched(d)
    }

    /// The heads of an output, side by side in rows of their own.
    fn out_heads(&self, out: DeviceTensor, first: usize) -> Matrix {
        let &Shape { t, n_heads, d, .. } = self.shape;
        let width = n_heads * d;
        Matrix::new(out.add(self.idx * t * width + first * d), width).batched(d)
    }

    /// The (t, t) matrices of heads from `first` on.
    fn squares(&self, at: impl Into<DeviceTensor>, first: usize) -> Matrix {
        let t = self.shape.t;
        Matrix::new(at.into().add(first * t * t), t).batched(t * t)
    }

    /// Where the documents of this sequence start, (t).
    fn documents(&self) -> Option<Ptr<u32>> {
        self.documents.map(|first| first.add(self.idx * self.shape.t))
    }

    /// For each head of keys, the first head of queries that reads it, and the places of its keys and values.
    fn groups(&self) -> impl Iterator<Item = [usize; 3]> + use<> {
        let &Shape { n_heads, n_kv_heads, .. } = self.shape;
        let group = n_heads / n_kv_heads;
        // One product for all heads where each has keys of its own.
        let n_groups = if group == 1 { 1 } else { n_kv_heads };
        (0..n_groups).map(move |kv| [kv * group, n_heads + kv, n_heads + n_kv_heads + kv])
    }

    /// Heads of one product.
    fn group_len(&self) -> usize {
        let &Shape { n_heads, n_kv_heads, .. } = self.shape;
        if n_heads == n_kv_heads { n_heads } else { n_heads / n_kv_heads }
    }

    /// Keys or values that all heads of a group read.
    fn shared(&self, matrix: Matrix) -> Matrix {
        if self.shape.n_heads == self.shape.n_kv_heads { matrix } else { matrix.batched(0) }
    }

    /// `c = a·b` of the heads of a group.
    fn products(&self, [m, n, k]: [usize; 3], a: Matrix, b: Matrix, c: Matrix) -> Result<(), BoardError> {
        self.board.gemm(&Gemm {
            m,
            n,
            k,
            a,
            b,
            c,
            alpha: 1.0,
            accumulate: false,
            batch: self.group_len(),
            epilogue: Epilogue::None,
        })
    }

    /// `c = Σ over the heads of a group of a·b`: what keys and values that several heads read get.
    fn sums(&self, [m, n, k]: [usize; 3], a: Matrix, b: Matrix, c: Matrix) -> Result<(), BoardError> {
        if self.shape.n_heads == self.shape.n_kv_heads {
            return self.products([m, n, k], a, b, c);
        }
        (0..self.group_len()).try_for_each(|head| {
            let of_head = |x: Matrix| Matrix { tensor: x.tensor.add(head * x.batch_stride), ..x };
            self.board.gemm(&Gemm {
                m,
                n,
                k,
                a: of_head(a),
                b: of_head(b),
                c,
                alpha: 1.0,
                accumulate: head > 0,
                batch: 1,
                epilogue: Epilogue::None,
            })
        })
    }

    fn softmax(&self, kernel: &str, buffers: &[Arg], site: &Site) -> Result<(), BoardError> {
        let &Shape { t, n_heads, elem, kind, .. } = self.shape;
        let n_rows = n_heads * t;
        let site = site.starting_at((self.idx * n_rows * t) as u64);
        let mut args = buffers.to_vec();
        let window = kind.window(t) as i32;
        args.extend(args![n_rows as i32, t as i32, window, self.documents(), self.shape.scale()]);
        args.extend(site.args());
        self.board.launch(&Launch {
            kernel: &symbol(kernel, elem),
            grid: [n_rows.div_ceil(4) as u32, 1, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            args: &args,
        })
    }

    fn scores(&self, scratch: &Scratch, qkv: DeviceTensor) -> Result<(), BoardError> {
        let &Shape { t, d, .. } = self.shape;
        self.groups().try_for_each(|[q, k, _]| {
            let keys = self.shared(self.heads(qkv, k)).transposed();
            self.products([t, t, d], self.heads(qkv, q), keys, self.squares(scratch.scores, q))
        })
    }
}

fn sequences<'a>(
    board: &'a dyn Board,
    shape: &'a Shape,
    documents: Option<Ptr<u32>>,
) -> impl Iterator<Item = Sequence<'a>> {
    (0..shape.b).map(move |idx| Sequence { board, shape, idx, documents })
}

/// `out = softmax(q · kᵀ / √d) · v` for each sequence and head, over the keys that `shape.kind` and `documents` let a
/// query see.
///
/// # Shapes
/// `qkv` (b·t, (h + 2·h_kv)·d) → `out` (b·t, h·d), `log_sum_exp` (b, h, t) `f32`; `scratch`, [`scratch_bytes`].
/// `documents` (b·t) `u32`: the row of its sequence at which each row's document starts, see [`Kind`]; or null.
///
/// # Errors
/// If a launch or product fails.
///
/// # Panics
/// If the kind is a window of nothing. Documents lie on the device and are not checked.
#[expect(clippy::too_many_arguments, reason = "what the passes of an operation share")]
pub fn fwd(
    board: &dyn Board,
    out: DeviceTensor,
    log_sum_exp: Ptr<f32>,
    qkv: DeviceTensor,
    shape: &Shape,
    documents: Option<Ptr<u32>>,
    site: &Site,
    scratch: DevicePtr,
) -> Result<(), BoardError> {
    let &Shape { t, n_heads, d, .. } = shape;
    shape.kind.check(shape.b, t, None);
    let scratch = Scratch::new(shape, scratch);
    sequences(board, shape, documents).try_for_each(|sequence| {
        sequence.scores(&scratch, qkv)?;
        let log_sum_exp = log_sum_exp.add(sequence.idx * n_heads * t);
        let buffers = args![scratch.probabilities, log_sum_exp, scratch.scores];
        sequence.softmax("attention_fwd", &buffers, site)?;
        sequence.groups().try_for_each(|[q, _, v]| {
            let values = sequence.shared(sequence.heads(qkv, v));
            let probabilities = sequence.squares(scratch.probabilities, q);
            sequence.products([t, d, t], probabilities, values, sequence.out_heads(out, q))
        })
    })
}

/// The gradients of [`fwd`].
///
/// # Shapes
/// `grad_out` (b·t, h·d) → `grad_qkv` (b·t, (h + 2·h_kv)·d), overwritten; the others as for [`fwd`].
///
/// # Errors
/// If a launch or product fails.
///
/// # Panics
/// As [`fwd`].
#[expect(clippy::too_many_arguments, reason = "what the passes of an operation share")]
pub fn bwd(
    board: &dyn Board,
    grad_qkv: DeviceTensor,
    grad_out: DeviceTensor,
    log_sum_exp: Ptr<f32>,
    qkv: DeviceTensor,
    shape: &Shape,
    documents: Option<Ptr<u32>>,
    site: &Site,
    scratch: DevicePtr,
) -> Result<(), BoardError> {
    let &Shape { t, n_heads, d, .. } = shape;
    shape.kind.check(shape.b, t, None);
    let scratch = Scratch::new(shape, scratch);
    sequences(board, shape, documents).try_for_each(|sequence| {
        sequence.scores(&scratch, qkv)?;
        sequence.groups().try_for_each(|[q, _, v]| {
            let values = sequence.shared(sequence.heads(qkv, v)).transposed();
            let grad = sequence.squares(scratch.grad_probabilities, q);
            sequence.products([t, t, d], sequence.out_heads(grad_out, q), values, grad)
        })?;
        let log_sum_exp = log_sum_exp.add(sequence.idx * n_heads * t);
        let Scratch { scores, grad_probabilities, probabilities, grad_scores, .. } = scratch;
        let buffers = args![probabilities, grad_scores, scores, grad_probabilities, log_sum_exp];
        sequence.softmax("attention_bwd", &buffers, site)?;
        sequence.groups().try_for_each(|[q, k, v]| {
            let grad_scores = sequence.squares(grad_scores, q);
            let keys = sequence.shared(sequence.heads(qkv, k));
            sequence.products([t, d, t], grad_scores, keys, sequence.heads(grad_qkv, q))?;
            let queries = sequence.heads(qkv, q);
            sequence.sums([t, d, t], grad_scores.transposed(), queries, sequence.heads(grad_qkv, k))?;
            let probabilities = sequence.squares(probabilities, q).transposed();
            let grad_out = sequence.out_heads(grad_out, q);
            sequence.sums([t, d, t], probabilities, grad_out, sequence.heads(grad_qkv, v))
        })
    })
}
