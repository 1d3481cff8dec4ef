//! Attention in one piece, by the CPU's operation: sums in `f32`, what is stored in bf16.

use wattle_ops::attention::cpu::{self as attention, QkvLayout, Saved, Shape};
use wattle_ops::bf16;
use wattle_ops::board::{
    AttentionBackward, AttentionForward, AttentionPass, AttentionShape, DeviceTensor, Job, Matrix, Workspace,
};

use crate::arena::{Arena, slice_mut};
use crate::products::{read, write};

/// The ways to make a pass: of the queries as they are, or of three times the queries and a third of the keys, both in
/// bf16, whose scores differ by rounding.
pub(crate) const WAYS: [&str; 2] = ["plain", "thirds"];

/// What a choice among [`WAYS`] is for.
pub(crate) fn job(shape: &AttentionShape, pass: AttentionPass) -> Job {
    shape.job(pass, "fixed")
}

/// Bytes that a pass needs beside its tensors: as many as cuDNN's with a fixed order of sums, and half as many again for
/// the second way.
pub(crate) fn workspace_bytes(shape: &AttentionShape, way: &str) -> usize {
    let scores = shape.batch * shape.n_heads * shape.time * shape.time;
    if way == WAYS[0] { 2 * scores } else { 3 * scores }
}

/// Writes to all of the workspace: whatever else lies there is gone.
pub(crate) fn use_up(arenas: &mut [Arena], shape: &AttentionShape, workspace: Workspace, way: &str) {
    let needed = workspace_bytes(shape, way);
    assert!(needed <= workspace.bytes, "{way} needs {needed} bytes of workspace, of {}", workspace.bytes);
    slice_mut(arenas, workspace.at, needed).fill(0xff);
}

/// What a way multiplies queries by, and divides keys by.
fn factor(way: &str) -> f32 {
    if way == WAYS[0] { 1.0 } else { 3.0 }
}

/// Multiplies queries, or their gradients, and divides keys.
fn rescale(qkv: &mut [f32], shape: &AttentionShape, factor: f32) {
    let [q, k, v] = widths(shape);
    let rounded = |x: f32| bf16::widen(bf16::nearest(x));
    for row in qkv.chunks_exact_mut(q + k + v) {
        row[..q].iter_mut().for_each(|x| *x = rounded(*x * factor));
        row[q..q + k].iter_mut().for_each(|x| *x = rounded(*x / factor));
    }
}

/// Writes the output and each row's log-sum-exp.
pub(crate) fn forward(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionForward, way: &str) {
    let (sizes, layout) = sizes(shape);
    let mut qkv = side_by_side(arenas, shape, tensors);
    rescale(&mut qkv, shape, factor(way));
    let (mut out, mut stats) = (vec![0.0; n_rows(shape) * out_width(shape)], vec![0.0; n_stats(shape)]);
    let mut scratch = vec![0.0; sizes.fwd_scratch_len()];
    attention::fwd(&mut out, &mut stats, &qkv, &layout, &sizes, None, None, &mut scratch);
    write(arenas, rows(tensors.out, shape.out_row_stride), [n_rows(shape), out_width(shape)], 0, &out);
    write(arenas, of_stats(shape, tensors), [1, n_stats(shape)], 0, &stats);
}

/// Overwrites the gradients of queries, keys and values.
pub(crate) fn backward(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionBackward, way: &str) {
    let (sizes, layout) = sizes(shape);
    let mut qkv = side_by_side(arenas, shape, &tensors.forward);
    rescale(&mut qkv, shape, factor(way));
    let output = |ptr| read(arenas, rows(ptr, shape.out_row_stride), [n_rows(shape), out_width(shape)], 0);
    let (out, grad_out) = (output(tensors.forward.out), output(tensors.grad_out));
    let log_sum_exp = read(arenas, of_stats(shape, &tensors.forward), [1, n_stats(shape)], 0);
    let saved = Saved { out: &out, log_sum_exp: &log_sum_exp, qkv: &qkv };
    let (mut grad_qkv, mut scratch) = (vec![0.0; qkv.len()], vec![0.0; sizes.bwd_scratch_len()]);
    attention::bwd(&mut grad_qkv, &grad_out, saved, &layout, &sizes, None, None, &mut scratch);
    // By the chain rule, gradients are rescaled as the numbers were.
    rescale(&mut grad_qkv, shape, factor(way));
    let mut start = 0;
    for (ptr, width) in [tensors.grad_q, tensors.grad_k, tensors.grad_v].into_iter().zip(widths(shape)) {
        let of_row = grad_qkv.chunks_exact(widths(shape).iter().sum());
        let part: Vec<f32> = of_row.flat_map(|row| &row[start..start + width]).copied().collect();
        write(arenas, rows(ptr, shape.qkv_row_stride), [n_rows(shape), width], 0, &part);
        start += width;
    }
}

fn sizes(shape: &AttentionShape) -> (Shape, QkvLayout) {
    let &AttentionShape { time: t, n_heads, n_kv_heads, head_width, kind, .. } = shape;
    let sizes = Shape { t, n_heads, n_kv_heads, head_width, kind };
    (sizes, QkvLayout::fused(&sizes))
}

/// Queries, keys and values in one row, wherever they lie.
fn side_by_side(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionForward) -> Vec<f32> {
    let parts = [tensors.q, tensors.k, tensors.v].into_iter().zip(widths(shape));
    let parts: Vec<(Vec<f32>, usize)> = parts
        .map(|(ptr, width)| (read(arenas, rows(ptr, shape.qkv_row_stride), [n_rows(shape), width], 0), width))
        .collect();
    let of_row =
        |row: usize| parts.iter().flat_map(move |(part, width)| &part[row * width..(row + 1) * width]);
    (0..n_rows(shape)).flat_map(of_row).copied().collect()
}

/// Of queries, keys and values in a row.
fn widths(shape: &AttentionShape) -> [usize; 3] {
    [shape.n_heads, shape.n_kv_heads, shape.n_kv_heads].map(|heads| heads * shape.head_width)
}

fn out_width(shape: &AttentionShape) -> usize {
    shape.n_heads * shape.head_width
}

fn n_rows(shape: &AttentionShape) -> usize {
    shape.batch * shape.time
}

fn n_stats(shape: &AttentionShape) -> usize {
    n_rows(shape) * shape.n_heads
}

fn rows(start: DeviceTensor, row_stride: usize) -> Matrix {
    Matrix::new(start, row_stride)
}

fn of_stats(shape: &AttentionShape, tensors: &AttentionForward) -> Matrix {
    Matrix::new(tensors.stats, n_stats(shape))
}
