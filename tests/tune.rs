//! `wattle tune`: it finds what it is to find, leaves a configuration, and puts the board back however it ends.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nvml_standin::limits::{Limit, Limits, MAX_MW, Work};
use rustix::process::Signal;

use crate::workbench::{Running, Workbench, expect, wait_until};

/// What a board takes for a piece of work: 180 W idle, a tenth of the time waits for memory. 290 W are best.
const WORK: &str = "180:0.1";

/// `wattle tune` of a tiny model on a CPU, with a board whose limits can be set.
fn tune(bench: &Workbench, args: &[&str]) -> Command {
    let mut command = untimed(bench, &["--window", "0.1", "--rounds", "3"]);
    command.args(args);
    command
}

/// The same with windows of seconds.
fn untimed(bench: &Workbench, args: &[&str]) -> Command {
    let mut command = bench.wattle(&["tune", "--device", "cpu"]);
    for pair in [
        "data.input=[\"text.txt\"]",
        "data.val_fraction=0.2",
        "tokenizer.kind=chars",
        "model.n_layers=1",
        "model.n_heads=2",
        "model.d_model=16",
        "model.context=16",
        "train.threads=1",
        "train.batch_size=4",
        "energy.gpus=all",
    ] {
        command.args(["--set", pair]);
    }
    command.args(args).env("NVML_LIBRARY", nvml_standin::library());
    command.env("NVML_STANDIN_LIMITS", limits_file(bench)).env("NVML_STANDIN_WORK", WORK);
    // Windows are short here: a counter that moves seldom would tell little of them.
    command.env("NVML_STANDIN_COUNTER_STEP_MS", "5");
    command
}

fn limits_file(bench: &Workbench) -> PathBuf {
    bench.join("limits")
}

fn limits(bench: &Workbench) -> Limits {
    Limits::new(limits_file(bench), Some(WORK.parse().unwrap()))
}

#[test]
fn the_power_limit_with_the_fewest_joules_is_found_put_back_and_written_down() {
    let bench = Workbench::new();
    let output = tune(&bench, &["--power", "--set", "train.batch_size=1"]).output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.lines().chain(text.lines()).all(|line| line.chars().count() <= 80), "{said}\n{text}");

    // The board had every limit of the first race, and is as it was.
    let tried: Vec<u32> = limits(&bench).changes().iter().map(|(_, limit)| limit.limit_mw / 1000).collect();
    assert!([200, 300, 400, 500, 600].iter().all(|watts| tried.contains(watts)), "{tried:?}");
    assert_eq!(limits(&bench).now(), Limit::default());

    let found: u32 = text.split("nvidia-smi -pl ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    let work: Work = WORK.parse().unwrap();
    let joules = |watts: u32| work.power(Limit { limit_mw: watts * 1000, clock_mhz: 0 }).get();
    // How fast a small model trains beside other tests is uneven; wattle-tune's own tests hold it to two per cent of the
    // best, which is 470 at 290 W. At 700 W they are 700.
    assert!(joules(found) < 0.9 * joules(700), "{found} W: {}\n{said}", joules(found));

    // What it leaves is a configuration as any other.
    let tuned = fs::read_to_string(bench.join("tuned.toml")).unwrap();
    assert!(tuned.starts_with("# Found by wattle tune:") && tuned.contains("nvidia-smi -pl"), "{tuned}");
    for kept in ["d_model = 16", "context = 16", "kind = \"chars\"", "gpus = \"all\""] {
        assert!(tuned.contains(kept), "{kept:?} is not in\n{tuned}");
    }
    expect(0, bench.wattle(&["train", "tuned.toml", "--out", "run", "--set", "train.max_steps=3"]));
    let said = expect(2, tune(&bench, &[]));
    assert!(said.contains("tuned.toml exists already"), "{said}");
}

#[test]
fn micro_batch_and_threads_are_chosen_on_a_cpu_and_a_way_that_cannot_be_taken_is_told() {
    let bench = Workbench::new();
    // The board refuses whatever is computed in bf16 here: candle's autograd has it, the explicit engine does not.
    let args = ["--for", "time", "--precision=bf16", "--set", "train.engine=explicit", "--out", "fast.toml"];
    let said = expect(0, tune(&bench, &args));
    for part in ["micro-batch", "precision", "cannot be taken", "train.engine = \"explicit\""] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    let tuned = fs::read_to_string(bench.join("fast.toml")).unwrap();
    assert!(tuned.contains("engine = \"explicit\"") && !tuned.contains("bf16"), "{tuned}");
    assert!(limits(&bench).changes().is_empty(), "nobody asked for the board to be changed");
}

#[test]
fn the_board_is_put_back_after_a_signal_and_after_kill_9() {
    for signal in [Signal::TERM, Signal::KILL] {
        let bench = Workbench::new();
        let running = Running::start(tune(&bench, &["--power=300,400", "--set", "train.batch_size=1"]));
        let limit = || limits(&bench).now().limit_mw;
        wait_until("a changed limit", || limit() != MAX_MW);
        running.signal(signal);
        wait_until("the limit put back", || limit() == MAX_MW);
        drop(running);
        assert!(!bench.join("tuned.toml").exists());
    }
}

#[test]
fn a_board_that_others_use_or_that_may_not_be_changed_is_left_alone() {
    let bench = Workbench::new();
    let mut shared = tune(&bench, &["--power"]);
    shared.env("NVML_STANDIN_PROCESSES", "1");
    let said = expect(1, shared);
    assert!(said.contains("other processes compute on"), "{said}");

    let mut refused = tune(&bench, &["--power", "--set", "train.batch_size=1"]);
    refused.env_remove("NVML_STANDIN_LIMITS");
    let said = expect(1, refused);
    assert!(said.contains("run as root"), "{said}");

    let said = expect(1, tune(&bench, &["--clock", "--set", "energy.gpus=none"]));
    assert!(said.contains("there is none here"), "{said}");
    assert!(!bench.join("tuned.toml").exists() && limits(&bench).changes().is_empty());
}

#[test]
fn what_is_asked_for_wrongly_is_refused_before_anything_starts() {
    let bench = Workbench::new();
    for (args, words) in [
        (&["--window", "0"][..], "--window 0"),
        (&["--rounds", "1"], "--rounds 1"),
        (&["--joules", "5"], "--for time"),
        (&["--for", "time", "--joules", "0"], "--joules 0"),
        (&["--power=many"], "whole numbers"),
        (&["--precision=f8"], "f32"),
        (&["--target-loss", "2"], "--like"),
    ] {
        let said = expect(2, untimed(&bench, args));
        assert!(said.contains(words), "{args:?}: {words:?} is not in\n{said}");
    }
    let said = expect(1, tune(&bench, &["--out", "no/such/folder.toml"]));
    assert!(said.contains("--out no/such/folder.toml") && !said.contains("J/ktoken"), "{said}");
    let said = expect(1, tune(&bench, &["--kernels"]));
    assert!(said.contains("a GPU has"), "{said}");
    expect(0, bench.train(&["--out", "run", "--set", "evaluate.every_steps=10"]));
    let said = expect(2, tune(&bench, &["--target-loss", "0.001", "--like", "run"]));
    assert!(said.contains("did not come to a loss"), "{said}");
}
