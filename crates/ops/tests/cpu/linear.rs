use wattle_ops::linear::cpu::{self, Layout, Shape};
use wattle_ops::verify::cpu::linear::{TABLE, check};

use crate::harness::*;

#[test]
fn linear_is_its_reference_both_ways_round() {
    for [n, n_in, n_out] in TABLE {
        for layout in [Layout::InputFirst, Layout::OutputFirst] {
            assert_hold(check(n, Shape { n_in, n_out, layout }));
        }
    }
}

#[test]
fn rows_do_not_depend_on_how_the_batch_is_cut() {
    // Deep enough for several sums of the inner dimension, and small sizes for which gemm takes other ways.
    let shape = Shape { n_in: 1100, n_out: 70, layout: Layout::InputFirst };
    let (x, weight) = (normal(0, 96 * 1100), normal(1, 1100 * 70));
    let mut whole = vec![0.0; 96 * 70];
    cpu::fwd(&mut whole, &x, &weight, None, &shape);
    for n in [16, 32, 48] {
        let mut parts = vec![0.0; 96 * 70];
        for (out, x) in parts.chunks_mut(n * 70).zip(x.chunks(n * 1100)) {
            cpu::fwd(out, x, &weight, None, &shape);
        }
        assert_same_bits(&format!("slices of {n} rows"), &whole, &parts);
    }
}

#[test]
fn a_weights_gradient_does_not_depend_on_threads() {
    for layout in [Layout::InputFirst, Layout::OutputFirst] {
        let shape = Shape { n_in: 200, n_out: 150, layout };
        let (grad_out, x) = (normal(0, 700 * 150), normal(1, 700 * 200));
        let par = assert_threads_do_not_matter(|| {
            let mut grad = vec![1.0; 200 * 150];
            cpu::bwd_weight_par(&mut grad, &grad_out, &x, &shape);
            grad
        });
        let mut serial = vec![1.0; 200 * 150];
        cpu::bwd_weight(&mut serial, &grad_out, &x, &shape);
        assert_same_bits("in blocks and whole", &par, &serial);
    }
}
