//! How to encode with what a tokenizer of the library holds.
//!
//! The library is the specification; what is faster here gives its ids, and tests hold one against the other.

use tokenizers::models::bpe::BPE;
use tokenizers::{
    AddedToken, DecoderWrapper, Model, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as Library,
};

use crate::bpe::byte_chars;
use crate::config::N_BYTES;
use crate::encode_error::EncodeError;
use crate::passage::{Encoded, Passage};
use crate::vocabulary::{Vocabulary, covers_bytes, has_affix};
use crate::word_cache::WordCache;

/// Most added tokens that are looked for in a text one by one; with more, the library looks.
const MAX_GUARDS: usize = 16;

/// What a special token's spelling in a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Specials {
    /// The token, as Hugging Face's tools have it.
    Tokens,
    /// Its characters: in a document, text is text.
    Text,
}

/// How to encode.
#[derive(Clone, Debug)]
pub(crate) enum Encoder {
    /// One token a character: a table is enough, and names what is missing.
    Chars(Vec<u32>),
    /// One token a byte: the ids of the bytes.
    Bytes(Box<[u32; N_BYTES]>),
    /// A byte-level encoding with GPT-2's pre-tokenizer and all bytes: words, looked up.
    Words,
    /// Anything else: the library.
    Whole(Vocabulary),
}

/// Where [`Encoder::Chars`] has no token.
const MISSING: u32 = u32::MAX;

impl Encoder {
    /// The fastest way for what `library` holds; `json` is its file.
    pub(crate) fn of(library: &mut Library, json: &str) -> Self {
        Self::shortcut(library).unwrap_or_else(|| Self::Whole(Vocabulary::of(library, json)))
    }

    /// A way that does not need the library, and gives back every text that it encodes.
    fn shortcut(library: &Library) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = library.get_model() else { return None };
        if has_affix(bpe) || !is_plain(library) {
            return None;
        }
        let drops_unknown = bpe.get_unk_token().is_none() && !bpe.byte_fallback;
        match (library.get_pre_tokenizer(), library.get_decoder()) {
            (None, Some(DecoderWrapper::Fuse(_))) if drops_unknown => char_ids(bpe).map(Self::Chars),
            (Some(PreTokenizerWrapper::ByteLevel(bytes)), Some(DecoderWrapper::ByteLevel(_)))
                if !bytes.add_prefix_space && covers_bytes(bpe) =>
            {
                if bytes.use_regex {
                    Some(Self::Words)
                } else if bpe.get_vocab_size() <= N_BYTES {
                    byte_ids(bpe).map(Self::Bytes)
                } else {
                    None
                }
            }
            _ => None,
        }
    }

    /// Whether pieces of a text between [soft cuts](crate::words::last_soft_cut) give the ids of the whole, and
    /// the ids the text.
    pub(crate) fn is_cuttable(&self) -> bool {
        matches!(self, Self::Chars(_) | Self::Bytes(_) | Self::Words)
    }

    /// Appends the ids of a passage to `out`. `guards` holds the spellings of tokens that the library would find in
    /// it before all else; a text that has one is left to the library.
    pub(crate) fn encode(
        &self,
        library: &Library,
        guards: &[String],
        passage: Passage<'_>,
        cache: &mut WordCache,
        out: &mut Encoded,
    ) -> Result<(), EncodeError> {
        let text = passage.text;
        let is_guarded =
            !matches!(self, Self::Whole(_)) && guards.iter().any(|token| text.contains(token.as_str()));
        match (self, library.get_model()) {
            (Self::Whole(vocabulary), _) => vocabulary.encode(library, passage, out),
            (Self::Chars(ids), _) if is_guarded => {
                check_chars(text, guards, |c| char_id(ids, c).is_some())?;
                encode_by_library(library, text, &mut out.ids)
            }
            _ if is_guarded => encode_by_library(library, text, &mut out.ids),
            (Self::Chars(ids), _) => encode_chars(ids, text, &mut out.ids),
            (Self::Bytes(ids), _) => {
                out.ids.extend(text.bytes().map(|byte| ids[byte as usize]));
                Ok(())
            }
            (Self::Words, ModelWrapper::BPE(bpe)) => Ok(cache.encode(bpe, text, &mut out.ids)?),
            (Self::Words, _) => encode_by_library(library, text, &mut out.ids),
        }
    }
}

/// The spellings to guard a text against, if they are few: those of all added tokens, or of those alone that are
/// not special.
pub(crate) fn guards(library: &Library, specials: Specials) -> Option<Vec<String>> {
    let added = library.get_added_tokens_decoder();
    let is_found = |token: &&AddedToken| specials == Specials::Tokens || !token.special;
    let guards: Vec<String> = added.values().filter(is_found).map(|token| token.content.clone()).collect();
    (guards.len() <= MAX_GUARDS).then_some(guards)
}

/// Whether nothing changes the text before the pre-tokenizer, and nothing the ids after the model.
fn is_plain(library: &Library) -> bool {
    // Special tokens as GPT-2's <|endoftext|> stay whole: a soft cut is no place inside or beside them.
    let cuttable = |token: &AddedToken| !token.lstrip && !token.rstrip && !token.content.contains('\n');
    library.get_normalizer().is_none()
        && matches!(library.get_post_processor(), None | Some(PostProcessorWrapper::ByteLevel(_)))
        && library.get_added_tokens_decoder().values().all(cuttable)
        && guards(library, Specials::Tokens).is_some()
}

fn encode_by_library(library: &Library, text: &str, out: &mut Vec<u32>) -> Result<(), EncodeError> {
    out.extend_from_slice(library.encode_fast(text, false)?.get_ids());
    Ok(())
}

fn char_id(ids: &[u32], c: char) -> Option<u32> {
    ids.get(c as usize).copied().filter(|&id| id != MISSING)
}

fn encode_chars(ids: &[u32], text: &str, out: &mut Vec<u32>) -> Result<(), EncodeError> {
    let first = out.len();
    out.extend(text.chars().map_while(|c| char_id(ids, c)));
    let known = out.len() - first;
    match text.chars().nth(known) {
        None => Ok(()),
        Some(character) => Err(EncodeError::Unknown { character, position: known as u64 }),
    }
}

/// That every character of `text` is known, but for those of the tokens in `guards`.
fn check_chars(text: &str, guards: &[String], is_known: impl Fn(char) -> bool) -> Result<(), EncodeError> {
    let mut guarded_to = 0;
    for (position, (at, character)) in text.char_indices().enumerate() {
        if at < guarded_to {
            continue;
        }
        match guards.iter().find(|token| text[at..].starts_with(token.as_str())) {
            Some(token) => guarded_to = at + token.len(),
            None if is_known(character) => {}
            None => return Err(EncodeError::Unknown { character, position: position as u64 }),
        }
    }
    Ok(())
}

/// The ids of a vocabulary of single characters, by the character's number.
fn char_ids(bpe: &BPE) -> Option<Vec<u32>> {
    let mut ids = Vec::new();
    for (token, id) in bpe.get_vocab() {
        let mut chars = token.chars();
        let at = chars.next().filter(|_| chars.next().is_none())? as usize;
        ids.resize(ids.len().max(at + 1), MISSING);
        ids[at] = id;
    }
    Some(ids)
}

/// The ids of the bytes in a vocabulary that has no more.
fn byte_ids(bpe: &BPE) -> Option<Box<[u32; N_BYTES]>> {
    let vocab = bpe.get_vocab();
    let mut ids = Box::new([MISSING; N_BYTES]);
    for (id, c) in ids.iter_mut().zip(byte_chars()) {
        *id = *vocab.get(c.encode_utf8(&mut [0; 4]) as &str)?;
    }
    Some(ids)
}
