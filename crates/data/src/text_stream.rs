//! Token ids to text, one by one, as a model generates them.
//!
//! A token need not be whole text: a byte-level token may hold part of a character. What [`TextStream::push`]
//! gives is certain, whatever follows; all pieces together are what [`Tokenizer::decode`] makes of all ids.

use tokenizers::DecoderWrapper;

use crate::bpe::byte_chars;
use crate::error::DataError;
use crate::tokenizer::{Tokenizer, check_ids};

/// What stands in a text for bytes that are no character.
const REPLACEMENT: char = '\u{fffd}';

/// Decodes a sequence of ids, see [`Tokenizer::stream`].
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    decoding: Decoding,
    position: u64,
}

/// How ids become text.
#[derive(Clone, Debug)]
enum Decoding {
    /// A token is bytes, whatever stands beside it.
    Bytes(ByteDecoding),
    /// A token's text hangs on the token before.
    Window(Window),
}

impl Tokenizer {
    /// Decodes ids one by one, as they are generated.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }
}

impl<'a> TextStream<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        let decoding = match tokenizer.library().get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => Decoding::Bytes(ByteDecoding::new(true)),
            Some(DecoderWrapper::Fuse(_)) => Decoding::Bytes(ByteDecoding::new(false)),
            decoder => Decoding::Window(Window::new(decoder.is_some_and(has_byte_fallback))),
        };
        Self { tokenizer, decoding, position: 0 }
    }

    /// The text that is certain now that `id` follows; it may be empty.
    ///
    /// # Errors
    /// If the id is beyond the vocabulary, or the text cannot be told piece by piece.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        check_ids(&[id], self.tokenizer.vocab_size(), self.position)?;
        self.position += 1;
        match &mut self.decoding {
            Decoding::Bytes(bytes) => Ok(bytes.push(&self.tokenizer.token(id).unwrap_or_default())),
            Decoding::Window(window) => window.push(self.tokenizer, id),
        }
    }

    /// The text that is left: of a character that was not completed, U+FFFD.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(self) -> Result<String, DataError> {
        match self.decoding {
            Decoding::Bytes(bytes) => Ok(String::from_utf8_lossy(&bytes.pending).into_owned()),
            Decoding::Window(window) => window.rest(self.tokenizer),
        }
    }
}

/// Whether tokens such as `<0xE2>` stand for bytes. A run of them is text only if all of it is.
fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(has_byte_fallback),
        _ => false,
    }
}

/// Bytes that are not yet a character.
#[derive(Clone, Debug)]
struct ByteDecoding {
    /// Of a byte-level vocabulary: the printable characters that stand for the bytes.
    byte_chars: Option<Vec<(char, u8)>>,
    pending: Vec<u8>,
}

impl ByteDecoding {
    fn new(is_byte_level: bool) -> Self {
        let sorted = || {
            let mut pairs: Vec<(char, u8)> = byte_chars().into_iter().zip(0..=u8::MAX).collect();
            pairs.sort_unstable();
            pairs
        };
        Self { byte_chars: is_byte_level.then(sorted), pending: Vec::new() }
    }

    /// The bytes of a token: those that its characters stand for, or else its own.
    fn bytes(&self, token: &str) -> Vec<u8> {
        let byte = |c: char| {
            let table = self.byte_chars.as_ref()?;
            table.binary_search_by_key(&c, |&(other, _)| other).ok().map(|at| table[at].1)
        };
        token.chars().map(byte).collect::<Option<_>>().unwrap_or_else(|| token.as_bytes().to_vec())
    }

    /// Takes the bytes of `token`; gives the characters that are whole, and U+FFFD for what can be none.
    fn push(&mut self, token: &str) -> String {
        self.pending.extend(self.bytes(token));
        let (mut text, mut given) = (String::new(), 0);
        loop {
            let rest = &self.pending[given..];
            let Err(error) = str::from_utf8(rest) else {
                text += str::from_utf8(rest).unwrap_or_default();
                given = self.pending.len();
                break;
            };
            let valid = error.valid_up_to();
            text += str::from_utf8(&rest[..valid]).unwrap_or_default();
            given += valid;
            let Some(len) = error.error_len() else { break };
            text.push(REPLACEMENT);
            given += len;
        }
        self.pending.drain(..given);
        text
    }
}

/// The last tokens, decoded with and without the newest: what comes more is their text. Tokens before them do
/// not matter.
#[derive(Clone, Debug)]
struct Window {
    has_byte_fallback: bool,
    ids: Vec<u32>,
    /// How many of `ids` are told, and their text.
    n_told: usize,
    told: String,
}

impl Window {
    fn new(has_byte_fallback: bool) -> Self {
        Self { has_byte_fallback, ids: Vec::new(), n_told: 0, told: String::new() }
    }

    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, DataError> {
        self.ids.push(id);
        if self.has_byte_fallback && tokenizer.token(id).is_some_and(|token| is_byte(&token)) {
            return Ok(String::new());
        }
        let text = self.rest(tokenizer)?;
        let may_grow = !self.has_byte_fallback && text.ends_with(REPLACEMENT);
        if text.is_empty() || may_grow {
            return Ok(String::new());
        }
        self.ids.drain(..self.n_told);
        self.n_told = self.ids.len();
        self.told = tokenizer.decode(&self.ids)?;
        Ok(text)
    }

    /// The text that is not told.
    fn rest(&self, tokenizer: &Tokenizer) -> Result<String, DataError> {
        let text = tokenizer.decode(&self.ids)?;
        text.strip_prefix(self.told.as_str()).map(str::to_owned).ok_or_else(|| DataError::Tokenizer {
            path: tokenizer.path().to_owned(),
            reason:
                "its decoder changes text that was told before, so that nothing can be told piece by piece"
                    .to_owned(),
        })
    }
}

/// Whether a token is one byte, as SentencePiece spells it.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::bpe::WordCounts;

    const TEXTS: [&str; 5] = [
        "plain words, and  more \n\n of them",
        "日本語 ünïcödé e\u{301}\u{308} 🙂👩\u{200d}👧\u{a0}",
        " leading and trailing ",
        "\u{fffd} stands for itself \u{fffd}\u{fffd}",
        "",
    ];

    fn bpe() -> Tokenizer {
        let mut words = WordCounts::new();
        (0..40).for_each(|tale_idx| words.add(&crate::tales::tale(3, tale_idx).text));
        (0..9).for_each(|_| TEXTS.iter().for_each(|text| words.add(text)));
        Tokenizer::bpe(&words, 400)
    }

    fn chars() -> Tokenizer {
        let mut alphabet: Vec<char> = TEXTS.concat().chars().collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        Tokenizer::chars(&alphabet)
    }

    /// A small vocabulary in the way of Llama 2: "▁" for spaces, bytes for what is not known.
    fn llama() -> Tokenizer {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend(["▁", "a", "b", "▁a", "▁ab", "▁▁", "ü", "\u{fffd}", "日"].map(str::to_owned));
        let vocab: serde_json::Map<_, _> =
            (0..).zip(tokens).map(|(id, token): (u32, _)| (token, id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                      "vocab": vocab, "merges": [["▁", "a"], ["▁a", "b"], ["▁", "▁"]]},
        });
        Tokenizer::from_json(json.to_string(), Path::new("llama.json")).unwrap()
    }

    /// The vocabulary of [`llama`] with the decoder of a Metaspace tokenizer.
    fn metaspace() -> Tokenizer {
        let mut json: serde_json::Value = serde_json::from_str(llama().to_json()).unwrap();
        json["decoder"] = serde_json::json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false});
        Tokenizer::from_json(json.to_string(), Path::new("metaspace.json")).unwrap()
    }

    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut stream = tokenizer.stream();
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn pieces_are_the_text_and_no_character_is_cut() {
        for tokenizer in [Tokenizer::bytes(), chars(), bpe(), llama(), metaspace()] {
            for text in TEXTS {
                let ids = tokenizer.encode(text).unwrap();
                let pieces = streamed(&tokenizer, &ids);
                assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap());
                if !text.contains(REPLACEMENT) {
                    assert!(!pieces.concat().contains(REPLACEMENT), "{pieces:?}");
                }
            }
        }
    }

    #[test]
    fn a_character_comes_with_its_last_byte_and_an_unfinished_one_at_the_end() {
        let bytes = Tokenizer::bytes();
        assert_eq!(streamed(&bytes, &[0xE2, 0x82, 0xAC, 0x61]), ["", "", "€", "a", ""]);
        assert_eq!(streamed(&bytes, &[0xE2, 0x82]), ["", "", "\u{fffd}"]);
        assert_eq!(streamed(&bytes, &[0xE2, 0x61, 0x80]), ["", "\u{fffd}a", "\u{fffd}", ""]);
    }

    #[test]
    fn the_space_before_a_word_is_kept_but_for_the_first() {
        let llama = llama();
        let ids = llama.encode("ab ab a").unwrap();
        assert_eq!(streamed(&llama, &ids), ["ab", " ab", " a", ""]);
        let error = llama.stream().push(9999).unwrap_err();
        assert!(
            matches!(error, DataError::TokenBeyondVocabulary { token: 9999, position: 0, .. }),
            "{error}"
        );
    }

    #[test]
    fn special_tokens_are_told_as_they_are_spelt() {
        for tokenizer in [Tokenizer::bytes().with_end_of_text(), chars().with_end_of_text()] {
            let end = tokenizer.end_of_text().unwrap();
            assert_eq!(streamed(&tokenizer, &[1, end]).concat(), tokenizer.decode(&[1, end]).unwrap());
        }
    }

    proptest! {
        #[test]
        fn any_ids_give_the_pieces_of_their_text(ids in prop::collection::vec(0u32..10_000, 0..40)) {
            for tokenizer in [Tokenizer::bytes(), chars(), bpe_once().clone(), llama(), metaspace()] {
                let ids: Vec<u32> = ids.iter().map(|id| id % tokenizer.vocab_size() as u32).collect();
                prop_assert_eq!(streamed(&tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
            }
        }

        #[test]
        fn any_text_comes_back(text in "\\PC{0,30}|[a-zé日🙂\u{301} \\n]{0,30}") {
            for tokenizer in [&Tokenizer::bytes(), bpe_once()] {
                prop_assert_eq!(streamed(tokenizer, &tokenizer.encode(&text).unwrap()).concat(), text.as_str());
            }
        }
    }

    fn bpe_once() -> &'static Tokenizer {
        static BPE: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(bpe);
        &BPE
    }
}
