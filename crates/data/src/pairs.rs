//! Corpora of prompts and completions, written by the grammars in `datasets/`.
//!
//! A text of such a grammar has two paragraphs: the prompt and its completion, which follows from the prompt. Pair `k` is
//! a pure function of `k`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

use serde::Serialize;

use crate::catalog::WrittenPairs;
use crate::digest::sha256_hex;
use crate::error::DataError;
use crate::fetch::FetchedFile;
use crate::grammar::Grammar;

const SOURCES: [(&str, &str); 3] = [
    ("support", include_str!("../../../datasets/support.grammar")),
    ("summary", include_str!("../../../datasets/summary.grammar")),
    ("translation", include_str!("../../../datasets/translation.grammar")),
];

/// The seed of what is written here, so that the corpus of a name is the same everywhere.
const SEED: u64 = 1;

/// A line of the file.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pair {
    prompt: String,
    completion: String,
}

/// The source of the grammar of this name.
pub(crate) fn source(name: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(known, _)| *known == name).map(|&(_, source)| source)
}

fn grammar(name: &str) -> &'static Grammar {
    static PARSED: LazyLock<BTreeMap<&str, Grammar>> = LazyLock::new(|| {
        let parse = |source| Grammar::parse(source).expect("a test parses every embedded grammar");
        SOURCES.iter().map(|&(name, source)| (name, parse(source))).collect()
    });
    &PARSED[name]
}

fn pair(grammar: &Grammar, idx: u64) -> Pair {
    let text = grammar.generate(SEED, idx).text;
    let (prompt, completion) = text.split_once('\n').expect("a test sees two paragraphs");
    Pair { prompt: prompt.to_owned(), completion: completion.to_owned() }
}

/// Writes the pairs into `dir`, a JSON object a line, and returns the file.
pub(crate) fn write(written: &WrittenPairs, dir: &Path) -> Result<FetchedFile, DataError> {
    let grammar = grammar(&written.grammar);
    let mut text = Vec::new();
    for idx in 0..written.pairs {
        let pair = pair(grammar, idx);
        serde_json::to_writer(&mut text, &pair).expect("texts can be written as JSON");
        text.push(b'\n');
    }
    let path = dir.join(format!("{}.jsonl", written.grammar));
    let mut part = tempfile::NamedTempFile::new_in(dir).map_err(DataError::write(dir))?;
    part.write_all(&text).map_err(DataError::write(&path))?;
    part.persist(&path).map_err(|error| DataError::write(&path)(error.error))?;
    let sha256 = sha256_hex(&text);
    Ok(FetchedFile { bytes: fs::metadata(&path).map_err(DataError::read(&path))?.len(), path, sha256 })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_next_word_decides_every_choice() {
        for (name, source) in SOURCES {
            // `Grammar::parse` checks that; here its fault would be told with its line.
            assert_eq!(Grammar::parse(source).err(), None, "{name}");
        }
    }

    #[test]
    fn a_completion_follows_from_its_prompt() {
        for (name, _) in SOURCES {
            let mut seen: HashMap<String, String> = HashMap::new();
            for Pair { prompt, completion } in (0..30_000).map(|idx| pair(grammar(name), idx)) {
                assert!(!completion.contains('\n') && completion.len() > 10, "{name}: {completion}");
                assert!(prompt.len() + completion.len() < 500, "{name}: {prompt}");
                let before = seen.entry(prompt).or_insert_with(|| completion.clone());
                assert_eq!(*before, completion, "{name}");
            }
            assert!(seen.len() > 20_000, "{name}: {} prompts", seen.len());
        }
    }

    #[test]
    fn what_is_written_is_the_same_each_time_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let written = WrittenPairs { grammar: "translation".to_owned(), pairs: 100 };
        let first = write(&written, dir.path()).unwrap();
        fs::write(&first.path, "damaged").unwrap();
        assert_eq!(write(&written, dir.path()).unwrap(), first);
        let text = fs::read_to_string(&first.path).unwrap();
        assert_eq!(text.len() as u64, first.bytes);
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let [prompt, completion] = ["prompt", "completion"].map(|key| line[key].as_str().unwrap());
        assert_eq!(
            pair(grammar("translation"), 99),
            Pair { prompt: prompt.into(), completion: completion.into() }
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
