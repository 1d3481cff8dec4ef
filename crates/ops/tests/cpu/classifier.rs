use candle_core::{Device, Tensor};
use wattle_ops::classifier::classifier_loss;
use wattle_ops::classifier::cpu::{self, Input, Shape};
use wattle_ops::cross_entropy::n_correct;

use crate::harness::*;

/// (n, c, v): around vectors, and more rows than a chunk.
const TABLE: [(usize, usize, usize); 7] =
    [(9, 7, 41), (3, 5, 1), (16, 33, 15), (17, 16, 16), (5, 8, 33), (40, 24, 65), (1100, 12, 130)];

fn targets(n: usize, v: usize) -> Vec<u32> {
    (0..n).map(|row| (row * row * 7 % v) as u32).collect()
}

#[test]
fn the_fused_loss_is_its_reference() {
    for (n, c, v) in TABLE {
        let what = format!("{n} rows of {c}, vocabulary {v}");
        let shape = Shape { n_in: c, n_vocab: v };
        let (x, weight, targets) = (normal(0, n * c), normal(1, v * c), targets(n, v));
        let (x_var, weight_var) = (var(&x, &[n, c]), var(&weight, &[v, c]));
        let target_tensor = Tensor::new(targets.clone(), &Device::Cpu).unwrap();
        let scale = 1.0 / n as f32;
        let loss = classifier_loss(&x_var, &weight_var, &target_tensor).unwrap();
        let scaled = (&loss * f64::from(scale)).unwrap();
        let [grad_x, grad_weight] = gradients(&scaled, &[1.0], [&x_var, &weight_var]);
        let logits = x_var.matmul(&weight_var.t().unwrap()).unwrap();
        let expected_correct = values(&n_correct(&logits, &target_tensor).unwrap())[0];

        let input = Input { x: &x, weight: &weight, targets: &targets };
        let mut scratch = vec![f32::NAN; shape.scratch_len(n)];
        let mut losses = vec![f32::NAN; n];
        let (mut got_x, mut got_weight) = (vec![f32::NAN; n * c], vec![0.0; v * c]);
        let correct =
            cpu::fwd_bwd(&mut got_x, &mut got_weight, &mut losses, &input, scale, &shape, &mut scratch);
        // A loss of up to 20 has a unit of 2e-6; logits are sums of c products.
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        let expected = values(&loss)[0];
        assert!((sum - expected).abs() < 1e-6 * n as f64 + 1e-6 * expected, "{what}: {sum}, {expected}");
        assert_eq!(correct as f64, expected_correct, "{what}");
        // Gradients are probabilities (error 1e-6, from logits) over n, times weights; sums over n of them.
        assert_close(&what, &got_x, &grad_x, 1e-5 / n as f64, 1e-5);
        assert_close(&what, &got_weight, &grad_weight, 2e-6, 1e-5);

        let mut losses_alone = vec![f32::NAN; n];
        let correct_alone = cpu::fwd(&mut losses_alone, &input, &shape, &mut scratch);
        assert_same_bits(&what, &losses_alone, &losses);
        assert_eq!(correct_alone, correct);
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
