//! The gradient's norm, AdamW, Muon, and results. They are in `f32` whatever the type at hand, but for the working copy.

use std::ops::Range;

use super::bench::{Bench, round};
use crate::Store;
use crate::adamw::cpu::{Bf16State, ParameterRange, State, step, step_bf16_par};
use crate::adamw::{Hyperparameters, Update, board as adamw};
use crate::bf16::{GradientNoise, Noise, widen};
use crate::board::{BoardError, DeviceTensor, Elem, GradNorm, StepResult, StepState};
use crate::grad_norm::board as grad_norm;
use crate::grad_norm::cpu;
use crate::grad_sum::board as grad_sum;
use crate::grad_sum::cpu::round_par;
use crate::muon::{self, board::ScratchLens};
use crate::results::board as results;
use crate::verify::Check;
use crate::verify::numbers::normal;

const CLIP_NORM: f64 = 1.0;
/// What numbers are rounded at random by.
const SEED: u64 = 0x1234_5678_9abc;

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for n in [1, 31, 9 * 7 * 41, 70_001] {
        all.extend(update(bench, n)?);
        for [moments, gradients] in [[Elem::Bf16, Elem::F32], [Elem::F32, Elem::Bf16], [Elem::Bf16; 2]] {
            all.extend(narrow(bench, n, moments, gradients)?);
        }
        all.extend(sums(bench, n)?);
    }
    for shape in MATRICES {
        for moments in [Elem::F32, Elem::Bf16] {
            for gradients in [Elem::F32, Elem::Bf16] {
                all.extend(update_matrix(bench, shape, moments, gradients)?);
            }
        }
    }
    all.extend(halt(bench)?);
    all.extend(ranks(bench)?);
    Ok(all)
}

fn numbers(update_idx: u32, norm: f64) -> Update {
    Update {
        hyperparameters: Hyperparameters { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 },
        learning_rate: 1e-3,
        step: u64::from(update_idx),
        gradient_factor: cpu::clip_factor(norm, CLIP_NORM),
    }
}

/// Three updates with clipping, of which two thirds of the elements decay: the same bits as on the CPU.
fn update(bench: &mut Bench<'_>, n: usize) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let n_decaying = n * 2 / 3;
    let ranges = [
        ParameterRange { range: 0..n_decaying, decays: true },
        ParameterRange { range: n_decaying..n, decays: false },
    ];
    let mut weights = normal(0, n);
    let (mut mean, mut mean_square) = (vec![0.0; n], vec![0.0; n]);
    let (w_ptr, m_ptr, v_ptr) =
        (bench.put_f32(&weights)?, bench.put_f32(&mean)?, bench.put_f32(&mean_square)?);
    let working = (bench.elem == Elem::Bf16).then(|| bench.room(n)).transpose()?;
    let (norm_ptr, state_ptr) = (bench.room_of::<GradNorm>(1)?, bench.room_of::<StepState>(1)?);
    bench.board.zero(norm_ptr.bytes(), GradNorm::BYTES)?;
    let scratch = bench.room_of(grad_norm::SCRATCH_LEN)?;
    let subject = bench.subject("adamw", format!("({n})"));
    let mut checks = Vec::new();
    for update_idx in 1..=3 {
        let gradients = normal(update_idx, n);
        let g_ptr = bench.put_f32(&gradients)?;
        let norm = cpu::norm(&gradients);
        let update = numbers(update_idx, norm);
        bench.board.write(state_ptr.bytes(), &StepState::new(&update, 0).to_bytes())?;
        grad_norm::norm(bench.board, norm_ptr, &[(g_ptr.into(), n)], CLIP_NORM, scratch)?;
        let mut bytes = [0; GradNorm::BYTES];
        bench.board.read(norm_ptr.bytes(), &mut bytes)?;
        let got = GradNorm::from_bytes(&bytes).norm;
        let norm_subject = bench.subject("grad_norm", format!("({n})"));
        checks.push(norm_subject.compare("out", &[got as f32], &[norm], norm * 6e-8));
        adamw::step(
            bench.board,
            &adamw::Step {
                weights: w_ptr,
                mean: m_ptr.into(),
                mean_square: v_ptr.into(),
                seed: 0,
                working,
                gradients: g_ptr.into(),
                n,
                first: 0,
                n_decaying,
                hyperparameters: update.hyperparameters,
                state: state_ptr,
                norm: norm_ptr,
            },
        )?;
        let state = State { parameters: &mut weights, mean: &mut mean, mean_square: &mut mean_square };
        step(state, &gradients, &ranges, &update);
    }
    // The norm's sum is in another order: its factor can differ by a rounding, and weights by as little.
    for (output, ptr, expected) in
        [("weights", w_ptr, &weights), ("mean", m_ptr, &mean), ("mean_square", v_ptr, &mean_square)]
    {
        checks.push(bench.check_f32(&subject, output, ptr, expected, 1)?);
    }
    if let Some(working) = working {
        let masters = bench.get_f32(w_ptr, n)?;
        let rounded: Vec<f32> = masters.iter().map(|&x| round(x, Elem::Bf16)).collect();
        checks.push(bench.check(&subject, "working", working, &rounded, 0.0, 0)?);
    }
    Ok(checks)
}

/// Gradients that `elem` holds, whatever the type at hand.
fn gradients_of(
    bench: &mut Bench<'_>,
    update_idx: u32,
    n: usize,
    elem: Elem,
) -> Result<(Vec<f32>, DeviceTensor), BoardError> {
    let at_hand = std::mem::replace(&mut bench.elem, elem);
    let gradients = bench.normal(update_idx, n);
    bench.elem = at_hand;
    gradients
}

/// Three updates with moments or gradients in bfloat16, each in two parts as two ranks make it: the same bits as on the CPU,
/// where nothing is clipped.
fn narrow(
    bench: &mut Bench<'_>,
    n: usize,
    moments: Elem,
    of_gradients: Elem,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let n_decaying = n * 2 / 3;
    let ranges = [
        ParameterRange { range: 0..n_decaying, decays: true },
        ParameterRange { range: n_decaying..n, decays: false },
    ];
    let mut weights = normal(0, n);
    let (mut mean, mut mean_square) = (vec![0f32; n], vec![0f32; n]);
    let (mut narrow_mean, mut narrow_mean_square) = (vec![0u16; n], vec![0u16; n]);
    let w_ptr = bench.put_f32(&weights)?;
    let [m_ptr, v_ptr] = [bench.take(n * moments.bytes())?, bench.take(n * moments.bytes())?];
    bench.board.zero(m_ptr, n * moments.bytes())?;
    bench.board.zero(v_ptr, n * moments.bytes())?;
    let [m_ptr, v_ptr] = [m_ptr, v_ptr].map(|at| DeviceTensor::new(at, moments));
    let (norm_ptr, state_ptr) = (bench.room_of::<GradNorm>(1)?, bench.room_of::<StepState>(1)?);
    bench.board.zero(norm_ptr.bytes(), GradNorm::BYTES)?;
    let scratch = bench.room_of(2 * grad_norm::SCRATCH_LEN)?;
    let subject = bench.subject(
        "adamw",
        format!("({n}), moments in {}, gradients in {}", moments.suffix(), of_gradients.suffix()),
    );
    let mut checks = Vec::new();
    for update_idx in 1..=3 {
        let (gradients, g_ptr) = gradients_of(bench, update_idx, n, of_gradients)?;
        let update = Update { gradient_factor: 1.0, ..numbers(update_idx, 0.0) };
        bench.board.write(state_ptr.bytes(), &StepState::new(&update, 0).to_bytes())?;
        let cut = n / 2 / 8 * 8;
        let halves = [(g_ptr, cut), (g_ptr.add(cut), n - cut)];
        grad_norm::norm(bench.board, norm_ptr, &halves, 0.0, scratch)?;
        let mut bytes = [0; GradNorm::BYTES];
        bench.board.read(norm_ptr.bytes(), &mut bytes)?;
        let (got, norm) = (GradNorm::from_bytes(&bytes).norm, cpu::norm(&gradients));
        checks.push(subject.compare("norm", &[got as f32], &[norm], norm * 6e-8));
        for Range { start, end } in [0..cut, cut..n].into_iter().filter(|part| !part.is_empty()) {
            let step = adamw::Step {
                weights: w_ptr.add(start),
                mean: m_ptr.add(start),
                mean_square: v_ptr.add(start),
                seed: SEED,
                working: None,
                gradients: g_ptr.add(start),
                n: end - start,
                first: start,
                n_decaying: n_decaying.clamp(start, end) - start,
                hyperparameters: update.hyperparameters,
                state: state_ptr,
                norm: norm_ptr,
            };
            adamw::step(bench.board, &step)?;
        }
        let parameters = &mut weights[..];
        if moments == Elem::F32 {
            let state = State { parameters, mean: &mut mean, mean_square: &mut mean_square };
            step(state, &gradients, &ranges, &update);
        } else {
            let (mean, mean_square) = (&mut narrow_mean[..], &mut narrow_mean_square[..]);
            let noise = Noise::of_moments(SEED, u64::from(update_idx));
            let state = Bf16State { parameters, mean, mean_square };
            step_bf16_par(state, &gradients, &ranges, &update, noise, 0);
        }
    }
    if moments == Elem::Bf16 {
        for (wide, narrow) in [(&mut mean, &narrow_mean), (&mut mean_square, &narrow_mean_square)] {
            *wide = narrow.iter().map(|&x| widen(x)).collect();
        }
    }
    let outputs = [
        ("weights", bench.get_f32(w_ptr, n)?, &weights),
        ("mean", bench.get(m_ptr, n)?, &mean),
        ("mean_square", bench.get(v_ptr, n)?, &mean_square),
    ];
    checks.extend(outputs.map(|(output, got, expected)| {
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        subject.compare(output, &got, &expected, 0.0)
    }));
    Ok(checks)
}

/// Three micro-batches' products in a gradient in bfloat16, of which the first is written: the same bits as on the CPU.
fn sums(bench: &mut Bench<'_>, n: usize) -> Result<Vec<Check>, BoardError> {
    const FIRST: usize = 3 << 33;
    const STEP: u64 = 7;
    bench.clear();
    let grad = DeviceTensor::new(bench.take(n * Elem::Bf16.bytes())?, Elem::Bf16);
    let state_ptr = bench.room_of::<StepState>(1)?;
    let state = StepState { step: STEP as u32, ..StepState::default() };
    bench.board.write(state_ptr.bytes(), &state.to_bytes())?;
    let mut expected = vec![0f32; n];
    for (idx, first_sequence) in [0, 4, 1 << 27].into_iter().enumerate() {
        let product = normal(idx as u32, n);
        let x = bench.put_f32(&product)?;
        let store = if idx == 0 { Store::Overwrite } else { Store::Accumulate };
        let sum = grad_sum::Sum { grad, x, n, first: FIRST, seed: SEED, first_sequence, state: state_ptr };
        grad_sum::add(bench.board, &sum, store)?;
        expected.iter_mut().zip(&product).for_each(|(sum, x)| *sum += x);
        round_par(&mut expected, FIRST, GradientNoise::of_micro_batch(SEED, STEP, first_sequence));
    }
    let subject = bench.subject("grad_sum", format!("({n})"));
    let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
    Ok(vec![subject.compare("out", &bench.get(grad, n)?, &expected, 0.0)])
}

/// Rows and columns: wide, tall, square, and one that fills packs. Each starts at an odd place, where random words are shared
/// with what lies before.
const MATRICES: [[usize; 2]; 4] = [[9, 41], [41, 9], [31, 31], [64, 192]];

/// Three updates of a matrix by Muon with clipping. Momentum has the bits of the CPU's; X is rounded to the type at hand after
/// each product, of which there are three in each of five iterations.
fn update_matrix(
    bench: &mut Bench<'_>,
    shape: [usize; 2],
    moments: Elem,
    of_gradients: Elem,
) -> Result<Vec<Check>, BoardError> {
    const FIRST: usize = 6;
    bench.clear();
    let [n_rows, n_columns] = shape;
    let n = n_rows * n_columns;
    let hyperparameters = muon::Hyperparameters { momentum: 0.9, nesterov: true, ns_steps: 5 };
    let mut weights = normal(0, n);
    let (mut momentum, mut narrow) = (vec![0.0; n], vec![0u16; n]);
    let w_ptr = bench.put_f32(&weights)?;
    let m_ptr = DeviceTensor::new(bench.take(n * moments.bytes())?, moments);
    bench.board.zero(m_ptr.bytes(), n * moments.bytes())?;
    let working = (bench.elem == Elem::Bf16).then(|| bench.room(n)).transpose()?;
    let (norm_ptr, state_ptr) = (bench.room_of::<GradNorm>(1)?, bench.room_of::<StepState>(1)?);
    bench.board.zero(norm_ptr.bytes(), GradNorm::BYTES)?;
    let of_norm = bench.room_of(grad_norm::SCRATCH_LEN)?;
    let lens = ScratchLens::of([shape].into_iter());
    let scratch = muon::board::Scratch {
        direction: bench.room_of(lens.matrix)?,
        partial: bench.room_of(lens.partial)?,
        x: bench.room(lens.matrix)?,
        next: bench.room(lens.matrix)?,
        gram: bench.room(lens.square)?,
        polynomial: bench.room(lens.square)?,
    };
    let mut on_cpu = vec![0.0; muon::cpu::scratch_len(n_rows, n_columns)];
    for update_idx in 1..=3 {
        let (gradients, g_ptr) = gradients_of(bench, update_idx, n, of_gradients)?;
        let update = Update { learning_rate: 0.05, ..numbers(update_idx, cpu::norm(&gradients)) };
        bench.board.write(state_ptr.bytes(), &StepState::new(&update, 0).to_bytes())?;
        grad_norm::norm(bench.board, norm_ptr, &[(g_ptr, n)], CLIP_NORM, of_norm)?;
        let step = muon::board::Step {
            weights: w_ptr,
            momentum: m_ptr,
            seed: SEED,
            first: FIRST,
            working,
            gradients: g_ptr,
            shape,
            hyperparameters,
            state: state_ptr,
            norm: norm_ptr,
        };
        muon::board::step(bench.board, &step, &scratch)?;
        let momentum = match moments {
            Elem::F32 => muon::cpu::Momentum::F32(&mut momentum),
            _ => muon::cpu::Momentum::Bf16 {
                values: &mut narrow,
                noise: Noise::of_moments(SEED, u64::from(update_idx)),
                first: FIRST,
            },
        };
        let state = muon::cpu::State { parameters: &mut weights, momentum };
        let update = muon::Update::beside(&update, hyperparameters);
        muon::cpu::step_par(state, &gradients, shape, &update, &mut on_cpu);
    }
    let expected = match moments {
        Elem::F32 => momentum,
        _ => narrow.iter().map(|&x| widen(x)).collect(),
    };
    let [of_moments, of_gradients] = [moments, of_gradients].map(Elem::suffix);
    let numbers = format!("({n_rows}, {n_columns}), moments in {of_moments}, gradients in {of_gradients}");
    let subject = bench.subject("muon", numbers);
    let exact: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
    // The norm's sum is in another order, so the factor can differ by a rounding: by that the momentum, which rounding at
    // random can make a neighbour's distance of bfloat16.
    let of_momentum = if moments == Elem::F32 { 1e-8 } else { 1e-8 + 2f64.powi(-9) };
    let weights: Vec<f64> = weights.iter().map(|&x| f64::from(x)).collect();
    // Weights move by some 0.01 a step. What bfloat16 does to X was 1.3e-3 at most in five steps of PyTorch's.
    let of_weights = if bench.elem == Elem::F32 { 3e-6 } else { 2e-3 };
    let mut checks = vec![
        subject.compare("momentum", &bench.get(m_ptr, n)?, &exact, of_momentum),
        subject.compare("weights", &bench.get_f32(w_ptr, n)?, &weights, of_weights),
    ];
    if let Some(working) = working {
        let masters = bench.get_f32(w_ptr, n)?;
        let rounded: Vec<f32> = masters.iter().map(|&x| round(x, Elem::Bf16)).collect();
        checks.push(bench.check(&subject, "working", working, &rounded, 0.0, 0)?);
    }
    Ok(checks)
}

/// Sums of losses in the ring; one that is not finite halts the run, and weights then stay.
fn halt(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let n = 2500;
    let mut losses = normal(0, n);
    let hits: Vec<u32> = (0..n as u32).map(|i| u32::from(i % 3 == 0)).collect();
    let losses_ptr = bench.put_f32(&losses)?;
    let correct = bench.put_u32(&hits)?;
    let ring = bench.room_of::<StepResult>(4)?;
    let norm = bench.room_of::<GradNorm>(1)?;
    let state_ptr = bench.room_of::<StepState>(1)?;
    let state = StepState { slot: 2, ..StepState::default() };
    bench.board.write(state_ptr.bytes(), &state.to_bytes())?;
    bench.board.zero(norm.bytes(), GradNorm::BYTES)?;
    results::store(bench.board, ring, Some(norm), losses_ptr, correct, n, Some(state_ptr))?;
    let mut place = [0; StepResult::BYTES];
    bench.board.read(ring.add(2).bytes(), &mut place)?;
    let StepResult { loss, n_correct, .. } = StepResult::from_bytes(&place);
    let expected = [losses.iter().map(|&x| f64::from(x)).sum(), f64::from(hits.iter().sum::<u32>())];
    let subject = bench.subject("results", format!("({n})"));
    let mut checks = vec![
        subject.compare("loss", &[loss as f32], &expected[..1], expected[0].abs() * 1e-6),
        subject.compare("correct", &[n_correct as f32], &expected[1..], 0.0),
    ];
    losses[1234] = f32::NAN;
    let losses_ptr = bench.put_f32(&losses)?;
    results::store(bench.board, ring, Some(norm), losses_ptr, correct, n, Some(state_ptr))?;
    let mut bytes = [0; GradNorm::BYTES];
    bench.board.read(norm.bytes(), &mut bytes)?;
    let halted = GradNorm::from_bytes(&bytes).halted;
    checks.push(subject.compare("halted", &[halted as f32], &[1.0], 0.0));
    Ok(checks)
}

/// Sums that three ranks leave in their rows: the norm and the result of everything. A part that is not finite halts.
fn ranks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    const WORLD: usize = 3;
    let (n, n_rows) = (40_000, 1300);
    let (mut gradients, losses) = (normal(0, WORLD * n), normal(1, WORLD * n_rows));
    let hits: Vec<u32> = (0..(WORLD * n_rows) as u32).map(|i| u32::from(i % 7 == 0)).collect();
    let (losses_ptr, hits_ptr) = (bench.put_f32(&losses)?, bench.put_u32(&hits)?);
    let (ring, norm) = (bench.room_of::<StepResult>(4)?, bench.room_of::<GradNorm>(1)?);
    let n_parts = grad_norm::n_parts(n);
    let rows = bench.room_of::<f64>(WORLD * (n_parts + 2))?;
    let sums = results::RankSums { rows, world: WORLD, n_parts };
    let state_ptr = bench.room_of::<StepState>(1)?;
    let state = StepState { slot: 1, ..StepState::default() };
    bench.board.write(state_ptr.bytes(), &state.to_bytes())?;
    bench.board.zero(norm.bytes(), GradNorm::BYTES)?;
    let mut said = |gradients: &[f32]| -> Result<(GradNorm, StepResult), BoardError> {
        let at = bench.put_f32(gradients)?;
        for rank in 0..WORLD {
            grad_norm::sums_of_squares(bench.board, sums.row(rank), at.add(rank * n).into(), n)?;
            let (losses, hits) = (losses_ptr.add(rank * n_rows), hits_ptr.add(rank * n_rows));
            results::sum_of_rank(bench.board, &sums, rank, losses, hits, n_rows)?;
        }
        results::store_of_ranks(bench.board, ring, norm, &sums, CLIP_NORM, state_ptr)?;
        let (mut of_norm, mut of_result) = ([0; GradNorm::BYTES], [0; StepResult::BYTES]);
        bench.board.read(norm.bytes(), &mut of_norm)?;
        bench.board.read(ring.add(1).bytes(), &mut of_result)?;
        Ok((GradNorm::from_bytes(&of_norm), StepResult::from_bytes(&of_result)))
    };
    let (got, result) = said(&gradients)?;
    let expected = cpu::norm(&gradients);
    gradients[2 * n + 17] = f32::INFINITY;
    let (halted, _) = said(&gradients)?;
    let subject = bench.subject("results of ranks", format!("({WORLD}, {n})"));
    let loss: f64 = losses.iter().map(|&x| f64::from(x)).sum();
    let factor = cpu::clip_factor(expected, CLIP_NORM);
    let one = |name, got: f32, expected: f64, most| subject.compare(name, &[got], &[expected], most);
    Ok(vec![
        one("norm", got.norm as f32, expected, expected * 6e-8),
        one("factor", got.factor, f64::from(factor), f64::from(factor) * 1.2e-7),
        one("grad_norm", result.grad_norm, expected, expected * 6e-8),
        one("loss", result.loss as f32, loss, loss.abs() * 1e-6),
        one("correct", result.n_correct as f32, f64::from(hits.iter().sum::<u32>()), 0.0),
        one("not halted", got.halted as f32, 0.0, 0.0),
        one("halted", halted.halted as f32, 1.0, 0.0),
    ])
}
