use candle_core::{Device, Tensor};
use wattle_ops::adamw::cpu::{ParameterRange, State, step, step_par};
use wattle_ops::adamw::{Hyperparameters, Update, adamw_update};
use wattle_ops::grad_norm::cpu::{clip_factor, norm, norm_par};
use wattle_ops::grad_norm::global_norm;

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
