//! Templates that come with the program.

use crate::end_of_text::END_OF_TEXT;

/// Templates that come with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// `<|im_start|>role`, the message, `<|im_end|>`.
    ChatMl,
    /// `Role: message`, one a line; a turn of the assistant ends with the end of text. For tokenizers without
    /// special tokens of their own.
    Plain,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ChatMl, Self::Plain];

    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChatMl => "chatml",
            Self::Plain => "plain",
        }
    }

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.name() == name)
    }

    pub(super) fn source(self) -> &'static str {
        match self {
            Self::ChatMl => include_str!("templates/chatml.jinja"),
            Self::Plain => include_str!("templates/plain.jinja"),
        }
    }

    /// Tokens beside the end of text that it is made for.
    pub(super) fn tokens(self) -> &'static [&'static str] {
        match self {
            Self::ChatMl => &["<|im_start|>", "<|im_end|>"],
            Self::Plain => &[],
        }
    }

    /// The token that ends a turn of the assistant.
    pub(super) fn end_of_turn(self) -> &'static str {
        match self {
            Self::ChatMl => "<|im_end|>",
            Self::Plain => END_OF_TEXT,
        }
    }
}
