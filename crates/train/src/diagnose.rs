//! Which tensor was the first that is not finite.

use candle_core::{DType, Device, Result, Tensor};
use wattle_data::Batch;
use wattle_model::{LanguageModel, Parameter, Pass, TrainingPass};

use crate::gradients::{BatchOptions, MicroBatchTensors, micro_batches};

/// Whether every element is a finite number. One number comes to the host.
pub fn is_finite(x: &Tensor) -> Result<bool> {
    // 0·x is 0 where x is finite and NaN elsewhere; NaN survives the sum.
    Ok((x * 0.0)?.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()? == 0.0)
}

/// Goes through parameters, then the forward pass of `batch` again (dropout masks are the same), then gradients,
/// and names the first tensor that is not finite.
///
/// # Errors
/// If a tensor operation fails.
pub fn first_not_finite(
    model: &dyn LanguageModel,
    batch: &Batch,
    options: BatchOptions,
    gradients: &[Tensor],
    device: &Device,
) -> Result<String> {
    for Parameter { name, var } in model.parameters() {
        if !is_finite(var)? {
            return Ok(format!("the parameter {name}"));
        }
    }
    let mut first = None;
    for micro_batch in micro_batches(batch, options.micro_batch) {
        let MicroBatchTensors { inputs, .. } = micro_batch.tensors(device)?;
        let mut watch = |name: &str, x: &Tensor| {
            if first.is_none() && !is_finite(x)? {
                first = Some(name.to_owned());
            }
            Ok(())
        };
        let training = TrainingPass { first_sequence: micro_batch.first_sequence, ..options.pass };
        let pass = Pass::training(options.dtype, training).within(micro_batch.sequences.documents);
        model.logits(&inputs, &mut pass.watched(&mut watch))?;
    }
    if let Some(name) = first {
        return Ok(name);
    }
    for (Parameter { name, .. }, gradient) in model.parameters().iter().zip(gradients) {
        if !is_finite(gradient)? {
            return Ok(format!("the gradient of {name}"));
        }
    }
    Ok("the sum over the batch: it overflowed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_element_is_enough() {
        let x = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        assert!(is_finite(&x(&[1.0, -3.0e38, 3.0e38, 3.0e38])).unwrap());
        assert!(!is_finite(&x(&[1.0, f32::NAN])).unwrap());
        assert!(!is_finite(&x(&[f32::NEG_INFINITY, 1.0])).unwrap());
    }
}
