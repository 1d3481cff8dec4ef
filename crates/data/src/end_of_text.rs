//! The token that ends a document.

/// The special token that ends a document in tokenizers made here, as GPT-2's.
pub const END_OF_TEXT: &str = "<|endoftext|>";
