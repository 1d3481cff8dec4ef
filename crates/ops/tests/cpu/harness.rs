//! Numbers to test with, and what it means for them to agree.

use candle_core::{Tensor, Var};
use wattle_ops::verify::{Check, numbers};

pub use wattle_ops::verify::cpu::WIDTHS;
pub use wattle_ops::verify::numbers::normal;

/// The same numbers in f64, to be differentiated by.
pub fn var(values: &[f32], shape: &[usize]) -> Var {
    numbers::var(values, shape).unwrap()
}

/// The same numbers in f64.
pub fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    numbers::tensor(values, shape).unwrap()
}

/// The numbers of a tensor, row by row.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    numbers::values(tensor).unwrap()
}

/// The gradients of `Σ out · grad_out`.
pub fn gradients<const N: usize>(out: &Tensor, grad_out: &[f32], inputs: [&Var; N]) -> [Vec<f64>; N] {
    numbers::gradients(out, grad_out, inputs).unwrap()
}

/// Every output is as near to its reference as `wattle verify` asks.
#[track_caller]
pub fn assert_hold(checks: candle_core::Result<Vec<Check>>) {
    let checks = checks.unwrap();
    assert!(!checks.is_empty());
    checks.iter().for_each(|check| assert!(check.holds(), "{check:#?}"));
}

/// Each number within `atol + rtol · |expected|`.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], expected: &[f64], atol: f64, rtol: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let gap = (f64::from(got) - expected).abs();
        assert!(gap <= atol + rtol * expected.abs(), "{what}, element {i}: {got}, expected {expected}");
    }
}

/// Runs `f` on one thread, then on three, and holds that the bits are the same.
#[track_caller]
pub fn assert_threads_do_not_matter(mut f: impl FnMut() -> Vec<f32> + Send) -> Vec<f32> {
    let mut on =
        |n_threads| rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap().install(&mut f);
    let (one, three) = (on(1), on(3));
    assert_same_bits("one thread and three", &one, &three);
    one
}

#[track_caller]
pub fn assert_same_bits(what: &str, a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "{what}");
    let differ = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differ, None, "{what}: first element that differs");
}
