//! `wattle calibrate`: a stand-in's board beside a wall meter whose truth is known.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use nvml_standin::Power;
use wattle_runlog::record::{SensorKind, SensorRecord};
use wattle_runlog::{MonotonicNs, Record, Seconds, WallAnchor};

use crate::workbench::{Workbench, expect, with_board};

/// What the board draws while it is calibrated.
const STEPS: &str = "square:100:400:3000";
/// Watts at the wall for each of the board's, and what the rest of the machine draws.
const PER_SENSOR: f64 = 1.15;
const BASE_W: f64 = 120.0;
/// The wall meter shows the mean over so long, so much later.
const AVERAGING: Seconds = Seconds(0.4);
const DELAY: Seconds = Seconds(0.3);

fn with_steps(mut command: Command) -> Command {
    command = with_board(command);
    command.env("NVML_STANDIN_POWER", STEPS);
    command
}

/// A trace of thirteen seconds with steps, and what a wall meter says of that time as CSV.
fn metered(bench: &Workbench) -> String {
    let begun = MonotonicNs::now();
    let args = ["meter", "--trace", "steps.trace", "--gpus", "all", "--", "sleep", "13"];
    expect(0, with_steps(bench.wattle(&args)));
    let (anchor, power) = (WallAnchor::now(), STEPS.parse::<Power>().unwrap());
    let mut csv = "time,power_w\n".to_owned();
    let mut t = begun;
    while t < anchor.monotonic {
        let end = t.before(DELAY);
        let mean = power.between(end.before(AVERAGING), end) / AVERAGING;
        let wall_s = anchor.wall_ns_at(t) as f64 / 1e9;
        writeln!(csv, "{wall_s:.3},{:.1}", BASE_W + PER_SENSOR * mean.get()).unwrap();
        t = t.after(Seconds(0.1));
    }
    csv
}

fn board(record: &Record) -> &SensorRecord {
    record.sensors.iter().find(|sensor| sensor.kind == SensorKind::Gpu).unwrap()
}

fn train(bench: &Workbench, out: &str, more: &[&str]) -> Record {
    let args = ["--out", out, "--set", "energy.gpus=all", "--set", "train.epochs=2"];
    expect(0, with_board(bench.train(&[&args[..], more].concat())));
    bench.records(out).pop().unwrap()
}

fn stdout(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_board_is_calibrated_and_every_run_from_then_on_is_corrected_and_says_so() {
    let bench = Workbench::new();
    train(&bench, "before", &[]);
    let before = bench.content("before");
    fs::write(bench.join("plug.csv"), metered(&bench)).unwrap();

    // Without the supply's efficiency there is a figure, and nothing is kept.
    // The load repeats itself every three seconds, so further lags fit as well.
    let calibrate = |more: &[&str]| {
        bench.wattle(&[&["calibrate", "steps.trace", "plug.csv", "--max-lag", "1.4"], more].concat())
    };
    let said = expect(1, calibrate(&[]));
    assert!(said.contains("--psu-efficiency") && said.contains("no sensor could be calibrated"), "{said}");
    expect(0, calibrate(&["--psu-efficiency", "0.92", "--dry-run"]));
    assert!(!bench.join("data/wattle/calibrations.json").exists());

    let text = stdout(calibrate(&["--psu-efficiency", "0.92"]));
    assert!(text.contains("calibrations.json") && text.contains("gpu:GPU-57a9d000"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let json = stdout(calibrate(&["--psu-efficiency", "0.92", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let per_sensor = &report["sensors"][0]["wall_per_sensor"];
    let off = (number(&per_sensor["value"]) - PER_SENSOR).abs();
    assert!(off < 0.02 && off < number(&per_sensor["half_width"]) + 0.005, "{report:#}");
    assert!((number(&report["lag_s"]["value"]) - 0.5).abs() < 0.25, "{report:#}");
    assert!((number(&report["base_w"]["value"]) - BASE_W).abs() < 5.0, "{report:#}");
    let gain = number(&report["calibrations"][0]["gain"]);
    assert!((gain - PER_SENSOR * 0.92).abs() < 0.02, "{report:#}");

    let whole = train(&bench, "after", &[]);
    let corrected = board(&whole);
    let applied = corrected.calibration.as_ref().unwrap();
    assert_eq!(applied.gain, gain);
    assert!(applied.file.ends_with("data/wattle/calibrations.json"), "{applied:?}");
    assert_eq!(corrected.systematic_id, format!("calibration/{}", applied.id));
    assert_eq!(corrected.systematic_fraction, number(&report["calibrations"][0]["gain_uncertainty"]));
    let (energy, expected) = (corrected.energy_j.get(), 300.0 * gain * whole.duration_s.get());
    // A counter that steps every 100 ms at either end.
    assert!((energy - expected).abs() < 300.0 * gain * 0.25, "{energy} of {expected}");
    let max = corrected.max_w.unwrap().get();
    assert!((max - 300.0 * gain).abs() < 1.0, "{max} W, gain {gain}: {corrected:#?}");
    let told = stdout(bench.wattle(&["report", "after"]));
    assert!(told.contains("is calibrated on") && told.contains("multiplied by 1.0"), "{told}");
    let told = stdout(with_board(bench.wattle(&["devices"])));
    assert!(told.contains("calibrated on"), "{told}");

    // It can be left out, and what was recorded before is as it was.
    let plain = train(&bench, "plain", &["--set", "energy.calibrated=false"]);
    assert_eq!((board(&plain).calibration.clone(), board(&plain).systematic_fraction), (None, 0.05));
    assert_eq!(bench.content("before"), before);
    assert!(!stdout(bench.wattle(&["report", "before"])).contains("calibrated on"));
}

#[test]
fn what_cannot_be_used_is_refused_by_name_with_what_to_do() {
    let bench = Workbench::new();
    expect(
        0,
        with_board(bench.wattle(&["meter", "--trace", "flat.trace", "--gpus", "all", "--", "sleep", "1"])),
    );
    let again = with_board(bench.wattle(&["meter", "--trace", "flat.trace", "--", "touch", "started"]));
    let said = expect(1, again);
    assert!(said.contains("--trace flat.trace") && !bench.join("started").exists(), "{said}");

    fs::write(bench.join("plug.csv"), "time,power\n1790000000,5\n1790000001,\n").unwrap();
    let said = expect(1, bench.wattle(&["calibrate", "flat.trace", "plug.csv"]));
    assert!(said.contains("too steady") && said.contains("wattle meter --trace"), "{said}");
    fs::write(bench.join("bad.csv"), "time,power\nnoon,5\n").unwrap();
    let said = expect(1, bench.wattle(&["calibrate", "flat.trace", "bad.csv"]));
    assert!(said.contains("bad.csv, line 2") && said.contains("noon"), "{said}");
    let said = expect(1, bench.wattle(&["calibrate", "text.txt", "plug.csv"]));
    assert!(said.contains("text.txt") && said.contains("power trace"), "{said}");
    let said = expect(1, bench.wattle(&["calibrate", "nowhere", "plug.csv"]));
    assert!(said.contains("nowhere"), "{said}");
    let said = expect(
        2,
        bench.wattle(&["calibrate", "flat.trace", "plug.csv", "--psu-efficiency", "92", "--max-lag", "0"]),
    );
    assert!(said.contains("--psu-efficiency 92") && said.contains("--max-lag 0"), "{said}");
    let said = expect(2, bench.wattle(&["calibrate", "flat.trace", "plug.csv", "--utc-offset", "CET"]));
    assert!(said.contains("--utc-offset") && said.contains("+02:00"), "{said}");

    // A run on a processor that nothing measures.
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=3", "--set", "energy.gpus=none"]));
    fs::create_dir_all(bench.join("data/wattle")).unwrap();
    fs::write(bench.join("data/wattle/calibrations.json"), "{\"schema\":").unwrap();
    let said = expect(0, with_board(bench.train(&["--out", "spoilt", "--set", "energy.gpus=all"])));
    assert!(said.contains("calibrations.json") && said.contains("not calibrated"), "{said}");
    let file = "energy.calibration=\"gone.json\"";
    let said = expect(2, with_board(bench.train(&["--out", "named", "--set", file])));
    assert!(said.contains("energy.calibration") && said.contains("gone.json"), "{said}");
}

#[test]
fn records_keep_what_the_run_will_come_to_and_what_is_stated_of_the_machine() {
    let bench = Workbench::new();
    let args = [
        "--out",
        "run",
        "--set",
        "energy.gpus=all",
        "--set",
        "train.epochs=6",
        "--set",
        "carbon.embodied_g=1000000",
        "--set",
        "carbon.lifetime_h=1000",
        "--set",
        "energy.machine_idle_w=150",
        "--set",
        "budget.max_energy_kwh=1000",
    ];
    expect(0, with_board(bench.train(&args)));
    let records = bench.records("run");
    let (whole, epochs) = records.split_last().unwrap();
    let projected: Vec<_> = epochs.iter().filter_map(|record| record.projection).collect();
    let last = projected.last().expect("the epochs before the last tell");
    assert_eq!(last.total_steps, whole.step_end);
    assert!(last.uncertainty_j.get() > 0.0 && last.budget_j.is_some() && last.fits.is_some(), "{last:?}");
    assert_eq!(whole.projection, None, "a whole run is known");

    let seconds = whole.duration_s.get();
    let embodied = whole.embodied.unwrap();
    assert!((embodied.emissions_g.get() - 1e6 * seconds / 3.6e6).abs() < 1e-6, "{embodied:?}");
    let idle = whole.machine_idle.unwrap();
    assert!((idle.energy_j.get() - 150.0 * seconds).abs() < 1e-6, "{idle:?}");
    let sensors: f64 = whole.sensors.iter().map(|sensor| sensor.energy_j.get()).sum();
    assert!((whole.energy_j.get() - sensors).abs() < 1e-6, "neither is in the energy");
    let sci = whole.sci.as_ref().unwrap().value;
    let grams = (whole.emissions_g + embodied.emissions_g).get();
    assert!((sci - grams / whole.tokens as f64 * 1e3).abs() < 1e-9 * sci);
    let told = stdout(bench.wattle(&["report", "run"]));
    assert!(told.contains("embodied") && told.contains("at a stated 150 W"), "{told}");
    let said = expect(2, bench.train(&["--out", "other", "--set", "carbon.embodied_g=5"]));
    assert!(said.contains("carbon.lifetime_h"), "{said}");
}
