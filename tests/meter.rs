//! `wattle meter`: any command, metered from outside.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use wattle_runlog::Record;
use wattle_runlog::record::{RecordKind, SensorKind};

use crate::workbench::{Running, Workbench, expect, with_board};

fn with_boards(command: Command, n: &str) -> Command {
    let mut command = with_board(command);
    command.env("NVML_STANDIN_BOARDS", n);
    command
}

fn record(bench: &Workbench, name: &str) -> Record {
    Record::from_json(fs::read_to_string(bench.join(name)).unwrap().trim()).unwrap()
}

fn n_boards(record: &Record) -> usize {
    record.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu).count()
}

#[test]
fn a_command_is_accounted_for_with_every_board_it_could_see() {
    let bench = Workbench::new();
    let args = ["meter", "--json", "cost.json", "--", "sleep", "1"];
    let said = expect(0, with_boards(bench.wattle(&args), "2"));
    let cost = record(&bench, "cost.json");
    assert_eq!((cost.kind, n_boards(&cost), cost.complete), (RecordKind::Command, 2, true));
    let boards: f64 =
        cost.sensors.iter().filter(|s| s.kind == SensorKind::Gpu).map(|s| s.energy_j.get()).sum();
    let expected = 600.0 * cost.duration_s.get();
    assert!((boards - expected).abs() < 0.25 * expected, "{boards} J of {expected}");
    assert!(cost.duration_s.get() >= 1.0);
    let command = cost.command.unwrap();
    assert_eq!((command.arguments, command.exit_status), (vec!["sleep".to_owned(), "1".to_owned()], 0));
    assert!(said.contains("gCO2e") && said.contains("energy counter"), "{said}");
}

#[test]
fn boards_are_chosen_by_the_user_else_by_cuda_visible_devices() {
    let bench = Workbench::new();
    let boards = |args: &[&str], visible: Option<&str>| {
        let args = [&["meter", "--json", "cost.json"], args, &["--", "true"]].concat();
        let mut command = with_boards(bench.wattle(&args), "4");
        if let Some(visible) = visible {
            command.env("CUDA_VISIBLE_DEVICES", visible);
        }
        expect(0, command);
        n_boards(&record(&bench, "cost.json"))
    };
    assert_eq!(boards(&[], None), 4);
    assert_eq!(boards(&[], Some("1,3")), 2);
    assert_eq!(boards(&["--gpus", "all"], Some("1")), 4);
    assert_eq!(boards(&["--gpus", "0,2"], None), 2);
    assert_eq!(boards(&["--gpus", "none"], None), 0);
}

#[test]
fn the_exit_status_is_the_commands_own() {
    let bench = Workbench::new();
    let meter = |command: &[&str]| bench.wattle(&[&["-q", "meter", "--"], command].concat());
    expect(0, meter(&["true"]));
    expect(3, meter(&["sh", "-c", "exit 3"]));
    expect(128 + 9, meter(&["sh", "-c", "kill -9 $$"]));
    let said = expect(127, meter(&["no-such-command"]));
    assert!(said.contains("no-such-command"), "{said}");
    expect(126, meter(&["./text.txt"]));
    expect(2, bench.wattle(&["meter"]));
}

#[test]
fn output_that_cannot_be_written_is_known_before_the_command_starts() {
    let bench = Workbench::new();
    let said = expect(1, bench.wattle(&["meter", "--json", "no/such/cost.json", "--", "touch", "started"]));
    assert!(said.contains("--json") && said.contains("no/such/cost.json"), "{said}");
    assert!(!bench.join("started").exists());
    let said =
        expect(2, bench.wattle(&["meter", "--interval-ms", "1", "--region", "Atlantis", "--", "true"]));
    assert!(said.contains("--interval-ms") && said.contains("--region"), "{said}");
}

#[test]
fn a_signal_is_passed_on_and_the_record_is_still_written() {
    let bench = Workbench::new();
    let script = "trap 'echo told > told; exit 5' TERM; echo > ready; while :; do sleep 0.02; done";
    let mut meter = Running::start(bench.wattle(&["meter", "--json", "cost.json", "--", "sh", "-c", script]));
    while !bench.join("ready").exists() {
        sleep(Duration::from_millis(5));
    }
    meter.signal(Signal::TERM);
    assert_eq!(meter.0.wait().unwrap().code(), Some(5));
    assert!(bench.join("told").exists());
    assert!(!record(&bench, "cost.json").complete);
}

#[test]
fn an_estimate_counts_the_whole_tree_of_processes() {
    let bench = Workbench::new();
    let energy = |name: &str, script: &str| {
        let json = format!("{name}.json");
        expect(0, bench.wattle(&["meter", "--json", &json, "--", "sh", "-c", script]));
        let record = record(&bench, &json);
        let cpu = record.sensors.iter().find(|s| s.id == "cpu:estimate");
        cpu.map(|cpu| cpu.energy_j.get() / record.duration_s.get())
    };
    // A grandchild works while its parents wait.
    let busy = "timeout 1.5 sh -c 'while :; do :; done'; true";
    let (idle, busy) = (energy("idle", "sleep 0.5"), energy("busy", busy));
    if let (Some(idle), Some(busy)) = (idle, busy) {
        assert!(busy > idle * 1.05, "{busy} W busy, {idle} W idle");
    }
}
