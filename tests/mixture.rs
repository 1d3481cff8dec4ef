//! A run on several sources: exact shares, losses told apart, and the same bits after a resume.

use std::fs;

use serde_json::Value;
use wattle_runlog::EventBody;

use crate::workbench::{Workbench, expect};

/// A workbench with a configuration of two sources.
fn workbench() -> Workbench {
    let bench = Workbench::new();
    let letters: String = (0..400).map(|i| format!("abc {} ", ["dog", "cat", "cow"][i % 3])).collect();
    fs::write(bench.join("letters.txt"), letters).unwrap();
    let mixture = "[[data.mixture]]\nname = \"sums\"\npath = \"text.txt\"\nweight = 0.75\n\n\
                   [[data.mixture]]\nname = \"letters\"\npath = [\"letters.txt\"]\nweight = 0.25\n";
    fs::write(bench.join("mix.toml"), mixture).unwrap();
    bench
}

/// Settings of a small run on the mixture.
const MIXED: &[&str] = &[
    "data.val_fraction=0.2",
    "tokenizer.kind=chars",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.d_model=16",
    "model.context=16",
    "model.dropout=0.1",
    "train.batch_size=8",
    "train.threads=1",
    "train.max_steps=30",
    "evaluate.every_steps=10",
    "checkpoint.every_steps=10",
];

fn train(bench: &Workbench, run: &str, more: &[&str]) -> String {
    let mut args = vec!["train", "mix.toml", "--device", "cpu", "--out", run];
    MIXED.iter().chain(more).for_each(|pair| args.extend(["--set", pair]));
    expect(0, bench.wattle(&args))
}

/// What a command that succeeds prints.
fn printed(bench: &Workbench, args: &[&str]) -> String {
    let output = bench.wattle(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn losses(bench: &Workbench, run: &str) -> Vec<(u64, u32)> {
    bench.steps(run).iter().map(|step| (step.step, step.loss.to_bits())).collect()
}

#[test]
fn each_source_has_a_loss_of_its_own_in_events_report_and_evaluation() {
    let bench = workbench();
    let said = train(&bench, "run", &[]);
    assert!(said.contains("sums ") && said.contains("letters "), "{said}");
    let evaluations: Vec<_> = (bench.events("run").into_iter())
        .filter_map(
            |event| if let EventBody::Evaluate(evaluation) = event.body { Some(evaluation) } else { None },
        )
        .collect();
    assert!(evaluations.len() >= 3);
    for evaluation in &evaluations {
        let [sums, letters] = &evaluation.sources[..] else { panic!("{evaluation:?}") };
        assert_eq!((sums.name.as_str(), letters.name.as_str()), ("sums", "letters"));
        assert_eq!(sums.tokens + letters.tokens, evaluation.tokens);
        let mean = (sums.loss * sums.tokens as f64 + letters.loss * letters.tokens as f64)
            / evaluation.tokens as f64;
        assert!((mean - evaluation.loss).abs() < 1e-12 && sums.loss != letters.loss, "{evaluation:?}");
        assert!(letters.bits_per_byte.is_some_and(|bits| bits > 0.0));
    }
    let report = printed(&bench, &["report", "run"]);
    assert!(report.contains("letters"), "{report}");
    let json: Value = serde_json::from_str(&printed(&bench, &["report", "run", "--json"])).unwrap();
    assert_eq!(json["learning"]["last"]["sources"][0]["name"], "sums", "{}", json["learning"]["last"]);
    let prepare =
        ["prepare", "--mixture", "mix.toml", "--tokenizer", "chars", "--val-fraction", "0.2", "--out", "mix"];
    let said = expect(0, bench.wattle(&prepare));
    assert!(said.contains("letters: "), "{said}");
    let evaluate = ["evaluate", "run/checkpoints/latest", "--data", "mix", "--device", "cpu", "--json"];
    let json: Value = serde_json::from_str(&printed(&bench, &evaluate)).unwrap();
    let last = evaluations.last().unwrap();
    for (source, expected) in json["sources"].as_array().unwrap().iter().zip(&last.sources) {
        assert_eq!(source["tokens"], expected.tokens);
        assert!((source["loss"].as_f64().unwrap() - expected.loss).abs() < 1e-5, "{source}");
    }
    assert!((json["loss"].as_f64().unwrap() - last.loss).abs() < 1e-5, "{json:#}");
}

#[test]
fn a_mixture_resumes_to_the_bit_and_its_weights_may_not_change_meanwhile() {
    let bench = workbench();
    train(&bench, "whole", &[]);
    train(&bench, "parts", &["train.max_steps=20"]);
    let resume = ["train", "--resume", "--out", "parts", "--device", "cpu", "--set", "train.max_steps=30"];
    expect(0, bench.wattle(&resume));
    assert_eq!(losses(&bench, "parts"), losses(&bench, "whole"));
    let other = "data.mixture=[{name=\"sums\",path=\"text.txt\",weight=1},{name=\"letters\",path=\"letters.txt\",weight=1}]";
    let said = expect(2, bench.wattle(&[&resume[..], &["--set", other]].concat()));
    assert!(said.contains("data.mixture"), "{said}");
}

#[test]
fn what_is_wrong_with_a_mixture_names_the_source() {
    let bench = workbench();
    let refused = |mixture: &str, parts: &[&str]| {
        let set = format!("data.mixture={mixture}");
        let output =
            bench.wattle(&["train", "--device", "cpu", "--out", "no", "--set", &set]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!bench.join("no").exists());
    };
    refused("[{name=\"a\",path=\"absent.txt\"}]", &["data.mixture, a", "absent.txt"]);
    refused("[{name=\"a\",path=\"none*.txt\"}]", &["data.mixture, a", "matches no file"]);
    refused("[{name=\"a\",path=\"text.txt\",wait=1}]", &["data.mixture", "wait"]);
    refused(
        "[{name=\"a\",path=\"text.txt\",weight=1},{name=\"b\",path=\"letters.txt\"}]",
        &["b has no weight"],
    );
    let both =
        ["--set", "data.input=[\"text.txt\"]", "--set", "data.mixture=[{name=\"a\",path=\"text.txt\"}]"];
    let said = expect(2, bench.wattle(&[&["train", "--device", "cpu", "--out", "no"][..], &both].concat()));
    assert!(said.contains("data.mixture and data.input are both set"), "{said}");
}
