//! CPU kernels at the two shapes of the project's measurements, on one thread: `cargo bench -p wattle-ops`.
//!
//! Each kernel is held against its reference first, then timed: the median of its repetitions in seconds of
//! the thread's own time, with the first and the third quartile. The end of each table adds up one training step.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first fault")]

use candle_core::{DType, Device, Tensor};
use rustix::time::{ClockId, clock_gettime};
use wattle_ops::adamw::cpu::{ParameterRange, State};
use wattle_ops::adamw::{self, Hyperparameters, Update};
use wattle_ops::attention::cpu::{QkvLayout, Saved};
use wattle_ops::classifier::cpu::Input;
use wattle_ops::layer_norm::cpu::{Addend, Norm, Stats};
use wattle_ops::linear::cpu::Layout;
use wattle_ops::rope::{Rotary, Scaling};
use wattle_ops::{Activation, Dropout, Store, activation, attention, classifier, dropout, embedding};
use wattle_ops::{grad_norm, layer_norm, linear, rms_norm, rope, swiglu};
use wattle_random::{Purpose, Stream};

struct Model {
    name: &'static str,
    n_layers: usize,
    n_heads: usize,
    c: usize,
    t: usize,
    b: usize,
    v: usize,
}

fn main() {
    println!("SIMD level {:?}, one thread", wattle_ops::simd::level());
    for model in [
        Model { name: "small", n_layers: 4, n_heads: 4, c: 128, t: 64, b: 12, v: 65 },
        Model { name: "big", n_layers: 6, n_heads: 6, c: 384, t: 256, b: 8, v: 65 },
    ] {
        let mut table = Table::new(&model);
        linears(&model, &mut table);
        attentions(&model, &mut table);
        norms(&model, &mut table);
        activations(&model, &mut table);
        classifiers(&model, &mut table);
        others(&model, &mut table);
        table.step();
    }
}

/// Times, and what they add up to in a step.
struct Table {
    parts: Vec<(&'static str, f64)>,
}

/// What is counted in a second.
enum Work {
    Flops(f64),
    Bytes(f64),
}

impl Table {
    fn new(model: &Model) -> Self {
        let &Model { name, n_layers, n_heads, c, t, b, .. } = model;
        println!("\n{name}: {n_layers} layers, {n_heads} heads, width {c}, {b} × {t} tokens");
        Self { parts: Vec::new() }
    }

    /// Times `f`, prints it, and counts it `times` times into `part` of a step.
    fn time(&mut self, what: &str, part: &'static str, times: usize, work: Work, mut f: impl FnMut()) {
        let start = cpu_seconds();
        f();
        let n = (0.2 / (cpu_seconds() - start)).clamp(5.0, 2000.0) as usize;
        let mut seconds: Vec<f64> = (0..n)
            .map(|_| {
                let start = cpu_seconds();
                f();
                cpu_seconds() - start
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let [low, median, high] = [n / 4, n / 2, n * 3 / 4].map(|i| seconds[i]);
        let rate = match work {
            Work::Flops(flops) => format!("{:7.1} GFLOP/s", flops / median / 1e9),
            Work::Bytes(bytes) => format!("{:7.1} GB/s", bytes / median / 1e9),
        };
        println!("  {what:34} {:9.1} µs ({:.1}–{:.1}) {rate}", median * 1e6, low * 1e6, high * 1e6);
        self.parts.push((part, median * times as f64));
    }

    fn step(&self) {
        let total: f64 = self.parts.iter().map(|(_, seconds)| seconds).sum();
        println!("  one step on one thread: {:.2} ms", total * 1e3);
        for part in ["matrix products", "attention", "norms", "activation", "loss", "optimizer", "embedding"]
        {
            let seconds: f64 = self.parts.iter().filter(|(p, _)| *p == part).map(|(_, s)| s).sum();
            println!("    {part:16} {:8.2} ms {:5.1} %", seconds * 1e3, 100.0 * seconds / total);
        }
    }
}

/// Time that this thread has run: what other programs take on a shared machine does not count.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn normal(idx: u32, len: usize) -> Vec<f32> {
    let mut values = vec![0f32; len];
    Stream::new(5, Purpose::Init { parameter_idx: idx }, 0).fill_normal(0, &mut values);
    values
}

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

fn check(what: &str, got: &[f32], expected: &Tensor) {
    let expected: Vec<f64> = expected.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
        // Sums of up to 2,048 products of standard normal numbers.
        let bound = 3e-4 * (1.0 + expected.abs());
        assert!((f64::from(got) - expected).abs() < bound, "{what}, {i}: {got}, expected {expected}");
    }
}

fn linears(model: &Model, table: &mut Table) {
    let &Model { c, t, b, n_layers, .. } = model;
    let n = b * t;
    for (what, n_in, n_out) in
        [("qkv", c, 3 * c), ("attention out", c, c), ("mlp in", c, 4 * c), ("mlp out", 4 * c, c)]
    {
        let shape = linear::cpu::Shape { n_in, n_out, layout: Layout::InputFirst };
        let (x, weight, grad_out) = (normal(0, n * n_in), normal(1, n_in * n_out), normal(2, n * n_out));
        let (mut out, mut grad_x, mut grad_w) =
            (vec![0.0; n * n_out], vec![0.0; n * n_in], vec![0.0; n_in * n_out]);
        linear::cpu::fwd(&mut out, &x, &weight, None, &shape);
        let (x_f64, weight_f64) = (tensor(&x, &[1, n, n_in]), tensor(&weight, &[n_in, n_out]));
        check(what, &out, &linear::linear(&x_f64, &weight_f64, None).unwrap());

        let flops = || Work::Flops((2 * n * n_in * n_out) as f64);
        let part = "matrix products";
        table.time(&format!("linear {what} fwd"), part, n_layers, flops(), || {
            linear::cpu::fwd(&mut out, &x, &weight, None, &shape);
        });
        table.time(&format!("linear {what} bwd x"), part, n_layers, flops(), || {
            linear::cpu::bwd_x(&mut grad_x, Store::Overwrite, &grad_out, &weight, &shape);
        });
        table.time(&format!("linear {what} bwd weight"), part, n_layers, flops(), || {
            linear::cpu::bwd_weight(&mut grad_w, &grad_out, &x, &shape);
        });
        let mut grad_bias = vec![0.0; n_out];
        table.time(&format!("linear {what} bwd bias"), "-", 0, Work::Bytes((4 * n * n_out) as f64), || {
            linear::cpu::bwd_bias(&mut grad_bias, &grad_out);
        });
    }
}

fn attentions(model: &Model, table: &mut Table) {
    let &Model { c, t, b, n_heads, n_layers, .. } = model;
    let kind = attention::Kind::Causal;
    let shape = attention::cpu::Shape { t, n_heads, n_kv_heads: n_heads, head_width: c / n_heads, kind };
    let layout = QkvLayout::fused(&shape);
    let (qkv, grad_out) = (normal(0, b * t * 3 * c), normal(1, b * t * c));
    let (mut out, mut lse) = (vec![0.0; b * t * c], vec![0.0; b * n_heads * t]);
    let mut grad = vec![0.0; qkv.len()];
    let mut scratch = vec![0.0; shape.fwd_scratch_len().max(shape.bwd_scratch_len())];
    attention::cpu::fwd(&mut out, &mut lse, &qkv, &layout, &shape, None, None, &mut scratch);
    let heads = |part: usize| {
        let qkv = tensor(&qkv[..t * 3 * c], &[1, t, 3 * c]).narrow(2, part * c, c).unwrap();
        qkv.reshape((1, t, n_heads, c / n_heads)).unwrap().transpose(1, 2).unwrap()
    };
    let mask = attention::causal_mask(t, &Device::Cpu).unwrap();
    let expected =
        attention::scaled_dot_product_attention(&heads(0), &heads(1), &heads(2), &mask, None).unwrap();
    check("attention", &out[..t * c], &expected.transpose(1, 2).unwrap().contiguous().unwrap());

    let stream = Stream::new(1, Purpose::Dropout { site_idx: 0 }, 1);
    let dropout = Dropout { probability: 0.1, stream, first_sequence: 0 };
    // The lower triangle alone: two products forward, five backward.
    let product = (b * t * (t + 1) * c) as f64;
    for (what, dropout, times) in [("", None, n_layers), (" with dropout", Some(&dropout), 0)] {
        let what = |pass: &str| format!("attention {pass}{what}");
        table.time(&what("fwd"), "attention", times, Work::Flops(2.0 * product), || {
            attention::cpu::fwd(&mut out, &mut lse, &qkv, &layout, &shape, None, dropout, &mut scratch);
        });
        table.time(&what("bwd"), "attention", times, Work::Flops(5.0 * product), || {
            let saved = Saved { out: &out, log_sum_exp: &lse, qkv: &qkv };
            attention::cpu::bwd(&mut grad, &grad_out, saved, &layout, &shape, None, dropout, &mut scratch);
        });
    }
}

fn norms(model: &Model, table: &mut Table) {
    let &Model { c, t, b, n_layers, .. } = model;
    let n = b * t;
    let (x, y, grad_out) = (normal(0, n * c), normal(1, n * c), normal(2, n * c));
    let weight = normal(3, c);
    let norm = Norm { weight: &weight, bias: None, eps: 1e-5 };
    let (mut sum, mut out, mut grad_x) = (vec![0.0; n * c], vec![0.0; n * c], vec![0.0; n * c]);
    let (mut mean, mut rstd, mut grad_weight) = (vec![0.0; n], vec![0.0; n], vec![0.0; c]);
    layer_norm::cpu::fwd(&mut out, Stats { mean: &mut mean, rstd: &mut rstd }, &x, &norm);
    let (x_f64, weight_f64) = (tensor(&x, &[n, c]), tensor(&weight, &[c]));
    check("layer_norm", &out, &layer_norm::layer_norm(&x_f64, &weight_f64, None, 1e-5).unwrap());
    let rows = |n_rows: usize| Work::Bytes((n_rows * n * c * 4) as f64);

    table.time("layer_norm fwd", "norms", 0, rows(2), || {
        layer_norm::cpu::fwd(&mut out, Stats { mean: &mut mean, rstd: &mut rstd }, &x, &norm);
    });
    let n_norms = 2 * n_layers + 1;
    table.time("layer_norm residual fwd", "norms", n_norms, rows(4), || {
        let stats = Stats { mean: &mut mean, rstd: &mut rstd };
        let addend = Addend { rows: &y, bias: None };
        layer_norm::cpu::residual_fwd(&mut sum, &mut out, stats, &x, &addend, &norm);
    });
    table.time("layer_norm bwd", "norms", n_norms, rows(4), || {
        let saved = layer_norm::cpu::Saved { x: &x, mean: &mean, rstd: &rstd };
        let grad_weight = &mut grad_weight;
        layer_norm::cpu::bwd(&mut grad_x, Store::Accumulate, grad_weight, None, &grad_out, saved, &weight);
    });

    let norm = rms_norm::cpu::Norm { weight: &weight, eps: 1e-5 };
    rms_norm::cpu::fwd(&mut out, &mut rstd, &x, &norm);
    check("rms_norm", &out, &rms_norm::rms_norm(&x_f64, &weight_f64, 1e-5).unwrap());
    table.time("rms_norm fwd", "-", 0, rows(2), || rms_norm::cpu::fwd(&mut out, &mut rstd, &x, &norm));
    table.time("rms_norm bwd", "-", 0, rows(4), || {
        let saved = rms_norm::cpu::Saved { x: &x, rstd: &rstd };
        rms_norm::cpu::bwd(&mut grad_x, Store::Accumulate, &mut grad_weight, &grad_out, saved, &weight);
    });
}

fn activations(model: &Model, table: &mut Table) {
    let &Model { c, t, b, n_layers, .. } = model;
    let len = b * t * 4 * c;
    let (x, y, bias) = (normal(0, len), normal(1, len), normal(3, 4 * c));
    let (mut out, mut grad) = (vec![0.0; len], normal(2, len));
    let bytes = |n: usize| Work::Bytes((n * len * 4) as f64);
    let kinds = [
        (Activation::Gelu, 0),
        (Activation::GeluTanh, n_layers),
        (Activation::Relu, 0),
        (Activation::Relu2, 0),
    ];
    for (kind, times) in kinds {
        activation::cpu::fwd(kind, &mut out, &x);
        check("activation", &out, &kind.apply(&tensor(&x, &[len])).unwrap());
        table.time(&format!("{kind:?} fwd"), "activation", times, bytes(2), || {
            activation::cpu::fwd(kind, &mut out, &x);
        });
        table.time(&format!("{kind:?} bwd"), "activation", times, bytes(3), || {
            // Slopes are below 1.13 in size, so that the gradient neither grows nor stays: fill it anew.
            grad.copy_from_slice(&y);
            activation::cpu::bwd(kind, &mut grad, &x);
        });
    }
    let mut grad_bias = vec![0.0; 4 * c];
    table.time("GeluTanh with bias fwd", "-", 0, bytes(2), || {
        activation::cpu::bias_fwd(Activation::GeluTanh, &mut out, &x, &bias);
    });
    table.time("GeluTanh with bias bwd", "-", 0, bytes(3), || {
        grad.copy_from_slice(&y);
        activation::cpu::bias_bwd(Activation::GeluTanh, &mut grad, &mut grad_bias, &x, &bias);
    });
    swiglu::cpu::fwd(&mut out, &x, &y);
    check("swiglu", &out, &swiglu::swiglu(&tensor(&x, &[len]), &tensor(&y, &[len])).unwrap());
    table.time("swiglu fwd", "-", 0, bytes(3), || swiglu::cpu::fwd(&mut out, &x, &y));
    let mut grad_up = vec![0.0; len];
    table.time("swiglu bwd", "-", 0, bytes(5), || {
        swiglu::cpu::bwd(&mut grad, &mut grad_up, &out, &x, &y);
    });
}

fn classifiers(model: &Model, table: &mut Table) {
    let &Model { c, t, b, v, .. } = model;
    let n = b * t;
    for (v, times) in [(v, 1), (10_000, 0)] {
        let shape = classifier::cpu::Shape { n_in: c, n_vocab: v };
        let (x, weight) = (normal(0, n * c), normal(1, v * c));
        let targets: Vec<u32> = (0..n).map(|row| (row * 7 % v) as u32).collect();
        let input =
            Input { x: &x, weight: &weight, targets: &targets, target_weights: None, logit_cap: None };
        let mut scratch = vec![0.0; shape.scratch_len(n)];
        let (mut losses, mut grad_x, mut grad_weight) = (vec![0.0; n], vec![0.0; n * c], vec![0.0; v * c]);
        classifier::cpu::fwd(&mut losses, &input, &shape, &mut scratch);
        let targets_tensor = Tensor::from_slice(&targets, n, &Device::Cpu).unwrap();
        let expected =
            classifier::classifier_loss(&tensor(&x, &[n, c]), &tensor(&weight, &[v, c]), &targets_tensor);
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let expected: f64 = expected.unwrap().to_scalar().unwrap();
        assert!((sum - expected).abs() < 1e-5 * expected, "classifier: {sum}, expected {expected}");

        let product = (2 * n * c * v) as f64;
        table.time(&format!("classifier fwd, {v} tokens"), "-", 0, Work::Flops(product), || {
            classifier::cpu::fwd(&mut losses, &input, &shape, &mut scratch);
        });
        let what = format!("classifier fwd and bwd, {v} tokens");
        table.time(&what, "loss", times, Work::Flops(3.0 * product), || {
            let grads = (&mut grad_x, &mut grad_weight);
            classifier::cpu::fwd_bwd(grads.0, grads.1, &mut losses, &input, 1e-3, &shape, &mut scratch);
        });
    }
}

fn others(model: &Model, table: &mut Table) {
    let &Model { c, t, b, v, n_layers, n_heads, .. } = model;
    let (n, n_parameters) = (b * t, 12 * n_layers * c * c + (v + t) * c);
    let tokens: Vec<u32> = (0..n).map(|row| (row * 7 % v) as u32).collect();
    let (tokens_table, positions) = (normal(0, v * c), normal(1, t * c));
    let mut x = vec![0.0; n * c];
    let rows = |k: usize| Work::Bytes((k * n * c * 4) as f64);
    embedding::cpu::fwd(&mut x, &tokens, &tokens_table, Some(&positions), None, t, c);
    let expected = embedding::embedding(
        &Tensor::from_slice(&tokens, (b, t), &Device::Cpu).unwrap(),
        &tensor(&tokens_table, &[v, c]),
        &tensor(&positions, &[t, c]),
    );
    check("embedding", &x, &expected.unwrap());
    table.time("embedding fwd", "embedding", 1, rows(2), || {
        embedding::cpu::fwd(&mut x, &tokens, &tokens_table, Some(&positions), None, t, c);
    });
    let (mut grad_tokens, mut grad_positions) = (vec![0.0; v * c], vec![0.0; t * c]);
    table.time("embedding bwd", "embedding", 1, rows(2), || {
        embedding::cpu::bwd(&mut grad_tokens, Some(&mut grad_positions), &x, &tokens, None, t, c);
    });

    let rotary = Rotary::new(10_000.0, c / n_heads, t, Scaling::None);
    let heads = wattle_ops::HeadRows { offset: 0, row_stride: c };
    let (cos, sin) = (rotary.cos(), rotary.sin());
    let x_bhtd = tensor(&x, &[b, t, n_heads, c / n_heads]).transpose(1, 2).unwrap();
    let half = [t, c / n_heads / 2];
    let expected = rope::rope(&x_bhtd, &tensor(cos, &half), &tensor(sin, &half)).unwrap();
    rope::cpu::fwd(&mut x, heads, n, n_heads, t, None, &rotary);
    check("rope", &x, &expected.transpose(1, 2).unwrap().contiguous().unwrap());
    table.time("rope fwd", "-", 0, rows(2), || rope::cpu::fwd(&mut x, heads, n, n_heads, t, None, &rotary));
    let stream = Stream::new(1, Purpose::Dropout { site_idx: 0 }, 1);
    let dropped = Dropout { probability: 0.1, stream, first_sequence: 0 };
    table.time("dropout fwd", "-", 0, rows(2), || dropout::cpu::fwd(&mut x, t * c, &dropped));

    let gradients = normal(2, n_parameters);
    let [mut parameters, mut mean, mut mean_square] = [0, 1, 2].map(|_| vec![0.0; n_parameters]);
    let ranges = [ParameterRange { range: 0..n_parameters, decays: true }];
    let update = Update {
        hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
        learning_rate: 1e-3,
        step: 10,
        gradient_factor: 0.5,
    };
    table.time("grad_norm", "optimizer", 1, Work::Bytes((4 * n_parameters) as f64), || {
        std::hint::black_box(grad_norm::cpu::norm(&gradients));
    });
    table.time("adamw", "optimizer", 1, Work::Bytes((28 * n_parameters) as f64), || {
        let state = State { parameters: &mut parameters, mean: &mut mean, mean_square: &mut mean_square };
        adamw::cpu::step(state, &gradients, &ranges, &update);
    });
}
