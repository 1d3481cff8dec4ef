//! Whatever is wrong is said with its place and its remedy, and nothing is left behind.

use std::fs;

use crate::workbench::{Workbench, expect};

/// Runs the small configuration with `set` changed: the exit status must be `code`, the message must hold every
/// part, and no run directory may be left.
fn refused(bench: &Workbench, code: i32, set: &[&str], parts: &[&str]) {
    let mut args = vec!["--out", "run"];
    set.iter().for_each(|pair| args.extend(["--set", pair]));
    let said = expect(code, bench.train(&args));
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert!(!bench.join("run").exists(), "a run directory was left by {set:?}");
}

#[test]
fn data_that_cannot_be_trained_on() {
    let bench = Workbench::new();
    fs::write(bench.join("empty.txt"), "").unwrap();
    fs::write(bench.join("short.txt"), "to be or not to be").unwrap();
    fs::write(bench.join("latin1.txt"), b"caf\xe9 au lait").unwrap();
    fs::write(bench.join("odd.json"), "{\"not\": \"a tokenizer\"}").unwrap();
    refused(&bench, 2, &["data.input=[\"absent.txt\"]"], &["data.input", "absent.txt"]);
    refused(&bench, 2, &["data.input=[\"empty.txt\"]"], &["data.input", "empty.txt", "empty"]);
    refused(&bench, 1, &["data.input=[\"short.txt\"]"], &["short.txt", "model.context", "17"]);
    fs::write(bench.join("docs.parquet"), b"PAR1\x15\x04PAR1").unwrap();
    refused(
        &bench,
        2,
        &["data.input=[\"docs.parquet\"]"],
        &["data.input", "docs.parquet", "not Parquet, or not all of it"],
    );
    refused(&bench, 2, &["data.format=parquet"], &["text.txt", "data.format"]);
    refused(&bench, 1, &["data.input=[\"latin1.txt\"]"], &["latin1.txt", "UTF-8", "3"]);
    refused(&bench, 1, &["train.batch_size=1000"], &["text.txt", "train.batch_size"]);
    // It is found before there is a directory.
    let said = expect(1, bench.train(&["--out", "run", "--set", "data.input=[\"short.txt\"]"]));
    assert!(!said.contains("on cpu"), "{said}");
    let file = format!("tokenizer.file={:?}", bench.join("odd.json"));
    refused(&bench, 1, &["tokenizer.kind=file", &file], &["odd.json"]);
    refused(&bench, 2, &["tokenizer.kind=file"], &["tokenizer.file"]);
    refused(&bench, 2, &["model.vocab_size=3"], &["model.vocab_size = 3", "tokenizer has"]);
}

#[test]
fn a_token_beyond_the_vocabulary() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "made", "--set", "train.max_steps=2"]));
    let file = format!("tokenizer.file={:?}", bench.join("made/checkpoints/latest/tokenizer.json"));
    fs::write(bench.join("text.txt"), "Übermut tut selten gut. ".repeat(100)).unwrap();
    refused(&bench, 1, &["tokenizer.kind=file", &file], &["text.txt", "'Ü'"]);
}

#[test]
fn settings_that_make_no_sense_come_in_one_report() {
    let bench = Workbench::new();
    refused(
        &bench,
        2,
        &[
            "model.n_layer=3",
            "model.n_heads=3",
            "optimizer.learning_rate=-1",
            "tokenizer.kind=words",
            "carbon.region=Atlantis",
            "energy.pue=0.5",
        ],
        &[
            "did you mean \"model.n_layers\"?",
            "model.n_heads = 3: does not divide model.d_model = 16",
            "optimizer.learning_rate = -1",
            "tokenizer.kind = \"words\"",
            "carbon.region",
            "energy.pue = 0.5",
            "6 faults; nothing was started",
        ],
    );
}

#[test]
fn bad_usage() {
    let bench = Workbench::new();
    expect(2, bench.wattle(&["train", "--device", "tpu"]));
    expect(2, bench.wattle(&["train", "--preset", "gpt5"]));
    let said = expect(2, bench.wattle(&["train", "absent.toml"]));
    assert!(said.contains("absent.toml"), "{said}");
    fs::write(bench.join("broken.toml"), "[model\nn_layers = 4").unwrap();
    let said = expect(2, bench.wattle(&["train", "broken.toml"]));
    assert!(said.contains("broken.toml: not TOML"), "{said}");
    assert!(said.contains("at line 1, column"), "{said}");
    // The text itself, where a configuration is expected.
    let said = expect(2, bench.wattle(&["train", "text.txt"]));
    assert!(said.contains("--set data.input=[\"text.txt\"]"), "{said}");
    assert!(said.len() < 300, "{said}");
}

#[test]
fn a_gpu_that_is_not_there_is_a_sentence() {
    let bench = Workbench::new();
    let said = expect(1, bench.wattle(&["train", "--device", "cuda:7", "--out", "run"]));
    assert!(said.contains("--device cuda:7 cannot be had"), "{said}");
    assert!(!bench.join("run").exists());
}

#[test]
fn an_existing_directory_is_not_touched() {
    let bench = Workbench::new();
    fs::create_dir(bench.join("run")).unwrap();
    fs::write(bench.join("run/notes.txt"), "mine").unwrap();
    let said = expect(1, bench.train(&["--out", "run"]));
    assert!(said.contains("already exists") && said.contains("--resume"), "{said}");
    assert_eq!(bench.list("run"), ["notes.txt"]);
}

#[test]
fn a_damaged_or_foreign_checkpoint() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=6"]));
    let resume = || bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=8"]);
    let checkpoint = bench.join("run/checkpoints/step-00000006");
    for (file, part) in [
        ("model.safetensors", "damaged since it was written"),
        ("state.json", "a checkpoint that wattle train wrote"),
    ] {
        let path = checkpoint.join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let said = expect(1, resume());
        assert!(said.contains(file) && said.contains(part), "{said}");
        fs::write(&path, whole).unwrap();
    }
    expect(0, resume());
}

#[test]
fn a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint() {
    let bench = Workbench::new();
    let said = expect(
        1,
        bench.train(&[
            "--out",
            "run",
            "--set",
            "optimizer.learning_rate=1e30",
            "--set",
            "schedule.warmup_steps=0",
            "--set",
            "checkpoint.every_steps=1",
        ]),
    );
    assert!(said.contains("is not finite") && said.contains("the first tensor that was not is"), "{said}");
    assert!(said.contains("optimizer.learning_rate") && said.contains("step-0000000"), "{said}");
    assert!(bench.join("run/checkpoints/latest/state.json").exists());
    let last = bench.steps("run").pop().unwrap();
    assert!(!(last.loss.is_finite() && last.grad_norm.is_finite()), "{last:?}");
}

/// A name on Linux is bytes.
#[test]
fn paths_need_not_be_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let bench = Workbench::new();
    let named = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    let with = |args: &[&str], more: &[&OsStr]| {
        let mut command = bench.wattle(args);
        command.args(more);
        command
    };
    let run = named(b"run-\xff");
    let train = |more: &[&str]| {
        let mut command = bench.train(&["--set", "train.max_steps=3"]);
        command.args(more).arg("--out").arg(run);
        command
    };
    expect(0, train(&[]));
    expect(0, train(&["--resume"]));
    expect(0, train(&["--resume", "--set", "train.max_steps=4"]));
    let typo = named(b"rum-\xff");
    let mut command = bench.train(&["--resume", "--out"]);
    command.arg(typo);
    assert!(expect(2, command).contains("does not exist"));

    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.path().join(run).join("manifest.json")).unwrap()).unwrap();
    let command = manifest["command"].as_array().unwrap();
    assert!(command.iter().any(|arg| arg == "run-\u{fffd}"), "{command:?}");

    expect(0, with(&["report"], &[run]));
    expect(0, with(&["report"], &[run, OsStr::new("--html"), named(b"page-\xff.html")]));
    expect(0, with(&["compare"], &[run, run]));
    expect(0, with(&["generate", "--prompt", "1 and", "--max-tokens", "2", "--device", "cpu"], &[run]));
    let text = named(b"text-\xff.txt");
    fs::copy(bench.join("text.txt"), bench.path().join(text)).unwrap();
    expect(0, with(&["evaluate", "--device", "cpu"], &[run, OsStr::new("--text"), text]));
    expect(0, with(&["prepare", "--tokenizer", "chars"], &[text, OsStr::new("--out"), named(b"data-\xff")]));
    let set = ["prepare", "--tokenizer", "chars", "--set", "data.val_fraction=0.2"];
    expect(0, with(&set, &[text, OsStr::new("--out"), named(b"other-\xff")]));
    expect(0, with(&["export", "--type", "f16"], &[run, OsStr::new("--out"), named(b"model-\xff.gguf")]));
    let config = named(b"config-\xff.toml");
    fs::copy(bench.path().join(run).join("config.toml"), bench.path().join(config)).unwrap();
    expect(0, with(&["train", "--device", "cpu", "--dry-run"], &[config]));
    let json = named(b"meter-\xff.json");
    expect(0, with(&["meter", "--json"], &[json, OsStr::new("--"), OsStr::new("true"), named(b"\xff")]));
    assert!(bench.path().join(json).exists());
}
