//! Loss and gradients of one batch, computed in micro-batches.

use candle_core::{DType, Device, Result, Tensor};
use wattle_data::Batch;
use wattle_model::{LanguageModel, Pass, TrainingPass};
use wattle_ops::cross_entropy::{cross_entropy_sum, n_correct};

/// What one batch says. Scalars stay on the device until they are asked for.
pub struct BatchGradients {
    /// A gradient for each parameter, in the model's order; `None` where none reaches it.
    pub gradients: Vec<Option<Tensor>>,
    /// Mean cross-entropy in nats a token.
    pub loss: Tensor,
    /// Share of next tokens that were the model's first choice.
    pub accuracy: Tensor,
}

/// How to go through a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// Sequences of one forward and backward pass.
    pub micro_batch: usize,
    /// Type of activations.
    pub dtype: DType,
    /// Seed, step and dropout; `first_sequence` is filled in for each micro-batch.
    pub pass: TrainingPass,
}

/// The gradient of the mean loss over all tokens of `batch`.
///
/// Each micro-batch's summed loss is divided by the tokens of the whole batch, so that the sum of their
/// gradients is the whole batch's whatever their sizes, and draws the dropout masks of its place in the batch.
pub fn batch_gradients(
    model: &dyn LanguageModel,
    batch: &Batch,
    options: BatchOptions,
    device: &Device,
) -> Result<BatchGradients> {
    let n_tokens = batch.inputs.len() as f64;
    let mut gradients: Vec<Option<Tensor>> = vec![None; model.parameters().len()];
    let mut loss = Tensor::zeros((), DType::F32, device)?;
    let mut correct = Tensor::zeros((), DType::F32, device)?;
    for first in (0..batch.batch_size).step_by(options.micro_batch) {
        let n_sequences = options.micro_batch.min(batch.batch_size - first);
        let (inputs, targets) = micro_batch(batch, first, n_sequences, device)?;
        let pass = TrainingPass { first_sequence: first, ..options.pass };
        let logits = model.logits(&inputs, &mut Pass::training(options.dtype, pass))?.flatten_to(1)?;
        let micro_loss = (cross_entropy_sum(&logits, &targets)? / n_tokens)?;
        loss = (loss + micro_loss.detach())?;
        correct = (correct + n_correct(&logits, &targets)?)?;
        drop(logits);
        let store = micro_loss.backward()?;
        for (sum, parameter) in gradients.iter_mut().zip(model.parameters()) {
            if let Some(gradient) = store.get(&parameter.var) {
                // candle leaves a graph on the gradients of leaves; kept, it would grow from step to step.
                let gradient = gradient.detach();
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                });
            }
        }
    }
    Ok(BatchGradients { gradients, loss, accuracy: (correct / n_tokens)? })
}

/// Inputs (b, t) and targets (b·t) of `n_sequences` sequences from `first` on.
pub(crate) fn micro_batch(
    batch: &Batch,
    first: usize,
    n_sequences: usize,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let t = batch.context;
    let tokens = first * t..(first + n_sequences) * t;
    let inputs = Tensor::from_slice(&batch.inputs[tokens.clone()], (n_sequences, t), device)?;
    let targets = Tensor::from_slice(&batch.targets[tokens], n_sequences * t, device)?;
    Ok((inputs, targets))
}
