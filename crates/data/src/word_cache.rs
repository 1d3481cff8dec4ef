//! Words that were encoded before.
//!
//! Text repeats its words, so most of them can be looked up instead of merged; `benches/README.md` has figures.
//! Each thread has a cache of its own, so that none waits for another.

use std::ops::Range;

use ahash::AHashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::{Model, Result};

use crate::bpe::byte_chars;
use crate::config::N_BYTES;
use crate::words::words;

/// Longest word that is kept: longer ones seldom come twice.
const MAX_WORD_BYTES: usize = 64;

/// Most words that are kept, which bounds the memory to some 20 MB a cache.
const MAX_WORDS: usize = 1 << 17;

/// The ids of words, by their text.
#[derive(Debug)]
pub(crate) struct WordCache {
    ranges: AHashMap<Box<str>, Range<u32>>,
    /// The ids of all words, one after another.
    ids: Vec<u32>,
    byte_chars: [char; N_BYTES],
}

impl Default for WordCache {
    fn default() -> Self {
        Self { ranges: AHashMap::new(), ids: Vec::new(), byte_chars: byte_chars() }
    }
}

impl WordCache {
    /// Appends to `out` the ids of `text` under a byte-level encoding with GPT-2's pre-tokenizer. A cache serves
    /// one encoding alone.
    pub(crate) fn encode(&mut self, bpe: &BPE, text: &str, out: &mut Vec<u32>) -> Result<()> {
        for word in words(text) {
            match self.ranges.get(word) {
                Some(range) => out.extend_from_slice(&self.ids[range.start as usize..range.end as usize]),
                None => self.encode_new(bpe, word, out)?,
            }
        }
        Ok(())
    }

    fn encode_new(&mut self, bpe: &BPE, word: &str, out: &mut Vec<u32>) -> Result<()> {
        let printable: String = word.bytes().map(|byte| self.byte_chars[byte as usize]).collect();
        let first = out.len();
        out.extend(bpe.tokenize(&printable)?.iter().map(|token| token.id));
        if word.len() <= MAX_WORD_BYTES && self.ranges.len() < MAX_WORDS {
            let start = self.ids.len() as u32;
            self.ids.extend_from_slice(&out[first..]);
            self.ranges.insert(word.into(), start..self.ids.len() as u32);
        }
        Ok(())
    }
}
