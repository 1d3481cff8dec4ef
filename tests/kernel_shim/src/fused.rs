//! Attention in one piece, by the CPU's operation: sums in `f32`, what is stored in bf16.

use wattle_ops::attention::cpu::{self as attention, QkvLayout, Saved, Shape};
use wattle_ops::board::{
    AttentionBackward, AttentionForward, AttentionShape, DevicePtr, DeviceTensor, Matrix,
};

use crate::arena::{Arena, slice_mut};
use crate::products::{read, write};

/// Bytes that a pass needs beside its tensors: as many as cuDNN's with a fixed order of sums.
pub(crate) fn workspace_bytes(shape: &AttentionShape) -> usize {
    2 * shape.batch * shape.n_heads * shape.time * shape.time
}

/// Writes to all of the workspace: whatever else lies there is gone.
pub(crate) fn use_up(arenas: &mut [Arena], shape: &AttentionShape, workspace: DevicePtr) {
    slice_mut(arenas, workspace, workspace_bytes(shape)).fill(0xff);
}

/// Writes the output and each row's log-sum-exp.
pub(crate) fn forward(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionForward) {
    let (sizes, layout) = sizes(shape);
    let qkv = side_by_side(arenas, shape, tensors);
    let (mut out, mut stats) = (vec![0.0; n_rows(shape) * out_width(shape)], vec![0.0; n_stats(shape)]);
    let mut scratch = vec![0.0; sizes.fwd_scratch_len()];
    attention::fwd(&mut out, &mut stats, &qkv, &layout, &sizes, None, None, &mut scratch);
    write(arenas, rows(tensors.out, shape.out_row_stride), [n_rows(shape), out_width(shape)], 0, &out);
    write(arenas, of_stats(shape, tensors), [1, n_stats(shape)], 0, &stats);
}

/// Overwrites the gradients of queries, keys and values.
pub(crate) fn backward(arenas: &[Arena], shape: &AttentionShape, tensors: &AttentionBackward) {
    let (sizes, layout) = sizes(shape);
    let qkv = side_by_side(arenas, shape, &tensors.forward);
    let output = |ptr| read(arenas, rows(ptr, shape.out_row_stride), [n_rows(shape), out_width(shape)], 0);
    let (out, grad_out) = (output(tensors.forward.out), output(tensors.grad_out));
    let log_sum_exp = read(arenas, of_stats(shape, &tensors.forward), [1, n_stats(shape)], 0);
    let saved = Saved { out: &out, log_sum_exp: &log_sum_exp, qkv: &qkv };
    let (mut grad_qkv, mut scratch) = (vec![0.0; qkv.len()], vec![0.0; sizes.bwd_scratch_len()]);
    attention::bwd(&mut grad_qkv, &grad_out, saved, &layout, &sizes, None, None, &mut scratch);
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
