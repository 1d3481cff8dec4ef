//! Corpora that can be had by name: the manifests in `datasets/`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::error::DataError;
use crate::format::Format;
use crate::written;
pub use crate::written::Written;

/// The manifests, by the name of their file.
const SOURCES: [(&str, &str); 12] = [
    ("datasets/tiny-shakespeare.toml", include_str!("../../../datasets/tiny-shakespeare.toml")),
    ("datasets/tinystories.toml", include_str!("../../../datasets/tinystories.toml")),
    ("datasets/tinystories-valid.toml", include_str!("../../../datasets/tinystories-valid.toml")),
    ("datasets/c4-en-shard.toml", include_str!("../../../datasets/c4-en-shard.toml")),
    ("datasets/fineweb-shard.toml", include_str!("../../../datasets/fineweb-shard.toml")),
    ("datasets/fineweb-edu-shard.toml", include_str!("../../../datasets/fineweb-edu-shard.toml")),
    ("datasets/fineweb-edu-10bt.toml", include_str!("../../../datasets/fineweb-edu-10bt.toml")),
    ("datasets/smoltalk.toml", include_str!("../../../datasets/smoltalk.toml")),
    ("datasets/support.toml", include_str!("../../../datasets/support.toml")),
    ("datasets/summary.toml", include_str!("../../../datasets/summary.toml")),
    ("datasets/tales.toml", include_str!("../../../datasets/tales.toml")),
    ("datasets/translation.toml", include_str!("../../../datasets/translation.toml")),
];

/// A corpus that can be fetched, or is written here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// By what it is asked for.
    pub name: String,
    /// What it is called.
    pub title: String,
    /// What it is, in a sentence.
    pub description: String,
    /// Where it is described.
    pub homepage: String,
    /// Under what terms it may be used, as its homepage has it.
    pub licence: String,
    format: FormatName,
    /// Of JSONL: the field with the text; of Parquet: the column. Conversations have none.
    pub text_field: Option<String>,
    /// Of separated text: the line that ends a document.
    pub separator: Option<String>,
    /// Hosts, with all below them, to which a download may be redirected besides its own.
    #[serde(default)]
    pub redirect_hosts: Vec<String>,
    /// Its files, in order; none if it is written here.
    #[serde(rename = "file", default)]
    pub files: Vec<RemoteFile>,
    /// What writes it, if it is not fetched.
    pub written: Option<Written>,
}

/// One file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteFile {
    /// Where it is.
    pub url: String,
    /// Its size, where it is known.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal, where it is known; else that of the first download counts.
    pub sha256: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FormatName {
    Text,
    Jsonl,
    Parquet,
    Separated,
}

/// Every corpus that can be had by name.
pub fn datasets() -> &'static [DatasetManifest] {
    static DATASETS: LazyLock<Vec<DatasetManifest>> = LazyLock::new(|| {
        let parse = |(path, toml): &(&str, &str)| {
            DatasetManifest::parse(path, toml).expect("a test parses every embedded manifest")
        };
        SOURCES.iter().map(parse).collect()
    });
    &DATASETS
}

/// The corpus of this name.
///
/// # Errors
/// If there is none; the names that there are are told, the nearest first.
pub fn dataset(name: &str) -> Result<&'static DatasetManifest, DataError> {
    datasets().iter().find(|dataset| dataset.name == name).ok_or_else(|| {
        let mut known: Vec<&str> = datasets().iter().map(|dataset| dataset.name.as_str()).collect();
        let likeness = |other: &str| strsim::jaro_winkler(name, other);
        known.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
        DataError::UnknownDataset { name: name.to_owned(), known: known.join(", ") }
    })
}

impl DatasetManifest {
    /// Reads a manifest; `path` is named in errors.
    ///
    /// # Errors
    /// If it is not TOML of this form, or its parts do not fit together.
    pub fn parse(path: &str, toml: &str) -> Result<Self, DataError> {
        let fault = |reason: String| DataError::DatasetManifest { path: path.into(), reason };
        let manifest: Self = toml::from_str(toml).map_err(|error| fault(error.to_string()))?;
        match manifest.fault() {
            None => Ok(manifest),
            Some(reason) => Err(fault(reason)),
        }
    }

    fn fault(&self) -> Option<String> {
        match &self.written {
            None if self.files.is_empty() => return Some("has neither [[file]] nor [written]".to_owned()),
            Some(_) if !self.files.is_empty() => return Some("has both [[file]] and [written]".to_owned()),
            Some(written) if written::source(&written.grammar).is_none() => {
                return Some(format!("written.grammar = {:?}: no such grammar", written.grammar));
            }
            Some(_) if self.format != FormatName::Jsonl => {
                return Some("expected format \"jsonl\" with [written]".to_owned());
            }
            _ => {}
        }
        if (self.format == FormatName::Separated) != self.separator.is_some() {
            return Some("expected `separator` with format \"separated\", and only with it".to_owned());
        }
        if !is_plain_name(&self.name) {
            return Some(format!("name = {:?}: expected letters, digits, '-', '_' and '.'", self.name));
        }
        let mut names = BTreeSet::new();
        let bad = self.files.iter().find(|file| !is_plain_name(file.name()) || !names.insert(file.name()));
        bad.map(|file| format!("url = {:?}: expected to end in a file name of its own", file.url))
    }

    /// What its files hold.
    pub fn input_format(&self) -> Format {
        match (self.format, &self.separator) {
            (FormatName::Separated, Some(line)) => Format::Separated { line: line.clone() },
            (FormatName::Jsonl, _) => Format::Jsonl,
            (FormatName::Parquet, _) => Format::Parquet,
            _ => Format::Text,
        }
    }

    /// Size of all files, where all are known.
    pub fn bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

impl RemoteFile {
    /// Its name: the last part of its address.
    pub fn name(&self) -> &str {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// Whether a name can be that of a file, hidden ones left out.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_manifest_is_sound_and_its_file_has_its_name() {
        for (path, toml) in SOURCES {
            let manifest = DatasetManifest::parse(path, toml).unwrap();
            assert_eq!(path, format!("datasets/{}.toml", manifest.name));
            assert!(manifest.files.iter().all(|file| file.url.starts_with("https://")));
        }
        let names: BTreeSet<_> = datasets().iter().map(|dataset| &dataset.name).collect();
        assert_eq!(names.len(), SOURCES.len());
        assert_eq!(dataset("tiny-shakespeare").unwrap().bytes(), Some(1_115_394));
        assert_eq!(dataset("c4-en-shard").unwrap().input_format(), Format::Jsonl);
        let edu = dataset("fineweb-edu-10bt").unwrap();
        assert_eq!((edu.input_format(), edu.files.len()), (Format::Parquet, 14));
    }

    #[test]
    fn every_manifest_in_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(files.filter(|path| path.extension().is_some_and(|e| e == "toml")).count(), SOURCES.len());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_with_the_nearest_first() {
        let error = dataset("tinyshakespeare").unwrap_err().to_string();
        assert!(error.contains("tiny-shakespeare, ") && error.contains("tinystories"), "{error}");
    }

    #[test]
    fn manifests_that_do_not_fit_together_are_refused() {
        let good = SOURCES[1].1;
        for (from, to, needle) in [
            ("separator = \"<|endoftext|>\"", "", "separator"),
            ("name = \"tinystories\"", "name = \"../x\"", "name"),
            ("TinyStoriesV2-GPT4-valid.txt", "TinyStoriesV2-GPT4-train.txt", "file name of its own"),
            ("licence", "license", "license"),
            ("format = \"separated\"", "format = \"xml\"", "xml"),
        ] {
            let error = DatasetManifest::parse("x.toml", &good.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains("x.toml") && error.contains(needle), "{error}");
        }
    }
}
