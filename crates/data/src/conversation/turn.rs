//! Where a turn ends, in tokens.

use super::template::ChatTemplate;
use crate::error::DataError;
use crate::tokenizer::Tokenizer;

impl ChatTemplate {
    /// The special token that ends a turn of the assistant, if one does.
    ///
    /// # Errors
    /// As [`Self::after_turn`], or if `tokenizer` cannot encode what ends a turn.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Result<Option<u32>, DataError> {
        let first = tokenizer.encode(&self.after_turn()?)?.first().copied();
        Ok(first.filter(|&id| tokenizer.is_special(id)))
    }
}
