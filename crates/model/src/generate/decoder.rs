//! What predicts the next tokens of texts.

use candle_core::{DType, Device};

use crate::engine::board::BoardDecoder;
use crate::error::ModelError;
use crate::kv_cache::KvCache;
use crate::language_model::LanguageModel;
use crate::pass::Pass;

/// Predicts next tokens of several texts at once, each in a slot of its own, and remembers what it has seen of them.
pub trait Decoder {
    /// Texts at once.
    fn n_slots(&self) -> usize;

    /// Tokens that it can predict, v.
    fn vocab_size(&self) -> usize;

    /// Brings new tokens of some texts into view, each with its slot, and gives `each` the text's index among `texts`
    /// and the logits (v) for the token after. No slot comes twice.
    ///
    /// # Errors
    /// If the device or a tensor operation fails.
    fn decode(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError>;

    /// [`Decoder::decode`], with the logits for the token after each of the new tokens: `each` gets the text's index among
    /// `texts`, the token's among the new ones, and the logits (v).
    ///
    /// # Errors
    /// As for [`Decoder::decode`].
    fn decode_all(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ModelError> {
        let longest = texts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
        for place in 0..longest {
            let has_token = |(_, (_, tokens)): &(usize, &(usize, &[u32]))| place < tokens.len();
            let (indices, step): (Vec<_>, Vec<_>) = texts
                .iter()
                .enumerate()
                .filter(has_token)
                .map(|(text_idx, &(slot, tokens))| (text_idx, (slot, &tokens[place..=place])))
                .unzip();
            self.decode(&step, &mut |idx, logits| each(indices[idx], place, logits))?;
        }
        Ok(())
    }

    /// Forgets the text in a slot: the next tokens there begin another.
    fn forget(&mut self, slot: usize);

    /// Forgets what follows the first `n` tokens of the text in a slot, all of which it can look back on.
    fn rewind(&mut self, slot: usize, n: usize);

    /// What it is, for a person: how it computes, on what.
    fn describe(&self) -> String;
}

/// Rows of logits of one text that a model's own operations make at once.
const ROWS_AT_ONCE: usize = 64;

/// Decodes by a model's own operations, one text after the other.
pub struct ByModel<'a> {
    model: &'a dyn LanguageModel,
    caches: Vec<KvCache>,
    dtype: DType,
}

impl<'a> ByModel<'a> {
    /// Room for `n_slots` texts; activations are of type `dtype`.
    pub fn new(model: &'a dyn LanguageModel, n_slots: usize, dtype: DType) -> Self {
        Self { model, caches: (0..n_slots).map(|_| KvCache::new()).collect(), dtype }
    }
}

impl Decoder for ByModel<'_> {
    fn n_slots(&self) -> usize {
        self.caches.len()
    }

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn decode(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        for (text_idx, &(slot, tokens)) in texts.iter().enumerate() {
            let mut pass = Pass::evaluation(self.dtype);
            let logits_v = self.model.decode(tokens, &mut self.caches[slot], &mut pass)?;
            each(text_idx, &logits_v.to_vec1::<f32>()?);
        }
        Ok(())
    }

    fn decode_all(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ModelError> {
        for (text_idx, &(slot, tokens)) in texts.iter().enumerate() {
            for (part_idx, part) in tokens.chunks(ROWS_AT_ONCE).enumerate() {
                let mut pass = Pass::evaluation(self.dtype);
                let logits_nv =
                    self.model.decode_last(part, part.len(), &mut self.caches[slot], &mut pass)?;
                for (row_idx, logits_v) in logits_nv.to_vec2::<f32>()?.iter().enumerate() {
                    each(text_idx, part_idx * ROWS_AT_ONCE + row_idx, logits_v);
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, slot: usize) {
        self.caches[slot] = KvCache::new();
    }

    fn rewind(&mut self, slot: usize, n: usize) {
        self.caches[slot].rewind(n);
    }

    fn describe(&self) -> String {
        operations_on(&self.model.device(), self.dtype)
    }
}

impl<D: Decoder + ?Sized> Decoder for &mut D {
    fn n_slots(&self) -> usize {
        (**self).n_slots()
    }

    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn decode(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        (**self).decode(texts, each)
    }

    fn decode_all(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ModelError> {
        (**self).decode_all(texts, each)
    }

    fn forget(&mut self, slot: usize) {
        (**self).forget(slot);
    }

    fn rewind(&mut self, slot: usize, n: usize) {
        (**self).rewind(slot, n);
    }

    fn describe(&self) -> String {
        (**self).describe()
    }
}

/// What a model's own operations are, for a person.
pub fn operations_on(device: &Device, dtype: DType) -> String {
    let on = if device.is_cpu() { "the CPU" } else { "the GPU" };
    format!("candle's operations on {on} in {}", dtype.as_str())
}

impl Decoder for BoardDecoder {
    fn n_slots(&self) -> usize {
        self.n_slots()
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size()
    }

    fn decode(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        self.decode(texts, each).map_err(|error| ModelError::Device(error.into()))
    }

    fn forget(&mut self, slot: usize) {
        self.forget(slot);
    }

    fn rewind(&mut self, slot: usize, n: usize) {
        self.rewind(slot, n);
    }

    fn describe(&self) -> String {
        format!("explicit engine on {}", self.describe())
    }
}

/// Decodes so that a text has the same logits, to the bit, whatever else is decoded with it: each prompt goes through a pass
/// of its own, and texts that grow by one token share one.
pub struct Alone<'a> {
    decoder: Box<dyn Decoder + 'a>,
    /// Which slots have seen a token of their text.
    has_begun: Vec<bool>,
}

impl<'a> Alone<'a> {
    /// The same as `decoder`, a text at a time where that makes a difference.
    pub fn new(decoder: Box<dyn Decoder + 'a>) -> Self {
        Self { has_begun: vec![false; decoder.n_slots()], decoder }
    }
}

impl Decoder for Alone<'_> {
    fn n_slots(&self) -> usize {
        self.decoder.n_slots()
    }

    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn decode(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        let is_step = |text_idx: &usize| {
            let (slot, tokens) = texts[*text_idx];
            tokens.len() == 1 && self.has_begun[slot]
        };
        let (steps, prompts): (Vec<usize>, Vec<usize>) = (0..texts.len()).partition(is_step);
        texts.iter().for_each(|&(slot, _)| self.has_begun[slot] = true);
        for prompt in prompts {
            self.decoder.decode(&texts[prompt..=prompt], &mut |_, logits| each(prompt, logits))?;
        }
        if steps.is_empty() {
            return Ok(());
        }
        let together: Vec<_> = steps.iter().map(|&text_idx| texts[text_idx]).collect();
        self.decoder.decode(&together, &mut |idx, logits| each(steps[idx], logits))
    }

    fn decode_all(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), ModelError> {
        self.decoder.decode_all(texts, each)
    }

    fn forget(&mut self, slot: usize) {
        self.has_begun[slot] = false;
        self.decoder.forget(slot);
    }

    fn rewind(&mut self, slot: usize, n: usize) {
        self.decoder.rewind(slot, n);
    }

    fn describe(&self) -> String {
        self.decoder.describe()
    }
}
