//! SwiGLU of `f32`, element by element.
//!
//! ```text
//! out = gate · σ(gate) · up
//! grad_gate = grad_out · up · σ · (1 + gate · (1 − σ))          grad_up = grad_out · gate · σ
//! ```

use crate::math::sigmoid;
use crate::simd::{Simd, dispatch};

/// `out = gate · σ(gate) · up`
///
/// # Shapes
/// Any, the same for all.
///
/// # Panics
/// If the lengths differ.
pub fn fwd(out: &mut [f32], gate: &[f32], up: &[f32]) {
    assert_eq!([gate.len(), up.len()], [out.len(); 2], "elements of gate and up");
    dispatch!(fwd_kernel(out: &mut [f32], gate: &[f32], up: &[f32]));
}

/// The gradients of [`fwd`].
///
/// # Shapes
/// Any, the same for all; `grad_gate` and `grad_up` are overwritten.
///
/// # Panics
/// If the lengths differ.
pub fn bwd(grad_gate: &mut [f32], grad_up: &mut [f32], grad_out: &[f32], gate: &[f32], up: &[f32]) {
    let n = grad_out.len();
    assert_eq!([gate.len(), up.len(), grad_gate.len(), grad_up.len()], [n; 4], "elements of gate and up");
    dispatch!(bwd_kernel(
        grad_gate: &mut [f32], grad_up: &mut [f32], grad_out: &[f32], gate: &[f32], up: &[f32]
    ));
}

#[inline(always)]
fn fwd_kernel<S: Simd>(out: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate * sigmoid::<S>(gate) * up;
    }
}

#[inline(always)]
fn bwd_kernel<S: Simd>(
    grad_gate: &mut [f32],
    grad_up: &mut [f32],
    grad_out: &[f32],
    gate: &[f32],
    up: &[f32],
) {
    let grads = grad_gate.iter_mut().zip(grad_up).zip(grad_out);
    for (((grad_gate, grad_up), &grad), (&gate, &up)) in grads.zip(gate.iter().zip(up)) {
        let sigma = sigmoid::<S>(gate);
        *grad_up = grad * gate * sigma;
        *grad_gate = grad * up * sigma * S::mul_add(gate, 1.0 - sigma, 1.0);
    }
}
