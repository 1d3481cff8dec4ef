//! Loss and gradients of one batch, computed in micro-batches.

use candle_core::{DType, Device, Result, Tensor};
use wattle_data::Batch;
use wattle_model::{LanguageModel, Pass, TrainingPass};
use wattle_ops::cross_entropy::{cross_entropy_sum, n_correct};

use crate::trainer::TrainerOptions;

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

impl BatchOptions {
    /// Those of the step with this number, counted from 1.
    pub(crate) fn of_step(options: &TrainerOptions, step: u64) -> Self {
        let &TrainerOptions { seed, dropout, dtype, .. } = options;
        let pass = TrainingPass { seed, step, first_sequence: 0, dropout };
        Self { micro_batch: options.train.micro_batch(), dtype, pass }
    }
}

/// Neighbouring sequences of a batch that go through the model together.
pub(crate) struct MicroBatch<'a> {
    /// Position of the first in the batch.
    pub(crate) first_sequence: usize,
    /// (b·t)
    pub(crate) inputs: &'a [u32],
    /// (b·t)
    pub(crate) targets: &'a [u32],
    context: usize,
}

/// Cuts a batch into micro-batches of `micro_batch` sequences; the last may have fewer.
pub(crate) fn micro_batches(batch: &Batch, micro_batch: usize) -> impl Iterator<Item = MicroBatch<'_>> {
    let len = micro_batch * batch.context;
    let parts = batch.inputs.chunks(len).zip(batch.targets.chunks(len)).enumerate();
    parts.map(move |(idx, (inputs, targets))| MicroBatch {
        first_sequence: idx * micro_batch,
        inputs,
        targets,
        context: batch.context,
    })
}

impl MicroBatch<'_> {
    /// Inputs (b, t) and targets (b·t).
    pub(crate) fn tensors(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let n = self.inputs.len();
        let inputs = Tensor::from_slice(self.inputs, (n / self.context, self.context), device)?;
        Ok((inputs, Tensor::from_slice(self.targets, n, device)?))
    }
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
    for micro_batch in micro_batches(batch, options.micro_batch) {
        let (inputs, targets) = micro_batch.tensors(device)?;
        let pass = TrainingPass { first_sequence: micro_batch.first_sequence, ..options.pass };
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
