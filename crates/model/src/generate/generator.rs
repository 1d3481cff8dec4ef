//! The loop of generation, as iterators.

use std::collections::VecDeque;

use candle_core::DType;

use super::decoder::{ByModel, Decoder};
use super::sampling::{Sampling, likeliest, softmax};
use crate::error::ModelError;
use crate::language_model::LanguageModel;

/// How to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to generate of each text.
    pub max_tokens: usize,
    /// The token that ends a text, and starts one from nothing.
    pub end_of_text: Option<u32>,
    /// Tokens from this number on are never chosen: rows of the token table that only pad it.
    pub n_allowed: usize,
    /// How many of the likeliest tokens a [`Step`] lists; with 0 it says nothing of probabilities, which takes time.
    pub n_likeliest: usize,
}

/// Continues several texts, as many at once as its decoder has slots for; others wait for a slot.
///
/// Each item is the next token of every text under way, with the text's index. A text ends after `max_tokens` or after
/// the end of text, which is still one of its steps. What it says does not depend on the others: each draws the same
/// numbers. An error ends all.
pub struct Texts<'a> {
    decoder: Box<dyn Decoder + 'a>,
    options: GenerateOptions,
    /// Texts under way, in the order of their slots.
    under_way: Vec<Text>,
    waiting: VecDeque<Text>,
}

/// A text.
#[derive(Debug)]
struct Text {
    idx: usize,
    slot: usize,
    /// Tokens that the decoder has not seen.
    pending: Vec<u32>,
    n_generated: usize,
    is_over: bool,
}

/// Continues one text by a model's own operations in `f32`.
///
/// It ends as those of [`Texts`] do.
pub struct Generator<'a>(Texts<'a>);

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Its probability as the model predicts it, before temperature and filters, where the likeliest are listed.
    pub probability: Option<f64>,
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

    /// The tokens that a prompt begins with, or what is wrong with it.
    fn start(&self, prompt_ids: &[u32], vocab_size: usize) -> Result<Vec<u32>, String> {
        if let Some(token) = prompt_ids.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(format!("token {token} of the prompt is not among the model's {vocab_size}"));
        }
        match self.end_of_text {
            _ if !prompt_ids.is_empty() => Ok(prompt_ids.to_vec()),
            Some(token) => Ok(vec![token]),
            None => Err("the prompt is empty and the tokenizer has no end-of-text token to start from: \
                         give --prompt a text"
                .to_owned()),
        }
    }

    /// The token after those that `logits` were predicted from, the `n_before`-th of its text.
    pub(super) fn step(&self, logits: &[f32], n_before: usize) -> Result<Step, ModelError> {
        let logits = &logits[..self.n_allowed];
        if let Some(token) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(ModelError::NotFinite { token, logit: logits[token] });
        }
        let token = self.sampling.choose(logits, n_before as u64);
        if self.n_likeliest == 0 {
            return Ok(Step { token, probability: None, likeliest: Vec::new() });
        }
        let probabilities = softmax(logits, 1.0);
        let of = |token: u32| probabilities[token as usize];
        let likeliest =
            likeliest(logits, self.n_likeliest).into_iter().map(|token| (token, of(token))).collect();
        Ok(Step { token, probability: Some(of(token)), likeliest })
    }
}

impl<'a> Texts<'a> {
    /// Texts that go on from `prompts`, or from the end-of-text token where one is empty. Of a prompt longer than the
    /// model's context, the last part is looked at.
    ///
    /// # Errors
    /// If an option or a token of a prompt is out of range, or there is nothing to start from; all faults are
    /// reported together.
    pub fn new(
        decoder: Box<dyn Decoder + 'a>,
        prompts: &[Vec<u32>],
        options: GenerateOptions,
    ) -> Result<Self, ModelError> {
        let vocab_size = decoder.vocab_size();
        let mut faults = options.faults(vocab_size);
        let mut waiting = VecDeque::new();
        for (idx, prompt) in prompts.iter().enumerate() {
            match options.start(prompt, vocab_size) {
                Ok(pending) => {
                    waiting.push_back(Text { idx, slot: 0, pending, n_generated: 0, is_over: false });
                }
                Err(fault) => faults.push(fault),
            }
        }
        faults.dedup();
        if !faults.is_empty() {
            return Err(ModelError::Generate { faults });
        }
        Ok(Self { decoder, options, under_way: Vec::new(), waiting })
    }

    /// What predicts, for a person.
    pub fn describe(&self) -> String {
        self.decoder.describe()
    }

    /// Ends a text before its time. One that is not under way stays as it is.
    pub fn end(&mut self, text_idx: usize) {
        if let Some(text) = self.under_way.iter_mut().find(|text| text.idx == text_idx) {
            text.is_over = true;
        }
    }

    /// Gives slots to texts that wait for one.
    fn admit(&mut self) {
        for slot in 0..self.decoder.n_slots() {
            let is_taken = self.under_way.iter().any(|text| text.slot == slot);
            if is_taken {
                continue;
            }
            let Some(text) = self.waiting.pop_front() else { return };
            self.decoder.forget(slot);
            self.under_way.push(Text { slot, ..text });
        }
    }

    /// The next token of every text under way.
    fn steps(&mut self) -> Result<Vec<(usize, Step)>, ModelError> {
        let Self { decoder, options, under_way, .. } = self;
        let mut chosen: Vec<_> = under_way.iter().map(|_| None).collect();
        let asked: Vec<_> = under_way.iter().map(|text| (text.slot, text.pending.as_slice())).collect();
        decoder.decode(&asked, &mut |idx, logits| {
            chosen[idx] = Some(options.step(logits, under_way[idx].n_generated));
        })?;
        let mut steps = Vec::with_capacity(chosen.len());
        for (text, step) in under_way.iter_mut().zip(chosen) {
            let step = step.expect("a decoder predicts every text")?;
            text.pending.clear();
            text.pending.push(step.token);
            text.n_generated += 1;
            text.is_over = options.end_of_text == Some(step.token) || text.n_generated >= options.max_tokens;
            steps.push((text.idx, step));
        }
        Ok(steps)
    }
}

impl Iterator for Texts<'_> {
    type Item = Result<Vec<(usize, Step)>, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.options.max_tokens == 0 {
            return None;
        }
        self.under_way.retain(|text| !text.is_over);
        self.admit();
        if self.under_way.is_empty() {
            return None;
        }
        let steps = self.steps();
        if steps.is_err() {
            self.under_way.clear();
            self.waiting.clear();
        }
        Some(steps)
    }
}

impl<'a> Generator<'a> {
    /// A generator that goes on from `prompt_ids`: see [`Texts::new`].
    ///
    /// # Errors
    /// As [`Texts::new`].
    pub fn new(
        model: &'a dyn LanguageModel,
        prompt_ids: &[u32],
        options: GenerateOptions,
    ) -> Result<Self, ModelError> {
        Texts::new(Box::new(ByModel::new(model, 1, DType::F32)), &[prompt_ids.to_vec()], options).map(Self)
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<Step, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        let only = |mut steps: Vec<(usize, Step)>| steps.pop().expect("its one text is under way").1;
        self.0.next().map(|steps| steps.map(only))
    }
}
