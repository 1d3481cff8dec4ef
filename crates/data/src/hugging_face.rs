//! Tokenizers as they lie in Hugging Face directories.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, Tokenizer as Library};

use crate::error::DataError;
use crate::tokenizer::{END_OF_TEXT, FILE_NAME, Tokenizer, without_bom};
use crate::tokenizer_file::check_model;

/// The files of GPT-2's first release: ids by token, and merges in order.
const VOCAB_FILE: &str = "vocab.json";
const MERGES_FILE: &str = "merges.txt";

impl Tokenizer {
    /// Opens the `tokenizer.json` at `path`, or the tokenizer of the Hugging Face directory there.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::load_from_dir`].
    pub fn load_at(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() { Self::load_from_dir(path) } else { Self::load(path) }
    }

    /// Opens the tokenizer of a Hugging Face directory: `tokenizer.json`, or else the byte-level encoding of
    /// `vocab.json` and `merges.txt`, as GPT-2 was first released. There `<|endoftext|>` is special if the
    /// vocabulary has it.
    ///
    /// # Errors
    /// If there is neither, or what there is cannot be read.
    pub fn load_from_dir(dir: &Path) -> Result<Self, DataError> {
        let [whole, vocab, merges] = [FILE_NAME, VOCAB_FILE, MERGES_FILE].map(|name| dir.join(name));
        if whole.exists() {
            return Self::load(&whole);
        }
        if vocab.exists() && merges.exists() {
            return of_gpt2(&vocab, &merges);
        }
        Err(DataError::NoTokenizer { dir: dir.to_owned() })
    }
}

fn of_gpt2(vocab: &Path, merges: &Path) -> Result<Tokenizer, DataError> {
    let read =
        |path: &Path| wattle_files::read_text(path, wattle_files::SMALL).map_err(DataError::read(path));
    let [vocab_text, merges_text] = [read(vocab)?, read(merges)?];
    let fault = |path: &Path, reason: String| DataError::Tokenizer { path: path.to_owned(), reason };
    let unread = |error: serde_json::Error| fault(vocab, format!("is not a vocabulary: {error}"));
    let ids: Value = serde_json::from_str(without_bom(&vocab_text)).map_err(unread)?;
    let pairs = merges_of(without_bom(&merges_text))
        .map_err(|line| fault(merges, format!("line {line} is not two tokens with a space between them")))?;
    check_model(&json!({"vocab": ids, "merges": pairs}))
        .map_err(|reason| fault(vocab, format!("cannot be joined with {MERGES_FILE}: {reason}")))?;
    let ids: Vocab = serde_json::from_value(ids).map_err(unread)?;
    let bpe = BPE::builder()
        .vocab_and_merges(ids, pairs)
        .build()
        .map_err(|error| fault(vocab, format!("cannot be joined with {MERGES_FILE}: {error}")))?;
    let has_end = bpe.token_to_id(END_OF_TEXT).is_some();
    let mut library = Library::new(bpe);
    library.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    library.with_decoder(Some(ByteLevelDecoder::default()));
    if has_end {
        library
            .add_special_tokens([AddedToken::from(END_OF_TEXT, true)])
            .map_err(|error| fault(vocab, error.to_string()))?;
    }
    let json = library.to_string(true).map_err(|error| fault(vocab, error.to_string()))?;
    Tokenizer::from_json(json, vocab)
}

/// The merges of a `merges.txt`, or the first line that is none.
fn merges_of(text: &str) -> Result<Vec<(String, String)>, usize> {
    let is_merge = |(_, line): &(usize, &str)| !line.starts_with("#version") && !line.is_empty();
    let merge = |(line, text): (usize, &str)| {
        let (left, right) = text.split_once(' ').filter(|(_, right)| !right.contains(' ')).ok_or(line)?;
        Ok((left.to_owned(), right.to_owned()))
    };
    (1..).zip(text.lines()).filter(is_merge).map(merge).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::bpe::{WordCounts, train};

    /// A small vocabulary in the files of GPT-2, with the end of text last.
    fn gpt2_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut words = WordCounts::new();
        (0..20).for_each(|_| words.add("the cat and the hat sat on the mat; it's  the end\n"));
        let trained = train(&words, 270);
        let mut vocab: serde_json::Map<_, _> =
            (0..).zip(trained.tokens).map(|(id, token): (u32, _)| (token, id.into())).collect();
        vocab.insert(END_OF_TEXT.to_owned(), vocab.len().into());
        fs::write(dir.path().join(VOCAB_FILE), serde_json::to_string(&vocab).unwrap()).unwrap();
        let merges: String = trained.merges.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
        fs::write(dir.path().join(MERGES_FILE), format!("#version: 0.2\n{merges}")).unwrap();
        dir
    }

    #[test]
    fn gpt2s_own_files_give_what_a_tokenizer_json_of_the_same_gives() {
        let dir = gpt2_dir();
        let opened = Tokenizer::load_from_dir(dir.path()).unwrap();
        let end = opened.end_of_text().unwrap();
        assert_eq!((opened.vocab_size(), end as usize), (271, 270));
        let text = "the cat<|endoftext|> it's\n\n  on the  mat é🙂";
        let ids = opened.encode(text).unwrap();
        assert!(ids.contains(&end) && ids.len() < text.len() - END_OF_TEXT.len());
        assert_eq!(opened.decode(&ids).unwrap(), text);
        // Once written down, the directory opens by its tokenizer.json.
        opened.save(&dir.path().join(FILE_NAME)).unwrap();
        fs::remove_file(dir.path().join(MERGES_FILE)).unwrap();
        let again = Tokenizer::load_from_dir(dir.path()).unwrap();
        assert_eq!((again.encode(text).unwrap(), again.end_of_text()), (ids, Some(end)));
    }

    #[test]
    fn what_was_looked_for_is_named() {
        let dir = gpt2_dir();
        fs::write(dir.path().join(MERGES_FILE), "#version: 0.2\nnot there\n").unwrap();
        let error = Tokenizer::load_from_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains(VOCAB_FILE) && error.contains(MERGES_FILE), "{error}");
        fs::remove_file(dir.path().join(VOCAB_FILE)).unwrap();
        let error = Tokenizer::load_from_dir(dir.path()).unwrap_err().to_string();
        for name in [FILE_NAME, VOCAB_FILE, MERGES_FILE] {
            assert!(error.contains(name), "{error}");
        }
    }
}
