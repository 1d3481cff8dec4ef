//! Numbers to check with, in `f32` for a kernel and in `f64` for a reference.

use candle_core::{DType, Device, Error, Result, Tensor, Var};
use wattle_random::{Purpose, Stream};

/// Standard normal numbers, other ones for each `idx`.
pub fn normal(idx: u32, len: usize) -> Vec<f32> {
    let mut values = vec![0f32; len];
    Stream::new(5, Purpose::Init { parameter_idx: idx }, 0).fill_normal(0, &mut values);
    values
}

/// The same numbers in `f64`, to be differentiated by.
pub fn var(values: &[f32], shape: &[usize]) -> Result<Var> {
    Var::from_tensor(&tensor(values, shape)?)
}

/// The same numbers in `f64`.
pub fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64)
}

/// The numbers of a tensor, row by row.
pub fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// The gradients of `Σ out · grad_out`.
///
/// # Errors
/// If a tensor operation fails, or an input gets none.
pub fn gradients<const N: usize>(out: &Tensor, grad_out: &[f32], inputs: [&Var; N]) -> Result<[Vec<f64>; N]> {
    let grad_out = tensor(grad_out, out.dims())?;
    let gradients = (out * grad_out)?.sum_all()?.backward()?;
    let mut of_inputs = [const { Vec::new() }; N];
    for (gradient, input) in of_inputs.iter_mut().zip(inputs) {
        let found = gradients.get(input).ok_or_else(|| Error::Msg("an input gets no gradient".to_owned()))?;
        *gradient = values(found)?;
    }
    Ok(of_inputs)
}

/// Each number times two: a gradient that was added twice.
pub fn twice(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| 2.0 * x).collect()
}
