//! Others change the files of a run, and what is damaged or gone is found, said and put right.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FlockOperation, Mode, flock, mkfifoat};
use rustix::process::Signal;

use crate::workbench::{Running, Workbench, expect, wait_until};

/// A run that goes on until it is stopped, with a checkpoint every few steps, after its first.
fn endless(bench: &Workbench) -> Running {
    let mut command = bench.train(&["--out", "run", "--set", "train.epochs=100000"]);
    command.stdout(Stdio::null()).stderr(File::create(bench.join("stderr")).unwrap());
    let running = Running(command.spawn().unwrap());
    wait_until("a checkpoint", || bench.join("run/checkpoints/latest").exists());
    running
}

#[test]
fn what_is_removed_while_a_run_goes_on_is_written_again() {
    let bench = Workbench::new();
    let mut running = endless(&bench);
    let names = ["run.lock", "events.jsonl", "emissions.jsonl", "power.trace"]
        .map(|name| bench.join("run").join(name));
    wait_until("an epoch", || fs::read_to_string(&names[2]).is_ok_and(|records| records.contains('\n')));
    names.iter().for_each(|path| fs::remove_file(path).unwrap());
    wait_until("the files", || names.iter().all(|path| path.exists()));
    // Nobody else may write to the run, as before.
    let said = expect(1, bench.train(&["--out", "run", "--resume", "--set", "train.epochs=100000"]));
    assert!(said.contains("another process"), "{said}");
    running.signal(Signal::TERM);
    assert_eq!(running.0.wait().unwrap().code(), Some(75));
    let said = fs::read_to_string(bench.join("stderr")).unwrap();
    names.iter().for_each(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(said.contains(&format!("{name} was removed")), "{name} is not in {said}");
    });
    // Not a line is missing.
    let steps: Vec<u64> = bench.steps("run").iter().map(|step| step.step).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
    let epochs: Vec<_> = bench.records("run").iter().filter_map(|record| record.epoch).collect();
    assert_eq!(epochs[..2], [1, 2]);
    expect(0, bench.wattle(&["report", "run"]));
}

#[test]
fn a_run_that_another_process_has_taken_over_is_left_to_it() {
    let bench = Workbench::new();
    let mut running = endless(&bench);
    let taken = bench.join("run/taken");
    fs::write(&taken, "process 1\n").unwrap();
    let lock = File::open(&taken).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    fs::rename(&taken, bench.join("run/run.lock")).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(1));
    let said = fs::read_to_string(bench.join("stderr")).unwrap();
    assert!(said.contains("run.lock is being written by another process (process 1)"), "{said}");
}

/// Turns one bit in the middle of the file over.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_bit_that_flipped_in_a_cached_token_is_found_and_the_data_are_prepared_anew() {
    let bench = Workbench::new();
    // A rate that does not depend on how long the run is to be.
    let train = |out: &str, more: &[&str]| {
        bench.train(&[&["--out", out, "--set", "schedule.kind=constant"], more].concat())
    };
    expect(0, train("whole", &[]));
    expect(0, train("run", &["--set", "train.max_steps=20"]));
    let datasets = bench.list("cache/wattle/datasets");
    let dataset = bench.join("cache/wattle/datasets").join(&datasets[0]);
    flip(&dataset.join("train-00000.bin"));
    let said = expect(0, train("run", &["--resume", "--set", "train.max_steps=0"]));
    assert!(said.contains("train-00000.bin") && said.contains("prepared anew"), "{said}");
    assert_eq!(bench.losses("run"), bench.losses("whole"));
}

#[test]
fn a_damaged_folder_of_tokens_is_refused_unless_it_is_taken_as_it_is() {
    let bench = Workbench::new();
    expect(0, bench.wattle(&["prepare", "text.txt", "--out", "data", "--tokenizer", "chars"]));
    let train = |out: &str, more: &[&str]| {
        let given =
            ["--out", out, "--set", "data.dir=data", "--set", "data.input=[]", "--set", "train.max_steps=2"];
        bench.train(&[&given, more].concat())
    };
    expect(0, train("good", &[]));
    assert!(bench.join("data/verified.json").exists());
    flip(&bench.join("data/train-00000.bin"));
    let said = expect(1, train("bad", &[]));
    assert!(said.contains("train-00000.bin") && said.contains("prepare the data again"), "{said}");
    assert!(!bench.join("bad").exists());
    let said = expect(1, bench.wattle(&["evaluate", "good", "--data", "data"]));
    assert!(said.contains("train-00000.bin"), "{said}");
    let said = expect(0, train("taken", &["--no-verify"]));
    assert!(said.contains("--no-verify"), "{said}");
    let manifest = |run: &str| fs::read_to_string(bench.join(run).join("manifest.json")).unwrap();
    assert!(manifest("taken").contains("\"unverified\": true"));
    assert!(!manifest("good").contains("unverified"));
    expect(0, bench.wattle(&["evaluate", "good", "--data", "data", "--no-verify"]));
}

/// Every command that prints, on a run that is there.
fn printing(bench: &Workbench) -> Vec<Command> {
    let commands: [&[&str]; 9] = [
        &["report", "run"],
        &["report", "run", "--json"],
        &["report", "run", "--html", "-"],
        &["compare", "run", "run"],
        &["devices"],
        &["estimate", "--params", "124M", "--tokens", "10B", "--gpu", "h100", "--gpus", "8"],
        &["generate", "run", "--prompt", "1 and", "--max-tokens", "3"],
        &["evaluate", "run", "--text", "text.txt"],
        &["export", "run", "--type", "f16", "--out", "model.gguf"],
    ];
    let mut commands: Vec<Command> = commands.iter().map(|args| bench.wattle(args)).collect();
    commands.push(bench.train(&["--dry-run"]));
    commands
}

#[test]
fn a_reader_that_goes_away_and_a_disk_that_is_full_end_a_command_without_a_panic() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=2"]));
    for mut command in printing(&bench) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(141), "{command:?}: {said}");
        assert!(!said.contains("error"), "{command:?}: {said}");
    }
    for mut command in printing(&bench) {
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("cannot write to standard output"), "{command:?}: {said}");
    }
    // Messages that nobody can read are no reason to stop.
    let mut command = bench.train(&["--out", "unheard", "-v", "--set", "train.max_steps=2"]);
    command.stderr(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(command.status().unwrap().code(), Some(0));
}

#[test]
fn what_is_no_ordinary_file_is_refused_by_its_kind() {
    let bench = Workbench::new();
    mkfifoat(CWD, bench.join("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    for (path, what) in [("/dev/zero", "a device"), ("pipe", "a pipe")] {
        for key in ["carbon.table", "tokenizer.file", "data.input"] {
            let value =
                if key == "data.input" { format!("{key}=[{path:?}]") } else { format!("{key}={path:?}") };
            let kind = if key == "tokenizer.file" { "file" } else { "chars" };
            let kind = format!("tokenizer.kind={kind}");
            let said = expect(2, bench.train(&["--out", "run", "--set", &value, "--set", &kind]));
            assert!(said.contains(path) && said.contains(what), "{key} {path}: {said}");
            assert!(!bench.join("run").exists());
        }
    }
    let said = expect(2, bench.wattle(&["train", "/dev/zero", "--out", "run"]));
    assert!(said.contains("/dev/zero") && said.contains("bytes"), "{said}");
}
