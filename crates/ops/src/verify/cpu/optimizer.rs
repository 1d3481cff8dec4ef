//! The gradient's norm, AdamW and Muon.

use candle_core::Result;

use crate::adamw::cpu::{ParameterRange, State, step};
use crate::adamw::{Hyperparameters, Update, adamw_update};
use crate::grad_norm::cpu::norm;
use crate::grad_norm::global_norm;
use crate::muon;
use crate::verify::numbers::{normal, tensor, values};
use crate::verify::{Check, Subject};

/// Updates that are made one after the other.
const N_UPDATES: u32 = 5;
/// A few roundings an update, of numbers of up to 5.
const TOLERANCE: f64 = 3e-6;
/// Numbers of up to 5, and steps of some 0.01 whose directions the iteration knows to 1e-4: it enlarges the rounding of a
/// singular value near zero by 3.4445 each time. Below 1e-6 on AVX2.
const MUON_TOLERANCE: f64 = 3e-6;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for n in [1, 31, 9 * 7 * 41, 4097, 300_000] {
        all.push(check_norm(n)?);
        all.extend(check_adamw(n, true)?);
        all.extend(check_adamw(n, false)?);
    }
    for shape in MATRICES {
        all.extend(check_muon(shape, true)?);
        all.extend(check_muon(shape, false)?);
    }
    Ok(all)
}

/// Rows and columns: wide, tall, square, a row, and a side that is no multiple of a block of rows.
pub const MATRICES: [[usize; 2]; 6] = [[1, 7], [9, 41], [41, 9], [31, 31], [70, 130], [513, 128]];

/// The norm of `n` numbers, which is summed in `f64`: no more than its rounding to `f32` here.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check_norm(n: usize) -> Result<Check> {
    let gradients = normal(0, n);
    let expected = values(&global_norm(&[tensor(&gradients, &[n])?])?)?;
    let subject = Subject::f32("grad_norm", format!("({n})"));
    Ok(subject.compare("out", &[norm(&gradients) as f32], &expected, expected[0] * 6e-8))
}

/// Five updates of `n` parameters.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check_adamw(n: usize, decays: bool) -> Result<Vec<Check>> {
    let subject = Subject::f32("adamw", format!("({n}){}", if decays { ", decaying" } else { "" }));
    let mut state = [normal(0, n), vec![0.0; n], vec![0.0; n]];
    let [value, mean, mean_square] = &state;
    let mut expected = [tensor(value, &[n])?, tensor(mean, &[n])?, tensor(mean_square, &[n])?];
    for update_idx in 1..=N_UPDATES {
        let gradient = normal(update_idx, n);
        let update = update(u64::from(update_idx));
        let [value, mean, mean_square] = &expected;
        expected = adamw_update(value, &tensor(&gradient, &[n])?, mean, mean_square, decays, &update)?;
        let [parameters, mean, mean_square] = &mut state;
        let ranges = [ParameterRange { range: 0..n, decays }];
        step(State { parameters, mean, mean_square }, &gradient, &ranges, &update);
    }
    ["value", "mean", "mean_square"]
        .into_iter()
        .zip(state.iter().zip(&expected))
        .map(|(output, (got, expected))| Ok(subject.compare(output, got, &values(expected)?, TOLERANCE)))
        .collect()
}

/// Five updates of a matrix by Muon, with Nesterov's momentum or without.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check_muon([n_rows, n_columns]: [usize; 2], nesterov: bool) -> Result<Vec<Check>> {
    let (shape, n) = ([n_rows, n_columns], n_rows * n_columns);
    let kind = if nesterov { ", nesterov" } else { "" };
    let subject = Subject::f32("muon", format!("({n_rows}, {n_columns}){kind}"));
    let mut state = [normal(0, n), vec![0.0; n]];
    let mut expected = [tensor(&state[0], &shape)?, tensor(&state[1], &shape)?];
    let mut scratch = vec![0.0; muon::cpu::scratch_len(n_rows, n_columns)];
    let update = muon::Update {
        hyperparameters: muon::Hyperparameters { momentum: 0.95, nesterov, ns_steps: 5 },
        learning_rate: 0.05,
        weight_decay: 0.1,
        gradient_factor: 0.7,
    };
    for update_idx in 1..=N_UPDATES {
        let gradient = normal(update_idx, n);
        let [value, momentum] = &expected;
        expected = muon::muon_update(value, &tensor(&gradient, &shape)?, momentum, &update)?;
        let [parameters, momentum] = &mut state;
        let state = muon::cpu::State { parameters, momentum: muon::cpu::Momentum::F32(momentum) };
        muon::cpu::step_par(state, &gradient, shape, &update, &mut scratch);
    }
    ["value", "momentum"]
        .into_iter()
        .zip(state.iter().zip(&expected))
        .map(|(output, (got, expected))| Ok(subject.compare(output, got, &values(expected)?, MUON_TOLERANCE)))
        .collect()
}

fn update(step: u64) -> Update {
    Update {
        hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
        learning_rate: 1e-3,
        step,
        gradient_factor: 0.7,
    }
}
