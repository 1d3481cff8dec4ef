//! Ids under GPT-2's own files, against those of Hugging Face `transformers`.
//!
//! The files in `tests/gpt2/` were made once: a byte-level encoding of 320 entries, trained by the Python library
//! `tokenizers` on the first 20,000 characters of Tiny Shakespeare and saved as `vocab.json` and `merges.txt`, and
//! the ids that `GPT2Tokenizer` gives with them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use wattle_data::Tokenizer;

#[test]
fn ids_are_those_of_transformers() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gpt2");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let tokenizer = Tokenizer::load_from_dir(&dir).unwrap();
    assert_eq!(tokenizer.end_of_text(), Some(0));
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected).unwrap(), text);
    }
}
