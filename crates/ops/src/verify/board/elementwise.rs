//! Activations, SwiGLU, and the classifier.

use super::SHAPES;
use super::bench::Bench;
use crate::Activation;
use crate::activation::{board, cpu};
use crate::board::BoardError;
use crate::classifier::board as classifier;
use crate::swiglu::{board as swiglu_board, cpu as swiglu};
use crate::verify::Check;
use crate::verify::cpu::classifier::target_weights;

/// What normal logits are kept below where they are capped.
const CAP: f32 = 2.0;

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for shape in SHAPES {
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Relu2] {
            for with_bias in [true, false] {
                all.extend(activate(bench, shape, activation, with_bias)?);
            }
        }
        all.extend(gate(bench, shape)?);
    }
    for [n, v] in [[9, 41], [7, 65], [3, 300], [2, 5001]] {
        for way in ["plain", "online", "online_fast", "shared", "shared_fast"] {
            all.extend(classify(bench, [n, v], false, None, way)?);
            all.extend(classify(bench, [n, v], true, None, way)?);
            all.extend(classify(bench, [n, v], true, Some(CAP), way)?);
        }
    }
    Ok(all)
}

fn activate(
    bench: &mut Bench<'_>,
    [n, c]: [usize; 2],
    activation: Activation,
    with_bias: bool,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (x, x_ptr) = bench.normal(0, n * c)?;
    let (bias, bias_ptr) = bench.normal(1, c)?;
    let (mut grad, grad_ptr) = bench.normal(2, n * c)?;
    let out_ptr = bench.room(n * c)?;
    let input = board::Input { x: x_ptr, bias: with_bias.then_some(bias_ptr), n, c };
    board::fwd(bench.board, activation, out_ptr, &input)?;
    board::bwd(bench.board, activation, grad_ptr, &input)?;
    let bias = if with_bias { bias } else { vec![0.0; c] };
    let mut out = vec![0.0; n * c];
    cpu::bias_fwd(activation, &mut out, &x, &bias);
    cpu::bias_bwd(activation, &mut grad, &mut vec![0.0; c], &x, &bias);
    let subject = bench.subject("activation", format!("{activation:?} ({n}, {c})"));
    Ok(vec![
        bench.check(&subject, "out", out_ptr, &out, 1.0, 64)?,
        bench.check(&subject, "grad_x", grad_ptr, &grad, 1.0, 64)?,
    ])
}

fn gate(bench: &mut Bench<'_>, [n, ff]: [usize; 2]) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (x, x_ptr) = bench.normal(0, n * 2 * ff)?;
    let (grad_out, grad_out_ptr) = bench.normal(2, n * ff)?;
    let (out_ptr, grad_x_ptr) = (bench.room(n * ff)?, bench.room(n * 2 * ff)?);
    swiglu_board::fwd(bench.board, out_ptr, x_ptr, [n, ff])?;
    swiglu_board::bwd(bench.board, grad_x_ptr, grad_out_ptr, x_ptr, [n, ff])?;
    let (mut out, mut grad_x) = (vec![0.0; n * ff], vec![0.0; n * 2 * ff]);
    for row in 0..n {
        let (gate, up) = x[row * 2 * ff..][..2 * ff].split_at(ff);
        swiglu::fwd(&mut out[row * ff..][..ff], gate, up);
        let (grad_gate, grad_up) = grad_x[row * 2 * ff..][..2 * ff].split_at_mut(ff);
        swiglu::bwd(grad_gate, grad_up, &grad_out[row * ff..][..ff], gate, up);
    }
    let subject = bench.subject("swiglu", format!("({n}, {ff})"));
    Ok(vec![
        bench.check(&subject, "out", out_ptr, &out, 1.0, 64)?,
        bench.check(&subject, "grad_x", grad_x_ptr, &grad_x, 1.0, 64)?,
    ])
}

/// With columns of padding, which hold what was there before.
fn classify(
    bench: &mut Bench<'_>,
    [n, v]: [usize; 2],
    is_weighted: bool,
    logit_cap: Option<f32>,
    way: &str,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let v_padded = v.next_multiple_of(64);
    let (logits, logits_ptr) = bench.normal(0, n * v_padded)?;
    let targets: Vec<u32> = (0..n).map(|row| (row * 7 % v) as u32).collect();
    let target_weights = if is_weighted { target_weights(n) } else { vec![1.0; n] };
    let rows = classifier::Rows {
        logits: logits_ptr,
        targets: bench.put_u32(&targets)?,
        target_weights: is_weighted.then(|| bench.put_f32(&target_weights)).transpose()?,
        losses: bench.room_of(n)?,
        correct: bench.room_of(n)?,
        n,
        v,
        v_padded,
        logit_cap,
    };
    let (mut losses, mut correct, mut grads) = (vec![0.0; n], vec![0.0; n], vec![0.0; n * v_padded]);
    let scale = 0.125;
    let weighted = if is_weighted { ", weighted" } else { "" };
    let capped = if logit_cap.is_some() { ", capped" } else { "" };
    for row in 0..n {
        let logits = logits[row * v_padded..][..v].iter().map(|&x| f64::from(x));
        let cap = logit_cap.map(f64::from);
        let capped = |x: f64| cap.map_or(x, |cap| cap * (x / cap).tanh());
        let slope = |x: f64| cap.map_or(1.0, |cap| 1.0 - (x / cap).powi(2));
        let logits: Vec<f64> = logits.map(capped).collect();
        let (target, weight) = (targets[row] as usize, f64::from(target_weights[row]));
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        losses[row] = (weight * (sum.ln() - logits[target])) as f32;
        let first = (0..v).rev().max_by(|&i, &j| logits[i].total_cmp(&logits[j]));
        correct[row] = f32::from(u8::from(weight > 0.0 && first == Some(target)));
        for (column, x) in logits.iter().enumerate() {
            let hot = f64::from(u8::from(column == target));
            grads[row * v_padded + column] = (scale * weight * (x.exp() / sum - hot) * slope(*x)) as f32;
        }
    }
    let subject = bench.subject("classifier", format!("({n}, {v}){weighted}{capped}, {way}"));
    classifier::fwd(bench.board, &rows)?;
    let mut checks = vec![
        bench.check_f32(&subject, "loss", rows.losses, &losses, v)?,
        bench.check(&subject, "logits", logits_ptr, &logits, 0.0, 0)?,
    ];
    let choices = bench.board.choices();
    choices.trying(way, || classifier::fwd_bwd(bench.board, &rows, scale as f32))?;
    let hits: Vec<f32> = bench.get_u32(rows.correct, n)?.into_iter().map(|hit| hit as f32).collect();
    let correct: Vec<f64> = correct.into_iter().map(f64::from).collect();
    checks.push(bench.check_f32(&subject, "loss", rows.losses, &losses, v)?);
    checks.push(subject.compare("correct", &hits, &correct, 0.0));
    checks.push(bench.check(&subject, "grad_logits", logits_ptr, &grads, 1.0, v)?);
    Ok(checks)
}
