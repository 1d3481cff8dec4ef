//! Kernels at every SIMD level that this machine has. The only test of its process: the level is global.

use wattle_ops::attention::cpu::{QkvLayout, Saved, Shape};
use wattle_ops::layer_norm::cpu::{Norm, Stats};
use wattle_ops::simd::{Level, level, limit};
use wattle_ops::{Activation, activation, attention, layer_norm, linear, swiglu};
use wattle_random::{Purpose, Stream};

fn normal(idx: u32, len: usize) -> Vec<f32> {
    let mut values = vec![0f32; len];
    Stream::new(5, Purpose::Init { parameter_idx: idx }, 0).fill_normal(0, &mut values);
    values
}

/// Results of kernels of each sort: vectors element by element, reductions, small products.
fn results() -> Vec<f32> {
    let (x, y, weight) = (normal(0, 9 * 41), normal(1, 9 * 41), normal(2, 41));
    let mut all = Vec::new();
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let mut out = vec![0.0; x.len()];
        activation::cpu::fwd(kind, &mut out, &x);
        all.extend_from_slice(&out);
        activation::cpu::bwd(kind, &mut out, &y);
        all.extend_from_slice(&out);
    }
    let mut out = vec![0.0; x.len()];
    swiglu::cpu::fwd(&mut out, &x, &y);
    all.extend_from_slice(&out);
    let (mut mean, mut rstd) = ([0.0; 9], [0.0; 9]);
    let norm = Norm { weight: &weight, bias: None, eps: 1e-5 };
    layer_norm::cpu::fwd(&mut out, Stats { mean: &mut mean, rstd: &mut rstd }, &x, &norm);
    all.extend_from_slice(&out);
    let mut sums = vec![0.0; 41];
    linear::cpu::bwd_bias(&mut sums, &x);
    all.extend(sums);

    let shape = Shape { t: 45, n_heads: 2, n_kv_heads: 1, head_width: 19 };
    let layout = QkvLayout::fused(&shape);
    let (qkv, grad_out) = (normal(3, 45 * 76), normal(4, 45 * 38));
    let mut scratch = vec![0.0; shape.bwd_scratch_len().max(shape.fwd_scratch_len())];
    let (mut out, mut lse, mut grad) = (vec![0.0; 45 * 38], vec![0.0; 90], vec![0.0; qkv.len()]);
    attention::cpu::fwd(&mut out, &mut lse, &qkv, &layout, &shape, None, &mut scratch);
    let saved = Saved { out: &out, log_sum_exp: &lse, qkv: &qkv };
    attention::cpu::bwd(&mut grad, &grad_out, saved, &layout, &shape, None, &mut scratch);
    all.extend(out);
    all.extend(grad);
    all
}

#[test]
fn every_level_gives_the_same_but_for_rounding() {
    limit(Level::Baseline);
    assert_eq!(level(), Level::Baseline);
    let baseline = results();
    for highest in [Level::Avx2, Level::Avx512] {
        limit(highest);
        assert!(level() <= highest);
        // With one rounding less in each multiplication and addition; gradients of attention are sums of 45.
        for (i, (a, b)) in results().iter().zip(&baseline).enumerate() {
            assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{highest:?}, element {i}: {a}, baseline {b}");
        }
    }
}
