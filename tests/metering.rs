//! The meter beside a real run: boards of our own through the real NVML bindings, and what a crash leaves.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use wattle_runlog::record::{Method, RecordKind, SensorKind};
use wattle_runlog::{Joules, Phase, Record};

use crate::workbench::{Running, Workbench, expect, with_board};

fn gpu_energy(record: &Record) -> f64 {
    record.sensors.iter().filter(|s| s.kind == SensorKind::Gpu).map(|s| s.energy_j.get()).sum()
}

#[test]
fn a_board_is_measured_and_the_measured_share_is_shown() {
    let bench = Workbench::new();
    let args = ["--out", "run", "--set", "energy.gpus=all", "--set", "train.epochs=6"];
    let said = expect(0, with_board(bench.train(&args)));
    let whole = bench.records("run").pop().unwrap();
    let board = whole.sensors.iter().find(|s| s.kind == SensorKind::Gpu).unwrap();
    assert_eq!(board.method, Method::Counter);
    // 300 W throughout; a counter that steps every 100 ms at either end.
    let expected = 300.0 * whole.duration_s.get();
    assert!((board.energy_j.get() - expected).abs() < 300.0 * 0.25, "{} of {expected}", board.energy_j.get());
    let fraction = gpu_energy(&whole) / whole.energy_j.get();
    assert!((whole.measured_fraction - fraction).abs() < 1e-9);
    assert!(said.contains("% measured"), "{said}");
}

#[test]
fn a_run_on_a_cpu_does_not_count_a_board_that_it_does_not_use() {
    let bench = Workbench::new();
    expect(0, with_board(bench.train(&["--out", "run", "--set", "train.max_steps=3"])));
    assert_eq!(gpu_energy(&bench.records("run").pop().unwrap()), 0.0);
}

#[test]
fn a_board_that_is_lost_does_not_end_the_run() {
    let bench = Workbench::new();
    let mut command = with_board(bench.train(&["--out", "run", "--set", "energy.gpus=all"]));
    command.env("NVML_STANDIN_LOST_AT_S", "0.3");
    expect(0, command);
    assert_eq!(bench.steps("run").len(), 36);
}

#[test]
fn what_a_killed_run_used_is_booked_on_resume() {
    let bench = Workbench::new();
    // An epoch of this text takes far longer than the second after which the trace is made durable.
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("text.txt"), text.repeat(400)).unwrap();
    let train = |max_steps: &str| {
        let max_steps = format!("train.max_steps={max_steps}");
        let args = [
            "--out",
            "run",
            "--resume=auto",
            "--set",
            "energy.gpus=all",
            "--set",
            "checkpoint.every_steps=0",
        ];
        with_board(bench.train(&[&args[..], &["--set", &max_steps]].concat()))
    };
    expect(0, train("5"));
    let before = bench.records("run").pop().unwrap().cumulative.energy_j.get();
    let child = Running::start(train("0"));
    while bench.steps("run").len() < 8 {
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(1500));
    child.signal(Signal::KILL);
    drop(child);

    expect(0, train("5"));
    let record = bench.records("run").pop().unwrap();
    assert_eq!((record.kind, record.segment), (RecordKind::Interrupted, 1));
    let expected = 300.0 * record.duration_s.get();
    assert!((gpu_energy(&record) - expected).abs() < 300.0 * 0.25, "{} of {expected}", gpu_energy(&record));
    let after = record.cumulative.energy_j.get();
    // The first segment drew a little after its last epoch too, which was booked by then.
    assert!(after >= before + record.energy_j.get() - 1e-6, "{before} + {:?}, {after}", record.energy_j);
    assert_eq!(record.cumulative.wasted_j, record.energy_j, "every step of the segment has to be done again");
}

#[test]
fn devices_lists_what_is_there_and_what_is_not() {
    let bench = Workbench::new();
    let output = with_board(bench.wattle(&["devices"])).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("found") && text.contains("cpu:"), "{text}");
    let output = bench.wattle(&["devices", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "wattle.devices/1");
}

#[test]
fn another_tool_reads_the_emissions_in_its_own_columns_and_units() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run"]));
    let csv = fs::read_to_string(bench.join("run/emissions.csv")).unwrap();
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(
        header[..6],
        ["timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions"]
    );
    let row: Vec<&str> = lines.next().unwrap().split(',').collect();
    let whole = bench.records("run").pop().unwrap();
    let kilograms: f64 = row[5].parse().unwrap();
    assert!((kilograms * 1000.0 - whole.emissions_g.get()).abs() < 1e-9);
    assert_eq!(lines.next(), None, "one row a run");
}

#[test]
fn each_joule_is_priced_at_the_intensity_of_its_moment() {
    let bench = Workbench::new();
    // A minute on either side of this run at 400 g/kWh, and a table that ended long ago.
    let now = jiff::Timestamp::now();
    let row = |seconds: i64| format!("{},400\n", now + jiff::SignedDuration::from_secs(seconds));
    let rows: String = (-10..60).map(|minute| row(minute * 60)).collect();
    fs::write(bench.join("now.csv"), format!("timestamp,g_per_kwh\n{rows}")).unwrap();
    let train = |run: &str, table: &str| {
        let table = format!("carbon.table={table:?}");
        expect(0, bench.train(&["--out", run, "--set", &table, "--set", "train.max_steps=6"]));
        bench.records(run).pop().unwrap()
    };
    let whole = train("run", "now.csv");
    assert!((whole.emissions_g.get() - whole.facility_kwh * 400.0).abs() < 1e-9, "{whole:?}");
    fs::write(bench.join("old.csv"), "timestamp,g_per_kwh\n2020-01-01T00:00:00Z,1\n").unwrap();
    let whole = train("old", "old.csv");
    let mean = whole.carbon.intensity_g_per_kwh.get();
    assert!((whole.emissions_g.get() - whole.facility_kwh * mean).abs() < 1e-9, "{whole:?}");
    let said = expect(2, bench.train(&["--out", "bad", "--set", "carbon.table=\"none.csv\""]));
    assert!(said.contains("carbon.table") && said.contains("none.csv"), "{said}");
}

#[test]
fn an_idle_baseline_is_measured_before_the_load_and_stated_beside_it() {
    let bench = Workbench::new();
    let args = ["--out", "run", "--set", "energy.gpus=all", "--set", "energy.idle_baseline_s=0.5"];
    let said = expect(0, with_board(bench.train(&args)));
    assert!(said.contains("idle gpu:"), "{said}");
    let whole = bench.records("run").pop().unwrap();
    let board = whole.sensors.iter().find(|s| s.kind == SensorKind::Gpu).unwrap();
    let baseline = board.baseline.as_ref().unwrap();
    assert!((baseline.power_w.get() - 300.0).abs() < 75.0, "{baseline:?}");
    assert!(whole.energy_above_idle_j.unwrap() < whole.energy_j, "it stands beside the total");
}

#[test]
fn a_board_that_is_asked_for_and_not_there_is_an_error_that_names_those_that_are() {
    let bench = Workbench::new();
    let train = |gpus: &str| bench.train(&["--out", "run", "--set", gpus, "--set", "train.max_steps=2"]);
    let said = expect(2, with_board(train("energy.gpus=[0, 7]")));
    assert!(said.contains("energy.gpus names board 7") && said.contains("boards here: 0 ("), "{said}");
    let mut without = train("energy.gpus=[0]");
    without.env("NVML_LIBRARY", "/nonexistent/libnvidia-ml.so.1");
    let said = expect(2, without);
    assert!(said.contains("energy.gpus names board 0") && said.contains("NVML"), "{said}");
    assert!(!bench.join("run").exists(), "nothing was begun");
    expect(0, with_board(train("energy.gpus=[0]")));
    let whole = bench.records("run").pop().unwrap();
    assert!(whole.sensors.iter().any(|s| s.kind == SensorKind::Gpu && s.samples > 0), "{whole:?}");
}

#[test]
fn half_widths_are_shown_where_energy_is_and_a_wide_one_is_warned_of() {
    let bench = Workbench::new();
    let args = ["--out", "run", "--set", "energy.gpus=all", "--set", "train.max_steps=2"];
    let mut command = with_board(bench.train(&args));
    command.env("NVML_STANDIN_COUNTER_STEP_MS", "1000");
    let said = expect(0, command);
    let whole = bench.records("run").pop().unwrap();
    let half_width = whole.energy_uncertainty_j.unwrap();
    assert!(half_width / whole.energy_j > 0.2, "{whole:?}");
    assert!(said.contains(" ± ") && said.contains("the energy is known to ±"), "{said}");
    let parts = whole.phases_uncertainty_j.unwrap();
    assert!(Phase::ALL.into_iter().all(|phase| {
        let [mut energy, mut half_width] = [whole.phases, parts];
        *energy.get_mut(phase) == Joules::ZERO || *half_width.get_mut(phase) > Joules::ZERO
    }));
}

#[test]
fn an_estimate_has_no_random_error_to_state() {
    let bench = Workbench::new();
    let said = expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=2"]));
    for record in bench.records("run").iter().filter(|record| record.measured_fraction == 0.0) {
        assert_eq!((record.energy_uncertainty_j, record.phases_uncertainty_j), (None, None));
        assert!(record.to_json().contains("\"energy_uncertainty_j\":null"));
        assert!(said.contains("assuming a TDP of"), "{said}");
    }
}

#[test]
fn training_goes_on_beside_a_driver_that_hangs() {
    for hang in ["nvmlInit_v2", "nvmlDeviceGetTotalEnergyConsumption@0.3"] {
        let bench = Workbench::new();
        let args = ["--out", "run", "--set", "energy.gpus=all", "--set", "train.epochs=60"];
        let mut train = with_board(bench.train(&args));
        train.env("NVML_STANDIN_HANG", hang);
        let said = expect(0, train);
        assert!(said.contains("driver hangs"), "{hang}: {said}");
        assert_eq!(bench.steps("run").len(), 720);
    }
}
