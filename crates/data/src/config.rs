//! What data to train on: the sections `data` and `tokenizer` of a configuration.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::format::{BadRecords, Format, FormatChoice};
use crate::manifest;
use crate::tokenizer_kind::TokenizerKind;

/// Section `data`: where the text comes from and how it is split.
///
/// With neither `input` nor `dir`, the embedded corpus is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Text files in UTF-8, read one after another as one text, or files of documents in JSON; either may be gzip or zstd.
    /// Prepared and cached on first use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input: Vec<PathBuf>,
    /// Of documents: the field that holds the text. Default "text", as most corpora on Hugging Face.
    pub text_field: String,
    /// What `input` holds. Default `auto`: told by the first bytes of each file, not by its name.
    pub format: FormatChoice,
    /// What is done with a JSON record that has no text that can be read. Default `skip`: it is left out and counted.
    pub bad_records: BadRecords,
    /// What `input` is known to hold. No key: a fetched dataset sets it.
    #[serde(skip)]
    pub known_format: Option<Format>,
    /// A folder that is already prepared. Excludes `input`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// The share of the text kept for validation, from its end; 0 means none. Default 0.1, as nanoGPT's
    /// `data/shakespeare_char/prepare.py`.
    pub val_fraction: f64,
    /// Where prepared data are cached. Default `$XDG_CACHE_HOME/wattle`, else `~/.cache/wattle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_dir: Option<PathBuf>,
    /// Size of the embedded corpus in characters, rounded up to a whole tale. Default 2,000,000.
    pub embedded_chars: u64,
    /// Seed of the embedded corpus; not `run.seed`, so that runs of several seeds share their data. Default 1.
    pub embedded_seed: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            text_field: "text".to_owned(),
            format: FormatChoice::default(),
            bad_records: BadRecords::default(),
            known_format: None,
            dir: None,
            val_fraction: 0.1,
            cache_dir: None,
            embedded_chars: 2_000_000,
            embedded_seed: 1,
        }
    }
}

/// Fewest characters of an embedded corpus: a few tales, so that there is something to split.
const MIN_EMBEDDED_CHARS: u64 = 10_000;

impl DataConfig {
    /// Every fault of this section, as sentences that begin with the key; empty when there is none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.dir.is_some() && !self.input.is_empty() {
            faults.push("data.dir and data.input are both set: expected one of them".to_owned());
        }
        if !(0.0..1.0).contains(&self.val_fraction) {
            faults
                .push(format!("data.val_fraction = {}: expected at least 0 and below 1", self.val_fraction));
        }
        if self.embedded_chars < MIN_EMBEDDED_CHARS {
            faults.push(format!(
                "data.embedded_chars = {}: expected at least {MIN_EMBEDDED_CHARS}",
                self.embedded_chars
            ));
        }
        if self.text_field.is_empty() {
            faults
                .push("data.text_field is empty: expected the name of a field, \"text\" for one".to_owned());
        }
        let unreadable: Vec<String> =
            self.input.iter().filter_map(|path| file_fault("data.input", path)).collect();
        if unreadable.is_empty() {
            faults.extend(self.input_formats().err().map(|error| format!("data.input: {error}")));
        }
        faults.extend(unreadable);
        faults.extend(self.dir.iter().filter_map(|dir| dir_fault(dir)));
        faults
    }

    /// What each file of `input` holds.
    ///
    /// # Errors
    /// If one cannot be read as anything, or some hold text and some documents.
    pub fn input_formats(&self) -> Result<Vec<Format>, DataError> {
        match &self.known_format {
            Some(format) => Ok(vec![format.clone(); self.input.len()]),
            None => Format::of_all(&self.input, self.format),
        }
    }

    /// The folder of the cache: `cache_dir`, or its default.
    ///
    /// # Errors
    /// If neither is known.
    pub fn cache_root(&self) -> Result<PathBuf, DataError> {
        let from_env =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let by_default = || {
            let xdg = from_env("XDG_CACHE_HOME").filter(|path| path.is_absolute());
            xdg.or_else(|| from_env("HOME").map(|home| home.join(".cache"))).map(|cache| cache.join("wattle"))
        };
        self.cache_dir.clone().or_else(by_default).ok_or(DataError::NoCacheDir)
    }

    /// Whether the embedded corpus is used.
    pub fn is_embedded(&self) -> bool {
        self.input.is_empty() && self.dir.is_none()
    }
}

/// Section `tokenizer`. Not used with `data.dir`, whose folder has its own tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerConfig {
    /// How text becomes tokens. Default `bpe`.
    pub kind: TokenizerKind,
    /// Entries of a `bpe` vocabulary, its 256 bytes included; the other kinds have their own. Default 2048.
    pub vocab_size: usize,
    /// The `tokenizer.json` of kind `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { kind: TokenizerKind::default(), vocab_size: 2048, file: None }
    }
}

/// Entries of the byte alphabet, the least a byte-level vocabulary has.
pub(crate) const N_BYTES: usize = 256;

/// Largest vocabulary that can be trained here: 2²⁰ entries, well beyond any published model.
const MAX_VOCAB_SIZE: usize = 1 << 20;

impl TokenizerConfig {
    /// Every fault of this section, as sentences that begin with the key; empty when there is none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.kind == TokenizerKind::Bpe && !(N_BYTES..=MAX_VOCAB_SIZE).contains(&self.vocab_size) {
            faults.push(format!(
                "tokenizer.vocab_size = {}: expected from {N_BYTES} (the bytes) to {MAX_VOCAB_SIZE}",
                self.vocab_size
            ));
        }
        match (&self.file, self.kind) {
            (None, TokenizerKind::File) => faults.push(
                "tokenizer.file is not set: expected the path of a tokenizer.json, as tokenizer.kind = \"file\""
                    .to_owned(),
            ),
            (Some(path), TokenizerKind::File) => faults.extend(file_fault("tokenizer.file", path)),
            (Some(path), _) => faults.push(format!(
                "tokenizer.file = {path:?}: expected tokenizer.kind = \"file\" beside it; set that or remove the file"
            )),
            (None, _) => {}
        }
        faults
    }
}

fn file_fault(key: &str, path: &Path) -> Option<String> {
    match path.metadata() {
        Err(error) => Some(format!("{key} = {path:?}: {error}; expected a readable file, correct the path")),
        Ok(metadata) if metadata.is_dir() => {
            Some(format!("{key} = {path:?}: is a directory; expected a file, name the files in it"))
        }
        Ok(metadata) if !metadata.is_file() => Some(format!(
            "{key} = {path:?}: is {}; expected an ordinary file, write it to one and name that",
            wattle_files::special_at(path).unwrap_or("gone")
        )),
        Ok(metadata) if metadata.len() == 0 => {
            Some(format!("{key} = {path:?}: the file is empty; expected text"))
        }
        Ok(_) => None,
    }
}

fn dir_fault(dir: &Path) -> Option<String> {
    let manifest = dir.join(manifest::FILE_NAME);
    (!manifest.is_file()).then(|| {
        format!("data.dir = {dir:?}: has no {}; make one with `wattle prepare`", manifest::FILE_NAME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault() {
        assert!(DataConfig::default().faults().is_empty());
        assert!(TokenizerConfig::default().faults().is_empty());
    }

    #[test]
    fn all_faults_are_reported_together_under_their_keys() {
        let data = DataConfig {
            input: vec!["/no/such/file.txt".into()],
            dir: Some("/no/such/dir".into()),
            val_fraction: 1.5,
            embedded_chars: 3,
            ..DataConfig::default()
        };
        let faults = data.faults();
        let keys = [
            "data.dir and data.input",
            "data.val_fraction = 1.5: expected at least 0 and below 1",
            "data.embedded_chars = 3",
            "data.input = \"/no/such/file.txt\"",
            "data.dir = \"/no/such/dir\"",
        ];
        assert_eq!(faults.len(), keys.len(), "{faults:#?}");
        for (fault, key) in faults.iter().zip(keys) {
            assert!(fault.starts_with(key), "{fault}");
        }
        let nan = DataConfig { val_fraction: f64::NAN, ..DataConfig::default() };
        assert_eq!(nan.faults().len(), 1);
    }

    #[test]
    fn text_and_documents_are_not_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [("a.txt", "a text"), ("b.txt", "{\"text\": \"a document\"}")].map(|(name, content)| {
            std::fs::write(dir.path().join(name), content).unwrap();
            dir.path().join(name)
        });
        let data = DataConfig { input: paths.to_vec(), ..DataConfig::default() };
        let faults = data.faults();
        assert!(faults[0].contains("a.txt") && faults[0].contains("b.txt"), "{faults:?}");
        assert!(faults[0].contains(&data.input_formats().unwrap_err().to_string()));
        assert_eq!(DataConfig { format: FormatChoice::Text, ..data.clone() }.faults(), [""; 0]);
        assert_eq!(DataConfig { known_format: Some(Format::Jsonl), ..data }.faults(), [""; 0]);
        let unnamed = DataConfig { text_field: String::new(), ..DataConfig::default() };
        assert!(unnamed.faults()[0].starts_with("data.text_field is empty"));
    }

    #[test]
    fn directories_and_empty_files_are_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.txt");
        std::fs::write(&empty, "").unwrap();
        let data = DataConfig { input: vec![dir.path().into(), empty], ..DataConfig::default() };
        let faults = data.faults();
        assert!(faults[0].contains("is a directory"), "{faults:?}");
        assert!(faults[1].contains("is empty"), "{faults:?}");
    }

    #[test]
    fn a_tokenizer_file_and_its_kind_go_together() {
        let config = |kind, file: Option<&str>| TokenizerConfig {
            kind,
            file: file.map(PathBuf::from),
            ..TokenizerConfig::default()
        };
        assert!(config(TokenizerKind::File, None).faults()[0].contains("is not set"));
        assert!(config(TokenizerKind::File, Some("/no/such")).faults()[0].starts_with("tokenizer.file = "));
        assert!(config(TokenizerKind::Chars, Some("/no/such")).faults()[0].contains("tokenizer.kind"));
        let small = TokenizerConfig { vocab_size: 100, ..TokenizerConfig::default() };
        assert!(small.faults()[0].starts_with("tokenizer.vocab_size = 100"));
    }
}
