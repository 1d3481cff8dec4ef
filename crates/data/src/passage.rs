//! A part of a text that is encoded by itself and yet gets the tokens that it has in the whole.
//!
//! A text is read in blocks, and where a block ends must not change the tokens. Tokens may depend on what stands beside
//! them: a normalizer or pre-tokenizer may put a "▁" before the first word of what it is given, a pattern may join
//! ".\n\n" across the border. So a block is encoded together with some text before and after it, and those tokens
//! are its own that begin in it. That this context is enough is checked: the last tokens before a block must come
//! out as the block before has them, see [`Encoded::overlap`].

use std::borrow::Cow;
use std::ops::Range;

use crate::conversation::Conversation;

/// Bytes of context on either side of a block. Words are much shorter, and so is what one merge changes.
pub(crate) const CONTEXT_BYTES: usize = 8 << 10;

/// Bytes before a block whose tokens are compared with those of the block before.
const OVERLAP_BYTES: usize = 512;

/// A part of a text with what stands beside it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passage<'a> {
    pub before: &'a str,
    pub text: &'a str,
    pub after: &'a str,
    /// What it is the text of, if that is a conversation.
    pub conversation: Option<&'a Conversation>,
}

impl<'a> Passage<'a> {
    /// A whole text.
    pub(crate) fn whole(text: &'a str) -> Self {
        Self { text, ..Self::default() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    /// The passage with its context.
    pub(crate) fn window(&self) -> Cow<'a, str> {
        match self.is_whole() {
            true => self.text.into(),
            false => [self.before, self.text, self.after].concat().into(),
        }
    }

    /// Where the passage lies in its window, in bytes.
    pub(crate) fn inside(&self) -> Range<usize> {
        self.before.len()..self.before.len() + self.text.len()
    }

    /// Where in its window the text lies whose tokens must be those of the passage before.
    pub(crate) fn overlap(&self) -> Range<usize> {
        self.before.len().saturating_sub(OVERLAP_BYTES)..self.before.len()
    }
}

/// What passages became.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoded {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The tokens just before the passage, as they come out beside it.
    pub overlap: Vec<u32>,
    /// Characters that decoding the tokens does not give back.
    pub lost_chars: u64,
    /// Tokens that stand for what the vocabulary lacks.
    pub unknown_tokens: u64,
}
