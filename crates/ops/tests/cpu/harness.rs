//! Numbers to test with, and what it means for them to agree.

use candle_core::{DType, Device, Tensor, Var};
use wattle_random::{Purpose, Stream};

/// Row widths around those of vectors, and an odd one.
pub const WIDTHS: [usize; 9] = [1, 15, 16, 17, 31, 32, 33, 41, 130];

/// Standard normal numbers, other ones for each `idx`.
pub fn normal(idx: u32, len: usize) -> Vec<f32> {
    let mut values = vec![0f32; len];
    Stream::new(5, Purpose::Init { parameter_idx: idx }, 0).fill_normal(0, &mut values);
    values
}

/// The same numbers in f64, to be differentiated by.
pub fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&tensor(values, shape)).unwrap()
}

/// The same numbers in f64.
pub fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// The numbers of a tensor, row by row.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// The gradients of `Σ out · grad_out`.
pub fn gradients<const N: usize>(out: &Tensor, grad_out: &[f32], inputs: [&Var; N]) -> [Vec<f64>; N] {
    let grad_out = tensor(grad_out, out.dims());
    let gradients = (out * grad_out).unwrap().sum_all().unwrap().backward().unwrap();
    inputs.map(|input| values(gradients.get(input).expect("a gradient of every input")))
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
