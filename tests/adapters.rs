//! Adapters as users meet them: trained beside weights that stay, evaluated, merged, and refused by name.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::workbench::{Workbench, expect};

/// A model to start from, in `run`.
fn with_base(settings: &[&str]) -> Workbench {
    let bench = Workbench::new();
    let sets: Vec<&str> = settings.iter().flat_map(|set| ["--set", set]).collect();
    expect(0, bench.train(&[&["--out", "run", "--set", "train.max_steps=12"], &sets[..]].concat()));
    bench
}

/// `wattle train` of adapters of the model in `run`.
fn tune(bench: &Workbench, out: &str, args: &[&str]) -> Command {
    let mut command = bench.wattle(&["train", "--device", "cpu", "--out", out]);
    for pair in [
        "model.init_from=\"run\"",
        "data.input=[\"text.txt\"]",
        "data.val_fraction=0.2",
        "lora.rank=4",
        "optimizer.learning_rate=1e-2",
        "schedule.kind=constant",
        "schedule.warmup_steps=2",
        "train.batch_size=8",
        "train.max_steps=20",
        "train.threads=1",
        "checkpoint.every_steps=8",
    ] {
        command.args(["--set", pair]);
    }
    command.args(args);
    command
}

fn loss(bench: &Workbench, args: &[&str]) -> f64 {
    let args = [&["evaluate"], args, &["--text", "text.txt", "--device", "cpu", "--json"]].concat();
    let output = bench.wattle(&args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found["loss"].as_f64().unwrap()
}

#[test]
fn a_run_of_adapters_keeps_them_alone_and_its_base_is_found_again() {
    let bench = with_base(&["model.bias=true"]);
    let of_base = loss(&bench, &["run"]);
    expect(0, tune(&bench, "tuned", &["--set", "lora.targets=[\"all-linear\"]"]));
    let names = bench.list("tuned/checkpoints/latest");
    for name in ["adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    assert!(!names.iter().any(|name| name == "model.safetensors" || name == "config.json"), "{names:?}");
    let card = fs::read_to_string(bench.join("tuned/checkpoints/latest/README.md")).unwrap();
    assert!(card.contains("library_name: peft") && card.contains("low-rank adapter"), "{card}");

    let of_adapter = loss(&bench, &["tuned"]);
    // 0.046 was seen.
    assert!(of_adapter < of_base - 0.02, "{of_adapter} after {of_base}");
    assert_eq!(loss(&bench, &["run", "--adapter", "tuned"]), of_adapter);
    expect(
        0,
        bench.wattle(&["generate", "tuned", "--device", "cpu", "--prompt", "1 and", "--max-tokens", "3"]),
    );
    // As it was: nothing of the base has changed.
    assert_eq!(loss(&bench, &["run"]), of_base);

    let merge = ["export", "tuned", "--merge", "--format", "safetensors", "--out", "merged"];
    expect(0, bench.wattle(&merge));
    assert_eq!(loss(&bench, &["merged"]), of_adapter);
    expect(
        0,
        bench.wattle(&["export", "run", "--adapter", "tuned", "--merge", "--type", "f16", "--out", "m.gguf"]),
    );
    // The rounding of f16, as without adapters.
    assert!((loss(&bench, &["m.gguf"]) - of_adapter).abs() < 2e-3);
}

#[test]
fn a_stopped_run_of_adapters_goes_on_to_the_same_bits_and_not_with_another_base() {
    let bench = with_base(&[]);
    expect(0, tune(&bench, "whole", &[]));
    expect(0, tune(&bench, "parted", &["--set", "train.max_steps=9"]));
    expect(
        0,
        bench.wattle(&[
            "train",
            "--device",
            "cpu",
            "--out",
            "parted",
            "--resume",
            "--set",
            "train.max_steps=20",
        ]),
    );
    let weights =
        |run: &str| fs::read(bench.join(run).join("checkpoints/latest/adapter_model.safetensors")).unwrap();
    assert!(weights("whole") == weights("parted"));

    let base = fs::canonicalize(bench.join("run/checkpoints/latest")).unwrap().join("model.safetensors");
    let mut bytes = fs::read(&base).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&base, bytes).unwrap();
    let said = expect(
        1,
        bench.wattle(&[
            "train",
            "--device",
            "cpu",
            "--out",
            "whole",
            "--resume",
            "--set",
            "train.max_steps=22",
        ]),
    );
    assert!(said.contains("CRC-32C") && said.contains("model.init_from has changed"), "{said}");
}

#[test]
fn a_plan_says_what_is_trained_and_what_stays() {
    let bench = with_base(&[]);
    let output = tune(&bench, "none", &["--dry-run"]).output().unwrap();
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Two blocks' `c_attn`, from a width of 16 to 48.
    let n_trained = 2 * 4 * (16 + 48);
    assert!(plan.contains(&format!("adapters     {n_trained} parameters of rank 4")), "{plan}");
    let memory = plan.lines().find(|line| line.starts_with("memory")).unwrap();
    assert!(memory.contains("gradients 2.05 kB, moments 4.10 kB"), "{memory}");
    assert!(!bench.join("none").exists());
}

#[test]
fn what_adapters_cannot_be_is_refused_by_name() {
    let bench = with_base(&[]);
    for (args, parts) in [
        (
            &["--set", "lora.targets=[\"q_proj\"]"][..],
            &["lora.targets = \"q_proj\"", "c_attn, c_fc, c_proj"][..],
        ),
        (&["--set", "lora.targets=q_proj"], &["expected a list of texts"]),
        (&["--set", "precision.dtype=fp8"], &["lora.rank = 4", "fp8"]),
        (&["--set", "lora.dropout=0.1", "--set", "train.engine=autograd"], &["lora.dropout", "train.engine"]),
        (&["--set", "lora.dropout=1"], &["lora.dropout = 1", "below 1"]),
    ] {
        let said = expect(2, tune(&bench, "tuned", args));
        assert!(parts.iter().all(|part| said.contains(part)), "{args:?}: {said}");
        assert!(!bench.join("tuned").exists());
    }
    let said = expect(2, bench.train(&["--out", "tuned", "--set", "lora.rank=2"]));
    assert!(said.contains("lora.rank = 2") && said.contains("model.init_from"), "{said}");

    expect(0, tune(&bench, "tuned", &[]));
    let of_adapter = ["train", "--device", "cpu", "--out", "more", "--set", "model.init_from=\"tuned\""];
    let said = expect(2, bench.wattle(&of_adapter));
    assert!(said.contains("is an adapter") && said.contains("export --merge"), "{said}");
    let said = expect(2, bench.wattle(&["export", "tuned", "--type", "f16", "--out", "m.gguf"]));
    assert!(said.contains("add --merge"), "{said}");
    let said = expect(2, bench.wattle(&["export", "run", "--merge", "--type", "f16", "--out", "m.gguf"]));
    assert!(said.contains("run is no adapter"), "{said}");
    let said = expect(2, bench.wattle(&["export", "run", "--out", "m.gguf"]));
    assert!(said.contains("--type is missing"), "{said}");
    let config =
        fs::canonicalize(bench.join("tuned/checkpoints/latest")).unwrap().join("adapter_config.json");
    let json = fs::read_to_string(&config).unwrap();
    fs::write(&config, json.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();
    let said = expect(1, bench.wattle(&["generate", "tuned", "--device", "cpu"]));
    assert!(said.contains("use_dora = true is not supported"), "{said}");
}
