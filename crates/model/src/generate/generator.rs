//! The loop of generation, as an iterator.

use candle_core::{DType, Tensor};

use super::sampling::{Sampling, likeliest, softmax};
use crate::error::ModelError;
use crate::kv_cache::KvCache;
use crate::language_model::LanguageModel;
use crate::pass::Pass;

/// How to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// The token that ends a text, and starts one from nothing.
    pub end_of_text: Option<u32>,
    /// Tokens from this number on are never chosen: rows of the token table that only pad it.
    pub n_allowed: usize,
    /// How many of the likeliest tokens a [`Step`] lists.
    pub n_likeliest: usize,
    /// Type of activations.
    pub dtype: DType,
}

/// Continues a text.
///
/// It ends after `max_tokens` or after the end of text, which is still one of its steps. An error ends it too.
pub struct Generator<'a> {
    model: &'a dyn LanguageModel,
    options: GenerateOptions,
    cache: KvCache,
    /// Tokens that the model has not seen.
    pending: Vec<u32>,
    n_generated: usize,
    is_over: bool,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Its probability as the model predicts it, before temperature and filters.
    pub probability: f64,
    /// The likeliest tokens with their probabilities, as the model predicts them, the likeliest first.
    pub likeliest: Vec<(u32, f64)>,
}

impl GenerateOptions {
    /// Everything that is wrong with them for a vocabulary of `vocab_size`, a sentence each.
    pub fn faults(&self, vocab_size: usize) -> Vec<String> {
        let mut faults = self.sampling.faults();
        if !(1..=vocab_size).contains(&self.n_allowed) {
            faults.push(format!(
                "the tokenizer has {} entries, the model predicts {vocab_size} tokens: they do not belong together",
                self.n_allowed
            ));
        }
        if let Some(token) = self.end_of_text
            && token as usize >= self.n_allowed
        {
            faults.push(format!(
                "the end-of-text token is number {token}, the vocabulary has {}",
                self.n_allowed
            ));
        }
        faults
    }
}

impl<'a> Generator<'a> {
    /// A generator that goes on from `prompt_ids`, or from the end-of-text token if there are none. Of a prompt
    /// longer than the model's context, the last part is looked at.
    ///
    /// # Errors
    /// If an option or a token of the prompt is out of range, or there is nothing to start from; all faults are
    /// reported together.
    pub fn new(
        model: &'a dyn LanguageModel,
        prompt_ids: &[u32],
        options: GenerateOptions,
    ) -> Result<Self, ModelError> {
        let mut faults = options.faults(model.vocab_size());
        let mut pending = prompt_ids.to_vec();
        if pending.is_empty() {
            match options.end_of_text {
                Some(token) => pending.push(token),
                None => faults.push(
                    "the prompt is empty and the tokenizer has no end-of-text token to start from: \
                     give --prompt a text"
                        .to_owned(),
                ),
            }
        }
        let unknown = prompt_ids.iter().find(|&&token| token as usize >= model.vocab_size());
        faults.extend(unknown.map(|token| {
            format!("token {token} of the prompt is not among the model's {}", model.vocab_size())
        }));
        if !faults.is_empty() {
            return Err(ModelError::Generate { faults });
        }
        Ok(Self { model, options, cache: KvCache::new(), pending, n_generated: 0, is_over: false })
    }

    fn step(&mut self) -> Result<Step, ModelError> {
        let logits = self.predict()?;
        let token = self.options.sampling.choose(&logits, self.n_generated as u64);
        let probabilities = softmax(logits.iter().copied(), 1.0);
        let likeliest = likeliest(&logits, self.options.n_likeliest)
            .into_iter()
            .map(|token| (token, probabilities[token as usize]))
            .collect();
        self.pending = vec![token];
        self.n_generated += 1;
        Ok(Step { token, probability: probabilities[token as usize], likeliest })
    }

    /// Logits of the tokens that may be chosen.
    fn predict(&mut self) -> Result<Vec<f32>, ModelError> {
        let mut pass = Pass::evaluation(self.options.dtype);
        let logits_v = self.model.decode(&self.pending, &mut self.cache, &mut pass)?;
        let logits: Vec<f32> = Tensor::to_vec1(&logits_v.narrow(0, 0, self.options.n_allowed)?)?;
        match logits.iter().position(|logit| !logit.is_finite()) {
            Some(token) => Err(ModelError::NotFinite { token, logit: logits[token] }),
            None => Ok(logits),
        }
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<Step, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over || self.n_generated >= self.options.max_tokens {
            return None;
        }
        let step = self.step();
        self.is_over = match &step {
            Ok(step) => self.options.end_of_text == Some(step.token),
            Err(_) => true,
        };
        Some(step)
    }
}
