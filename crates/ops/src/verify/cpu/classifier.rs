//! The output head and the loss in one.

use candle_core::{Device, Result, Tensor};

use super::sum_tolerance;
use crate::classifier::cpu::{Input, Shape, fwd, fwd_bwd};
use crate::classifier::{soft_cap, weighted_classifier_loss};
use crate::cross_entropy::{weighted_cross_entropy_sum, weighted_n_correct};
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};

/// (n, c, v): around vectors, odd, more rows than a chunk, and of a real model's size.
pub const TABLE: [[usize; 3]; 8] = [
    [9, 7, 41],
    [3, 5, 1],
    [16, 33, 15],
    [17, 16, 16],
    [5, 8, 33],
    [40, 24, 65],
    [1100, 12, 130],
    [130, 384, 2048],
];

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for shape in TABLE {
        all.extend(check(shape, false, None)?);
        all.extend(check(shape, true, None)?);
        all.extend(check(shape, true, Some(CAP))?);
    }
    Ok(all)
}

/// What logits are kept below: in the widest of the table, many are larger.
pub const CAP: f32 = 20.0;

/// Targets all over the vocabulary.
pub fn targets(n: usize, v: usize) -> Vec<u32> {
    (0..n).map(|row| (row * row * 7 % v) as u32).collect()
}

/// Weights between 0 and 2; every third row is not counted.
pub fn target_weights(n: usize) -> Vec<f32> {
    (0..n).map(|row| if row % 3 == 1 { 0.0 } else { (row % 8 + 1) as f32 / 4.0 }).collect()
}

/// Losses, right guesses and the gradients of the sum of losses, with weights of the rows or without, and
/// with a cap on logits or without.
///
/// # Errors
/// If a tensor operation of the reference fails.
pub fn check([n, c, v]: [usize; 3], is_weighted: bool, logit_cap: Option<f32>) -> Result<Vec<Check>> {
    let weighted = if is_weighted { ", weighted" } else { "" };
    let capped = if logit_cap.is_some() { ", capped" } else { "" };
    let subject = Subject::f32("classifier", format!("({n}, {c}, {v}){weighted}{capped}"));
    let target_weights = is_weighted.then(|| target_weights(n));
    let weight_tensor = Tensor::new(target_weights.clone().unwrap_or_else(|| vec![1.0; n]), &Device::Cpu)?;
    let shape = Shape { n_in: c, n_vocab: v };
    let (x, weight, targets) = (normal(0, n * c), normal(1, v * c), targets(n, v));
    let (x_var, weight_var) = (var(&x, &[n, c])?, var(&weight, &[v, c])?);
    let target_tensor = Tensor::new(targets.clone(), &Device::Cpu)?;
    let logits = x_var.matmul(&weight_var.t()?)?;
    let (loss, logits) = match logit_cap {
        None => (weighted_classifier_loss(&x_var, &weight_var, &target_tensor, &weight_tensor)?, logits),
        Some(cap) => {
            let logits = soft_cap(&logits, f64::from(cap))?;
            (weighted_cross_entropy_sum(&logits, &target_tensor, &weight_tensor)?, logits)
        }
    };
    // Gradients of the sum, so that they are of size 1 whatever the number of rows.
    let [grad_x, grad_weight] = gradients(&loss, &[1.0], [&x_var, &weight_var])?;
    let expected_correct = values(&weighted_n_correct(&logits, &target_tensor, &weight_tensor)?)?;
    let expected_losses = (0..n)
        .map(|row| {
            let (target, weight) = (target_tensor.narrow(0, row, 1)?, weight_tensor.narrow(0, row, 1)?);
            weighted_cross_entropy_sum(&logits.narrow(0, row, 1)?, &target, &weight)?.to_scalar::<f64>()
        })
        .collect::<Result<Vec<_>>>()?;

    let target_weights = target_weights.as_deref();
    let input = Input { x: &x, weight: &weight, targets: &targets, target_weights, logit_cap };
    let mut scratch = vec![f32::NAN; shape.scratch_len(n)];
    let mut losses = vec![f32::NAN; n];
    let (mut got_x, mut got_weight) = (vec![f32::NAN; n * c], vec![0.0; v * c]);
    let correct = fwd_bwd(&mut got_x, &mut got_weight, &mut losses, &input, 1.0, &shape, &mut scratch);
    let mut losses_alone = vec![f32::NAN; n];
    let correct_alone = fwd(&mut losses_alone, &input, &shape, &mut scratch);

    // A logit is a sum of c products, a probability has its error times itself; a gradient of x is a sum over
    // the vocabulary of probabilities times weights of up to 4, and that of a weight one over rows.
    let of_logit = sum_tolerance(c) + 3e-7 * f64::from(logit_cap.unwrap_or(0.0));
    let correct = [correct as f32, correct_alone as f32];
    let expected_correct = [expected_correct[0]; 2];
    Ok(vec![
        subject.compare("losses", &losses, &expected_losses, 2.0 * of_logit),
        subject.compare("losses, alone", &losses_alone, &expected_losses, 2.0 * of_logit),
        subject.compare("right guesses", &correct, &expected_correct, 0.0),
        subject.compare("grad_x", &got_x, &grad_x, 4.0 * of_logit + 1e-5),
        subject.compare("grad_weight", &got_weight, &grad_weight, 4.0 * of_logit + sum_tolerance(n)),
    ])
}
