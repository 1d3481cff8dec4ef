//! Checkpoints put to use: measured, written with, trained on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use wattle_runlog::EventBody;

use crate::workbench::{Workbench, expect};

/// Runs to a good end and returns what was printed to standard output.
fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn evaluation(bench: &Workbench, args: &[&str]) -> Value {
    let args = [&["evaluate"], args, &["--device", "cpu", "--json"]].concat();
    serde_json::from_str(&printed(bench.wattle(&args))).unwrap()
}

/// A folder prepared from the bench's text, and a run on it.
fn trained(bench: &Workbench) {
    let prepare = ["prepare", "text.txt", "--out", "data", "--tokenizer", "bpe:300", "--val-fraction", "0.2"];
    expect(0, bench.wattle(&prepare));
    let data = ["--set", "data.input=[]", "--set", "data.dir=\"data\"", "--set", "train.max_steps=12"];
    expect(0, bench.train(&[&["--out", "run"], &data[..]].concat()));
}

#[test]
fn evaluate_finds_the_loss_that_training_found() {
    let bench = Workbench::new();
    trained(&bench);
    let found = evaluation(&bench, &["run", "--data", "data"]);
    let events = bench.events("run");
    let during = events.iter().rev().find_map(|event| match &event.body {
        EventBody::Evaluate(evaluation) => Some(evaluation.clone()),
        _ => None,
    });
    let during = during.unwrap();
    assert!((found["loss"].as_f64().unwrap() - during.loss).abs() < 1e-6, "{found}, {during:?}");
    assert!((found["bits_per_byte"].as_f64().unwrap() - during.bits_per_byte).abs() < 1e-6);
    assert_eq!(found["tokens"], during.tokens);
    assert_eq!(found["schema"], "wattle.evaluation/1");
    let perplexity = found["loss"].as_f64().unwrap().exp();
    assert!((found["perplexity"].as_f64().unwrap() - perplexity).abs() < 1e-9);
    // The same model by its other names.
    for checkpoint in ["run/checkpoints/latest", "run/checkpoints/step-00000012"] {
        assert_eq!(evaluation(&bench, &[checkpoint, "--data", "data"])["loss"], found["loss"]);
    }
    let people = printed(bench.wattle(&["evaluate", "run", "--data", "data", "--split", "train"]));
    assert!(people.contains("nats a token") && people.contains("J/ktoken"), "{people}");
}

#[test]
fn evaluate_takes_any_text_and_counts_its_bytes() {
    let bench = Workbench::new();
    trained(&bench);
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("other.txt"), format!("{}é", &text[..1000])).unwrap();
    let found = evaluation(&bench, &["run", "--text", "other.txt"]);
    let whole = evaluation(&bench, &["run", "--text", "text.txt"]);
    assert!(found["tokens"].as_u64().unwrap() < whole["tokens"].as_u64().unwrap());
    let (bits, loss) = (found["bits_per_byte"].as_f64().unwrap(), found["loss"].as_f64().unwrap());
    let tokens_per_byte = bits * std::f64::consts::LN_2 / loss;
    assert!(tokens_per_byte > 0.1 && tokens_per_byte < 1.0, "{found}");
}

#[test]
fn a_text_shorter_than_the_context_is_one_short_window() {
    let bench = Workbench::new();
    trained(&bench);
    fs::write(bench.join("short.txt"), "0 and 0 make 0.").unwrap();
    let short = evaluation(&bench, &["run", "--text", "short.txt"]);
    let tokens = short["tokens"].as_u64().unwrap();
    assert!(tokens > 0 && tokens < 16, "{short}");
    assert_eq!((short["window"].as_u64(), short["context"].as_u64()), (Some(tokens), Some(16)));
    assert!(short["loss"].as_f64().unwrap() > 0.0);
    // A text of one window exactly is evaluated as before.
    assert_eq!(evaluation(&bench, &["run", "--text", "text.txt"])["window"], 16);
}

#[test]
fn text_that_a_tokenizer_changes_is_counted_and_has_no_bits_a_byte() {
    let bench = Workbench::new();
    trained(&bench);
    let path = bench.join("run/checkpoints/latest/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    tokenizer["normalizer"] = serde_json::json!({"type": "Lowercase"});
    tokenizer["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    fs::write(&path, format!("\u{feff}{tokenizer}")).unwrap();
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("capitals.txt"), text.replace("make", "MAKE")).unwrap();
    let kept = evaluation(&bench, &["run", "--text", "text.txt"]);
    assert_eq!(kept["lost_chars"], 0, "{kept}");
    assert!(kept["bits_per_byte"].is_f64() && kept["tokens"].as_u64().unwrap() > 100, "{kept}");
    let lost = evaluation(&bench, &["run", "--text", "capitals.txt"]);
    assert_eq!(lost["lost_chars"], 4 * 124, "{lost}");
    assert_eq!((&lost["loss"], &lost["bits_per_byte"]), (&kept["loss"], &Value::Null));
    let mut again = bench.wattle(&["evaluate", "run", "--text", "capitals.txt", "--device", "cpu"]);
    let said = printed(bench.wattle(&["evaluate", "run", "--text", "capitals.txt", "--device", "cpu"]));
    assert!(said.contains("not stated") && said.contains("do not come back"), "{said}");
    let warned = String::from_utf8(again.output().unwrap().stderr).unwrap();
    assert_eq!(warned.matches("truncation to 4 tokens").count(), 1, "{warned}");
    // A run on such a text has none either, and can be read.
    let from = [
        "--set",
        "model.init_from=\"run\"",
        "--set",
        "data.input=[\"capitals.txt\"]",
        "--set",
        "train.max_steps=2",
    ];
    let mut train =
        bench.wattle(&["train", "--device", "cpu", "--out", "tuned", "--set", "train.batch_size=2"]);
    train.args(from).args(["--set", "optimizer.learning_rate=1e-3"]);
    let said = expect(0, train);
    assert!(said.contains("bits a byte are not stated"), "{said}");
    let evaluated = bench.events("tuned").into_iter().any(|event| match event.body {
        EventBody::Evaluate(evaluation) => evaluation.bits_per_byte.is_nan() && evaluation.loss.is_finite(),
        _ => false,
    });
    assert!(evaluated);
    let report = printed(bench.wattle(&["report", "tuned"]));
    assert!(!report.contains("bits/byte") && !report.contains("NaN"), "{report}");
}

#[test]
fn evaluate_refuses_what_does_not_fit() {
    let bench = Workbench::new();
    trained(&bench);
    expect(0, bench.wattle(&["prepare", "text.txt", "--out", "chars", "--tokenizer", "chars"]));
    let said = expect(1, bench.wattle(&["evaluate", "run", "--data", "chars"]));
    assert!(said.contains("--data chars") && said.contains("another tokenizer"), "{said}");
    fs::write(bench.join("short.txt"), "7").unwrap();
    let said = expect(1, bench.wattle(&["evaluate", "run", "--text", "short.txt"]));
    assert!(said.contains("short.txt") && said.contains("at least 2"), "{said}");
    assert!(!said.contains("model.context") && !said.contains("val_fraction"), "{said}");
    let said = expect(1, bench.wattle(&["evaluate", "nowhere", "--text", "short.txt"]));
    assert!(said.contains("nowhere"), "{said}");
    expect(2, bench.wattle(&["evaluate", "run"]));
}

#[test]
fn generate_is_the_same_for_the_same_seed_and_stays_text() {
    let bench = Workbench::new();
    trained(&bench);
    let generate = |args: &[&str]| {
        let args = [&["generate", "run", "--device", "cpu", "--max-tokens", "60"], args].concat();
        printed(bench.wattle(&args))
    };
    let first = generate(&["--prompt", "3 and 4 make", "--seed", "7"]);
    assert!(first.starts_with("3 and 4 make"), "{first}");
    assert_eq!(generate(&["--prompt", "3 and 4 make", "--seed", "7"]), first);
    assert_ne!(generate(&["--prompt", "3 and 4 make", "--seed", "8"]), first);
    let greedy = generate(&["--prompt", "3 and 4 make", "--temperature", "0"]);
    assert_eq!(generate(&["--prompt", "3 and 4 make", "--top-k", "1", "--seed", "3"]), greedy);
    assert!(!generate(&[]).is_empty());
    let explained = generate(&["--prompt", "3 and", "--explain", "--temperature", "0"]);
    assert_eq!(explained.lines().count(), 61, "a head and a line a token\n{explained}");
    let said = expect(2, bench.wattle(&["generate", "run", "--temperature=-1", "--top-p", "2"]));
    assert!(said.contains("--temperature") && said.contains("--top-p"), "{said}");
}

#[test]
fn several_prompts_are_gone_on_from_each_as_if_it_were_alone_and_the_engine_is_named() {
    let bench = Workbench::new();
    trained(&bench);
    let run = |args: &[&str]| {
        let args = [&["generate", "run", "--device", "cpu", "--max-tokens", "9"], args].concat();
        bench.wattle(&args)
    };
    let (three, seven) = (["--prompt", "3 and 4"], ["--prompt", "7 and"]);
    let alone = [&three, &seven].map(|prompt| printed(run(prompt)));
    let both = [three, seven].concat();
    assert_eq!(printed(run(&both)), alone.join("---\n"));
    assert_eq!(printed(run(&[&both[..], &["--batch", "1"]].concat())), alone.join("---\n"));
    let said = expect(0, run(&both));
    assert!(said.contains("18 tokens") && said.contains("candle's operations on the CPU in f32"), "{said}");
    assert!(said.contains("first token after"), "{said}");
    let said = expect(2, run(&[&both[..], &["--batch", "0", "--explain"]].concat()));
    assert!(said.contains("--batch 0") && said.contains("give one --prompt, not 2"), "{said}");
    let json: Value = serde_json::from_str(&printed(run(&[&both[..], &["--json"]].concat()))).unwrap();
    let text = |idx: usize| {
        format!(
            "{}{}\n",
            json["texts"][idx]["prompt"].as_str().unwrap(),
            json["texts"][idx]["text"].as_str().unwrap()
        )
    };
    assert_eq!([text(0), text(1)], alone);
    assert_eq!((&json["schema"], &json["tokens"]), (&Value::from("wattle.generation/1"), &Value::from(18)));
    assert!(
        json["tokens_per_s"].as_f64().unwrap() > 0.0 && json["energy_j"].as_f64().unwrap() > 0.0,
        "{json}"
    );
    let evaluated = printed(bench.wattle(&["evaluate", "run", "--data", "data", "--device", "cpu"]));
    assert!(evaluated.contains("explicit engine on the CPU"), "{evaluated}");
}

#[test]
fn a_run_goes_on_from_the_weights_of_another() {
    let bench = Workbench::new();
    trained(&bench);
    let data = ["--set", "data.dir=\"data\"", "--set", "train.threads=1"];
    let from = |extra: &[&str]| {
        let args = ["train", "--device", "cpu", "--out", "tuned", "--set", "model.init_from=\"run\""];
        bench.wattle(&[&args, &data[..], &["--set", "train.max_steps=3"], extra].concat())
    };
    let said = expect(2, from(&["--set", "model.d_model=32", "--set", "model.context=64"]));
    assert!(said.contains("model.d_model = 32") && said.contains("model.context = 64"), "{said}");
    assert!(!bench.join("tuned").exists());
    expect(0, from(&["--set", "optimizer.learning_rate=1e-4", "--set", "train.batch_size=8"]));
    let first = bench.steps("tuned")[0].loss;
    let reached = bench.steps("run").last().unwrap().loss;
    assert!((first - reached).abs() < 0.3, "it begins at {first} where the other ended at {reached}");
    let config = fs::read_to_string(bench.join("tuned/config.toml")).unwrap();
    assert!(config.contains("d_model = 16") && config.contains("step-00000012"), "{config}");
    let card = fs::read_to_string(bench.join("tuned/checkpoints/latest/README.md")).unwrap();
    assert!(card.contains("fine-tuning") && card.contains("started from"), "{card}");
}

#[test]
fn weights_that_cannot_be_used_are_refused_before_anything_is_started() {
    let bench = Workbench::new();
    trained(&bench);
    let refused = |parts: &[&str]| {
        let args =
            ["train", "--out", "tuned", "--set", "model.init_from=\"foreign\"", "--set", "data.dir=\"data\""];
        let mut command = bench.wattle(&args);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in\n{said}");
        }
        assert!(!bench.join("tuned").exists(), "{said}");
    };
    refused(&["foreign"]);
    let foreign = bench.join("foreign");
    fs::create_dir(&foreign).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(bench.join("run/checkpoints/latest").join(name), foreign.join(name)).unwrap();
    }
    let weights = fs::read(foreign.join("model.safetensors")).unwrap();
    fs::write(foreign.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    refused(&["model.safetensors"]);
    fs::write(foreign.join("model.safetensors"), &weights).unwrap();
    let path = foreign.join("config.json");
    let whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let with = |key: &str, value: Value| {
        let mut config = whole.clone();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
    };
    with("n_embd", 32.into());
    refused(&["transformer.wte.weight", "16", "32"]);
    with("model_type", "bert".into());
    refused(&["bert", "gpt2"]);
    with("vocab_size", 100.into());
    refused(&["tokenizer has", "100"]);
}

#[test]
fn an_edited_state_and_files_outside_the_checkpoint_are_refused() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=10"]));
    let path = bench.join("run/checkpoints/latest/state.json");
    let original = fs::read_to_string(&path).unwrap();
    let resume = || expect(1, bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=12"]));
    for (from, to) in
        [("\"step\": 10", "\"step\": 9"), ("\"seed\": ", "\"seed\": 1"), ("\"tokens\": ", "\"tokens\": 1")]
    {
        assert!(original.contains(from), "{original}");
        fs::write(&path, original.replacen(from, to, 1)).unwrap();
        let said = resume();
        assert!(said.contains("state.json") && said.contains("checksum"), "{said}");
    }
    // As written before states had checksums, so that only the names stand in the way.
    let mut old: Value = serde_json::from_str(&original).unwrap();
    old["schema"] = "wattle.state/1".into();
    old.as_object_mut().unwrap().remove("crc32c");
    for name in ["/dev/zero", "../latest/config.json", "..", "", "config.json/"] {
        let mut escaping = old.clone();
        escaping["files"][0]["name"] = name.into();
        fs::write(&path, escaping.to_string()).unwrap();
        let said = resume();
        assert!(said.contains(&format!("{name:?} is not the name of a file")), "{said}");
    }
    fs::write(&path, old.to_string()).unwrap();
    expect(0, bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=12"]));
}

#[test]
fn checkpoints_follow_the_umask() {
    let bench = Workbench::new();
    let train = bench.train(&["--out", "run", "--set", "train.max_steps=5"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077 && exec \"$@\"", "sh"]).arg(train.get_program()).args(train.get_args());
    shell.current_dir(bench.path()).env("XDG_CACHE_HOME", bench.join("cache"));
    expect(0, shell);
    for file in fs::read_dir(bench.join("run/checkpoints/latest")).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.file_name());
    }
}

#[test]
fn weights_that_are_not_numbers_are_an_error_and_no_result() {
    let bench = Workbench::new();
    trained(&bench);
    let path = bench.join("run/checkpoints/latest/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let said = expect(1, bench.wattle(&["evaluate", "run", "--data", "data", "--device", "cpu", "--json"]));
    assert!(said.contains("NaN or infinite") && said.contains("1 of "), "{said}");
    let said = expect(1, bench.wattle(&["export", "run", "--type", "f16", "--out", "run.gguf"]));
    assert!(said.contains("NaN or infinite"), "{said}");
    assert!(!bench.join("run.gguf").exists());
}
