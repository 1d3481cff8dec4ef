//! The embedded corpus: short tales written by the grammar in `datasets/tales.grammar`.
//!
//! Tale `k` is a pure function of a seed and `k`. Tales are separated by a blank line, which carries no
//! information. The split is by whole tales.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::LazyLock;

use crate::corpus::train_units;
use crate::digest::sha256_hex;
use crate::error::DataError;
use crate::grammar::{Grammar, Tale};

/// The grammar's source.
pub const GRAMMAR: &str = include_str!("../../../datasets/tales.grammar");

/// What stands after every tale.
pub const SEPARATOR: &str = "\n\n";

/// The grammar of the embedded corpus.
pub fn grammar() -> &'static Grammar {
    static PARSED: LazyLock<Grammar> =
        LazyLock::new(|| Grammar::parse(GRAMMAR).expect("a test parses and checks the embedded grammar"));
    &PARSED
}

/// SHA-256 of the grammar's source, in hexadecimal.
pub fn grammar_sha256() -> String {
    sha256_hex(GRAMMAR.as_bytes())
}

/// Tale number `tale_idx` under `seed`.
pub fn tale(seed: u64, tale_idx: u64) -> Tale {
    grammar().generate(seed, tale_idx)
}

/// What was written by [`write_corpus`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Written {
    /// Number of tales.
    pub tales: u64,
    /// Characters of the training tales, with their separators.
    pub train_chars: u64,
    /// Information in the validation tales, in bits.
    pub val_bits: f64,
}

/// Writes tales to `path` until they hold at least `chars` characters. The last tales are for validation: those
/// that begin at or after the character where [`train_units`] splits a text of this length.
///
/// # Errors
/// If the file cannot be written.
pub fn write_corpus(
    path: &Path,
    chars: u64,
    val_fraction: f64,
    seed: u64,
    on_chars: &mut dyn FnMut(u64),
) -> Result<Written, DataError> {
    let mut file = BufWriter::new(File::create(path).map_err(DataError::write(path))?);
    // Where each tale begins, and its bits.
    let mut tales: Vec<(u64, f64)> = Vec::new();
    let mut written = 0;
    while written < chars {
        let Tale { text, bits } = tale(seed, tales.len() as u64);
        file.write_all(text.as_bytes()).map_err(DataError::write(path))?;
        file.write_all(SEPARATOR.as_bytes()).map_err(DataError::write(path))?;
        tales.push((written, bits));
        written += (text.chars().count() + SEPARATOR.len()) as u64;
        on_chars(written);
    }
    file.flush().map_err(DataError::write(path))?;
    let cut = train_units(written, val_fraction);
    let first_val = tales.partition_point(|&(start, _)| start < cut);
    Ok(Written {
        tales: tales.len() as u64,
        train_chars: tales.get(first_val).map_or(written, |&(start, _)| start),
        val_bits: tales[first_val..].iter().map(|&(_, bits)| bits).sum(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tales(n: u64) -> impl Iterator<Item = Tale> {
        (0..n).map(|tale_idx| tale(1, tale_idx))
    }

    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_alphabetic() && c != '-' && c != '\'').filter(|word| !word.is_empty())
    }

    #[test]
    fn the_next_word_decides_every_choice_of_the_embedded_grammar() {
        // `Grammar::parse` checks that; here its fault would be told with its line.
        assert_eq!(Grammar::parse(GRAMMAR).err(), None);
    }

    #[test]
    fn a_corpus_of_the_default_size_has_two_thousand_words() {
        let mut seen = HashSet::new();
        let mut chars = 0;
        for tale in (0..).map(|tale_idx| tale(1, tale_idx)) {
            seen.extend(words(&tale.text).map(str::to_lowercase));
            chars += tale.text.len();
            if chars > 2_000_000 {
                break;
            }
        }
        assert!(seen.len() >= 2000, "{} words", seen.len());
    }

    #[test]
    fn tales_are_short_pure_and_different() {
        let mut seen = HashSet::new();
        for (tale_idx, Tale { text, bits }) in (0..).zip(tales(1000)) {
            let n_words = words(&text).count();
            assert!((60..=200).contains(&n_words), "{n_words} words: {text}");
            assert!(!text.contains(SEPARATOR) && !text.contains("  "), "{text}");
            assert!(bits > 60.0 && bits < 300.0, "{bits} bits");
            assert_eq!(tale(1, tale_idx).text, text);
            assert_ne!(tale(2, tale_idx).text, text);
            assert!(seen.insert(text));
        }
    }

    #[test]
    fn names_are_remembered_from_the_first_paragraph_to_the_last() {
        let mut remembered = 0;
        for Tale { text, .. } in tales(200) {
            let paragraphs: Vec<&str> = text.split('\n').collect();
            assert_eq!(paragraphs.len(), 3, "{text}");
            let is_name = |word: &&str| word.starts_with(char::is_uppercase) && word.len() > 2;
            let first: HashSet<&str> = words(paragraphs[0]).skip(1).filter(is_name).collect();
            remembered += usize::from(words(paragraphs[2]).skip(1).any(|word| first.contains(word)));
        }
        assert!(remembered > 180, "{remembered} of 200 tales");
    }

    #[test]
    fn the_article_agrees_with_the_next_word() {
        for Tale { text, .. } in tales(1000) {
            let all: Vec<&str> = words(&text).collect();
            for pair in all.windows(2) {
                let is_vowel = pair[1].starts_with(['a', 'e', 'i', 'o']) && !pair[1].starts_with("one");
                assert!(!(pair[0] == "a" && is_vowel), "{} {}: {text}", pair[0], pair[1]);
                let is_consonant =
                    pair[1].starts_with(['b', 'c', 'd', 'f', 'g', 'k', 'l', 'm', 'r', 's', 't']);
                assert!(!(pair[0] == "an" && is_consonant), "{} {}: {text}", pair[0], pair[1]);
            }
        }
    }

    #[test]
    fn pronouns_and_verbs_agree_with_the_hero() {
        let one = ["he", "she", "it"];
        let many = ["they", "we"];
        let mut seen = HashSet::new();
        for Tale { text, .. } in tales(3000) {
            let lower = text.to_lowercase();
            let all: Vec<&str> = words(&lower).collect();
            for pair in all.windows(2) {
                assert!(!(one.contains(&pair[0]) && pair[1] == "were"), "{text}");
                assert!(!(many.contains(&pair[0]) && pair[1] == "was"), "{text}");
            }
            seen.extend(["he was", "she was", "they were"].into_iter().filter(|seen| lower.contains(seen)));
            assert!(!["Bo was", "Pim was", "Tove was"].iter().any(|fault| text.contains(fault)), "{text}");
        }
        assert!(!seen.is_empty());
    }

    #[test]
    fn a_written_corpus_is_split_by_whole_tales() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("corpus.txt");
        let written = write_corpus(&path, 30_000, 0.1, 5, &mut |_| {}).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() >= 30_000 && text.is_ascii());
        let (train, val) = text.split_at(written.train_chars as usize);
        assert!(train.ends_with(SEPARATOR) && val.ends_with(SEPARATOR));
        let tales: Vec<&str> = val.split_terminator(SEPARATOR).collect();
        let bits: f64 = tales.iter().map(|tale| grammar().derive(tale).unwrap().bits).sum();
        assert!((bits - written.val_bits).abs() < 1e-9);
        assert!((0.05..=0.1).contains(&(val.len() as f64 / text.len() as f64)), "{}", val.len());
        assert_eq!(written.tales, text.split_terminator(SEPARATOR).count() as u64);
        let none = write_corpus(&path, 30_000, 0.0, 5, &mut |_| {}).unwrap();
        assert_eq!((none.train_chars, none.val_bits), (text.len() as u64, 0.0));
    }
}
