//! Text to token ids and back.
//!
//! Every kind is a standard `tokenizer.json` that Hugging Face `tokenizers` and `transformers` open: bytes and
//! characters are byte-pair encodings without a merge. What is made here loses nothing: decoding what was
//! encoded gives the text, to the last space and carriage return.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Library};
use wattle_guard::guard;

use crate::bpe::{Merges, WordCounts, byte_chars, pre_tokenizer, train};
use crate::call_state;
use crate::digest::sha256_hex;
use crate::encode_error::EncodeError;
use crate::encoder::{Encoder, Specials, guards};
use crate::error::DataError;
use crate::passage::{Encoded, Passage};
use crate::scratch::Scratch;
use crate::tokenizer_file;
use crate::word_cache::WordCache;
use crate::words::last_soft_cut;

pub use crate::end_of_text::END_OF_TEXT;

/// Name of a tokenizer in a dataset or checkpoint folder.
pub const FILE_NAME: &str = "tokenizer.json";

/// Spellings of special tokens that end a document, the first that there is counts: GPT-2 and Qwen, Llama 3,
/// Llama and Mistral, Gemma, ChatML.
const ENDS_OF_TEXT: [&str; 5] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>"];

/// Bytes of text that one thread encodes at a time.
const PIECE_BYTES: usize = 1 << 16;

/// A vocabulary and the rules that map text to it.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    library: Library,
    /// The same, but special tokens in a text are text; where the library is asked for that at all.
    library_of_text: Option<Box<Library>>,
    /// What the encoder leaves to the library, by [`Specials`]: as tokens and as text.
    guards: [Vec<String>; 2],
    /// The file that it was read from, or `tokenizer.json` for one made here.
    path: PathBuf,
    /// The content of its `tokenizer.json`.
    json: String,
    /// What that asks for and a corpus must not get.
    switched_off: Vec<String>,
    vocab_size: usize,
    encoder: Encoder,
    end_of_text: Option<u32>,
}

impl Tokenizer {
    /// One token a byte; the id is the byte.
    pub fn bytes() -> Self {
        let merges =
            Merges { tokens: byte_chars().iter().map(char::to_string).collect(), merges: Vec::new() };
        byte_level(merges, ByteLevel::new(false, false, false))
    }

    /// One token a character, ids in the order of `alphabet`.
    pub fn chars(alphabet: &[char]) -> Self {
        let tokens = alphabet.iter().map(char::to_string).collect();
        let mut library = Library::new(model(Merges { tokens, merges: Vec::new() }));
        library.with_decoder(Some(Fuse::new()));
        Self::made_here(library)
    }

    /// A byte-level byte-pair encoding of at most `vocab_size` tokens, trained on `words`.
    pub fn bpe(words: &WordCounts, vocab_size: usize) -> Self {
        byte_level(train(words, vocab_size), pre_tokenizer())
    }

    /// Opens a `tokenizer.json`.
    ///
    /// # Errors
    /// If it cannot be read or parsed.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let json =
            wattle_files::read_text(path, tokenizer_file::MAX_FILE_BYTES).map_err(DataError::read(path))?;
        Self::from_json(without_bom(&json).to_owned(), path)
    }

    /// The tokenizer of a `tokenizer.json`'s content; `path` is named in errors. Truncation, padding and dropout,
    /// which belong to a call and not to the vocabulary, are not obeyed; [`Self::switched_off`] names them.
    ///
    /// # Errors
    /// If it cannot be parsed, has no entry, or would exhaust the memory or a lifetime.
    pub fn from_json(json: String, path: &Path) -> Result<Self, DataError> {
        let fault = |reason: String| DataError::Tokenizer { path: path.to_owned(), reason };
        let library = tokenizer_file::open(&json).map_err(fault)?;
        let tokenizer = guard(|| Self::of_library(library, json, path)).map_err(fault)?;
        tokenizer.ok_or_else(|| fault("has no entry in its vocabulary".to_owned()))
    }

    /// The tokenizer of what the library read from `json`; `None` if that is empty.
    fn of_library(mut library: Library, json: String, path: &Path) -> Option<Self> {
        let highest = library.get_vocab(true).into_values().max()?;
        let switched_off = call_state::switch_off(&mut library);
        let encoder = Encoder::of(&mut library, &json);
        let guards =
            [Specials::Tokens, Specials::Text].map(|specials| guards(&library, specials).unwrap_or_default());
        let asks_library = !encoder.is_cuttable() || !guards[Specials::Text as usize].is_empty();
        let library_of_text = (asks_library && has_specials(&library)).then(|| {
            let mut library = library.clone();
            library.set_encode_special_tokens(true);
            Box::new(library)
        });
        let end_of_text = find_end_of_text(&library);
        let vocab_size = highest as usize + 1;
        let path = path.to_owned();
        Some(Self {
            library,
            library_of_text,
            guards,
            path,
            json,
            switched_off,
            vocab_size,
            encoder,
            end_of_text,
        })
    }

    /// The same tokenizer with a `tokenizer.json` that says how texts are encoded here: without what is
    /// [switched off](Self::switched_off). The names of that are kept.
    pub fn with_own_json(mut self) -> Self {
        self.json = self.own_json().into_owned();
        self
    }

    fn own_json(&self) -> Cow<'_, str> {
        match self.switched_off.is_empty() {
            true => Cow::Borrowed(&self.json),
            false => call_state::json_without(&self.json).expect("what was parsed before is JSON").into(),
        }
    }

    /// What its `tokenizer.json` asks for that belongs to a call and is not obeyed, such as "truncation to 64
    /// tokens".
    pub fn switched_off(&self) -> &[String] {
        &self.switched_off
    }

    /// Whether both encode alike: their files are the same, but for what is switched off.
    pub fn encodes_as(&self, other: &Self) -> bool {
        self.json == other.json || self.own_json() == other.own_json()
    }

    /// Whether every text is sure to come back from its tokens, and a text's pieces to have the tokens of the whole,
    /// without a look at either.
    pub fn is_exact(&self) -> bool {
        self.encoder.is_cuttable()
    }

    /// The same vocabulary and one token more, [`END_OF_TEXT`], with the next free id.
    pub fn with_end_of_text(self) -> Self {
        self.with_special_tokens(&[END_OF_TEXT])
    }

    /// The same vocabulary and these special tokens, those that it lacks with the next free ids.
    pub(crate) fn with_special_tokens(self, tokens: &[&str]) -> Self {
        let mut library = self.library;
        let tokens: Vec<AddedToken> = tokens.iter().map(|token| AddedToken::from(*token, true)).collect();
        library.add_special_tokens(tokens).expect("without a normalizer no token can be refused");
        Self::made_here(library)
    }

    pub(crate) fn made_here(library: Library) -> Self {
        let json = library.to_string(true).expect("a vocabulary of strings can be written as JSON");
        Self::from_json(json, Path::new(FILE_NAME)).expect("what was just written can be read")
    }

    /// Token ids of `text`; special tokens are not added, but found where the text spells them.
    ///
    /// # Errors
    /// If a character is not in the vocabulary, or the library fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let pieces = if self.encoder.is_cuttable() { pieces(text) } else { vec![text] };
        let caches = Scratch::default();
        let encode = |piece: &str| {
            let mut encoded = Encoded::default();
            let passage = Passage::whole(piece);
            caches.with(|cache| self.encode_passage(passage, Specials::Tokens, cache, &mut encoded))?;
            Ok(encoded.ids)
        };
        let mut ids = Vec::new();
        let encoded: Vec<Result<Vec<u32>, EncodeError>> =
            pieces.par_iter().map(|piece| encode(piece)).collect();
        for (piece_idx, piece) in encoded.into_iter().enumerate() {
            let before = || pieces[..piece_idx].iter().map(|piece| piece.chars().count() as u64).sum();
            ids.extend(piece.map_err(|error| error.after(before()).told(&self.path))?);
        }
        Ok(ids)
    }

    /// Appends the ids of a passage to `out`, on this thread alone. `cache` served no other tokenizer.
    pub(crate) fn encode_passage(
        &self,
        passage: Passage<'_>,
        specials: Specials,
        cache: &mut WordCache,
        out: &mut Encoded,
    ) -> Result<(), EncodeError> {
        let library = match (&self.library_of_text, specials) {
            (Some(library), Specials::Text) => library,
            _ => &self.library,
        };
        let guards = &self.guards[specials as usize];
        let panicked =
            |panic: String| Err(EncodeError::Library(format!("fails on this text: {panic}").into()));
        guard(|| self.encoder.encode(library, guards, passage, cache, out)).unwrap_or_else(panicked)
    }

    /// The text of `ids`. Bytes that are not UTF-8, as the end of a cut sequence may hold, become U+FFFD.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary, or the library fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        check_ids(ids, self.vocab_size, 0)?;
        if ids.is_empty() {
            // Not all of the library's decoders know this.
            return Ok(String::new());
        }
        let panicked = |panic: String| Err(format!("cannot decode these tokens: {panic}").into());
        let text = guard(|| self.library.decode(ids, false)).unwrap_or_else(panicked);
        text.map_err(|error| DataError::Tokenizer { path: self.path.clone(), reason: error.to_string() })
    }

    /// The id of the special token that ends a document: `<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>` or
    /// `<|im_end|>`, the first of these that there is.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// Whether a text's spelling of this token is the token and no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.library.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The token with this id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id)
    }

    /// What the `tokenizers` library holds.
    pub(crate) fn library(&self) -> &Library {
        &self.library
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The file that it was read from, or `tokenizer.json` for one made here.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of its `tokenizer.json`.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// Writes its `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        std::fs::write(path, &self.json).map_err(DataError::write(path))
    }

    /// SHA-256 of its `tokenizer.json`, in hexadecimal.
    pub fn sha256(&self) -> String {
        sha256_hex(self.json.as_bytes())
    }

    /// The content of the `tokenizer_config.json` with which `transformers` opens it; `model_max_length` is the
    /// model's context.
    pub fn tokenizer_config_json(&self, model_max_length: usize) -> String {
        let mut config = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model_max_length,
            "clean_up_tokenization_spaces": false,
        });
        if let Some(token) = self.end_of_text.and_then(|id| self.token(id)) {
            config["eos_token"] = token.into();
        }
        format!("{config:#}\n")
    }
}

fn has_specials(library: &Library) -> bool {
    library.get_added_tokens_decoder().values().any(|token| token.special)
}

fn find_end_of_text(library: &Library) -> Option<u32> {
    let added = library.get_added_tokens_decoder();
    let find = |spelling: &str| {
        added.iter().find(|(_, token)| token.special && token.content == *spelling).map(|(&id, _)| id)
    };
    ENDS_OF_TEXT.iter().find_map(|spelling| find(spelling))
}

fn model(Merges { tokens, merges }: Merges) -> BPE {
    let vocab: Vocab = tokens.into_iter().zip(0..).collect();
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .build()
        .expect("every merge joins two tokens into a third, all in the vocabulary")
}

fn byte_level(merges: Merges, pre_tokenizer: ByteLevel) -> Tokenizer {
    let mut library = Library::new(model(merges));
    library.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(ByteLevelDecoder::default()));
    Tokenizer::made_here(library)
}

/// Cuts `text` at soft cuts into pieces of about [`PIECE_BYTES`].
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE_BYTES {
        let window = &rest[..rest.floor_char_boundary(PIECE_BYTES)];
        let Some(cut) = last_soft_cut(window) else { break };
        let (piece, after) = rest.split_at(cut);
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    pieces
}

/// A text without the byte order mark that some editors put first.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// That every id is below `vocab_size`; `first` is the position of the first in its split.
pub(crate) fn check_ids(ids: &[u32], vocab_size: usize, first: u64) -> Result<(), DataError> {
    match ids.iter().position(|&id| id as usize >= vocab_size) {
        None => Ok(()),
        Some(at) => {
            Err(DataError::TokenBeyondVocabulary { token: ids[at], position: first + at as u64, vocab_size })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 8] = [
        "",
        "plain words",
        "  two before and two after  ",
        "line\r\nends\r\n\r\n and \n\n\n blank\tlines\n",
        "don't, I'll, it's 1234 !?",
        "\u{feff}日本語 ünïcödé e\u{301} 🙂👩\u{200d}👧 \u{a0}nbsp",
        "<|endoftext|> [UNK] Ġ Ċ",
        "\0\u{7f}\u{80}",
    ];

    fn alphabet() -> Vec<char> {
        let mut chars: Vec<char> = TEXTS.iter().flat_map(|text| text.chars()).collect();
        chars.sort_unstable();
        chars.dedup();
        chars
    }

    fn small_bpe() -> Tokenizer {
        let mut words = WordCounts::new();
        (0..40).for_each(|tale_idx| words.add(&crate::tales::tale(3, tale_idx).text));
        Tokenizer::bpe(&words, 600)
    }

    #[test]
    fn every_kind_made_here_gives_back_the_text_also_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        for (tokenizer, vocab_size) in
            [(Tokenizer::bytes(), 256), (Tokenizer::chars(&alphabet()), alphabet().len()), (small_bpe(), 600)]
        {
            assert_eq!(tokenizer.vocab_size(), vocab_size);
            let path = dir.path().join(FILE_NAME);
            tokenizer.save(&path).unwrap();
            let loaded = Tokenizer::load(&path).unwrap();
            assert_eq!((loaded.to_json(), loaded.sha256()), (tokenizer.to_json(), tokenizer.sha256()));
            for text in TEXTS {
                let ids = tokenizer.encode(text).unwrap();
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
                assert_eq!(loaded.encode(text).unwrap(), ids);
            }
        }
    }

    #[test]
    fn the_shortcuts_give_the_ids_of_the_library() {
        let mut text: String = (0..200).map(|i| crate::tales::tale(9, i).text + "\n \n\n").collect();
        text += &TEXTS.concat();
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters.dedup();
        assert!(text.len() > PIECE_BYTES);
        for tokenizer in [Tokenizer::bytes(), Tokenizer::chars(&letters), small_bpe()] {
            assert!(tokenizer.encoder.is_cuttable());
            let expected = tokenizer.library.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(tokenizer.encode(&text).unwrap(), expected.get_ids());
        }
    }

    #[test]
    fn ids_of_bytes_and_letters_are_in_order() {
        assert_eq!(Tokenizer::bytes().encode("a é").unwrap(), [97, 32, 0xC3, 0xA9]);
        assert_eq!(Tokenizer::chars(&['\n', 'a', 'b']).encode("ba\n").unwrap(), [2, 1, 0]);
    }

    #[test]
    fn an_unknown_character_is_named_with_its_place() {
        let error = Tokenizer::chars(&['a', 'é']).encode("aéx").unwrap_err();
        let is_named = matches!(error, DataError::UnknownCharacter { character: 'x', position: 2, .. });
        assert!(is_named, "{error}");
    }

    #[test]
    fn a_foreign_model_that_would_drop_a_character_is_not_let_to() {
        let merges = Merges {
            tokens: ["a", "b", "ab"].map(str::to_owned).into(),
            merges: vec![("a".to_owned(), "b".to_owned())],
        };
        let mut library = Library::new(model(merges));
        library.with_decoder(Some(Fuse::new()));
        let tokenizer = Tokenizer::made_here(library);
        assert_eq!(tokenizer.encode("aba").unwrap(), [2, 0]);
        let error = tokenizer.encode("abz").unwrap_err();
        assert!(matches!(error, DataError::UnknownCharacter { character: 'z', position: 2, .. }), "{error}");
    }

    #[test]
    fn training_is_deterministic_and_fills_the_vocabulary() {
        let (one, two) = (small_bpe(), small_bpe());
        assert_eq!(one.to_json(), two.to_json());
        let text = crate::tales::tale(3, 1).text;
        let n_tokens = one.encode(&text).unwrap().len();
        assert!(n_tokens * 2 < text.len(), "{n_tokens} tokens for {} characters", text.len());
    }

    #[test]
    fn a_special_token_need_not_be_spelt_by_the_alphabet() {
        let tokenizer = Tokenizer::chars(&['<', '|', 'a']).with_end_of_text();
        let text = "a<|endoftext|>|a";
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
        let error = tokenizer.encode("a<|endoftext|>b").unwrap_err();
        assert!(matches!(error, DataError::UnknownCharacter { character: 'b', position: 14, .. }), "{error}");
    }

    #[test]
    fn the_file_is_a_standard_one() {
        let json: serde_json::Value = serde_json::from_str(small_bpe().to_json()).unwrap();
        assert_eq!(json["model"]["type"], "BPE");
        assert_eq!(json["pre_tokenizer"]["type"], "ByteLevel");
        assert_eq!(json["pre_tokenizer"]["add_prefix_space"], false);
        assert_eq!(json["decoder"]["type"], "ByteLevel");
        assert_eq!(json["model"]["vocab"]["a"], 97);
        let config: serde_json::Value =
            serde_json::from_str(&small_bpe().tokenizer_config_json(256)).unwrap();
        assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
        assert_eq!(config["model_max_length"], 256);
    }

    #[test]
    fn foreign_files_and_ids_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.json");
        std::fs::write(&path, "{\"model\": 3}").unwrap();
        let error = Tokenizer::load(&path).unwrap_err().to_string();
        assert!(error.contains("broken.json"), "{error}");
        assert!(matches!(Tokenizer::load(&dir.path().join("none")), Err(DataError::Read { .. })));
        let error = Tokenizer::bytes().decode(&[1, 256]).unwrap_err();
        assert!(matches!(error, DataError::TokenBeyondVocabulary { token: 256, position: 1, .. }));
    }
}
