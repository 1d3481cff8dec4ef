use candle_core::{Device, Tensor};
use wattle_ops::adamw::cpu::{ParameterRange, State, step, step_par};
use wattle_ops::adamw::{Hyperparameters, Update, adamw_update};
use wattle_ops::bf16::{Noise, nearest, widen};
use wattle_ops::grad_norm::cpu::{clip_factor, norm, norm_par};
use wattle_ops::grad_norm::global_norm;

use wattle_ops::muon;
use wattle_ops::muon::cpu::Momentum;
use wattle_ops::verify::cpu::optimizer::{MATRICES, check_muon};

use crate::harness::*;

fn update(step: u64) -> Update {
    Update {
        hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
        learning_rate: 1e-3,
        step,
        gradient_factor: 0.7,
    }
}

#[test]
fn adamw_gives_the_bits_of_its_reference_in_f32() {
    for n in WIDTHS {
        for decays in [true, false] {
            let mut state = [normal(0, n), vec![0.0; n], vec![0.0; n]];
            let mut expected = state.clone().map(|values| Tensor::from_vec(values, n, &Device::Cpu).unwrap());
            for step_idx in 1..=5 {
                let gradient = normal(step_idx, n);
                let update = update(u64::from(step_idx));
                let gradient_tensor = Tensor::from_slice(&gradient, n, &Device::Cpu).unwrap();
                let [value, mean, mean_square] = &expected;
                expected = adamw_update(value, &gradient_tensor, mean, mean_square, decays, &update).unwrap();
                let [parameters, mean, mean_square] = &mut state;
                let ranges = [ParameterRange { range: 0..n, decays }];
                step(State { parameters, mean, mean_square }, &gradient, &ranges, &update);
            }
            for (got, expected) in state.iter().zip(&expected) {
                assert_same_bits(&format!("{n} elements"), got, &expected.to_vec1().unwrap());
            }
        }
    }
}

#[test]
fn adamw_is_its_reference_in_f64_and_moves_only_what_lies_in_a_range() {
    let n = 100_000;
    let ranges = [
        ParameterRange { range: 0..70_001, decays: true },
        ParameterRange { range: 70_010..99_999, decays: false },
    ];
    let (before, gradient) = (normal(0, n), normal(1, n));
    let run = |f: fn(State<'_>, &[f32], &[ParameterRange], &Update)| {
        let (mut parameters, mut mean, mut mean_square) = (before.clone(), vec![0.5; n], vec![0.25; n]);
        let state = State { parameters: &mut parameters, mean: &mut mean, mean_square: &mut mean_square };
        f(state, &gradient, &ranges, &update(3));
        parameters.extend(mean);
        parameters.extend(mean_square);
        parameters
    };
    let par = assert_threads_do_not_matter(|| run(step_par));
    assert_same_bits("on one thread", &par, &run(step));
    for i in (70_001..70_010).chain([99_999]) {
        assert_eq!([par[i], par[n + i], par[2 * n + i]], [before[i], 0.5, 0.25], "element {i}");
    }
    for ParameterRange { range, decays } in ranges {
        let slice = |values: &[f32]| tensor(&values[range.clone()], &[range.len()]);
        let (mean, mean_square) = (vec![0.5; n], vec![0.25; n]);
        let expected = adamw_update(
            &slice(&before),
            &slice(&gradient),
            &slice(&mean),
            &slice(&mean_square),
            decays,
            &update(3),
        );
        for (part, expected) in expected.unwrap().iter().enumerate() {
            // A few roundings, of numbers of size 1.
            let got = &par[part * n + range.start..part * n + range.end];
            assert_close("state", got, &values(expected), 3e-7, 3e-7);
        }
    }
}

#[test]
fn the_norm_is_that_of_the_reference_on_any_number_of_threads() {
    for n in [1, 31, 4096, 4097, 3_000_000] {
        let gradients = normal(0, n);
        let got = norm(&gradients);
        let expected = values(&global_norm(&[tensor(&gradients, &[n])]).unwrap())[0];
        // All in f64.
        assert!((got - expected).abs() < 1e-12 * expected, "{n}: {got}, {expected}");
        for n_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            assert_eq!(pool.install(|| norm_par(&gradients)).to_bits(), got.to_bits());
        }
    }
    assert_eq!(norm(&[]), 0.0);
}

#[test]
fn clipping_shortens_long_gradients_alone() {
    assert!((clip_factor(5.0, 1.0) - 0.2).abs() < 1e-6);
    assert_eq!(clip_factor(5.0, 10.0), 1.0);
    assert_eq!(clip_factor(0.0, 1.0), 1.0);
    assert!(clip_factor(f64::NAN, 1.0).is_nan());
    assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
}

#[test]
fn muon_is_its_reference_in_f64() {
    for shape in MATRICES {
        assert_hold(check_muon(shape, true));
        assert_hold(check_muon(shape, false));
    }
}

fn muon_update(nesterov: bool) -> muon::Update {
    muon::Update {
        hyperparameters: muon::Hyperparameters { momentum: 0.95, nesterov, ns_steps: 5 },
        learning_rate: 0.05,
        weight_decay: 0.1,
        gradient_factor: 0.7,
    }
}

#[test]
fn muon_gives_the_same_bits_on_any_number_of_threads() {
    for [n_rows, n_columns] in MATRICES {
        let n = n_rows * n_columns;
        assert_threads_do_not_matter(|| {
            let (mut parameters, mut momentum) = (normal(0, n), normal(1, n));
            let mut scratch = vec![f32::NAN; muon::cpu::scratch_len(n_rows, n_columns)];
            for update_idx in 2..4 {
                let momentum = Momentum::F32(&mut momentum);
                let state = muon::cpu::State { parameters: &mut parameters, momentum };
                let gradients = normal(update_idx, n);
                muon::cpu::step_par(state, &gradients, [n_rows, n_columns], &muon_update(true), &mut scratch);
            }
            parameters.extend(momentum);
            parameters
        });
    }
}

#[test]
fn an_update_of_muon_is_nearly_orthogonal_and_of_adamws_size() {
    for [n_rows, n_columns] in [[48, 96], [96, 48]] {
        let n = n_rows * n_columns;
        let mut scratch = vec![0.0; muon::cpu::scratch_len(n_rows, n_columns)];
        let update = muon::Update { weight_decay: 0.0, learning_rate: 1.0, ..muon_update(false) };
        let (mut parameters, mut momentum) = (vec![0.0; n], vec![0.0; n]);
        let momentum = Momentum::F32(&mut momentum);
        let state = muon::cpu::State { parameters: &mut parameters, momentum };
        muon::cpu::step_par(state, &normal(1, n), [n_rows, n_columns], &update, &mut scratch);
        let x = (tensor(&parameters, &[n_rows, n_columns]) / (0.2 * 96f64.sqrt())).unwrap();
        let x = if n_rows > n_columns { x.t().unwrap().contiguous().unwrap() } else { x };
        let gram = x.matmul(&x.t().unwrap().contiguous().unwrap()).unwrap();
        // With these coefficients, five iterations leave singular values between 0.68 and 1.14.
        let mean_square = values(&gram).iter().step_by(49).sum::<f64>() / 48.0;
        assert!((0.68f64.powi(2)..1.14f64.powi(2)).contains(&mean_square), "{mean_square}");
        let rms = (parameters.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64).sqrt();
        assert!((0.13..0.23).contains(&rms), "{rms}: AdamW's updates have some 0.2");
    }
}

#[test]
fn muon_leaves_a_matrix_without_a_gradient_to_weight_decay() {
    let (mut parameters, mut momentum) = (normal(0, 12), vec![0.0; 12]);
    let state = muon::cpu::State { parameters: &mut parameters, momentum: Momentum::F32(&mut momentum) };
    let mut scratch = vec![0.0; muon::cpu::scratch_len(3, 4)];
    muon::cpu::step_par(state, &[0.0; 12], [3, 4], &muon_update(true), &mut scratch);
    let decayed: Vec<f32> = normal(0, 12).iter().map(|x| x * (1.0 - 0.05 * 0.1) as f32).collect();
    assert_same_bits("decayed", &parameters, &decayed);
}

#[test]
fn momentum_in_bf16_moves_weights_as_in_f32_and_is_rounded_to_a_neighbour() {
    let ([n_rows, n_columns], n) = ([70, 130], 70 * 130);
    let kept: Vec<u16> = normal(1, n).into_iter().map(nearest).collect();
    let mut wide: Vec<f32> = kept.iter().map(|&x| widen(x)).collect();
    let gradients = normal(2, n);
    let run = |momentum: Momentum<'_>| {
        let mut parameters = normal(0, n);
        let mut scratch = vec![0.0; muon::cpu::scratch_len(n_rows, n_columns)];
        let state = muon::cpu::State { parameters: &mut parameters, momentum };
        muon::cpu::step_par(state, &gradients, [n_rows, n_columns], &muon_update(true), &mut scratch);
        parameters
    };
    let expected = run(Momentum::F32(&mut wide));
    let narrow = |first: usize| {
        let mut values = kept.clone();
        let noise = Noise::of_moments(3, 7);
        let weights = run(Momentum::Bf16 { values: &mut values, noise, first });
        assert_same_bits("weights", &weights, &expected);
        values
    };
    let at_0 = narrow(0);
    for (i, (&narrow, &wide)) in at_0.iter().zip(&wide).enumerate() {
        let gap = (widen(narrow) - wide).abs();
        assert!(gap < wide.abs() / 128.0, "element {i}: {wide} became {}", widen(narrow));
    }
    assert_ne!(at_0, narrow(1), "the noise is that of a place");
}

/// Values after five updates are as near to PyTorch's as those are to double precision: PyTorch orthogonalizes in bfloat16,
/// which moved a weight by 1.3e-3 at most (`scripts/make_muon_golden.py` prints it), of steps of 0.05.
const BF16_TOLERANCE: f64 = 2e-3;
/// Rounding of five updates in `f32`, of at most 1e-6 here.
const EXACT_TOLERANCE: f64 = 3e-6;

#[test]
fn muon_is_that_of_pytorch_within_the_rounding_of_bfloat16() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/muon.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for (shape, nesterov) in
        [[8, 24], [24, 8], [13, 13], [7, 11]].into_iter().flat_map(|s| [(s, true), (s, false)])
    {
        let [n_rows, n_columns] = shape;
        let name = format!("{n_rows}x{n_columns}.{}", if nesterov { "nesterov" } else { "plain" });
        let numbers = |part: &str| -> Vec<f32> {
            golden[&format!("{name}.{part}")].flatten_all().unwrap().to_vec1().unwrap()
        };
        let n = n_rows * n_columns;
        let (mut parameters, mut momentum) = (numbers("start"), vec![0.0; n]);
        let mut scratch = vec![0.0; muon::cpu::scratch_len(n_rows, n_columns)];
        let update = muon::Update {
            hyperparameters: muon::Hyperparameters { momentum: 0.9, nesterov, ns_steps: 5 },
            learning_rate: 0.05,
            weight_decay: 0.1,
            gradient_factor: 1.0,
        };
        let expected = [("torch", BF16_TOLERANCE), ("exact", EXACT_TOLERANCE)];
        let expected = expected.map(|(part, tolerance)| (part, numbers(part), tolerance));
        for (step_idx, gradients) in numbers("gradients").chunks(n).enumerate() {
            let state =
                muon::cpu::State { parameters: &mut parameters, momentum: Momentum::F32(&mut momentum) };
            muon::cpu::step_par(state, gradients, shape, &update, &mut scratch);
            for (part, weights, tolerance) in &expected {
                let expected: Vec<f64> = weights[step_idx * n..][..n].iter().map(|&x| f64::from(x)).collect();
                let what = format!("{name}.{part} after update {}", step_idx + 1);
                assert_close(&what, &parameters, &expected, *tolerance, 0.0);
            }
        }
    }
}
