//! The kernels of the CPU at the SIMD level at hand.

pub mod activation;
pub mod attention;
pub mod classifier;
pub mod dropout;
pub mod embedding;
pub mod layer_norm;
pub mod linear;
pub mod lora;
pub mod optimizer;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

use candle_core::Result;

use super::Check;

/// All operations at shapes around those of vectors, at odd ones, and at those of real models.
///
/// # Errors
/// If a tensor operation of a reference fails.
pub fn checks() -> Result<Vec<Check>> {
    let ops: [fn() -> Result<Vec<Check>>; 12] = [
        embedding::checks,
        layer_norm::checks,
        rms_norm::checks,
        linear::checks,
        lora::checks,
        rope::checks,
        attention::checks,
        activation::checks,
        swiglu::checks,
        dropout::checks,
        classifier::checks,
        optimizer::checks,
    ];
    let mut all = Vec::new();
    for op in ops {
        all.extend(op()?);
    }
    Ok(all)
}

/// Row widths around those of vectors, an odd one, and one of a real model.
pub const WIDTHS: [usize; 10] = [1, 15, 16, 17, 31, 32, 33, 41, 130, 768];

/// What rounding can do to a sum of `k` terms of size 1, each rounded to `f32`: partial sums grow as √i, each
/// addition rounds by up to 2⁻²⁴ of them, and the roundings add up as a random walk, to 2⁻²⁴ · k/√2. Eight times
/// that covers the largest of a million elements.
pub(super) fn sum_tolerance(k: usize) -> f64 {
    8.0 * 2f64.powi(-24) * (k as f64 + 16.0) / std::f64::consts::SQRT_2
}
