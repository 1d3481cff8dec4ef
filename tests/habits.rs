//! What people type out of habit is taken as meant, or answered with what to type.

use std::fs;

use crate::workbench::{Workbench, expect};

/// A refusal of bad usage, which leaves nothing behind.
fn refused(bench: &Workbench, args: &[&str]) -> String {
    let said = expect(2, bench.wattle(args));
    assert!(!bench.join("runs").exists(), "{args:?}");
    said
}

#[test]
fn flags_of_other_trainers_are_answered_with_the_setting() {
    let bench = Workbench::new();
    for (args, expected) in [
        (&["--lr", "3e-4"][..], "--set optimizer.learning_rate=3e-4"),
        (&["--batch-size=8"], "--set train.batch_size=8"),
        (&["--data", "text.txt"], "--set 'data.input=[\"text.txt\"]'"),
        (&["default"], "did you mean --preset default?"),
        (&["gpt2-124m"], "did you mean --preset gpt2-124m?"),
        (&["--set", "train.max_steps=many"], "train.max_steps = \"many\": expected a whole number"),
        (&["--set", "data.input=text.txt"], "expected a list of files"),
    ] {
        let said = refused(&bench, &[&["train"], args].concat());
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn a_command_is_metered_with_or_without_dashes_before_it() {
    let bench = Workbench::new();
    for args in [&["meter", "--", "sh", "-c", "exit 7"][..], &["meter", "sh", "-c", "exit 7"]] {
        let said = expect(7, bench.wattle(args));
        assert!(said.contains("CPU time"), "{said}");
    }
    // A flag before the command is wattle's own, known or not; behind it, the command's.
    let said = expect(2, bench.wattle(&["meter", "--jsn", "cost.json", "--", "true"]));
    assert!(said.contains("--jsn"), "{said}");
    expect(0, bench.wattle(&["meter", "--json", "cost.json", "sh", "-c", "test $1 = -q", "sh", "-q"]));
    assert!(bench.join("cost.json").exists());
}

#[test]
fn another_word_for_a_gpu_is_understood() {
    let bench = Workbench::new();
    let said = expect(1, bench.wattle(&["train", "--device", "gpu:7", "--out", "run"]));
    assert!(said.contains("--device cuda:7 cannot be had"), "{said}");
}

#[test]
fn a_run_on_the_cpu_does_not_begin_with_the_want_of_a_gpu() {
    let bench = Workbench::new();
    let train = |args: &[&str]| {
        let short = ["--set", "train.max_steps=1", "--set", "data.embedded_chars=20000"];
        bench.wattle(&[&["train"], args, &short, &["--set", "tokenizer.kind=bytes"]].concat())
    };
    let said = expect(0, train(&["--out", "plain"]));
    assert!(!said.to_lowercase().contains("cuda"), "{said}");
    let said = expect(0, train(&["-v", "--out", "verbose"]));
    assert!(said.to_lowercase().contains("cuda"), "{said}");
}

#[test]
fn a_documented_rate_needs_no_other_setting() {
    let bench = Workbench::new();
    let short = ["--set", "train.max_steps=3"];
    let rate = ["--set", "optimizer.learning_rate=3e-5"];
    expect(0, bench.train(&[&["--out", "small"], &rate[..], &short].concat()));
    let config = fs::read_to_string(bench.join("small/config.toml")).unwrap();
    assert!(config.contains("min_learning_rate = 0.000003\n"), "{config}");
    // The same command goes on with it.
    let longer = ["--set", "train.max_steps=5"];
    expect(0, bench.train(&[&["--out", "small", "--resume"], &rate[..], &longer].concat()));
    let above = ["--set", "schedule.min_learning_rate=1e-4"];
    let said = expect(0, bench.train(&[&["--out", "clipped"], &rate[..], &above, &short].concat()));
    assert!(said.contains("schedule.min_learning_rate = 0.0001 is above"), "{said}");
    let config = fs::read_to_string(bench.join("clipped/config.toml")).unwrap();
    assert!(config.contains("min_learning_rate = 0.00003\n"), "{config}");
}

#[test]
fn a_run_of_an_earlier_version_keeps_its_minimum_when_it_goes_on() {
    let bench = Workbench::new();
    let rate = ["--set", "optimizer.learning_rate=5e-4"];
    expect(0, bench.train(&[&["--out", "old", "--set", "train.max_steps=3"], &rate[..]].concat()));
    let path = bench.join("old/config.toml");
    let config = fs::read_to_string(&path).unwrap();
    let stored = config.replace("min_learning_rate = 0.00005\n", "min_learning_rate = 0.0001\n");
    assert_ne!(stored, config);
    fs::write(&path, stored).unwrap();
    let longer = ["--resume", "--set", "train.max_steps=5"];
    expect(0, bench.train(&[&["--out", "old"], &rate[..], &longer].concat()));
    assert!(fs::read_to_string(&path).unwrap().contains("min_learning_rate = 0.0001\n"));
}
