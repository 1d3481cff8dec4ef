use wattle_ops::classifier::cpu::{self, Input, Shape};
use wattle_ops::verify::cpu::classifier::{TABLE, check, targets};

use crate::harness::*;

#[test]
fn the_fused_loss_is_its_reference() {
    for shape in TABLE {
        assert_hold(check(shape));
    }
}

#[test]
fn a_loss_alone_has_the_bits_of_one_with_gradients() {
    for [n, c, v] in TABLE {
        let shape = Shape { n_in: c, n_vocab: v };
        let (x, weight, targets) = (normal(0, n * c), normal(1, v * c), targets(n, v));
        let input = Input { x: &x, weight: &weight, targets: &targets };
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
    let input = Input { x: &x, weight: &weight, targets: &targets };
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
        let input = Input { x: &[1.0], weight: &weight, targets: &[target] };
        cpu::fwd(&mut [0.0], &input, &shape, &mut [0.0; 4])
    };
    assert_eq!([0, 1, 2, 3].map(correct), [0, 1, 0, 0]);
}
