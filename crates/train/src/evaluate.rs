//! Loss on held-out data.

use std::sync::Arc;

use candle_core::{DType, Device};
use wattle_data::{Batch, EvalBatches, MixedSource, SplitManifest, TokenStore};
use wattle_model::engine::LossSum;
use wattle_model::generate::operations_on;
use wattle_model::{
    BoardEvaluator, EngineOptions, EvaluatorOptions, LanguageModel, Masks, MatrixUpdate, Moments, Recompute,
    Share,
};
use wattle_ops::board::{Board, Elem};
use wattle_runlog::event::SourceEvaluation;

use crate::engine::StepEngine;
use crate::error::TrainError;
use crate::gradients::{losses, sequences};
use crate::ranks::Ranks;
use crate::ranks::step::Worth;

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy in nats a token.
    pub loss: f64,
    /// Share of next tokens that were the model's first choice.
    pub accuracy: f64,
    /// Tokens predicted that count: of conversations, those of the assistant.
    pub tokens: u64,
}

impl Evaluation {
    fn of(sum: LossSum, tokens: u64) -> Self {
        let mean = |sum: f64| sum / tokens as f64;
        Self { loss: mean(sum.loss), accuracy: mean(sum.n_correct as f64), tokens }
    }

    /// The evaluation of several parts together, each token counting once.
    pub fn of_parts(parts: &[Self]) -> Self {
        if let [one] = parts {
            return *one;
        }
        let tokens = parts.iter().map(|part| part.tokens).sum();
        let mean = |of: fn(&Self) -> f64| {
            parts.iter().map(|part| of(part) * part.tokens as f64).sum::<f64>() / tokens as f64
        };
        Self { loss: mean(|part| part.loss), accuracy: mean(|part| part.accuracy), tokens }
    }

    /// This evaluation as that of a mixture's source, whose text `split` counts.
    pub fn of_source(&self, name: &str, split: Option<&SplitManifest>) -> SourceEvaluation {
        SourceEvaluation {
            name: name.to_owned(),
            loss: self.loss,
            bits_per_byte: split.and_then(|split| self.bits_per_byte(split)),
            accuracy: self.accuracy,
            tokens: self.tokens,
        }
    }

    /// e to the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Bits for each byte of the text that the split's tokens stand for; none if they do not stand for all of it.
    pub fn bits_per_byte(&self, split: &SplitManifest) -> Option<f64> {
        split.bits_per_byte(self.loss)
    }
}

/// The evaluations of a mixture's sources, those that have a validation split, by name.
pub fn sources_of(mixture: &[MixedSource], evaluations: &[Evaluation]) -> Vec<SourceEvaluation> {
    let sources = mixture.iter().filter(|source| source.val.is_some());
    let told = sources.zip(evaluations);
    told.map(|(source, evaluation)| evaluation.of_source(&source.name, source.val_manifest.as_ref()))
        .collect()
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
    evaluate_within(model, store, model.context(), options, device, progress)
}

/// [`evaluate`] over windows of `context` tokens.
fn evaluate_within(
    model: &dyn LanguageModel,
    store: &TokenStore,
    context: usize,
    options: EvaluateOptions,
    device: &Device,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation, TrainError> {
    evaluate_batches(store, context, options, progress, |batch| {
        Ok(losses(model, batch, options.dtype, device)?)
    })
}

/// [`evaluate`] of a model that is not being trained: by its family's explicit engine where there is one, which
/// is faster and never has the logits of a whole batch. A split shorter than the model's context is one short window.
/// With a `board`, that evaluates, and the model's parameters may lie on the host. Also returns what evaluated, for a
/// person.
///
/// # Errors
/// As for [`evaluate`], or if the split has not two tokens.
pub fn evaluate_by_best(
    model: &dyn LanguageModel,
    store: &TokenStore,
    options: EvaluateOptions,
    device: &Device,
    board: Option<Arc<dyn Board>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Evaluation, String), TrainError> {
    let context = store.evaluation_context(model.context())?;
    if let Some(mut evaluator) = evaluator(model, board, context, masks_of(store), options)? {
        let losses = |batch: &Batch| Ok(evaluator.evaluate(sequences(batch))?);
        let evaluation = evaluate_batches(store, context, options, progress, losses)?;
        return Ok((evaluation, format!("explicit engine on {}", evaluator.describe())));
    }
    let by_operations = operations_on(device, options.dtype);
    if context < model.context() {
        return Ok((evaluate_within(model, store, context, options, device, progress)?, by_operations));
    }
    let engine = match device.is_cpu() && options.dtype == DType::F32 {
        // Nothing is kept for a backward pass.
        true => {
            let (micro_batch, recompute) = (options.batch_size, Recompute::Block);
            model.engine(EngineOptions {
                micro_batch,
                recompute,
                fp8: None,
                moments: Moments::F32,
                matrices: MatrixUpdate::AdamW,
                share: Share::default(),
            })?
        }
        false => None,
    };
    match engine {
        Some(mut engine) => {
            let losses = |batch: &Batch| Ok(engine.evaluate(sequences(batch)));
            let evaluation = evaluate_batches(store, context, options, progress, losses)?;
            Ok((evaluation, "explicit engine on the CPU".to_owned()))
        }
        None => Ok((evaluate(model, store, options, device, progress)?, by_operations)),
    }
}

/// What the batches of a split say besides their tokens.
pub fn masks_of(store: &TokenStore) -> Masks {
    let documents = store.is_packed();
    Masks { weights: store.has_mask() || documents, documents }
}

/// What evaluates `model` on a board, if there is one and it has the type.
fn evaluator(
    model: &dyn LanguageModel,
    board: Option<Arc<dyn Board>>,
    context: usize,
    masks: Masks,
    options: EvaluateOptions,
) -> Result<Option<BoardEvaluator>, TrainError> {
    let EvaluateOptions { batch_size, dtype, .. } = options;
    match (board, Elem::of(dtype)) {
        (Some(board), Some(elem)) => {
            Ok(model.evaluator(board, EvaluatorOptions { batch_size, context, elem, masks })?)
        }
        _ => Ok(None),
    }
}

/// [`evaluate`] by the engine that trains, of the weights that it has. Ranks take turns in batches, whose losses are added in
/// the order of the batches: the same bits whatever their number.
///
/// # Errors
/// If the data cannot be read, the engine fails, or the ranks have parted.
pub(crate) fn evaluate_in_training(
    engine: &mut dyn StepEngine,
    store: &TokenStore,
    options: EvaluateOptions,
    ranks: &Ranks,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation, TrainError> {
    let context = engine.model().context();
    if !ranks.are_several() {
        return evaluate_batches(store, context, options, progress, |batch| engine.evaluate(batch));
    }
    let Share { rank, world } = ranks.share();
    let batches = EvalBatches::new(store, context, options.batch_size, options.max_batches)?;
    let n_batches = batches.len();
    let mut own = Vec::new();
    for (turn, batch) in batches.skip(rank).step_by(world).enumerate() {
        let batch = batch?;
        let n_counted = batch.counted() as usize;
        own.push(Worth { sum: engine.evaluate(&batch)?, n_counted, ..Worth::default() });
        progress(n_batches.min((turn + 1) * world) as u64, n_batches as u64);
    }
    let n_turns = n_batches.div_ceil(world);
    own.resize(n_turns, Worth::default());
    let all = ranks.worths(&own, ranks.between_steps())?;
    let mut worth = Worth::default();
    (0..n_batches).for_each(|batch| worth += all[batch % world * n_turns + batch / world]);
    Ok(Evaluation::of(worth.sum, worth.n_counted as u64))
}

fn evaluate_batches(
    store: &TokenStore,
    context: usize,
    options: EvaluateOptions,
    progress: &mut dyn FnMut(u64, u64),
    mut loss_of: impl FnMut(&Batch) -> Result<LossSum, TrainError>,
) -> Result<Evaluation, TrainError> {
    let batches = EvalBatches::new(store, context, options.batch_size, options.max_batches)?;
    let n_batches = batches.len() as u64;
    let (mut sum, mut tokens) = (LossSum::default(), 0);
    for (batch_idx, batch) in batches.enumerate() {
        let batch = batch?;
        sum += loss_of(&batch)?;
        tokens += batch.counted();
        progress(batch_idx as u64 + 1, n_batches);
    }
    Ok(Evaluation::of(sum, tokens))
}
