//! Where prepared datasets are cached: a folder whose name is a hash over everything that the dataset depends on.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::config::{DataConfig, SourceInputs, TokenizerConfig};
use crate::conversation;
use crate::digest::sha256_hex;
use crate::error::DataError;
use crate::format::{BadRecords, Format};
use crate::input::Input;
use crate::mixture::MixtureSource;
use crate::steps::Steps;
use crate::tales;
use crate::tokenizer::Tokenizer;
use crate::tokenizer_kind::TokenizerKind;

/// Version of what preparation makes: part of the cache's key, raised whenever the same input gives other
/// tokens or files.
const FORMAT: u32 = 1;

/// The folder of the dataset of a configuration.
pub(crate) fn folder(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<PathBuf, DataError> {
    Ok(data.cache_root()?.join("datasets").join(key(data, tokenizer)?))
}

/// A hash over everything that the dataset of a configuration depends on. Input files count by path, size and
/// time of change, so that a large file is not read to find that nothing changed.
fn key(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<String, DataError> {
    let mut key =
        format!("format {FORMAT}\nval_fraction {:?}\ntokenizer {:?}\n", data.val_fraction, tokenizer.kind);
    match (tokenizer.kind, &tokenizer.file) {
        (TokenizerKind::Bpe, _) => key += &format!("vocab_size {}\n", tokenizer.vocab_size),
        (TokenizerKind::File, Some(path)) => key += &tokenizer_key(Tokenizer::load_at(path)?),
        _ => {}
    }
    let sources = data.sources()?;
    let files: Vec<PathBuf> = sources.iter().flat_map(|source| source.inputs.all()).collect();
    let formats = data.formats_of(&files)?;
    for SourceInputs { mixed, inputs } in &sources {
        if let Some(MixtureSource { name, text_field, .. }) = mixed {
            key += &format!("source {name:?} {} {text_field:?}\n", inputs.train.len());
        }
        if !inputs.val.is_empty() {
            key += &format!("validation files {}\n", inputs.val.len());
        }
    }
    match formats.first() {
        None | Some(Format::Text) => {}
        Some(Format::Jsonl | Format::Json | Format::Parquet) => {
            key += &format!("documents json {:?}\n", data.text_field);
            if data.bad_records == BadRecords::Refuse {
                key += "bad records refused\n";
            }
        }
        Some(Format::Separated { line }) => key += &format!("documents separated {line:?}\n"),
    }
    key += &Steps::of(data).key();
    if let Some(conversations) = conversation::conversations(data, tokenizer, &files, &formats)? {
        key += &format!("conversations {}\n", conversations.template.sha256());
    }
    for (path, format) in files.iter().zip(&formats) {
        let values = if *format == Format::Json { "values " } else { "" };
        // An earlier version took a byte order mark for a part of the text.
        let bom = if Input::open(path, false)?.has_bom() { "after a mark " } else { "" };
        key += &format!("input {values}{bom}{}\n", file_key(path)?);
    }
    if data.is_embedded() {
        let (chars, seed) = (data.embedded_chars, data.embedded_seed);
        key += &format!("embedded {} {chars} {seed}\n", tales::grammar_sha256());
    }
    Ok(sha256_hex(key.as_bytes()))
}

/// The part of a tokenizer's file. An earlier version obeyed settings of a call, and did not look at what a
/// tokenizer that is not exact makes of a text and of its borders.
fn tokenizer_key(tokenizer: Tokenizer) -> String {
    let looked_at = if tokenizer.is_exact() { "" } else { "looked at\n" };
    format!("file {}\n{looked_at}", tokenizer.with_own_json().sha256())
}

fn file_key(path: &Path) -> Result<String, DataError> {
    let canonical = path.canonicalize().map_err(DataError::read(path))?;
    let metadata = canonical.metadata().map_err(DataError::read(path))?;
    let changed = metadata.modified().map_err(DataError::read(path))?;
    let (sign, since) = match changed.duration_since(UNIX_EPOCH) {
        Ok(since) => ("", since),
        Err(before) => ("-", before.duration()),
    };
    Ok(format!("{canonical:?} {} {sign}{}", metadata.len(), since.as_nanos()))
}
