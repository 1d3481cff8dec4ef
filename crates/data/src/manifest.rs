//! `dataset.json`: what a folder of shards is and what it was made from.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::tokenizer_kind::TokenizerKind;

/// Name of the manifest in a dataset folder.
pub const FILE_NAME: &str = "dataset.json";

/// Schema and version of the manifest.
pub const SCHEMA: &str = "wattle.dataset/1";

/// The content of `dataset.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The texts, in order.
    pub sources: Vec<SourceManifest>,
    /// The share of the text that is validation.
    pub val_fraction: f64,
    /// How many texts, the last, are validation as a whole; `val_fraction` is not used then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_files: Option<usize>,
    /// Of a mixture: its sources, whose tokens lie one after another in both splits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixture: Vec<MixedManifest>,
    /// The tokenizer.
    pub tokenizer: TokenizerManifest,
    /// The two parts.
    pub split: SplitsManifest,
    /// Of documents: how many there are and what stands between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<DocumentsManifest>,
    /// Of conversations: the template that made text of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatManifest>,
    /// Of the embedded corpus: what it was generated from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated: Option<GeneratedManifest>,
}

/// The chat template of a dataset, whose text is in `chat_template.jinja`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatManifest {
    /// Its name, or the file that it was read from.
    pub template: String,
    /// A hash over its text and its tokens.
    pub sha256: String,
    /// The tokens that it may ask for by name.
    pub special_tokens: BTreeMap<String, String>,
}

/// One text of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceManifest {
    /// Its file; of the embedded corpus, relative to the dataset's folder.
    pub path: String,
    /// Its text in bytes: of documents, what they say, not how it is written down.
    pub bytes: u64,
    /// Its text in characters.
    pub chars: u64,
    /// SHA-256 of the file as it lies on disk.
    pub sha256: String,
    /// Its bytes on disk, if it is packed. Not known of what earlier versions prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed_bytes: Option<u64>,
}

/// A source of a mixture. Its splits list no shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixedManifest {
    /// What it is called.
    pub name: String,
    /// Its part of the tokens, as it was when it was prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Its epochs, as they were when it was prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// How many texts it has among those of the dataset, which are in its order.
    pub texts: usize,
    /// Its part to learn from.
    pub train: SplitManifest,
    /// Its part to measure on.
    pub val: Option<SplitManifest>,
}

/// The tokenizer of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerManifest {
    /// How it was made.
    pub kind: TokenizerKind,
    /// Entries of its vocabulary.
    pub vocab_size: usize,
    /// SHA-256 of `tokenizer.json`.
    pub sha256: String,
    /// What the file that was given asks for and does not get, because it belongs to a call and not to a corpus:
    /// truncation, padding, dropout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switched_off: Vec<String>,
    /// SHA-256 of that file, if it is another than `tokenizer.json` for this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_sha256: Option<String>,
}

/// The two parts of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitsManifest {
    /// What is learnt from.
    pub train: SplitManifest,
    /// What is only measured on; absent with `data.val_fraction` 0.
    pub val: Option<SplitManifest>,
}

/// The documents of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentsManifest {
    /// Documents to learn from.
    pub train: u64,
    /// Documents to measure on.
    pub val: u64,
    /// Documents without a character, which were left out.
    pub empty: u64,
    /// Records without a text that could be read, which were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<BadRecordsManifest>,
    /// What was done with the readable documents, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepManifest>,
    /// What stands after every document, the last too.
    pub separator: Separator,
}

/// One step of preparation, and what went in and came out.
///
/// # Units
/// Bytes are of text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepManifest {
    /// Its name.
    pub name: String,
    /// What it keeps or does, in words.
    pub rule: String,
    /// Documents that came to it.
    pub documents_in: u64,
    /// Documents that it let pass.
    pub documents_out: u64,
    /// Their bytes before it.
    pub bytes_in: u64,
    /// The bytes of those that it let pass, after it.
    pub bytes_out: u64,
    /// Of personal data: how much of each kind was found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, u64>,
}

impl StepManifest {
    pub(crate) fn new(name: &str, rule: String) -> Self {
        Self { name: name.to_owned(), rule, ..Self::default() }
    }

    /// Counts a document that comes to the step.
    pub(crate) fn enter(&mut self, bytes: usize) {
        self.documents_in += 1;
        self.bytes_in += bytes as u64;
    }

    /// Counts a document that passes.
    pub(crate) fn leave(&mut self, bytes: usize) {
        self.documents_out += 1;
        self.bytes_out += bytes as u64;
    }

    /// Adds what the same step counted elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.documents_in += other.documents_in;
        self.documents_out += other.documents_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        other.found.iter().for_each(|(kind, n)| *self.found.entry(kind.clone()).or_default() += n);
    }
}

/// Records that were left out because they have no text that could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRecordsManifest {
    /// How many, by what is wrong with them.
    pub skipped: BTreeMap<String, u64>,
    /// The first, with its file and place and what is wrong.
    pub first: String,
}

impl BadRecordsManifest {
    /// How many there are.
    pub fn total(&self) -> u64 {
        self.skipped.values().sum()
    }
}

/// What ends a document among tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separator {
    /// A special token, by its spelling and id.
    Token {
        /// As the vocabulary spells it.
        text: String,
        /// Its id.
        id: u32,
    },
    /// Text, of a tokenizer without such a token.
    Text(String),
}

/// One part of a dataset.
///
/// # Units
/// `tokens` counts the separators of documents, for they are predicted; `chars` and `bytes` do not, for they are
/// none of the text. So bits a byte hold what it costs to tell where each document ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitManifest {
    /// Tokens of all shards.
    pub tokens: u64,
    /// Characters of the text.
    pub chars: u64,
    /// Bytes of the text.
    pub bytes: u64,
    /// Characters that the tokens do not give back: dropped or changed by the tokenizer, or covered by its token for
    /// the unknown. Not known of what earlier versions prepared with a tokenizer that may lose some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_chars: Option<u64>,
    /// Tokens for the unknown. Known when `lost_chars` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_tokens: Option<u64>,
    /// Of conversations: tokens that are learnt. Absent, all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learnt: Option<u64>,
    /// Its files in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ShardManifest>,
}

/// The share of lost characters from which on bits a byte are not stated: below it they are off by no more than
/// about a tenth of a per cent.
pub const MATERIAL_LOSS: f64 = 1e-3;

impl SplitManifest {
    /// Bits a byte of text for a mean loss in nats a token: `loss · tokens / (ln 2 · bytes)`. There are none of a
    /// text that the tokens do not stand for: one of which a share of [`MATERIAL_LOSS`] or more was lost, or of which a
    /// part alone is learnt.
    pub fn bits_per_byte(&self, loss: f64) -> Option<f64> {
        let bits = loss * self.tokens as f64 / (std::f64::consts::LN_2 * self.bytes as f64);
        (self.learnt.is_none() && self.lost_share().unwrap_or(0.0) < MATERIAL_LOSS).then_some(bits)
    }

    /// The share of the text's characters that its tokens do not give back, if known.
    pub fn lost_share(&self) -> Option<f64> {
        self.lost_chars.map(|lost| lost as f64 / (self.chars as f64).max(1.0))
    }

    /// The share of its tokens that stand for the unknown, if known.
    pub fn unknown_share(&self) -> Option<f64> {
        self.unknown_tokens.map(|unknown| unknown as f64 / (self.tokens as f64).max(1.0))
    }
}

/// One token file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardManifest {
    /// Its name in the dataset's folder.
    pub file: String,
    /// Its tokens.
    pub tokens: u64,
    /// SHA-256 of its payload.
    pub sha256: String,
}

/// What an embedded corpus was generated from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratedManifest {
    /// SHA-256 of the grammar.
    pub grammar_sha256: String,
    /// `data.embedded_seed`.
    pub seed: u64,
    /// Number of tales.
    pub tales: u64,
    /// Information in the validation split: the sum of −log₂ p over the generator's choices.
    pub floor_bits: f64,
}

impl Manifest {
    /// Reads the manifest in `dir`.
    ///
    /// # Errors
    /// If it is missing, does not parse or has another schema.
    pub fn read(dir: &Path) -> Result<Self, DataError> {
        let path = dir.join(FILE_NAME);
        let json = wattle_files::read(&path, wattle_files::SMALL).map_err(DataError::read(&path))?;
        let fault = |reason: String| DataError::Manifest { path: path.clone(), reason };
        let value: serde_json::Value =
            serde_json::from_slice(&json).map_err(|error| fault(format!("is not JSON: {error}")))?;
        let schema = value["schema"].as_str().unwrap_or_default();
        if schema != SCHEMA {
            return Err(fault(format!("has schema {schema:?}, expected {SCHEMA:?}")));
        }
        serde_json::from_value(value).map_err(|error| fault(error.to_string()))
    }

    /// Writes the manifest into `dir`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), DataError> {
        let path = dir.join(FILE_NAME);
        let json = serde_json::to_string_pretty(self).expect("a manifest holds nothing that JSON has not");
        std::fs::write(&path, json + "\n").map_err(DataError::write(&path))
    }
}
