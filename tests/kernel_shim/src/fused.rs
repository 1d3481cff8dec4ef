//! Attention in one piece by its definition: sums in `f64`, what is stored in bf16.

use wattle_ops::board::{AttentionBackward, AttentionForward, AttentionShape, DevicePtr, Elem, Matrix};

use crate::arena::Arena;
use crate::products::{read, write};

/// Writes the output and each row's log-sum-exp.
pub(crate) fn forward(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionForward) {
    for (b, h) in heads(shape) {
        let Head { q, k, v } = Head::read(arenas, shape, tensors, (b, h));
        let (mut out, mut stats) = (Vec::new(), Vec::new());
        for t in 0..shape.time {
            let (p, log_sum_exp) = probabilities(shape, &q, &k, t);
            stats.push(log_sum_exp as f32);
            out.extend((0..shape.head_width).map(|i| (0..=t).map(|s| p[s] * v.at(s, i)).sum::<f64>() as f32));
        }
        let place = Place::output(shape, tensors.out, (b, h));
        write(arenas, place.matrix(), [shape.time, shape.head_width], 0, &out);
        let row = tensors.stats.add((b * shape.n_heads + h) * shape.time, Elem::F32);
        write(arenas, Matrix::new(row, Elem::F32, shape.time), [1, shape.time], 0, &stats);
    }
}

/// Overwrites the gradients of queries, keys and values.
pub(crate) fn backward(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionBackward) {
    let (n, d, group) = (shape.time, shape.head_width, shape.n_heads / shape.n_kv_heads);
    let shared = || vec![0.0; shape.batch * shape.n_kv_heads * n * d];
    let (mut grad_k, mut grad_v) = (shared(), shared());
    for (b, h) in heads(shape) {
        let Head { q, k, v } = Head::read(arenas, shape, &tensors.forward, (b, h));
        let out = Rows::read(arenas, shape, Place::output(shape, tensors.forward.out, (b, h)));
        let grad_out = Rows::read(arenas, shape, Place::output(shape, tensors.grad_out, (b, h)));
        let of_kv_head = (b * shape.n_kv_heads + h / group) * n * d;
        let mut grad_q = vec![0.0; n * d];
        for t in 0..n {
            let p = kept_probabilities(arenas, shape, tensors, (b, h), (&q, &k), t);
            let along: f64 = (0..d).map(|i| grad_out.at(t, i) * out.at(t, i)).sum();
            for (s, p) in p.into_iter().enumerate() {
                let grad_p: f64 = (0..d).map(|i| grad_out.at(t, i) * v.at(s, i)).sum();
                let grad_score = p * (grad_p - along) / (d as f64).sqrt();
                for i in 0..d {
                    grad_v[of_kv_head + s * d + i] += p * grad_out.at(t, i);
                    grad_k[of_kv_head + s * d + i] += grad_score * q.at(t, i);
                    grad_q[t * d + i] += grad_score * k.at(s, i);
                }
            }
        }
        put(arenas, shape, Place::input(shape, tensors.grad_q, (b, h)), &grad_q);
    }
    for (b, kv_head) in (0..shape.batch).flat_map(|b| (0..shape.n_kv_heads).map(move |head| (b, head))) {
        let of_kv_head = (b * shape.n_kv_heads + kv_head) * n * d;
        for (ptr, grad) in [(tensors.grad_k, &grad_k), (tensors.grad_v, &grad_v)] {
            let place = Place::input(shape, ptr, (b, kv_head));
            put(arenas, shape, place, &grad[of_kv_head..of_kv_head + n * d]);
        }
    }
}

fn heads(shape: &AttentionShape) -> impl Iterator<Item = (usize, usize)> {
    let n_heads = shape.n_heads;
    (0..shape.batch).flat_map(move |b| (0..n_heads).map(move |h| (b, h)))
}

/// One head of one sequence in memory.
#[derive(Clone, Copy)]
struct Place {
    start: DevicePtr,
    row_stride: usize,
}

impl Place {
    /// Of queries, keys or values, which start at `ptr`.
    fn input(shape: &AttentionShape, ptr: DevicePtr, (b, h): (usize, usize)) -> Self {
        Self::new(ptr, shape.qkv_row_stride, b * shape.time, h * shape.head_width)
    }

    fn output(shape: &AttentionShape, ptr: DevicePtr, (b, h): (usize, usize)) -> Self {
        Self::new(ptr, shape.out_row_stride, b * shape.time, h * shape.head_width)
    }

    fn new(ptr: DevicePtr, row_stride: usize, row: usize, column: usize) -> Self {
        Self { start: ptr.add(row * row_stride + column, Elem::Bf16), row_stride }
    }

    fn matrix(self) -> Matrix {
        Matrix::new(self.start, Elem::Bf16, self.row_stride)
    }
}

/// (t, d)
struct Rows {
    values: Vec<f32>,
    width: usize,
}

impl Rows {
    fn read(arenas: &[Arena], shape: &AttentionShape, place: Place) -> Self {
        let values = read(arenas, place.matrix(), [shape.time, shape.head_width], 0);
        Self { values, width: shape.head_width }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        f64::from(self.values[row * self.width + column])
    }
}

struct Head {
    q: Rows,
    k: Rows,
    v: Rows,
}

impl Head {
    fn read(
        arenas: &[Arena],
        shape: &AttentionShape,
        tensors: &AttentionForward,
        (b, h): (usize, usize),
    ) -> Self {
        let kv_head = h / (shape.n_heads / shape.n_kv_heads);
        let rows = |ptr, head| Rows::read(arenas, shape, Place::input(shape, ptr, (b, head)));
        Self { q: rows(tensors.q, h), k: rows(tensors.k, kv_head), v: rows(tensors.v, kv_head) }
    }
}

fn score(shape: &AttentionShape, q: &Rows, k: &Rows, (t, s): (usize, usize)) -> f64 {
    let product: f64 = (0..shape.head_width).map(|i| q.at(t, i) * k.at(s, i)).sum();
    product / (shape.head_width as f64).sqrt()
}

/// Of row `t`, with the logarithm of its sum of exponentials.
fn probabilities(shape: &AttentionShape, q: &Rows, k: &Rows, t: usize) -> (Vec<f64>, f64) {
    let scores: Vec<f64> = (0..=t).map(|s| score(shape, q, k, (t, s))).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum_exp = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
    (scores.iter().map(|score| (score - log_sum_exp).exp()).collect(), log_sum_exp)
}

/// Of row `t` by the statistics that the forward pass left, as a library computes them anew.
fn kept_probabilities(
    arenas: &[Arena],
    shape: &AttentionShape,
    tensors: &AttentionBackward,
    (b, h): (usize, usize),
    (q, k): (&Rows, &Rows),
    t: usize,
) -> Vec<f64> {
    let at = tensors.forward.stats.add((b * shape.n_heads + h) * shape.time + t, Elem::F32);
    let log_sum_exp = f64::from(read(arenas, Matrix::new(at, Elem::F32, 1), [1, 1], 0)[0]);
    (0..=t).map(|s| (score(shape, q, k, (t, s)) - log_sum_exp).exp()).collect()
}

fn put(arenas: &[Arena], shape: &AttentionShape, place: Place, values: &[f64]) {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    write(arenas, place.matrix(), [shape.time, shape.head_width], 0, &values);
}
