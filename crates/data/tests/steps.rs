//! Documents are filtered, cleaned and counted by named steps before they become tokens.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use wattle_data::{
    DataConfig, DataError, Dataset, PiiChoice, TokenStore, TokenizerConfig, TokenizerKind, prepare_into,
};

const END: &str = "<|endoftext|>";

fn write(dir: &Path, texts: &[&str]) -> DataConfig {
    let lines: String =
        texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
    let path = dir.join("docs.jsonl");
    fs::write(&path, lines).unwrap();
    DataConfig { input: vec![path], val_fraction: 0.5, ..DataConfig::default() }
}

fn prepared(dir: &Path, data: &DataConfig) -> Result<Dataset, DataError> {
    let bytes = TokenizerConfig { kind: TokenizerKind::Chars, ..TokenizerConfig::default() };
    prepare_into(&dir.join("made"), data, &bytes, &mut |_| {})
}

fn text_of(dataset: &Dataset, store: &TokenStore) -> String {
    let mut ids = vec![0; store.len() as usize];
    store.read(0, &mut ids).unwrap();
    dataset.tokenizer.decode(&ids).unwrap()
}

#[test]
fn what_is_left_is_split_and_every_step_says_what_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let texts = [
        "first",
        "é",
        "mail me: x@example.com",
        "first",
        "",
        "mail me: y@example.org",
        "one two three",
        "a document that is far too long",
        "last",
    ];
    let data = DataConfig {
        min_bytes: Some(3),
        max_tokens: Some(17),
        pii: PiiChoice::Replace,
        dedup: true,
        ..write(dir.path(), &texts)
    };
    let made = prepared(dir.path(), &data).unwrap();
    // Two mails that became equal are one document; the split is over the five that are left before tokens are counted.
    assert_eq!(text_of(&made, &made.train), format!("first{END}mail me: <EMAIL>{END}"));
    assert_eq!(text_of(&made, made.val.as_ref().unwrap()), format!("one two three{END}last{END}"));
    let documents = made.manifest.documents.as_ref().unwrap();
    let steps: Vec<_> = (documents.steps.iter())
        .map(|step| (step.name.as_str(), step.documents_in, step.documents_out, step.bytes_out))
        .collect();
    assert_eq!(
        steps,
        [("bytes", 8, 7, 102), ("pii", 7, 7, 90), ("duplicates", 7, 5, 69), ("tokens", 5, 4, 38)]
    );
    assert_eq!((documents.empty, documents.train, documents.val), (1, 2, 2));
    assert_eq!(documents.steps[1].found["mail"], 2);
    let sizes = (made.manifest.split.train.bytes, made.manifest.split.val.as_ref().unwrap().bytes);
    assert_eq!((sizes, made.manifest.sources[0].bytes), ((21, 17), 69));
    // No character of a document that was dropped is in the vocabulary.
    assert!(made.tokenizer.encode("é").is_err());
}

#[test]
fn without_steps_nothing_is_counted_and_nothing_differs() {
    let dir = tempfile::tempdir().unwrap();
    let data = write(dir.path(), &["one", "one", "two", "x@example.com"]);
    let made = prepared(dir.path(), &data).unwrap();
    assert_eq!(text_of(&made, &made.train), format!("one{END}one{END}"));
    assert!(made.manifest.documents.as_ref().unwrap().steps.is_empty());
}

#[test]
fn steps_that_leave_nothing_and_steps_on_a_text_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataConfig { min_chars: Some(100), ..write(dir.path(), &["one", "two"]) };
    let said = prepared(dir.path(), &data).unwrap_err().to_string();
    assert!(said.contains("chars (at least 100) let none of 2 pass"), "{said}");
    let path = dir.path().join("a.txt");
    fs::write(&path, "a running text").unwrap();
    let said = prepared(dir.path(), &DataConfig { input: vec![path], ..data }).unwrap_err().to_string();
    assert!(said.contains("chars") && said.contains("JSON lines"), "{said}");
}
