//! Activations of `f32`, element by element, with or without the bias of the projection before.
//!
//! The forms with a bias spare a pass over the wide rows of a feed-forward block: the projection leaves `x`
//! without its bias, which is added here, forward and backward, and gets its gradient here.

use super::Activation;
use crate::math::{exp, normal_cdf};
use crate::simd::{Simd, dispatch};

/// `out = f(x)`
///
/// # Shapes
/// Any, the same for both.
///
/// # Panics
/// If the lengths differ.
pub fn fwd(activation: Activation, out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "elements of an activation");
    match activation {
        Activation::Gelu => dispatch!(fwd_kernel::<Gelu>(out: &mut [f32], x: &[f32])),
        Activation::GeluTanh => dispatch!(fwd_kernel::<GeluTanh>(out: &mut [f32], x: &[f32])),
        Activation::Relu => dispatch!(fwd_kernel::<Relu>(out: &mut [f32], x: &[f32])),
        Activation::Relu2 => dispatch!(fwd_kernel::<Relu2>(out: &mut [f32], x: &[f32])),
    }
}

/// `grad = grad · f′(x)`, in place: on entry the gradient of `f(x)`, on return that of `x`.
///
/// # Shapes
/// Any, the same for both.
///
/// # Panics
/// If the lengths differ.
pub fn bwd(activation: Activation, grad: &mut [f32], x: &[f32]) {
    assert_eq!(grad.len(), x.len(), "elements of an activation");
    match activation {
        Activation::Gelu => dispatch!(bwd_kernel::<Gelu>(grad: &mut [f32], x: &[f32])),
        Activation::GeluTanh => dispatch!(bwd_kernel::<GeluTanh>(grad: &mut [f32], x: &[f32])),
        Activation::Relu => dispatch!(bwd_kernel::<Relu>(grad: &mut [f32], x: &[f32])),
        Activation::Relu2 => dispatch!(bwd_kernel::<Relu2>(grad: &mut [f32], x: &[f32])),
    }
}

/// `out = f(x + bias)`
///
/// # Shapes
/// `out`, `x` (n, c), `bias` (c).
///
/// # Panics
/// If the lengths do not fit.
pub fn bias_fwd(activation: Activation, out: &mut [f32], x: &[f32], bias: &[f32]) {
    check_rows(out, x, bias);
    match activation {
        Activation::Gelu => dispatch!(bias_fwd_kernel::<Gelu>(out: &mut [f32], x: &[f32], bias: &[f32])),
        Activation::GeluTanh => {
            dispatch!(bias_fwd_kernel::<GeluTanh>(out: &mut [f32], x: &[f32], bias: &[f32]));
        }
        Activation::Relu => dispatch!(bias_fwd_kernel::<Relu>(out: &mut [f32], x: &[f32], bias: &[f32])),
        Activation::Relu2 => dispatch!(bias_fwd_kernel::<Relu2>(out: &mut [f32], x: &[f32], bias: &[f32])),
    }
}

/// `grad = grad · f′(x + bias)`, in place, and `grad_bias += Σ over rows of grad`, in the order of the rows.
///
/// # Shapes
/// `grad`, `x` (n, c), `bias`, `grad_bias` (c).
///
/// # Panics
/// If the lengths do not fit.
pub fn bias_bwd(activation: Activation, grad: &mut [f32], grad_bias: &mut [f32], x: &[f32], bias: &[f32]) {
    check_rows(grad, x, bias);
    assert_eq!(grad_bias.len(), bias.len(), "elements of a bias's gradient");
    match activation {
        Activation::Gelu => dispatch!(bias_bwd_kernel::<Gelu>(
            grad: &mut [f32], grad_bias: &mut [f32], x: &[f32], bias: &[f32]
        )),
        Activation::GeluTanh => dispatch!(bias_bwd_kernel::<GeluTanh>(
            grad: &mut [f32], grad_bias: &mut [f32], x: &[f32], bias: &[f32]
        )),
        Activation::Relu => dispatch!(bias_bwd_kernel::<Relu>(
            grad: &mut [f32], grad_bias: &mut [f32], x: &[f32], bias: &[f32]
        )),
        Activation::Relu2 => dispatch!(bias_bwd_kernel::<Relu2>(
            grad: &mut [f32], grad_bias: &mut [f32], x: &[f32], bias: &[f32]
        )),
    }
}

fn check_rows(out: &[f32], x: &[f32], bias: &[f32]) {
    assert_eq!(out.len(), x.len(), "elements of an activation");
    assert!(!bias.is_empty() && x.len().is_multiple_of(bias.len()), "whole rows of {}", bias.len());
}

/// A function and its derivative.
trait Pointwise {
    fn value<S: Simd>(x: f32) -> f32;
    fn slope<S: Simd>(x: f32) -> f32;
}

struct Gelu;

impl Pointwise for Gelu {
    #[inline(always)]
    fn value<S: Simd>(x: f32) -> f32 {
        x * normal_cdf::<S>(x).0
    }

    /// `Φ(x) + x · φ(x)`, with the density `φ(x) = e^(−x²/2) / √(2π)`
    #[inline(always)]
    fn slope<S: Simd>(x: f32) -> f32 {
        const DENSITY_AT_0: f32 = 0.398_942_3;
        let (cdf, e) = normal_cdf::<S>(x);
        S::mul_add(x * DENSITY_AT_0, e, cdf)
    }
}

/// With `y = 2·√(2/π)·(x + 0.044715 x³)` it is `x · σ(y)`, as `(1 + tanh(y/2)) / 2 = σ(y)`.
struct GeluTanh;

impl GeluTanh {
    /// 2·√(2/π)
    const LINEAR: f32 = 1.595_769_2;
    const CUBIC: f32 = 0.044_715 * Self::LINEAR;

    #[inline(always)]
    fn gate<S: Simd>(x: f32) -> f32 {
        let y = x * S::mul_add(x * x, Self::CUBIC, Self::LINEAR);
        1.0 / (1.0 + exp::<S>(-y))
    }
}

impl Pointwise for GeluTanh {
    #[inline(always)]
    fn value<S: Simd>(x: f32) -> f32 {
        x * Self::gate::<S>(x)
    }

    /// `σ + x · σ · (1 − σ) · y′`
    #[inline(always)]
    fn slope<S: Simd>(x: f32) -> f32 {
        let gate = Self::gate::<S>(x);
        let y_slope = S::mul_add(x * x, 3.0 * Self::CUBIC, Self::LINEAR);
        S::mul_add(x * y_slope, S::mul_add(-gate, gate, gate), gate)
    }
}

struct Relu;

impl Pointwise for Relu {
    /// Not a number stays so.
    #[inline(always)]
    fn value<S: Simd>(x: f32) -> f32 {
        if x < 0.0 { 0.0 } else { x }
    }

    /// 1 at 0, as candle has it.
    #[inline(always)]
    fn slope<S: Simd>(x: f32) -> f32 {
        if x < 0.0 { 0.0 } else { 1.0 }
    }
}

struct Relu2;

impl Pointwise for Relu2 {
    #[inline(always)]
    fn value<S: Simd>(x: f32) -> f32 {
        let positive = Relu::value::<S>(x);
        positive * positive
    }

    #[inline(always)]
    fn slope<S: Simd>(x: f32) -> f32 {
        2.0 * Relu::value::<S>(x)
    }
}

#[inline(always)]
fn fwd_kernel<S: Simd, F: Pointwise>(out: &mut [f32], x: &[f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = F::value::<S>(x);
    }
}

#[inline(always)]
fn bwd_kernel<S: Simd, F: Pointwise>(grad: &mut [f32], x: &[f32]) {
    for (grad, &x) in grad.iter_mut().zip(x) {
        *grad *= F::slope::<S>(x);
    }
}

#[inline(always)]
fn bias_fwd_kernel<S: Simd, F: Pointwise>(out: &mut [f32], x: &[f32], bias: &[f32]) {
    let c = bias.len();
    for (out, x) in out.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for ((out, &x), &bias) in out.iter_mut().zip(x).zip(bias) {
            *out = F::value::<S>(x + bias);
        }
    }
}

#[inline(always)]
fn bias_bwd_kernel<S: Simd, F: Pointwise>(grad: &mut [f32], grad_bias: &mut [f32], x: &[f32], bias: &[f32]) {
    let c = bias.len();
    for (grad, x) in grad.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        for (((grad, grad_bias), &x), &bias) in grad.iter_mut().zip(&mut *grad_bias).zip(x).zip(bias) {
            *grad *= F::slope::<S>(x + bias);
            *grad_bias += *grad;
        }
    }
}
