//! What is done with documents before they become tokens: named steps in a fixed order, each counted.
//!
//! | step | what it does | keys |
//! |---|---|---|
//! | `bytes`, `chars` | drops documents by length | `data.min_bytes`, `data.max_bytes`, `data.min_chars`, `data.max_chars` |
//! | `alphabetic_words`, `word_length`, `repeated_lines` | drops documents by `quality` | `data.min_alphabetic_words`, … |
//! | `pii` | replaces personal data, or drops documents that have some, see `pii` | `data.pii` |
//! | `duplicates` | drops documents that are equal to an earlier one as the steps before left it | `data.dedup` |
//! | `tokens` | drops documents by their number of tokens, without what ends them | `data.min_tokens`, `data.max_tokens` |
//!
//! All but the last are decided at the first reading, in order, and remembered by a bit for each document. The last is
//! decided as tokens are written; the split does not move for it.

use std::borrow::Cow;
use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::config::DataConfig;
use crate::manifest::StepManifest;
use crate::pii_choice::PiiChoice;
use crate::{pii, quality};

/// Bounds of a measure, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    min: Option<f64>,
    max: Option<f64>,
}

impl Limits {
    fn new(min: Option<f64>, max: Option<f64>) -> Option<Self> {
        (min.is_some() || max.is_some()).then_some(Self { min, max })
    }

    fn of_counts(min: Option<u64>, max: Option<u64>) -> Option<Self> {
        Self::new(min.map(|min| min as f64), max.map(|max| max as f64))
    }

    pub(crate) fn holds(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }

    fn described(&self) -> String {
        let bounds =
            [self.min.map(|min| format!("at least {min}")), self.max.map(|max| format!("at most {max}"))];
        bounds.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

#[derive(Clone, Debug)]
enum Step {
    Measure { name: &'static str, measure: fn(&str) -> f64, limits: Limits },
    Pii { is_dropped: bool },
    Duplicates,
    Tokens { limits: Limits },
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Measure { name, .. } => name,
            Self::Pii { .. } => "pii",
            Self::Duplicates => "duplicates",
            Self::Tokens { .. } => "tokens",
        }
    }

    fn rule(&self) -> String {
        match self {
            Self::Measure { limits, .. } | Self::Tokens { limits } => limits.described(),
            Self::Pii { is_dropped: false } => "replaced by placeholders".to_owned(),
            Self::Pii { is_dropped: true } => "documents with some are dropped".to_owned(),
            Self::Duplicates => "the first of equal documents is kept".to_owned(),
        }
    }
}

/// The steps of a configuration, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

impl Steps {
    pub(crate) fn of(data: &DataConfig) -> Self {
        let measure = |name, measure, limits: Option<Limits>| {
            limits.map(|limits| Step::Measure { name, measure, limits })
        };
        let steps = [
            measure("bytes", |text| text.len() as f64, Limits::of_counts(data.min_bytes, data.max_bytes)),
            measure(
                "chars",
                |text| text.chars().count() as f64,
                Limits::of_counts(data.min_chars, data.max_chars),
            ),
            measure(
                "alphabetic_words",
                quality::alphabetic_words,
                Limits::new(data.min_alphabetic_words, None),
            ),
            measure(
                "word_length",
                quality::word_length,
                Limits::new(data.min_word_length, data.max_word_length),
            ),
            measure("repeated_lines", quality::repeated_lines, Limits::new(None, data.max_repeated_lines)),
            (data.pii != PiiChoice::Keep).then_some(Step::Pii { is_dropped: data.pii == PiiChoice::Drop }),
            data.dedup.then_some(Step::Duplicates),
            Limits::of_counts(data.min_tokens, data.max_tokens).map(|limits| Step::Tokens { limits }),
        ];
        Self(steps.into_iter().flatten().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What prepared data depend on: a line for each step.
    pub(crate) fn key(&self) -> String {
        self.0.iter().map(|step| format!("step {} {}\n", step.name(), step.rule())).collect()
    }

    /// The steps with nothing counted yet.
    pub(crate) fn counts(&self) -> Vec<StepManifest> {
        let count = |step: &Step| StepManifest::new(step.name(), step.rule());
        self.0.iter().map(count).collect()
    }

    /// What a document is after the steps that look at it alone; `None` if one dropped it. Each step counts it in
    /// `counts`.
    pub(crate) fn apply<'t>(&self, text: Cow<'t, str>, counts: &mut [StepManifest]) -> Option<Cow<'t, str>> {
        let mut text = text;
        for (step, count) in self.0.iter().zip(counts) {
            match step {
                Step::Measure { measure, limits, .. } => {
                    count.enter(text.len());
                    if !limits.holds(measure(&text)) {
                        return None;
                    }
                }
                Step::Pii { is_dropped } => {
                    count.enter(text.len());
                    let (clean, found) = pii::replaced(&text);
                    let has_some = !found.is_empty();
                    found
                        .into_iter()
                        .for_each(|(kind, n)| *count.found.entry(kind.to_owned()).or_default() += n);
                    if has_some && *is_dropped {
                        return None;
                    }
                    if has_some {
                        text = clean.into_owned().into();
                    }
                }
                Step::Duplicates | Step::Tokens { .. } => break,
            }
            count.leave(text.len());
        }
        Some(text)
    }

    /// A document that is kept, as the steps leave it.
    pub(crate) fn rewritten<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.0.iter().any(|step| matches!(step, Step::Pii { is_dropped: false })) {
            true => pii::replaced(text).0,
            false => text.into(),
        }
    }

    /// The place of the step that drops duplicates.
    pub(crate) fn duplicates(&self) -> Option<usize> {
        self.0.iter().position(|step| matches!(step, Step::Duplicates))
    }

    /// The bounds of a document's tokens, if there are some.
    pub(crate) fn token_limits(&self) -> Option<Limits> {
        self.0.iter().find_map(|step| if let Step::Tokens { limits } = step { Some(*limits) } else { None })
    }
}

/// The documents that came before, by 128 bits of their SHA-256. It takes at most some 60 bytes for each distinct
/// document, while its table grows.
#[derive(Default)]
pub(crate) struct Seen(HashSet<u128, ahash::RandomState>);

impl Seen {
    /// Whether a document of this digest is the first.
    pub(crate) fn is_first(&mut self, digest: u128) -> bool {
        self.0.insert(digest)
    }
}

/// By what a document is known again.
pub(crate) fn digest(text: &str) -> u128 {
    let hash = Sha256::digest(text.as_bytes());
    let (first, _) = hash.split_first_chunk().expect("a hash of 32 bytes has 16");
    u128::from_le_bytes(*first)
}

/// Which documents of a corpus are kept: a bit for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    bits: Vec<u64>,
    len: u64,
    /// The number of the first document of each block.
    first_of_block: Vec<u64>,
}

impl Kept {
    /// Adds the documents of the next block.
    pub(crate) fn push_block(&mut self, documents: impl Iterator<Item = bool>) {
        self.first_of_block.push(self.len);
        for is_kept in documents {
            let bit = self.len % 64;
            if bit == 0 {
                self.bits.push(0);
            }
            if let Some(last) = self.bits.last_mut() {
                *last |= u64::from(is_kept) << bit;
            }
            self.len += 1;
        }
    }

    /// For each document from the first of a block on, whether it is kept; what there was not at the first reading is.
    pub(crate) fn of_block(&self, block_idx: usize) -> impl Iterator<Item = bool> {
        let first = self.first_of_block.get(block_idx).copied().unwrap_or(self.len);
        let bit = |i: u64| self.bits.get((i / 64) as usize).is_none_or(|bits| bits >> (i % 64) & 1 == 1);
        (first..).map(bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TokenizerConfig;
    use crate::prepare::tests::files_of;

    fn apply(steps: &Steps, texts: &[&str]) -> (Vec<Option<String>>, Vec<StepManifest>) {
        let mut counts = steps.counts();
        let texts =
            texts.iter().map(|text| steps.apply((*text).into(), &mut counts).map(Cow::into_owned)).collect();
        (texts, counts)
    }

    #[test]
    fn steps_follow_each_other_and_each_counts_what_it_is_given() {
        let data = DataConfig {
            min_bytes: Some(3),
            max_chars: Some(20),
            min_alphabetic_words: Some(0.5),
            pii: PiiChoice::Replace,
            ..DataConfig::default()
        };
        let texts = ["no", "more than twenty characters", "1 2 3 four", "a@b.io and me"];
        let (left, counts) = apply(&Steps::of(&data), &texts);
        assert_eq!(left, [None, None, None, Some("<EMAIL> and me".to_owned())]);
        let sizes: Vec<_> = (counts.iter())
            .map(|step| {
                (step.name.as_str(), step.documents_in, step.documents_out, step.bytes_in, step.bytes_out)
            })
            .collect();
        assert_eq!(
            sizes,
            [
                ("bytes", 4, 3, 52, 50),
                ("chars", 3, 2, 50, 23),
                ("alphabetic_words", 2, 1, 23, 13),
                ("pii", 1, 1, 13, 14)
            ]
        );
        assert_eq!(counts[3].found.clone().into_iter().collect::<Vec<_>>(), [("mail".to_owned(), 1)]);
        let dropping = DataConfig { pii: PiiChoice::Drop, ..DataConfig::default() };
        assert_eq!(apply(&Steps::of(&dropping), &["1.1.1.1", "fine"]).0, [None, Some("fine".to_owned())]);
        assert!(Steps::of(&DataConfig::default()).is_empty());
    }

    #[test]
    fn limits_are_inclusive() {
        let limits = Limits::of_counts(Some(2), Some(4)).unwrap();
        assert_eq!([1.0, 2.0, 4.0, 5.0].map(|value| limits.holds(value)), [false, true, true, false]);
        assert_eq!(limits.described(), "at least 2, at most 4");
    }

    #[test]
    fn what_is_kept_depends_neither_on_threads_nor_on_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docs.jsonl");
        let text = |i: u64| format!("{} x{}@example.com", crate::tales::tale(1, i % 37).text, i % 2);
        let lines: String =
            (0..120).map(|i| serde_json::json!({"text": text(i)}).to_string() + "\n").collect();
        std::fs::write(&path, lines).unwrap();
        let data = DataConfig {
            input: vec![path],
            min_chars: Some(400),
            pii: PiiChoice::Replace,
            dedup: true,
            max_tokens: Some(600),
            ..DataConfig::default()
        };
        let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
        let expected = files_of(&data, &config, 1, 1 << 20);
        let said = String::from_utf8(expected[0].clone()).unwrap();
        assert!(said.contains("duplicates") && said.contains("tokens"), "{said}");
        for (n_threads, block_bytes) in [(1, 100), (4, 3000)] {
            assert!(
                files_of(&data, &config, n_threads, block_bytes) == expected,
                "{n_threads} {block_bytes}"
            );
        }
    }

    #[test]
    fn a_bit_for_each_document_comes_back_by_block() {
        let mut kept = Kept::default();
        let blocks: Vec<Vec<bool>> =
            (0..9).map(|i| (0..i * 11).map(|j| (i + j) % 3 != 0).collect()).collect();
        blocks.iter().for_each(|block| kept.push_block(block.iter().copied()));
        for (block_idx, block) in blocks.iter().enumerate() {
            assert_eq!(kept.of_block(block_idx).take(block.len()).collect::<Vec<_>>(), *block);
        }
    }
}
