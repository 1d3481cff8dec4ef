//! `wattle prepare`: text and documents to tokens, or a sentence about what is wrong with them.

use std::fs;

use serde_json::{Value, json};

use crate::parquet_file;
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
    fs::write(bench.join("broken.jsonl"), "{\"text\": \n{\"text\": \n").unwrap();
    refused("broken.jsonl", &["broken.jsonl", "line 1", "not JSON", "none of 2 records"]);
    fs::write(bench.join("docs.parquet"), b"PAR1\x15\x04PAR1").unwrap();
    refused("docs.parquet", &["docs.parquet", "not Parquet, or not all of it", "fetch or write it again"]);
    fs::write(bench.join("wide.txt"), b"\xff\xfeT\0o\0").unwrap();
    refused("wide.txt", &["wide.txt", "iconv -f UTF-16LE -t UTF-8"]);
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
fn content_tells_the_format_and_a_flag_overrides_it() {
    let bench = Workbench::new();
    write_documents(&bench, "docs.jsonl", "text", 20);
    let lines = fs::read_to_string(bench.join("docs.jsonl")).unwrap();
    let array = format!("\u{feff}[{}]", lines.trim_end().replace('\n', ",\n"));
    fs::write(bench.join("c4.json"), &lines).unwrap();
    fs::write(bench.join("array.txt"), array).unwrap();
    for (i, file) in ["docs.jsonl", "c4.json", "array.txt"].into_iter().enumerate() {
        let out = format!("out{i}");
        expect(0, bench.wattle(&["prepare", file, "--out", &out, "--tokenizer", "bytes"]));
        let made = manifest(&bench, &out);
        assert_eq!(made["documents"]["train"], 18, "{file}: {made:#}");
        assert_eq!(made["split"], manifest(&bench, "out0")["split"], "{file}");
    }
    let as_text = ["prepare", "c4.json", "--out", "text", "--tokenizer", "bytes", "--format", "text"];
    expect(0, bench.wattle(&as_text));
    let made = manifest(&bench, "text");
    assert_eq!(
        (&made["documents"], made["sources"][0]["bytes"].as_u64()),
        (&Value::Null, Some(lines.len() as u64))
    );
    let said = expect(2, bench.wattle(&["prepare", "c4.json", "--out", "x", "--format", "parquet"]));
    assert!(said.contains("c4.json") && said.contains("--format"), "{said}");
}

#[test]
fn patterns_of_parquet_are_prepared_with_steps_that_are_counted() {
    let bench = Workbench::new();
    fs::create_dir(bench.join("rows")).unwrap();
    for (i, name) in ["b.parquet", "a.parquet"].iter().enumerate() {
        let text = |j: usize| format!("row {} of {name}, ask x{j}@example.com", j / 2);
        parquet_file::write(&bench.join("rows").join(name), (0..20 + i).map(text));
    }
    let steps = ["--set", "data.dedup=true", "--set", "data.pii=replace"];
    let prepare = ["prepare", "rows/*.parquet", "--tokenizer", "bytes", "--out", "out"];
    let said = expect(0, bench.wattle(&[&prepare[..], &steps].concat()));
    for part in
        ["pii (replaced by placeholders): 41 of 41 documents", "found: 41 mail", "duplicates", "21 of 41"]
    {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let made = manifest(&bench, "out");
    assert!(made["sources"][0]["path"].as_str().unwrap().ends_with("a.parquet"), "{made:#}");
    assert_eq!(made["documents"]["steps"][1]["documents_out"], 21, "{made:#}");
    let input =
        ["--set", "data.input=[\"rows/*.parquet\"]", "--set", "data.dedup=true", "--set", "data.pii=replace"];
    expect(0, bench.train(&[&["--out", "run", "--set", "train.max_steps=2"][..], &input].concat()));
    let run: Value = serde_json::from_slice(&fs::read(bench.join("run/manifest.json")).unwrap()).unwrap();
    assert_eq!(run["data"]["steps"], made["documents"]["steps"]);
    for (set, part) in [("data.pii=no", "data.pii"), ("data.no=1", "data.no"), ("run.seed=1", "section data")]
    {
        let said = expect(2, bench.wattle(&[&prepare[..5], &["no", "--set", set]].concat()));
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let said = expect(2, bench.wattle(&["prepare", "none/*.parquet", "--out", "no"]));
    assert!(said.contains("none/*.parquet") && said.contains("matches no file"), "{said}");
}

#[test]
fn bad_records_are_left_out_and_said_or_refused() {
    let bench = Workbench::new();
    write_documents(&bench, "docs.jsonl", "text", 20);
    let bad = "{\"text\": \"\\ud800\"}\n{\"text\": \"a\", \"score\": NaN}\n{\"text\": null}\n";
    let lines = fs::read_to_string(bench.join("docs.jsonl")).unwrap() + bad;
    fs::write(bench.join("some.jsonl"), lines).unwrap();
    let prepare = ["prepare", "some.jsonl", "--tokenizer", "bytes", "--out"];
    let said = expect(0, bench.wattle(&[&prepare[..], &["out"]].concat()));
    for part in
        ["3 of 23 records", "1 lone surrogate", "1 NaN or infinity", "1 null", "some.jsonl\", line 21"]
    {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let made = manifest(&bench, "out");
    assert_eq!(made["documents"]["bad"]["skipped"]["lone surrogate"], 1, "{made:#}");
    assert_eq!(made["documents"]["train"].as_u64().unwrap() + made["documents"]["val"].as_u64().unwrap(), 20);
    let said = expect(1, bench.wattle(&[&prepare[..], &["no", "--bad-records", "refuse"]].concat()));
    assert!(said.contains("line 21") && !bench.join("no").exists(), "{said}");
    let train = ["--set", "data.input=[\"some.jsonl\"]", "--set", "data.bad_records=refuse", "--out", "run"];
    let said = expect(1, bench.train(&train));
    assert!(said.contains("line 21") && !bench.join("run").exists(), "{said}");
}

#[test]
fn what_a_foreign_tokenizer_asks_of_a_call_is_not_obeyed() {
    let bench = Workbench::new();
    expect(0, bench.wattle(&["prepare", "text.txt", "--tokenizer", "bpe:300", "--out", "made"]));
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(bench.join("made/tokenizer.json")).unwrap()).unwrap();
    tokenizer["model"]["dropout"] = json!(0.5);
    tokenizer["truncation"] =
        json!({"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0});
    fs::write(bench.join("given.json"), tokenizer.to_string()).unwrap();
    let said = expect(0, bench.wattle(&["prepare", "text.txt", "--tokenizer", "given.json", "--out", "by"]));
    assert_eq!(said.matches("truncation to 64 tokens and dropout of merges at 0.5").count(), 1, "{said}");
    assert_eq!(manifest(&bench, "by")["split"], manifest(&bench, "made")["split"]);
    // A character that the vocabulary lacks is refused, not dropped.
    tokenizer["model"]["vocab"].as_object_mut().unwrap().remove("7");
    tokenizer["model"]["merges"] = json!([]);
    fs::write(bench.join("few.json"), tokenizer.to_string()).unwrap();
    let said = expect(1, bench.wattle(&["prepare", "text.txt", "--tokenizer", "few.json", "--out", "few"]));
    assert!(said.contains("text.txt: character '7'") && !bench.join("few").exists(), "{said}");
}

#[test]
fn an_unknown_corpus_is_answered_with_those_there_are() {
    let bench = Workbench::new();
    let said = expect(2, bench.wattle(&["prepare", "--dataset", "tiny-shakespear", "--out", "data"]));
    assert!(said.contains("tiny-shakespeare"), "{said}");
}
