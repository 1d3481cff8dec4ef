//! Loss on held-out data.

use candle_core::{DType, Device};
use wattle_data::{EvalBatches, SplitManifest, TokenStore};
use wattle_model::{LanguageModel, Pass};
use wattle_ops::cross_entropy::{cross_entropy_sum, n_correct};

use crate::error::TrainError;
use crate::gradients::micro_batch;

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy in nats a token.
    pub loss: f64,
    /// Share of next tokens that were the model's first choice.
    pub accuracy: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

impl Evaluation {
    /// e to the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Bits for each byte of the text that the split's tokens stand for.
    pub fn bits_per_byte(&self, split: &SplitManifest) -> f64 {
        split.bits_per_byte(self.loss)
    }
}

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct EvaluateOptions {
    /// Sequences at a time.
    pub batch_size: usize,
    /// Batches; 0 for the whole split.
    pub max_batches: usize,
    /// Type of activations.
    pub dtype: DType,
}

/// Evaluates a model over the non-overlapping windows of a split.
///
/// # Errors
/// If the data cannot be read or a tensor operation fails.
pub fn evaluate(
    model: &dyn LanguageModel,
    store: &TokenStore,
    options: EvaluateOptions,
    device: &Device,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation, TrainError> {
    let batches = EvalBatches::new(store, model.context(), options.batch_size, options.max_batches)?;
    let (tokens, n_batches) = (batches.tokens(), batches.len() as u64);
    let (mut loss, mut correct) = (0f64, 0f64);
    for (batch_idx, batch) in batches.enumerate() {
        let batch = batch?;
        let (inputs, targets) = micro_batch(&batch, 0, batch.batch_size, device)?;
        let logits = model.logits(&inputs, &mut Pass::evaluation(options.dtype))?.flatten_to(1)?;
        loss += f64::from(cross_entropy_sum(&logits, &targets)?.to_scalar::<f32>()?);
        correct += f64::from(n_correct(&logits, &targets)?.to_scalar::<f32>()?);
        progress(batch_idx as u64 + 1, n_batches);
    }
    Ok(Evaluation { loss: loss / tokens as f64, accuracy: correct / tokens as f64, tokens })
}
