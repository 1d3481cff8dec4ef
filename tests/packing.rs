//! Packed documents as a user meets them: what a run tells of padding, the same bits after kills, and what is refused.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use wattle_runlog::{Event, EventBody, Record};

use crate::workbench::{Running, Workbench, expect, wait_until};

/// A workbench with documents of 4 to 60 characters, and a few that are longer than a window.
fn workbench() -> Workbench {
    let bench = Workbench::new();
    let one = |i: usize| {
        let sums: String = (0..1 + i * i % 5).map(|k| format!("{k} and {i}. ")).collect();
        json!({"text": if i % 40 == 7 { sums.repeat(4) } else { sums }}).to_string() + "\n"
    };
    fs::write(bench.join("documents.jsonl"), (0..200).map(one).collect::<String>()).unwrap();
    bench
}

fn args<'a>(run: &'a str, packing: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["--out", run, "--resume=auto", "--set", packing];
    let settings = ["data.input=[\"documents.jsonl\"]", "model.context=64", "train.max_steps=30"];
    settings.iter().chain(more).for_each(|pair| args.extend(["--set", pair]));
    args
}

fn printed(bench: &Workbench, args: &[&str]) -> String {
    let output = bench.wattle(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The record of a whole run, all of whose tokens are learnt or padding.
fn whole(bench: &Workbench, run: &str) -> Record {
    let whole = bench.records(run).pop().unwrap();
    let padding = whole.padding.unwrap();
    assert_eq!(padding.tokens + whole.tokens, 30 * 8 * 64);
    assert_eq!(whole.masked, None);
    let share = padding.energy_j.get() / whole.phases.forward_backward.get();
    assert!((share - padding.share).abs() < 1e-2 && padding.share > 0.0, "{padding:?}, {share} of passes");
    whole
}

#[test]
fn padding_is_counted_and_packing_leaves_little_of_it() {
    let bench = workbench();
    expect(0, bench.train(&args("packed", "data.packing=documents", &[])));
    expect(0, bench.train(&args("padded", "data.packing=padded", &[])));
    let [packed, padded] = ["packed", "padded"].map(|run| whole(&bench, run));
    let share = |record: &Record| record.padding.unwrap().share;
    assert!(share(&packed) < 0.1 && share(&padded) > 0.4, "{} and {}", share(&packed), share(&padded));
    let report = printed(&bench, &["report", "padded"]);
    assert!(report.contains("more filled windows up ("), "{report}");
    let report: Value = serde_json::from_str(&printed(&bench, &["report", "packed", "--json"])).unwrap();
    assert!(report.to_string().contains("\"padding\":{"), "{report}");
    // Both are evaluated on the same targets.
    let evaluated = |run| -> Vec<u64> {
        let tokens = |event: Event| match event.body {
            EventBody::Evaluate(evaluation) => Some(evaluation.tokens),
            _ => None,
        };
        bench.events(run).into_iter().filter_map(tokens).collect()
    };
    let [of_packed, of_padded] = ["packed", "padded"].map(evaluated);
    assert!(
        of_packed.iter().chain(&of_padded).all(|tokens| *tokens == of_packed[0]),
        "{of_packed:?}, {of_padded:?}"
    );
}

#[test]
fn show_marks_documents_and_padding() {
    let bench = workbench();
    expect(0, bench.train(&args("run", "data.packing=documents", &["train.max_steps=2"])));
    let text = printed(&bench, &["show", "run", "--first", "1000"]);
    assert!(text.starts_with("train · ") && text.contains("documents kept apart"), "{text}");
    assert!(text.contains("<|endoftext|>⟧┃<|endoftext|>⟦0 and "), "{text}");
    assert!(text.contains(" documents, ") && text.contains(" tokens of padding"), "{text}");
    let lines = printed(&bench, &["show", "run", "--split", "val", "--first", "1000", "--json"]);
    let mut n_padded = 0;
    for line in lines.lines() {
        let window: Value = serde_json::from_str(line).unwrap();
        let ids = |key: &str| -> Vec<u64> {
            window[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
        };
        let [tokens, targets, mask, documents] = ["tokens", "targets", "mask", "documents"].map(ids);
        let padding = window["padding"].as_u64().unwrap() as usize;
        let filled = 64 - padding;
        n_padded += usize::from(padding > 0);
        assert!(mask[..filled].iter().all(|&is| is == 1) && mask[filled..].iter().all(|&is| is == 0));
        for row in 1..64 {
            match documents[row] as usize == row {
                // A document begins after the token that ends documents, unless it is what was left of a longer one.
                true => assert!(tokens[row] == tokens[63] || row < filled, "{line}"),
                false => assert_eq!(tokens[row], targets[row - 1], "{line}"),
            }
        }
    }
    assert!(n_padded > 0, "{lines}");
}

#[test]
fn killed_runs_have_the_same_losses_to_the_bit() {
    let bench = workbench();
    let of = |run: &'static str| args(run, "data.packing=documents", &[]);
    expect(0, bench.train(&of("whole")));
    for kill in [4, 13, 21] {
        let child = Running::start(bench.train(&of("killed")));
        wait_until("a step", || bench.steps("killed").last().is_some_and(|last| last.step >= kill));
        std::thread::sleep(Duration::from_micros(500 * kill));
        child.signal(Signal::KILL);
    }
    expect(0, bench.train(&of("killed")));
    assert_eq!(bench.losses("killed"), bench.losses("whole"));
    let weights = |run: &str| fs::read(bench.join(run).join("checkpoints/latest/model.safetensors")).unwrap();
    assert!(weights("killed") == weights("whole"));
    let other = args("killed", "data.packing=padded", &["train.max_steps=40"]);
    let said = expect(2, bench.train(&other));
    assert!(said.contains("data.packing"), "{said}");
}

#[test]
fn a_mixture_is_packed_source_by_source() {
    let bench = workbench();
    fs::copy(bench.join("documents.jsonl"), bench.join("others.jsonl")).unwrap();
    let mixture = "data.mixture=[{name=\"a\",path=\"documents.jsonl\",weight=3},{name=\"b\",path=\"others.jsonl\",\
                   weight=1}]";
    let settings = [mixture, "data.input=[]", "data.packing=documents"];
    expect(0, bench.train(&args("run", "data.packing=documents", &settings)));
    assert!(whole(&bench, "run").padding.unwrap().share < 0.1);
}

#[test]
fn what_cannot_be_packed_says_why() {
    let bench = workbench();
    let refused = |settings: &[&str], parts: &[&str]| {
        let args = args("no", "data.packing=documents", settings);
        let output = bench.train(&args).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!bench.join("no").exists());
    };
    refused(&["data.input=[\"text.txt\"]"], &["data.packing", "text.txt", "is one running text"]);
    refused(&["data.packing=whole"], &["data.packing", "padded"]);
    // A template that ends every turn with the token that ends documents, those of users too.
    let template =
        "{% for message in messages %}{{ message.role }}: {{ message.content }}<|endoftext|>\n{% endfor %}";
    fs::write(bench.join("turns.jinja"), template).unwrap();
    let one =
        json!({"messages": [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two"}]});
    fs::write(bench.join("chat.jsonl"), format!("{one}\n").repeat(40)).unwrap();
    refused(
        &["data.input=[\"chat.jsonl\"]", "data.chat_template=turns.jinja"],
        &["stand within conversations", "data.chat_template"],
    );
    // Of this one the assistant's turns end with that token, of ChatML's none.
    for template in ["data.chat_template=plain", "data.chat_template=chatml"] {
        let run = &template[19..];
        let settings = ["data.input=[\"chat.jsonl\"]", template, "train.batch_size=3", "train.max_steps=3"];
        expect(0, bench.train(&args(run, "data.packing=documents", &settings)));
        let record = bench.records(run).pop().unwrap();
        let [masked, padding] = [record.masked, record.padding].map(Option::unwrap);
        assert_eq!(masked.tokens + padding.tokens + record.tokens, 3 * 3 * 64);
    }
}

#[test]
fn packing_is_an_axis_of_a_sweep() {
    let bench = workbench();
    let sweep = "config = \"base.toml\"\nseeds = [1]\n\
                 [[strategy]]\nname = \"padded\"\n[[strategy]]\nname = \"packed\"\ndata.packing = \"documents\"\n";
    fs::write(bench.join("s.toml"), sweep).unwrap();
    let base = "[data]\ninput = [\"documents.jsonl\"]\nval_fraction = 0.2\npacking = \"padded\"\n\
                [tokenizer]\nkind = \"chars\"\n[model]\nn_layers = 1\nn_heads = 2\nd_model = 16\ncontext = 64\n\
                [train]\nbatch_size = 4\nthreads = 1\nmax_steps = 4\n";
    fs::write(bench.join("base.toml"), base).unwrap();
    let output = bench.wattle(&["sweep", "s.toml", "--device", "cpu", "--out", "s"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("data.packing"), "{text}");
    let padding = |run: &str| bench.records(run).pop().unwrap().padding.unwrap().share;
    assert!(padding("s/packed-s1") < padding("s/padded-s1"));
}
