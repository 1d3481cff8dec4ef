//! Loss and gradients of one batch, computed in micro-batches.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use wattle_data::Batch;
use wattle_model::engine::{LossSum, Sequences};
use wattle_model::{LanguageModel, Pass, TrainingPass};
use wattle_ops::cross_entropy::{
    cross_entropy_sum, n_correct, weighted_cross_entropy_sum, weighted_n_correct,
};

use crate::device::keep_layouts;
use crate::options::TrainerOptions;

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
    pub(crate) sequences: Sequences<'a>,
    context: usize,
}

/// A micro-batch as a model's own operations take it.
pub(crate) struct MicroBatchTensors {
    /// (b, t)
    pub(crate) inputs: Tensor,
    /// (b·t)
    pub(crate) targets: Tensor,
    /// (b·t)
    pub(crate) weights: Option<Tensor>,
}

/// A batch's sequences.
pub(crate) fn sequences(batch: &Batch) -> Sequences<'_> {
    let Batch { inputs, targets, weights, documents, .. } = batch;
    Sequences { inputs, targets, weights: weights.as_deref(), documents: documents.as_deref() }
}

/// Cuts a batch into micro-batches of `micro_batch` sequences; the last may have fewer.
pub(crate) fn micro_batches(batch: &Batch, micro_batch: usize) -> impl Iterator<Item = MicroBatch<'_>> {
    micro_batches_of(batch, 0..batch.batch_size, micro_batch)
}

/// Cuts neighbouring sequences of a batch into micro-batches of `micro_batch` sequences; the last may have fewer.
pub(crate) fn micro_batches_of(
    batch: &Batch,
    part: Range<usize>,
    micro_batch: usize,
) -> impl Iterator<Item = MicroBatch<'_>> {
    let (all, context) = (sequences(batch), batch.context);
    part.clone().step_by(micro_batch).map(move |first_sequence| {
        let end = part.end.min(first_sequence + micro_batch);
        let sequences = all.rows(first_sequence * context..end * context);
        MicroBatch { first_sequence, sequences, context }
    })
}

impl MicroBatch<'_> {
    /// On `device`.
    pub(crate) fn tensors(&self, device: &Device) -> Result<MicroBatchTensors> {
        let Sequences { inputs, targets, weights, .. } = self.sequences;
        let n = inputs.len();
        Ok(MicroBatchTensors {
            inputs: Tensor::from_slice(inputs, (n / self.context, self.context), device)?,
            targets: Tensor::from_slice(targets, n, device)?,
            weights: weights.map(|weights| Tensor::from_slice(weights, n, device)).transpose()?,
        })
    }
}

impl MicroBatchTensors {
    /// The weighted sum of cross-entropies for logits (b·t, v), in nats.
    pub(crate) fn loss(&self, logits: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Some(weights) => weighted_cross_entropy_sum(logits, &self.targets, weights),
            None => cross_entropy_sum(logits, &self.targets),
        }
    }

    /// Targets that count and have the largest of the logits (b·t, v).
    pub(crate) fn n_correct(&self, logits: &Tensor) -> Result<Tensor> {
        match &self.weights {
            Some(weights) => weighted_n_correct(logits, &self.targets, weights),
            None => n_correct(logits, &self.targets),
        }
    }
}

/// The gradient of the mean loss over all targets of `batch` that count.
///
/// Each micro-batch's summed loss is divided by the weight of the whole batch, so that the sum of their
/// gradients is the whole batch's whatever their sizes, and draws the dropout masks of its place in the batch.
pub fn batch_gradients(
    model: &dyn LanguageModel,
    batch: &Batch,
    options: BatchOptions,
    device: &Device,
) -> Result<BatchGradients> {
    let (weight, n_counted) = (sequences(batch).weight(), sequences(batch).n_counted() as f64);
    let mut gradients: Vec<Option<Tensor>> = vec![None; model.parameters().len()];
    let mut loss = Tensor::zeros((), DType::F32, device)?;
    let mut correct = Tensor::zeros((), DType::F32, device)?;
    for micro_batch in micro_batches(batch, options.micro_batch) {
        let pass = TrainingPass { first_sequence: micro_batch.first_sequence, ..options.pass };
        let mut pass = Pass::training(options.dtype, pass).within(micro_batch.sequences.documents);
        let micro_batch = micro_batch.tensors(device)?;
        let logits = model.logits(&micro_batch.inputs, &mut pass)?.flatten_to(1)?;
        let micro_loss = (micro_batch.loss(&logits)? / weight)?;
        loss = (loss + micro_loss.detach())?;
        correct = (correct + micro_batch.n_correct(&logits)?)?;
        drop(logits);
        let store = {
            let _kept = keep_layouts(device);
            micro_loss.backward()?
        };
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
    Ok(BatchGradients { gradients, loss, accuracy: (correct / n_counted)? })
}

/// The losses of a batch by the model's own operations, without dropout.
///
/// # Errors
/// If a tensor operation fails.
pub(crate) fn losses(
    model: &dyn LanguageModel,
    batch: &Batch,
    dtype: DType,
    device: &Device,
) -> Result<LossSum> {
    let mut sum = LossSum::default();
    for micro_batch in micro_batches(batch, batch.batch_size) {
        let mut pass = Pass::evaluation(dtype).within(micro_batch.sequences.documents);
        let micro_batch = micro_batch.tensors(device)?;
        let logits = model.logits(&micro_batch.inputs, &mut pass)?.flatten_to(1)?;
        let loss = f64::from(micro_batch.loss(&logits)?.to_scalar::<f32>()?);
        let n_correct = micro_batch.n_correct(&logits)?.to_scalar::<f32>()? as usize;
        sum += LossSum { loss, n_correct };
    }
    Ok(sum)
}
