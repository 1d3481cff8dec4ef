//! Products with the weights of blocks: of `f32`, or of numbers that were rounded to eight bits, as a board multiplies
//! them. Sums are in `f32` either way.
//!
//! A tensor in eight bits has one scale for the whole micro-batch, so a micro-batch is then one slice, and its products
//! are cut into rows here.

use rayon::prelude::*;
use wattle_ops::Store;
use wattle_ops::fp8::{self, Format};
use wattle_ops::linear::cpu as linear;

use super::forward::Passes;
use crate::engine::network::{Linear, Network};

/// Rows that one thread takes at once: each such product packs the whole weight. One of fewer than 16 is summed in another
/// order.
const ROWS: usize = 256;

impl Passes<'_> {
    /// `out = x·W + bias`, with the bias only if `with_bias`.
    pub(super) fn linear_fwd(&self, out: &mut [f32], x: &[f32], linear: &Linear, with_bias: bool) {
        let (weight, bias) = linear.of(self.weights);
        let (bias, shape) = (bias.filter(|_| with_bias), linear.shape());
        if !self.is_fp8 {
            linear::fwd(out, x, weight, bias, &shape);
            if let Some(adapters) = &self.adapters {
                adapters.fwd(out, x, linear, self.first);
            }
            return;
        }
        let x = rounded(x, Format::E4m3);
        let parts = out.par_chunks_mut(ROWS * linear.n_out).zip(x.par_chunks(ROWS * linear.n_in));
        parts.for_each(|(out, x)| linear::fwd(out, x, weight, bias, &shape));
    }

    /// `grad_x = grad_out·Wᵀ`, or added to what is there.
    pub(super) fn linear_bwd_x(&self, grad_x: &mut [f32], store: Store, grad_out: &[f32], linear: &Linear) {
        let (weight, shape) = (linear.of(self.weights).0, linear.shape());
        if !self.is_fp8 {
            linear::bwd_x(grad_x, store, grad_out, weight, &shape);
            if let Some(adapters) = &self.adapters {
                adapters.bwd_x(grad_x, grad_out, linear, self.first);
            }
            return;
        }
        let grad_out = rounded(grad_out, Format::E5m2);
        let parts = grad_x.par_chunks_mut(ROWS * linear.n_in).zip(grad_out.par_chunks(ROWS * linear.n_out));
        parts.for_each(|(grad_x, grad_out)| linear::bwd_x(grad_x, store, grad_out, weight, &shape));
    }
}

/// `grad_weight += xᵀ·grad_out`, of both rounded to eight bits.
pub(super) fn fp8_weight_gradient(
    grad_weight: &mut [f32],
    grad_out: &[f32],
    x: &[f32],
    shape: &linear::Shape,
) {
    let (grad_out, x) = (rounded(grad_out, Format::E5m2), rounded(x, Format::E4m3));
    linear::bwd_weight_par(grad_weight, &grad_out, &x, shape);
}

/// Makes `out` the `weights`, those of the blocks' products rounded to eight bits.
pub(super) fn round_weights(out: &mut [f32], weights: &[f32], network: &Network) {
    out.copy_from_slice(weights);
    for linear in network.blocks.iter().flat_map(|block| block.linears()) {
        let range = linear.weight_range();
        fp8::cpu::round_par(&mut out[range.clone()], &weights[range], Format::E4m3);
    }
}

fn rounded(x: &[f32], format: Format) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    fp8::cpu::round_par(&mut out, x, format);
    out
}
