//! What data to train on: the sections `data` and `tokenizer` of a configuration.

use std::path::{Path, PathBuf};

use wattle_settings::section;

use crate::conversation::TemplateChoice;
use crate::error::DataError;
use crate::format::{BadRecords, Format, FormatChoice};
use crate::inputs::{Inputs, pattern_of};
use crate::manifest;
use crate::mixture::{Mixture, MixtureSource};
use crate::packing::Packing;
use crate::pii_choice::PiiChoice;
use crate::tokenizer_kind::TokenizerKind;

section! {
    /// Where the text comes from and how it is split.
    ///
    /// With none of `data.input`, `data.mixture` and `data.dir`, the embedded corpus is used.
    #[section(data, check = DataConfig::foreign_faults)]
    pub struct DataConfig {
        /// Files of text or documents, patterns, folders.
        ///
        /// They are read one after another. Text is UTF-8, read as one text; documents are JSON or the rows of Parquet.
        /// Text and JSON may be gzip or zstd. A pattern (`corpus/*.parquet`) stands for the files it matches, in order;
        /// a folder for a dataset as it lies on the Hugging Face Hub, whose validation files are then the validation
        /// split. Prepared and cached on first use.
        pub input: Vec<PathBuf> = Vec::new(), unset("the embedded corpus, or `data.mixture`"), check(Self::input_and_dir);
        /// Field or column that holds a document's text.
        ///
        /// A field of JSON, a column of Parquet. A column within others is named by its path with dots, such as "meta.text".
        pub text_field: String = "text".to_owned(),
            check(Self::unnamed_field),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            idle(when("data.format", &["text"])),
            source("most corpora on Hugging Face");
        /// What the files of `data.input` hold.
        pub format: FormatChoice = FormatChoice::default(),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture"));
        /// What is done with records that have no text.
        ///
        /// That can be read: JSON that is damaged or lacks the field, rows with a null.
        pub bad_records: BadRecords = BadRecords::default(),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            idle(when("data.format", &["text"]));
        /// Fewest bytes of a document.
        ///
        /// Shorter ones are left out. This and the other steps need documents, and are counted in the dataset's manifest.
        pub min_bytes: Option<u64> = None,
            unset("any"), unit("bytes"), idle(when_set("data.dir")), idle(without("data.input").and_without("data.mixture"));
        /// Most bytes of a document.
        pub max_bytes: Option<u64> = None,
            unset("any"), unit("bytes"), idle(when_set("data.dir")), idle(without("data.input").and_without("data.mixture"));
        /// Fewest characters of a document.
        pub min_chars: Option<u64> = None,
            unset("any"), unit("characters"), idle(when_set("data.dir")), idle(without("data.input").and_without("data.mixture"));
        /// Most characters of a document.
        pub max_chars: Option<u64> = None,
            unset("any"), unit("characters"), idle(when_set("data.dir")), idle(without("data.input").and_without("data.mixture"));
        /// Fewest tokens of a document.
        ///
        /// The token that ends it is not counted.
        pub min_tokens: Option<u64> = None,
            unset("any"), unit("tokens"), idle(when_set("data.dir")), idle(without("data.input").and_without("data.mixture"));
        /// Most tokens of a document.
        ///
        /// The token that ends it is not counted.
        pub max_tokens: Option<u64> = None,
            unset("any"), unit("tokens"), idle(when_set("data.dir")), idle(without("data.input").and_without("data.mixture"));
        /// Least share of words that have a letter.
        ///
        /// Gopher's is 0.8.
        pub min_alphabetic_words: Option<f64> = None,
            unset("any"),
            expects(between(0.0, 1.0)),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            source("Rae et al. (2021), appendix A.1.1");
        /// Least mean length of a document's words.
        ///
        /// Gopher's is 3.
        pub min_word_length: Option<f64> = None,
            unset("any"),
            unit("characters"),
            expects(at_least(0.0)),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            source("Rae et al. (2021), appendix A.1.1");
        /// Greatest mean length of a document's words.
        ///
        /// Gopher's is 10.
        pub max_word_length: Option<f64> = None,
            unset("any"),
            unit("characters"),
            expects(at_least(0.0)),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            source("Rae et al. (2021), appendix A.1.1");
        /// Greatest share of lines that repeat others.
        ///
        /// Gopher's is 0.3.
        pub max_repeated_lines: Option<f64> = None,
            unset("any"),
            expects(between(0.0, 1.0)),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            source("Rae et al. (2021), appendix A.1.1");
        /// What is done with personal data.
        ///
        /// Mail addresses, phone and card numbers, IP addresses.
        pub pii: PiiChoice = PiiChoice::default(),
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            idle(when("data.format", &["text"]));
        /// Leave out all but the first of equal documents.
        pub dedup: bool = false,
            idle(when_set("data.dir")),
            idle(without("data.input").and_without("data.mixture")),
            idle(when("data.format", &["text"]));
        /// Template by which conversations become text.
        ///
        /// `chatml`, `plain`, or a path: of a Jinja template, a `tokenizer_config.json`, or a folder with either. JSON records with
        /// `messages`, or with `prompt` and `completion`, are conversations where this is set, or where the first has no
        /// text beside them. Of conversations the assistant's tokens alone are learnt.
        pub chat_template: Option<TemplateChoice> = None,
            unset("the one beside `tokenizer.file`, if it has one"),
            check(Self::missing_template),
            idle(when_set("data.dir")),
            idle(without("data.input"));
        /// How documents become windows.
        ///
        /// Windows have `model.context` tokens. With `documents` and `padded`, a document sees itself alone and its positions start at 0. It is predicted whole,
        /// its first token from the one that ends documents; a longer one than a window is cut. Padding is not learnt, and
        /// its tokens and joules are told. Evaluations are cut likewise.
        pub packing: Packing = Packing::default(), idle(when("data.format", &["text"]));
        /// A folder that `wattle prepare` made.
        ///
        /// It has its own tokenizer and split. Excludes `data.input`.
        pub dir: Option<PathBuf> = None, unset("the data are prepared and cached");
        /// Share held out for validation; 0: none.
        ///
        /// It is taken from the end of the text, unless a folder in `data.input` has validation files of its own.
        pub val_fraction: f64 = 0.1,
            expects(at_least(0.0).below(1.0)),
            idle(when_set("data.dir")),
            source("nanoGPT's `data/shakespeare_char/prepare.py`");
        /// Where prepared data are cached.
        pub cache_dir: Option<PathBuf> = None,
            unset("`$XDG_CACHE_HOME/wattle`, else `~/.cache/wattle`"),
            idle(when_set("data.dir"));
        /// Size of the embedded corpus.
        ///
        /// Rounded up to a whole tale.
        pub embedded_chars: u64 = 2_000_000,
            unit("characters"),
            expects(at_least(MIN_EMBEDDED_CHARS)),
            idle(when_set("data.dir")),
            idle(when_set("data.input")),
            idle(when_set("data.mixture"));
        /// Seed of the embedded corpus.
        ///
        /// It is not `run.seed`, so that runs of several seeds share their data.
        pub embedded_seed: u64 = 1,
            idle(when_set("data.dir")),
            idle(when_set("data.input")),
            idle(when_set("data.mixture"));
        /// Sources that are mixed, a table each.
        ///
        /// Each `[[data.mixture]]` has a `name` and a `path`. `path` is a file, pattern or folder, or a list of such. With `weight`, a source has that part of the tokens,
        /// to within less than a window at every step, and `epochs` is how often it may be passed through. Without,
        /// `epochs` is how often an epoch passes through it (1). `text_field` may differ by source. Each is split by
        /// `data.val_fraction`, and its validation loss is told apart. Excludes `data.input` and `data.dir`.
        pub mixture: Mixture = Mixture::default(), unset("one source"), check(Self::mixture_alone);
    }
    beside {
        /// What `input` is known to hold. No key: a fetched dataset sets it.
        pub known_format: Option<Format> = None;
    }
}

/// A source of the text: all of it, or one of a mixture.
#[derive(Clone, Debug)]
pub(crate) struct SourceInputs {
    /// What the mixture says of it.
    pub mixed: Option<MixtureSource>,
    /// Its files.
    pub inputs: Inputs,
}

/// Fewest characters of an embedded corpus: a few tales, so that there is something to split.
const MIN_EMBEDDED_CHARS: f64 = 10_000.0;

impl DataConfig {
    fn input_and_dir(&self) -> Option<String> {
        (self.dir.is_some() && !self.input.is_empty())
            .then(|| "data.dir and data.input are both set: expected one of them".to_owned())
    }

    fn mixture_alone(&self) -> Option<String> {
        let other = match (&self.dir, self.input.is_empty()) {
            (Some(_), _) => "data.dir",
            (None, false) => "data.input",
            (None, true) => return None,
        };
        (!self.mixture.is_empty())
            .then(|| format!("data.mixture and {other} are both set: expected one of them"))
    }

    fn unnamed_field(&self) -> Option<String> {
        self.text_field
            .is_empty()
            .then(|| "data.text_field is empty: expected the name of a field, \"text\" for one".to_owned())
    }

    fn missing_template(&self) -> Option<String> {
        match &self.chat_template {
            Some(TemplateChoice::Path(path)) if !path.exists() => Some(format!(
                "data.chat_template = {path:?}: is neither \"chatml\" nor \"plain\" nor there; correct the path"
            )),
            _ => None,
        }
    }

    /// What is wrong with the files and the folder that it names.
    fn foreign_faults(&self) -> Vec<String> {
        let is_one_file = |path: &&PathBuf| !path.is_dir() && pattern_of(path).is_none();
        let mut faults: Vec<String> =
            self.input.iter().filter(is_one_file).filter_map(|path| file_fault("data.input", path)).collect();
        if faults.is_empty() {
            faults.extend(self.input_formats().err().map(|error| told_by_key(&error)));
        }
        faults.extend(self.dir.iter().filter_map(|dir| dir_fault(dir)));
        let of_mixture = self.mixture.faults();
        if of_mixture.is_empty() {
            faults.extend(self.mixture.0.iter().filter_map(|source| self.source_fault(source)));
        }
        faults.extend(of_mixture);
        faults
    }

    /// What is wrong with the files of a mixture's source.
    fn source_fault(&self, source: &MixtureSource) -> Option<String> {
        let key = format!("data.mixture, {}: path", source.name);
        let is_one_file = |path: &&PathBuf| !path.is_dir() && pattern_of(path).is_none();
        let of_files = source.path.iter().filter(is_one_file).find_map(|path| file_fault(&key, path));
        of_files.or_else(|| {
            let formats = Inputs::of(&source.path).and_then(|inputs| self.formats_of(&inputs.all()));
            formats.err().map(|error| format!("data.mixture, {}: {error}", source.name))
        })
    }

    /// What each file that `input` names holds.
    ///
    /// # Errors
    /// If a pattern or folder names none, one cannot be read as anything, or some hold text and some documents.
    pub fn input_formats(&self) -> Result<Vec<Format>, DataError> {
        self.formats_of(&Inputs::of(&self.input)?.all())
    }

    /// The files of all sources, in order; those to measure on only where some text is held out.
    pub(crate) fn sources(&self) -> Result<Vec<SourceInputs>, DataError> {
        let inputs = |paths: &[PathBuf]| -> Result<Inputs, DataError> {
            let inputs = Inputs::of(paths)?;
            let val = if self.val_fraction > 0.0 { inputs.val } else { Vec::new() };
            Ok(Inputs { val, ..inputs })
        };
        if self.mixture.is_empty() {
            return Ok(vec![SourceInputs { mixed: None, inputs: inputs(&self.input)? }]);
        }
        let of = |source: &MixtureSource| {
            Ok(SourceInputs { mixed: Some(source.clone()), inputs: inputs(&source.path)? })
        };
        self.mixture.0.iter().map(of).collect()
    }

    /// What each of `files` holds.
    pub(crate) fn formats_of(&self, files: &[PathBuf]) -> Result<Vec<Format>, DataError> {
        match &self.known_format {
            Some(format) => Ok(vec![format.clone(); files.len()]),
            None => Format::of_all(files, self.format),
        }
    }

    /// The folder of the cache: `cache_dir`, or its default.
    ///
    /// # Errors
    /// If neither is known.
    pub fn cache_root(&self) -> Result<PathBuf, DataError> {
        self.cache_dir.clone().or_else(wattle_files::cache_dir).ok_or(DataError::NoCacheDir)
    }

    /// Whether the embedded corpus is used.
    pub fn is_embedded(&self) -> bool {
        self.input.is_empty() && self.dir.is_none() && self.mixture.is_empty()
    }
}

section! {
    /// How text becomes tokens.
    ///
    /// Without effect with `data.dir`, whose folder has its own tokenizer.
    #[section(tokenizer)]
    pub struct TokenizerConfig {
        /// The kind of tokenizer.
        pub kind: TokenizerKind = TokenizerKind::default(), idle(when_set("data.dir"));
        /// Entries of a `bpe` vocabulary.
        ///
        /// Its 256 bytes are counted; the other kinds have their own number.
        pub vocab_size: usize = 2048,
            unit("entries"),
            expects(
                between(N_BYTES as f64, MAX_VOCAB_SIZE as f64)
                    .words(format!("from {N_BYTES} (the bytes) to {MAX_VOCAB_SIZE}"))
            ),
            checked_if(|tokenizer| tokenizer.kind == TokenizerKind::Bpe),
            idle(when_set("data.dir")),
            idle(unless("tokenizer.kind", &["bpe"]));
        /// The `tokenizer.json` of kind `file`, or its Hugging Face folder.
        pub file: Option<PathBuf> = None,
            unset("only `tokenizer.kind = \"file\"` has one"),
            check(Self::file_and_kind), idle(when_set("data.dir"));
    }
}

/// Entries of the byte alphabet, the least a byte-level vocabulary has.
pub(crate) const N_BYTES: usize = 256;

/// Largest vocabulary that can be trained here: 2²⁰ entries, well beyond any published model.
const MAX_VOCAB_SIZE: usize = 1 << 20;

impl TokenizerConfig {
    fn file_and_kind(&self) -> Option<String> {
        match (&self.file, self.kind) {
            (None, TokenizerKind::File) => Some(
                "tokenizer.file is not set: expected the path of a tokenizer.json, as tokenizer.kind = \"file\""
                    .to_owned(),
            ),
            (Some(path), TokenizerKind::File) if path.is_dir() => None,
            (Some(path), TokenizerKind::File) => file_fault("tokenizer.file", path),
            (Some(path), _) => Some(format!(
                "tokenizer.file = {path:?}: expected tokenizer.kind = \"file\" beside it; set that or remove the file"
            )),
            (None, _) => None,
        }
    }
}

/// An error in an input, under its key.
fn told_by_key(error: &DataError) -> String {
    let said = error.to_string();
    if said.starts_with("data.input") { said } else { format!("data.input: {said}") }
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
    fn empty_folders_files_and_patterns_are_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.txt");
        std::fs::write(&empty, "").unwrap();
        let faults =
            |path: PathBuf| DataConfig { input: vec![path], ..DataConfig::default() }.faults().join("\n");
        assert!(faults(empty).contains("is empty"));
        std::fs::create_dir(dir.path().join("none")).unwrap();
        for (path, needle) in [("none", "no Parquet, JSON or text"), ("*.parquet", "matches no file")] {
            let said = faults(dir.path().join(path));
            assert!(said.starts_with("data.input") && said.contains(needle), "{said}");
        }
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
