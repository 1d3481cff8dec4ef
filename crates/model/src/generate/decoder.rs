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

    /// Forgets the text in a slot: the next tokens there begin another.
    fn forget(&mut self, slot: usize);

    /// What it is, for a person: how it computes, on what.
    fn describe(&self) -> String;
}

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

    fn forget(&mut self, slot: usize) {
        self.caches[slot] = KvCache::new();
    }

    fn describe(&self) -> String {
        operations_on(&self.model.device(), self.dtype)
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

    fn describe(&self) -> String {
        format!("explicit engine on {}", self.describe())
    }
}
