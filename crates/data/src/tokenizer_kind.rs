//! How text becomes tokens.

use serde::{Deserialize, Serialize};

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerKind {
    /// One token a byte: 256 entries.
    Bytes,
    /// One token a character, for every character of the text.
    Chars,
    /// Byte-level byte-pair encoding, trained on the training split.
    #[default]
    Bpe,
    /// A `tokenizer.json` made elsewhere.
    File,
}
