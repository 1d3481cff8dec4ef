//! Corpora that the grammars in `datasets/` write.
//!
//! A text of most has two paragraphs, a prompt and its completion, which follows from the prompt. Text `k` is a pure
//! function of `k`.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::DataError;
use crate::grammar::Grammar;
use crate::tales;

const SOURCES: [(&str, &str); 4] = [
    ("support", include_str!("../../../datasets/support.grammar")),
    ("summary", include_str!("../../../datasets/summary.grammar")),
    ("tales", tales::GRAMMAR),
    ("translation", include_str!("../../../datasets/translation.grammar")),
];

/// The seed of what is written here, so that the corpus of a name is the same everywhere.
const SEED: u64 = 1;

/// What a grammar writes: texts, or pairs of a prompt and a completion where no field is named for a text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The grammar's name: that of its file in `datasets/`.
    pub grammar: String,
    /// How many texts or pairs.
    pub texts: u64,
}

/// The source of the grammar of this name.
pub(crate) fn source(name: &str) -> Option<&'static str> {
    SOURCES.iter().find(|(known, _)| *known == name).map(|&(_, source)| source)
}

fn grammar(name: &str) -> Grammar {
    let source = source(name).expect("a manifest names a grammar that there is");
    Grammar::parse(source).expect("a test parses every embedded grammar")
}

/// A text's prompt and completion.
fn pair(text: &str) -> (&str, &str) {
    text.split_once('\n').expect("a test sees two paragraphs")
}

fn record(text: &str, text_field: Option<&str>) -> Value {
    if let Some(field) = text_field {
        return json!({ field: text });
    }
    let (prompt, completion) = pair(text);
    json!({ "prompt": prompt, "completion": completion })
}

/// Writes the corpus into `dir`, a JSON object a line: texts under `text_field`, or pairs without one. Returns the file and
/// what is in it.
pub(crate) fn write(
    Written { grammar: name, texts }: &Written,
    text_field: Option<&str>,
    dir: &Path,
) -> Result<(PathBuf, String), DataError> {
    let grammar = grammar(name);
    let line = |idx| format!("{}\n", record(&grammar.generate(SEED, idx).text, text_field));
    let lines: String = (0..*texts).map(line).collect();
    let path = dir.join(format!("{name}.jsonl"));
    let mut part = tempfile::NamedTempFile::new_in(dir).map_err(DataError::write(dir))?;
    part.write_all(lines.as_bytes()).map_err(DataError::write(&path))?;
    part.persist(&path).map_err(|error| DataError::write(&path)(error.error))?;
    Ok((path, lines))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs;

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
        for name in ["support", "summary", "translation"] {
            let grammar = grammar(name);
            let mut seen: HashMap<String, String> = HashMap::new();
            for text in (0..30_000).map(|idx| grammar.generate(SEED, idx).text) {
                let (prompt, completion) = pair(&text);
                assert!(!completion.contains('\n') && completion.len() > 10, "{name}: {completion}");
                assert!(text.len() < 500, "{name}: {text}");
                let before = seen.entry(prompt.to_owned()).or_insert_with(|| completion.to_owned());
                assert_eq!(before, completion, "{name}");
            }
            assert!(seen.len() > 20_000, "{name}: {} prompts", seen.len());
        }
    }

    #[test]
    fn what_is_written_is_the_same_each_time_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let written = Written { grammar: "translation".to_owned(), texts: 100 };
        for text_field in [None, Some("body")] {
            let first = write(&written, text_field, dir.path()).unwrap();
            let (path, lines) = &first;
            fs::write(path, "damaged").unwrap();
            assert_eq!(write(&written, text_field, dir.path()).unwrap(), first);
            assert_eq!(fs::read_to_string(path).unwrap(), *lines);
            assert_eq!(lines.lines().count(), 100);
            let line: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
            let text = grammar("translation").generate(SEED, 99).text;
            assert_eq!(line, record(&text, text_field));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
