//! Why a text has no ids.

use std::path::Path;

use crate::error::DataError;

/// Why a text has no ids.
#[derive(Debug)]
pub(crate) enum EncodeError {
    /// A character that the vocabulary lacks, at a position in characters.
    Unknown { character: char, position: u64 },
    /// What the library says.
    Library(tokenizers::Error),
    /// A conversation of which nothing can be learnt, and why.
    Conversation(String),
}

impl From<tokenizers::Error> for EncodeError {
    fn from(error: tokenizers::Error) -> Self {
        Self::Library(error)
    }
}

impl EncodeError {
    /// The same in a text that has `chars` characters before this one.
    pub(crate) fn after(self, chars: u64) -> Self {
        match self {
            Self::Unknown { character, position } => Self::Unknown { character, position: chars + position },
            other => other,
        }
    }

    /// The same as the crate's error; `path` is the tokenizer's.
    pub(crate) fn told(self, path: &Path) -> DataError {
        match self {
            Self::Unknown { character, position } => {
                DataError::UnknownCharacter { path: None, character, position }
            }
            Self::Conversation(reason) => DataError::Conversation { reason },
            Self::Library(error) => DataError::Tokenizer { path: path.to_owned(), reason: error.to_string() },
        }
    }
}
