//! Sweeps: every run is made once, whatever happens to the sweep, and what they cost stands side by side.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use wattle_runlog::Segment;

use crate::workbench::{Running, Workbench, expect, wait_until};

/// Two strategies with two seeds each; runs of 36 steps, unless `max_steps` asks for fewer.
fn write_sweep(bench: &Workbench, name: &str, extra: &str) {
    let sweep = format!(
        "config = \"base.toml\"\nseeds = [1, 2]\n{extra}\n\
         [[strategy]]\nname = \"base\"\n[[strategy]]\nname = \"shallow\"\nmodel.n_layers = 1\n"
    );
    fs::write(bench.join(name), sweep).unwrap();
    let base = "[data]\ninput = [\"text.txt\"]\nval_fraction = 0.2\n[tokenizer]\nkind = \"chars\"\n\
                [model]\nn_layers = 2\nn_heads = 2\nd_model = 16\ncontext = 16\n\
                [train]\nbatch_size = 8\nthreads = 1\n[checkpoint]\nevery_steps = 5\n[evaluate]\nevery_steps = 10\n";
    fs::write(bench.join("base.toml"), base).unwrap();
}

fn sweep(bench: &Workbench, args: &[&str]) -> std::process::Command {
    bench.wattle(&[&["sweep", "s.toml", "--device", "cpu"], args].concat())
}

fn segments(bench: &Workbench, run: &str) -> Vec<Segment> {
    let manifest = fs::read(bench.join(run).join("manifest.json")).unwrap();
    serde_json::from_value(serde_json::from_slice::<Value>(&manifest).unwrap()["segments"].take()).unwrap()
}

#[test]
fn every_run_is_made_in_interleaved_order_and_compared_by_way() {
    let bench = Workbench::new();
    write_sweep(&bench, "s.toml", "");
    let planned = sweep(&bench, &["--out", "s", "--dry-run"]).output().unwrap();
    let planned = String::from_utf8(planned.stdout).unwrap();
    assert!(planned.contains("base-s1, shallow-s1, base-s2, shallow-s2"), "{planned}");
    assert!(!bench.join("s").exists(), "a plan leaves nothing");

    let output = sweep(&bench, &["--out", "s"]).output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{said}");
    let starts: Vec<_> = ["base-s1", "shallow-s1", "base-s2", "shallow-s2"]
        .map(|run| segments(&bench, &format!("s/{run}"))[0].monotonic_anchor)
        .to_vec();
    assert!(starts.is_sorted(), "{starts:?}");
    for part in ["against base", "shallow  model.n_layers 2 → 1", "no sensor measured these energies"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let compare: Value = serde_json::from_slice(&fs::read(bench.join("s/compare.json")).unwrap()).unwrap();
    let groups = compare["groups"].as_array().unwrap();
    let labels: Vec<_> = groups.iter().map(|group| group["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["base", "shallow"]);
    assert!(fs::read_to_string(bench.join("s/compare.html")).unwrap().contains("<svg"));
    // Each is a run as any other, and its page is there.
    assert_eq!(bench.steps("s/shallow-s2").last().unwrap().step, 36);
    assert!(fs::read_to_string(bench.join("s/shallow-s2/report.html")).unwrap().contains("<svg"));

    let said = expect(0, sweep(&bench, &["--out", "s"]));
    assert_eq!(said.matches("finished already").count(), 4, "{said}");
    assert_eq!(segments(&bench, "s/base-s1").len(), 1, "nothing is made again");
}

#[test]
fn a_sweep_that_is_killed_goes_on_where_it_was() {
    let bench = Workbench::new();
    // Long enough to be killed in its midst.
    write_sweep(&bench, "s.toml", "set.train.epochs = 60");
    let started = Running::start(sweep(&bench, &["--out", "s"]));
    wait_until("the second run trains", || bench.steps("s/shallow-s1").len() > 20);
    started.signal(Signal::KILL);
    drop(started);
    expect(0, sweep(&bench, &["--out", "s"]));
    assert_eq!(segments(&bench, "s/base-s1").len(), 1, "what was finished is not made again");
    assert_eq!(segments(&bench, "s/shallow-s1").len(), 2, "what was half finished went on");
    for run in ["base-s1", "shallow-s1", "base-s2", "shallow-s2"] {
        let mut steps: Vec<_> = bench.steps(&format!("s/{run}")).iter().map(|step| step.step).collect();
        steps.sort_unstable();
        steps.dedup();
        assert_eq!(steps.len() as u64, *steps.last().unwrap(), "{run}: a step is missing");
    }
}

#[test]
fn a_signal_reaches_the_run_and_the_sweep_asks_to_be_requeued() {
    let bench = Workbench::new();
    write_sweep(&bench, "s.toml", "set.train.epochs = 1000");
    let mut running = Running::start(sweep(&bench, &["--out", "s"]));
    wait_until("the first run trains", || bench.steps("s/base-s1").len() > 5);
    running.signal(Signal::TERM);
    assert_eq!(running.0.wait().unwrap().code(), Some(75));
    assert!(bench.join("s/base-s1/checkpoints/latest").exists() && !bench.join("s/shallow-s1").exists());
}

#[test]
fn what_is_wrong_is_told_before_anything_is_made() {
    let bench = Workbench::new();
    write_sweep(&bench, "s.toml", "set.train.epoch = 2\ntarget = 1.0");
    let said = expect(2, sweep(&bench, &["--out", "s"]));
    assert!(said.contains("unknown key \"target\"; did you mean \"target_loss\"?"), "{said}");
    write_sweep(&bench, "s.toml", "set.train.epoch = 2");
    let said = expect(2, sweep(&bench, &["--out", "s"]));
    assert!(said.contains("\"train.epoch\"; did you mean \"train.epochs\"?"), "{said}");
    assert!(!bench.join("s").exists());
    write_sweep(&bench, "s.toml", "set.train.max_steps = 2");
    expect(0, sweep(&bench, &["--out", "s"]));
    write_sweep(&bench, "s.toml", "set.train.max_steps = 3");
    let said = expect(2, sweep(&bench, &["--out", "s"]));
    assert!(said.contains("train.max_steps: 2 in the run, 3 now") && said.contains("--out"), "{said}");
    let said = expect(2, sweep(&bench, &["--out", "."]));
    assert!(said.contains("something else than a sweep"), "{said}");
}
