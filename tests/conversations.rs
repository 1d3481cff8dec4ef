//! Conversations from file to talk: prepared, shown, trained on, and talked with.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::workbench::{Workbench, expect};

/// Conversations by which a model learns to answer one question with one word.
fn write_conversations(bench: &Workbench) {
    let one = |i: usize| {
        let messages = json!([
            {"role": "user", "content": format!("{} and {}?", i % 3, i % 2)},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "sure?"},
            {"role": "assistant", "content": "yes"},
        ]);
        json!({ "messages": messages }).to_string() + "\n"
    };
    fs::write(bench.join("chat.jsonl"), (0..150).map(one).collect::<String>()).unwrap();
}

fn prepared(bench: &Workbench) {
    write_conversations(bench);
    let args = ["prepare", "chat.jsonl", "--chat-template", "plain", "--tokenizer", "bytes", "--out", "chat"];
    let said = expect(0, bench.wattle(&args));
    assert!(said.contains("chat template plain") && said.contains("tokens learnt"), "{said}");
}

fn printed(bench: &Workbench, args: &[&str]) -> String {
    let output = bench.wattle(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn show_says_what_is_learnt() {
    let bench = Workbench::new();
    prepared(&bench);
    let text = printed(&bench, &["show", "chat", "--first", "1"]);
    assert!(text.starts_with("train · "), "{text}");
    assert!(text.contains("Assistant:⟦ yes<|endoftext|>⟧⏎\nUser: sure?⏎"), "{text}");
    assert!(!text.contains('\x1b') && text.lines().all(|line| line.chars().count() <= 82), "{text}");

    let lines = printed(&bench, &["show", "chat", "--first", "2", "--context", "40", "--json"]);
    let windows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(windows.len(), 2);
    let ids = |window: &Value, key: &str| -> Vec<u64> {
        window[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    for window in &windows {
        let [tokens, targets, mask] = ["tokens", "targets", "mask"].map(|key| ids(window, key));
        assert_eq!((tokens.len(), targets.len(), mask.len()), (40, 40, 40));
        assert_eq!(tokens[1..], targets[..39]);
        assert!(mask.contains(&1) && mask.contains(&0));
    }
    assert_eq!(ids(&windows[0], "targets")[39], ids(&windows[1], "tokens")[0]);
    assert!(
        windows[0]["text"].as_str().unwrap().starts_with("User: 0 and 0?\nAssistant: yes<|endoftext|>\n")
    );

    for (args, needle) in [
        (&["show", "nothing"][..], "neither a prepared folder nor a run"),
        (&["show", "chat", "--context", "0"], "--context 0"),
    ] {
        let output = bench.wattle(args).output().unwrap();
        assert!(
            !output.status.success() && String::from_utf8_lossy(&output.stderr).contains(needle),
            "{args:?}"
        );
    }
}

#[test]
fn a_model_learns_to_answer_and_its_costs_count_what_it_learnt() {
    let bench = Workbench::new();
    prepared(&bench);
    let set = |pair: &'static str| ["--set", pair];
    let args = [
        &["train", "--device", "cpu", "--out", "run"][..],
        &set("data.dir=\"chat\""),
        &set("model.n_layers=1"),
        &set("model.n_heads=2"),
        &set("model.d_model=32"),
        &set("model.context=64"),
        &set("train.batch_size=8"),
        &set("train.micro_batch_size=3"),
        &set("train.max_steps=150"),
        &set("train.epochs=0"),
        &set("optimizer.learning_rate=0.01"),
        &set("train.threads=1"),
    ]
    .concat();
    expect(0, bench.wattle(&args));

    let records = bench.records("run");
    let whole = records.last().unwrap();
    let masked = whole.masked.unwrap();
    assert_eq!(masked.tokens + whole.tokens, 150 * 8 * 64);
    assert!((0.3..0.9).contains(&masked.share), "{masked:?}");
    let passes = whole.phases.forward_backward;
    assert!(
        masked.energy_j < passes && masked.energy_j.get() > 0.2 * passes.get(),
        "{masked:?} of {passes:?}"
    );
    let per_token = whole.energy_j.get() / whole.tokens as f64;
    assert!((whole.joules_per_token.unwrap() / per_token - 1.0).abs() < 1e-9);
    assert_eq!(bench.steps("run").last().unwrap().tokens, whole.tokens);
    let report = printed(&bench, &["report", "run"]);
    assert!(report.contains("were read and not learnt"), "{report}");
    assert!(
        printed(&bench, &["show", "run", "--first", "1"]).contains("windows of 64 · chat template plain")
    );

    // Line by line, as through a pipe.
    let mut talk = bench.wattle(&["generate", "run", "--chat", "--temperature", "0", "--max-tokens", "8"]);
    let mut child = talk.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("1 and 1?\n\nsure?\n".as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "yes\nyes\n", "{said}");
    // The first exchange is 26 tokens, of which the one that ended the answer comes again with the next line.
    assert!(
        said.contains("tokens of the conversation not read again") && !said.contains("· 0 tokens of"),
        "{said}"
    );

    // Without a template there is nothing to talk by.
    fs::remove_file(bench.join("run/checkpoints/latest/chat_template.jinja")).unwrap();
    let output = bench.wattle(&["generate", "run", "--chat"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("chat_template.jinja"), "{said}");
}
