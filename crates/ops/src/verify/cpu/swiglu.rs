//! The gated activation.

use candle_core::Result;

use crate::swiglu::cpu::{bwd, fwd};
use crate::swiglu::swiglu;
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};

/// Errors of the logistic function are 3 units of 1, 2e-7, times a gate of up to 12 and another factor of up to
/// 4; the slope 1 + gate·(1 − σ) cancels for gates near −1.3.
const TOLERANCE: f64 = 1e-5;

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = check("|gate| to 12", &(-4000..=4000).map(|i| i as f32 * 0.00301).collect::<Vec<_>>())?;
    all.extend(check("(9, 7, 41)", &normal(3, 9 * 7 * 41))?);
    all.extend(check("(64, 2048)", &normal(4, 64 * 2048))?);
    Ok(all)
}

fn check(shape: &str, gate: &[f32]) -> Result<Vec<Check>> {
    let subject = Subject::f32("swiglu", shape);
    let n = gate.len();
    let (up, grad_out) = (normal(1, n), normal(2, n));
    let (gate_var, up_var) = (var(gate, &[n])?, var(&up, &[n])?);
    let expected = swiglu(&gate_var, &up_var)?;
    let [grad_gate, grad_up] = gradients(&expected, &grad_out, [&gate_var, &up_var])?;
    let mut out = vec![f32::NAN; n];
    fwd(&mut out, gate, &up);
    let (mut got_gate, mut got_up) = (vec![f32::NAN; n], vec![f32::NAN; n]);
    bwd(&mut got_gate, &mut got_up, &grad_out, gate, &up);
    Ok(vec![
        subject.compare("out", &out, &values(&expected)?, TOLERANCE),
        subject.compare("grad_gate", &got_gate, &grad_gate, TOLERANCE),
        subject.compare("grad_up", &got_up, &grad_up, TOLERANCE),
    ])
}
