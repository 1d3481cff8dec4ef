//! A text to which others add: a conversation.

use super::decoder::Decoder;
use super::generator::{GenerateOptions, Step};
use crate::error::ModelError;

/// Goes on with one text in turns, each after more tokens from outside. What the decoder has seen of it is not computed
/// again.
pub struct Dialogue<'a> {
    decoder: Box<dyn Decoder + 'a>,
    options: GenerateOptions,
    /// Tokens that the decoder has seen.
    seen: Vec<u32>,
    /// Tokens that it has not.
    pending: Vec<u32>,
    n_generated: usize,
}

impl<'a> Dialogue<'a> {
    /// A dialogue of which nothing is said. `options.max_tokens` and `options.end_of_text` are the caller's to keep.
    ///
    /// # Errors
    /// If an option is out of range.
    pub fn new(decoder: Box<dyn Decoder + 'a>, options: GenerateOptions) -> Result<Self, ModelError> {
        let faults = options.faults(decoder.vocab_size());
        if !faults.is_empty() {
            return Err(ModelError::Generate { faults });
        }
        Ok(Self { decoder, options, seen: Vec::new(), pending: Vec::new(), n_generated: 0 })
    }

    /// All tokens of the text so far: those said to it, and those it said.
    pub fn tokens(&self) -> Vec<u32> {
        [self.seen.as_slice(), &self.pending].concat()
    }

    /// Makes `tokens` the text to go on from. Returns how many of them the decoder need not see again: all that it has
    /// seen, where the text only grew, else none.
    ///
    /// # Errors
    /// If there is no token, or one is not the model's.
    pub fn go_on_from(&mut self, tokens: &[u32]) -> Result<usize, ModelError> {
        let v = self.decoder.vocab_size();
        let fault = match tokens.iter().find(|&&token| token as usize >= v) {
            Some(token) => Some(format!("token {token} is not among the model's {v}")),
            None => tokens.is_empty().then(|| "there is no token to go on from".to_owned()),
        };
        if let Some(fault) = fault {
            return Err(ModelError::Generate { faults: vec![fault] });
        }
        if !(tokens.len() > self.seen.len() && tokens.starts_with(&self.seen)) {
            self.decoder.forget(0);
            self.seen.clear();
        }
        self.pending = tokens[self.seen.len()..].to_vec();
        Ok(self.seen.len())
    }

    /// The next token, which is from then on part of the text.
    ///
    /// # Errors
    /// If the device or a tensor operation fails, or a logit is not finite.
    ///
    /// # Panics
    /// If there is nothing to go on from.
    pub fn step(&mut self) -> Result<Step, ModelError> {
        assert!(!self.pending.is_empty(), "a dialogue goes on from some token");
        let Self { decoder, options, pending, n_generated, .. } = self;
        let mut chosen = None;
        decoder
            .decode(&[(0, pending)], &mut |_, logits| chosen = Some(options.step(logits, *n_generated)))?;
        let step = chosen.expect("a decoder predicts every text")?;
        self.n_generated += 1;
        self.seen.append(&mut self.pending);
        self.pending.push(step.token);
        Ok(step)
    }

    /// What predicts, for a person.
    pub fn describe(&self) -> String {
        self.decoder.describe()
    }
}
