//! What no machine has memory for is refused in a sentence, before it is taken.

use std::fs;

use serde_json::{Value, json};

use crate::workbench::{Workbench, expect};

/// A small Llama, trained for a step.
fn llama(bench: &Workbench, out: &str) {
    let llama = ["--set", "model.family=llama", "--set", "model.dropout=0", "--set", "train.max_steps=1"];
    expect(0, bench.train(&[&["--out", out], &llama[..]].concat()));
}

/// The latest checkpoint of `run` as a folder of its own, with other keys in its `config.json`.
fn changed(bench: &Workbench, run: &str, name: &str, keys: &[(&str, Value)]) {
    let (from, to) = (bench.join(run).join("checkpoints/latest"), bench.join(name));
    fs::create_dir(&to).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(to.join("config.json")).unwrap()).unwrap();
    keys.iter().for_each(|(key, value)| config[*key] = value.clone());
    fs::write(to.join("config.json"), config.to_string()).unwrap();
}

fn set<'a>(pairs: &[&'a str]) -> Vec<&'a str> {
    pairs.iter().flat_map(|pair| ["--set", pair]).collect()
}

/// Settings that no machine has memory for, and what is to be lowered.
const TOO_LARGE: [(&[&str], &str); 3] = [
    (&["model.d_model=65536", "model.n_layers=500"], "lower model.n_layers = 500, model.d_model = 65536"),
    (
        &["model.d_model=16384", "model.context=50000", "train.batch_size=32", "train.micro_batch_size=16"],
        "lower train.micro_batch_size = 16, or lower model.context = 50000",
    ),
    (
        &["model.d_model=64", "model.context=100000", "train.batch_size=16", "train.engine=autograd"],
        "model.context = 100000",
    ),
];

#[test]
fn training_that_does_not_fit_is_refused_with_the_keys_to_lower() {
    let bench = Workbench::new();
    fs::write(bench.join("text.txt"), "one and two make three. ".repeat(100_000)).unwrap();
    for (pairs, remedy) in TOO_LARGE {
        let said = expect(1, bench.train(&[&["--out", "run"], &set(pairs)[..]].concat()));
        for part in ["training on the CPU needs", "is available", remedy] {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!bench.join("run").exists(), "{said}");
    }
}

#[test]
fn a_dry_run_prints_the_plan_of_what_does_not_fit() {
    let bench = Workbench::new();
    fs::write(bench.join("text.txt"), "one and two make three. ".repeat(100_000)).unwrap();
    for (pairs, remedy) in TOO_LARGE {
        let output = bench.train(&[&["--dry-run"], &set(pairs)[..]].concat()).output().unwrap();
        let plan = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for part in ["parameters", "compute", "\nmemory", "\ndoes not fit", remedy] {
            assert!(plan.contains(part), "{part:?} is not in\n{plan}");
        }
        assert!(!plan.contains("\npeak"), "{plan}");
    }
}

#[test]
fn a_declared_context_costs_nothing_but_what_is_asked_of_it() {
    let bench = Workbench::new();
    llama(&bench, "run");
    changed(&bench, "run", "far", &[("max_position_embeddings", json!(1 << 27))]);
    let generate = |args: &[&str]| {
        let command = ["generate", "far", "--device", "cpu", "--prompt", "1 and 2"];
        bench.wattle(&[&command, args].concat())
    };
    expect(0, generate(&["--max-tokens", "5"]));
    let said = expect(1, generate(&["--max-tokens", "4000000000"]));
    for part in ["generating needs", "is available", "lower --max-tokens 4000000000"] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    // To train it on, its whole context counts, unless a smaller one is asked for.
    let from = |extra: &[&str]| {
        let args = ["train", "--device", "cpu", "--out", "tuned", "--set", "model.init_from=\"far\""];
        let data = ["--set", "data.input=[\"text.txt\"]", "--set", "train.max_steps=1"];
        bench.wattle(&[&args, &data[..], extra].concat())
    };
    // Here the text is too short for one such window, which is found first.
    let said = expect(1, from(&[]));
    assert!(said.contains("text.txt") && said.contains("one window of model.context"), "{said}");
    assert!(said.contains("lower model.context") && !bench.join("tuned").exists(), "{said}");
    expect(0, from(&["--set", "model.context=16"]));
}

#[test]
fn sizes_out_of_all_proportion_are_refused_by_their_key() {
    let bench = Workbench::new();
    for pair in ["model.context=4294967296", "model.d_ff=999999999999", "train.batch_size=4294967296"] {
        let said = expect(2, bench.train(&["--out", "run", "--set", pair]));
        let key = pair.split('=').next().unwrap();
        assert!(said.contains(key) && said.contains("at most 268435456"), "{said}");
    }
    // A width with so many divisors to try that it took for ever.
    let said = expect(2, bench.train(&["--out", "run", "--set", "model.d_model=9007199254740993"]));
    assert!(said.contains("model.d_model = 9007199254740993: expected at most"), "{said}");
}
