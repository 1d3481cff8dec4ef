//! What users of other meters complain of, as far as only the whole program can show that it cannot happen here.
//! The others are in `crates/meter/tests/complaints.rs`.

use std::fs;

use wattle_runlog::record::RecordKind;
use wattle_runlog::{EventBody, StopReason};

use crate::workbench::{Workbench, expect, with_board};

/// Zeus opens its log with mode "w": a resumed run loses what was logged before.
#[test]
fn logs_are_never_truncated_on_resume() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=14"]));
    let read = |name: &str| fs::read(bench.join("run").join(name)).unwrap();
    let names = ["events.jsonl", "emissions.jsonl", "power.trace", "train.log"];
    let before = names.map(read);
    expect(0, bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=20"]));
    for (name, before) in names.iter().zip(before) {
        let after = read(name);
        assert!(after.len() > before.len() && after.starts_with(&before), "{name} was rewritten");
    }
}

/// codecarbon#544: eight processes of one job left eight files, each with the total of all.
#[test]
fn a_run_has_one_set_of_records_and_one_total() {
    let bench = Workbench::new();
    expect(0, with_board(bench.train(&["--out", "run", "--set", "energy.gpus=all"])));
    expect(0, bench.train(&["--out", "run", "--resume", "--set", "train.epochs=4"]));
    let totals: Vec<_> =
        bench.records("run").into_iter().filter(|record| record.kind == RecordKind::Final).collect();
    let last = totals.last().unwrap();
    assert!(
        totals.windows(2).all(|pair| pair[0].energy_j <= pair[1].energy_j),
        "each holds the one before it"
    );
    assert_eq!(last.energy_j, last.cumulative.energy_j);
    let rows = fs::read_to_string(bench.join("run/emissions.csv")).unwrap();
    assert_eq!(rows.lines().count(), 2, "a head and one row");
}

/// codecarbon#878: the tracker made a run of 11 s take 115 s.
#[test]
fn a_slow_driver_does_not_slow_training() {
    let bench = Workbench::new();
    let median_speed = |run: &str, latency: &str| {
        let args = ["--out", run, "--set", "energy.gpus=all", "--set", "checkpoint.every_steps=0"];
        let mut command = with_board(bench.train(&args));
        command.env("NVML_STANDIN_LATENCY_MS", latency);
        expect(0, command);
        let mut speeds: Vec<f64> = bench.steps(run).iter().map(|step| step.tokens_per_s).collect();
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    };
    let (quick, slow) = (median_speed("quick", "0"), median_speed("slow", "300"));
    // A step that waited for one reading would take some fifty times as long.
    assert!(slow > quick / 5.0, "{slow} tokens/s with a driver that takes 300 ms, {quick} with a quick one");
}

/// carbontracker#17: no end at a predicted energy.
#[test]
fn a_run_that_will_not_fit_its_budget_is_told_and_ends_within_it() {
    let bench = Workbench::new();
    let args = ["--out", "run", "--set", "train.epochs=100000", "--set", "budget.max_energy_kwh=4e-6"];
    let said = expect(0, bench.train(&args));
    assert!(said.contains("will not fit into budget.max_energy_kwh") && said.contains("near step"), "{said}");
    let last = bench.events("run").pop().unwrap();
    assert!(matches!(last.body, EventBody::Stop { reason: StopReason::Budget, .. }), "{last:?}");
}

/// codecarbon#232, #960: RAPL that may not be read was replaced by an estimate, and nobody was told.
#[test]
fn an_unreadable_sensor_is_told_with_the_command_that_mends_it() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Workbench::new();
    let root = bench.join("powercap");
    let zone = root.join("intel-rapl:0");
    fs::create_dir_all(&zone).unwrap();
    for (name, content) in [("name", "package-0\n"), ("max_energy_range_uj", "262143328850\n")] {
        fs::write(zone.join(name), content).unwrap();
    }
    // Tests may run as root, who can read anything but a folder as a file.
    fs::create_dir(zone.join("energy_uj")).unwrap();
    fs::set_permissions(zone.join("energy_uj"), fs::Permissions::from_mode(0o000)).unwrap();
    let root_key = format!("energy.powercap_root={root:?}");
    expect(0, bench.train(&["--out", "run", "--set", &root_key, "--set", "train.max_steps=2"]));
    let log = fs::read_to_string(bench.join("run/train.log")).unwrap();
    assert!(log.contains("estimated and not measured"), "{log}");
    let whole = bench.records("run").pop().unwrap();
    assert_eq!(whole.measured_fraction, 0.0);
}
