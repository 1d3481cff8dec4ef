use wattle_ops::classifier::cpu::{self, Input, Shape};
use wattle_ops::verify::cpu::classifier::{CAP, TABLE, check, targets};

use crate::harness::*;

#[test]
fn the_fused_loss_is_its_reference() {
    for shape in TABLE {
        assert_hold(check(shape, false, None));
        assert_hold(check(shape, true, None));
        assert_hold(check(shape, false, Some(CAP)));
    }
}

/// Losses, gradients of x and of the weight, and right guesses.
fn run(shape: &Shape, input: &Input<'_>) -> (Vec<f32>, usize) {
    let n = input.targets.len();
    let mut scratch = vec![f32::NAN; shape.scratch_len(n)];
    let (mut losses, mut grad_x) = (vec![f32::NAN; n], vec![f32::NAN; input.x.len()]);
    let mut grad_weight = vec![0.0; input.weight.len()];
    let correct = cpu::fwd_bwd(&mut grad_x, &mut grad_weight, &mut losses, input, 0.25, shape, &mut scratch);
    let mut alone = vec![f32::NAN; n];
    assert_eq!(cpu::fwd(&mut alone, input, shape, &mut scratch), correct);
    assert_same_bits("a loss alone", &alone, &losses);
    losses.extend(grad_x);
    losses.extend(grad_weight);
    (losses, correct)
}

#[test]
fn weights_of_one_change_no_bit() {
    for [n, c, v] in TABLE {
        let shape = Shape { n_in: c, n_vocab: v };
        let (x, weight, targets) = (normal(0, n * c), normal(1, v * c), targets(n, v));
        let ones = vec![1.0; n];
        let of = |target_weights| {
            run(&shape, &Input { x: &x, weight: &weight, targets: &targets, target_weights, logit_cap: None })
        };
        let ((without, n_without), (with, n_with)) = (of(None), of(Some(&ones[..])));
        assert_same_bits(&format!("({n}, {c}, {v})"), &without, &with);
        assert_eq!(n_without, n_with);
    }
}

#[test]
fn a_row_of_weight_zero_is_as_if_it_were_not_there() {
    let (c, v) = (7, 41);
    let shape = Shape { n_in: c, n_vocab: v };
    let (x, weight, targets) = (normal(0, 9 * c), normal(1, v * c), targets(9, v));
    let weights = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    let target_weights = Some(&weights[..]);
    let input = Input { x: &x, weight: &weight, targets: &targets, target_weights: None, logit_cap: None };
    let (whole, _) = run(&shape, &input);
    let (masked, n_masked) = run(&shape, &Input { target_weights, ..input });
    let first = Input { x: &x[..6 * c], targets: &targets[..6], ..input };
    let (alone, n_alone) = run(&shape, &first);
    let (losses, gradients) = masked.split_at(9);
    let (grad_x, grad_weight) = gradients.split_at(9 * c);
    assert_same_bits("losses", &losses[..6], &whole[..6]);
    assert_same_bits("losses that do not count", &losses[6..], &[0.0; 3]);
    assert_same_bits("gradients of x", &grad_x[..6 * c], &whole[9..][..6 * c]);
    assert!(grad_x[6 * c..].iter().all(|&grad| grad == 0.0), "gradients of rows that do not count");
    // A product of six rows is not cut as one of nine: sums are rounded in another order.
    let alone: Vec<f64> = alone[6 + 6 * c..].iter().map(|&x| f64::from(x)).collect();
    assert_close("gradients of the weight", grad_weight, &alone, 1e-6, 1e-6);
    assert_eq!(n_masked, n_alone);

    // Nor does it matter what such a row holds.
    let mut infinite = x.clone();
    infinite[6 * c..].fill(f32::INFINITY);
    let (changed, _) = run(&shape, &Input { x: &infinite, target_weights, ..input });
    assert_same_bits("with infinite rows", &changed[..9 + 9 * c], &masked[..9 + 9 * c]);
}

#[test]
#[should_panic(expected = "target weight Some(-1.0)")]
fn a_negative_weight_is_refused() {
    let input = Input {
        x: &[1.0],
        weight: &[1.0, 2.0],
        targets: &[0],
        target_weights: Some(&[-1.0]),
        logit_cap: None,
    };
    cpu::fwd(&mut [0.0], &input, &Shape { n_in: 1, n_vocab: 2 }, &mut [0.0; 2]);
}

#[test]
fn a_loss_alone_has_the_bits_of_one_with_gradients() {
    for [n, c, v] in TABLE {
        let shape = Shape { n_in: c, n_vocab: v };
        let (x, weight, targets) = (normal(0, n * c), normal(1, v * c), targets(n, v));
        let input =
            Input { x: &x, weight: &weight, targets: &targets, target_weights: None, logit_cap: None };
        let mut scratch = vec![f32::NAN; shape.scratch_len(n)];
        let (mut alone, mut losses) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        let (mut grad_x, mut grad_weight) = (vec![f32::NAN; n * c], vec![0.0; v * c]);
        cpu::fwd_bwd(&mut grad_x, &mut grad_weight, &mut losses, &input, 0.1, &shape, &mut scratch);
        cpu::fwd(&mut alone, &input, &shape, &mut scratch);
        assert_same_bits(&format!("({n}, {c}, {v})"), &alone, &losses);
    }
}

#[test]
fn threads_do_not_change_the_loss_or_its_gradients() {
    let (n, c, v) = (1100, 40, 300);
    let shape = Shape { n_in: c, n_vocab: v };
    let (x, weight, targets) = (normal(0, n * c), normal(1, v * c), targets(n, v));
    let input = Input { x: &x, weight: &weight, targets: &targets, target_weights: None, logit_cap: None };
    let run = |par: bool| {
        let mut scratch = vec![0.0; shape.scratch_len(n)];
        let (mut losses, mut grad_x, mut grad_weight) = (vec![0.0; n], vec![0.0; n * c], vec![0.0; v * c]);
        let f = if par { cpu::fwd_bwd_par } else { cpu::fwd_bwd };
        let correct = f(&mut grad_x, &mut grad_weight, &mut losses, &input, 0.5, &shape, &mut scratch);
        losses.extend(grad_x);
        losses.extend(grad_weight);
        losses.push(correct as f32);
        losses
    };
    let par = assert_threads_do_not_matter(|| run(true));
    assert_same_bits("on one thread", &par, &run(false));
}

#[test]
fn of_equal_logits_the_first_counts() {
    let shape = Shape { n_in: 1, n_vocab: 4 };
    let weight = [1.0, 2.0, 2.0, 0.0];
    let correct = |target| {
        let input =
            Input { x: &[1.0], weight: &weight, targets: &[target], target_weights: None, logit_cap: None };
        cpu::fwd(&mut [0.0], &input, &shape, &mut [0.0; 4])
    };
    assert_eq!([0, 1, 2, 3].map(correct), [0, 1, 0, 0]);
}
