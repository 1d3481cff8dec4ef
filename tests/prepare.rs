//! `wattle prepare`: text and documents to tokens, or a sentence about what is wrong with them.

use std::fs;

use serde_json::{Value, json};

use crate::workbench::{Workbench, expect};

fn manifest(bench: &Workbench, dir: &str) -> Value {
    serde_json::from_slice(&fs::read(bench.join(dir).join("dataset.json")).unwrap()).unwrap()
}

fn write_documents(bench: &Workbench, name: &str, field: &str, n: usize) {
    let lines: String = (0..n)
        .map(|i| {
            json!({"id": i, field: format!("Document {i} says that {i} is a number.")}).to_string() + "\n"
        })
        .collect();
    fs::write(bench.join(name), lines).unwrap();
}

#[test]
fn documents_are_split_whole_and_stand_apart() {
    let bench = Workbench::new();
    write_documents(&bench, "docs.jsonl", "body", 40);
    let args = ["prepare", "docs.jsonl", "--text-field", "body", "--out", "docs", "--tokenizer", "bytes"];
    expect(0, bench.wattle(&args));
    let made = manifest(&bench, "docs");
    assert_eq!(made["tokenizer"]["vocab_size"], 257, "256 bytes and the end of text: {made:#}");
    expect(
        0,
        bench.train(&[
            "--out",
            "run",
            "--set",
            "data.input=[]",
            "--set",
            "data.dir=\"docs\"",
            "--set",
            "train.max_steps=2",
        ]),
    );
    let config: Value =
        serde_json::from_slice(&fs::read(bench.join("run/checkpoints/latest/config.json")).unwrap()).unwrap();
    assert_eq!(config["eos_token_id"], 256, "a program that generates knows where to stop");
}

#[test]
fn input_that_cannot_be_prepared_is_named_with_its_place() {
    let bench = Workbench::new();
    write_documents(&bench, "docs.jsonl", "body", 5);
    let prepare = |file: &str| bench.wattle(&["prepare", file, "--out", "data", "--tokenizer", "bytes"]);
    let refused = |file: &str, parts: &[&str]| {
        let output = prepare(file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!bench.join("data").exists(), "{said}");
    };
    refused("docs.jsonl", &["docs.jsonl", "\"text\"", "body"]);
    refused("absent.txt", &["absent.txt"]);
    fs::write(bench.join("broken.jsonl"), "{\"text\": \"good\"}\n{\"text\": \n").unwrap();
    refused("broken.jsonl", &["broken.jsonl", "2"]);
    fs::write(bench.join("latin1.txt"), b"caf\xe9").unwrap();
    refused("latin1.txt", &["latin1.txt", "UTF-8", "3"]);
    let said = expect(2, bench.wattle(&["prepare", "--out", "data"]));
    assert!(said.contains("--dataset"), "{said}");
    let said = expect(2, bench.wattle(&["prepare", "text.txt", "--out", "data", "--val-fraction", "2"]));
    assert!(said.contains("--val-fraction"), "{said}");
    let said = expect(2, bench.wattle(&["prepare", "text.txt", "--out", "data", "--tokenizer", "bpe:x"]));
    assert!(said.contains("bpe:2048"), "{said}");
    fs::create_dir(bench.join("there")).unwrap();
    fs::write(bench.join("there/mine.txt"), "mine").unwrap();
    expect(1, bench.wattle(&["prepare", "text.txt", "--out", "there"]));
    assert_eq!(bench.list("there"), ["mine.txt"]);
}

#[test]
fn an_unknown_corpus_is_answered_with_those_there_are() {
    let bench = Workbench::new();
    let said = expect(2, bench.wattle(&["prepare", "--dataset", "tiny-shakespear", "--out", "data"]));
    assert!(said.contains("tiny-shakespeare"), "{said}");
}
