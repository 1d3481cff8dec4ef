//! What a run leaves behind, and that it all agrees with itself.

use std::fs;

use wattle_runlog::record::{PhasesMethod, RecordKind};
use wattle_runlog::{EventBody, Manifest, Record, StopReason};

use crate::workbench::{Workbench, expect, with_board};

#[test]
fn a_run_directory_is_complete_and_agrees_with_itself() {
    let bench = Workbench::new();
    let said = expect(0, bench.train(&["--out", "run", "--set", "cost.price_per_kwh=0.3"]));
    for name in [
        "checkpoints",
        "config.toml",
        "emissions.csv",
        "emissions.jsonl",
        "events.jsonl",
        "manifest.json",
        "power.trace",
        "run.lock",
        "train.log",
    ] {
        assert!(bench.list("run").iter().any(|n| n == name), "{name} is missing");
    }
    assert_eq!(bench.list("run/checkpoints"), ["best", "latest", "step-00000035", "step-00000036"]);
    assert_eq!(
        bench.list("run/checkpoints/latest"),
        [
            "README.md",
            "config.json",
            "emissions.json",
            "generation_config.json",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );

    // Every step is there once, and tokens add up.
    let steps = bench.steps("run");
    assert_eq!(steps.iter().map(|s| s.step).collect::<Vec<_>>(), (1..=36).collect::<Vec<_>>());
    assert_eq!(steps.last().unwrap().tokens, 36 * 8 * 16);
    assert!(matches!(
        bench.events("run").last().unwrap().body,
        EventBody::Stop { step: 36, reason: StopReason::Done }
    ));

    // Three epochs and the whole, and every sum is the sum of its parts.
    let records = bench.records("run");
    let kinds: Vec<RecordKind> = records.iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [RecordKind::Epoch, RecordKind::Epoch, RecordKind::Epoch, RecordKind::Final]);
    let (epochs, whole) = (&records[..3], &records[3]);
    assert_eq!(whole.energy_j, whole.cumulative.energy_j);
    assert!(epochs.iter().map(|r| r.energy_j).sum::<wattle_runlog::Joules>() <= whole.energy_j);
    assert_eq!(epochs.iter().map(|r| r.tokens).sum::<u64>(), whole.tokens);
    assert_eq!(whole.tokens, 36 * 8 * 16);
    for record in &records {
        check_sums(record);
    }

    // The terminal says the same.
    assert!(said.contains("epoch 3 · loss "), "{said}");
    assert!(said.contains("estimated") && said.contains("gCO2e (world, 2023)"), "{said}");
    assert!(fs::read_to_string(bench.join("run/train.log")).unwrap().contains("epoch 3 · loss "));
}

fn check_sums(record: &Record) {
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(1e-3);
    assert!((record.phases.total() - record.energy_j).get().abs() < 1e-3, "phases to a millijoule");
    assert_eq!(record.phases_method, Some(PhasesMethod::TimeShare));
    let sensors: f64 = record.sensors.iter().map(|s| s.energy_j.get()).sum();
    assert!(close(sensors, record.energy_j.get()), "{sensors} of {:?}", record.energy_j);
    assert!(close(record.energy_kwh * 3.6e6, record.energy_j.get()));
    let emissions = record.facility_kwh * record.carbon.intensity_g_per_kwh.get();
    assert!(close(emissions, record.emissions_g.get()));
    let cost = record.cost.as_ref().unwrap();
    assert!(close(cost.value, record.facility_kwh * 0.3));
    assert!(close(record.joules_per_token.unwrap() * record.tokens as f64, record.energy_j.get()));
}

#[test]
fn a_checkpoint_carries_the_record_of_its_epoch_or_of_a_part_of_it() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "checkpoint.keep=0"]));
    let record = |step: u64| {
        let path = bench.join(&format!("run/checkpoints/step-{step:08}/emissions.json"));
        Record::from_json(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let records = bench.records("run");
    assert_eq!(record(12), records[0]);
    assert_eq!(record(24), records[1]);
    let part = record(15);
    assert_eq!(
        (part.kind, part.epoch, part.step_start, part.step_end),
        (RecordKind::Checkpoint, Some(2), 12, 15)
    );
    assert!(part.cumulative.energy_j > records[0].cumulative.energy_j);
    assert!(part.cumulative.energy_j < records[1].cumulative.energy_j);

    let card = fs::read_to_string(bench.join("run/checkpoints/step-00000024/README.md")).unwrap();
    let grams = format!("  emissions: {}\n", records[1].cumulative.emissions_g.get());
    assert!(
        card.starts_with("---\n") && card.contains("co2_eq_emissions:\n") && card.contains(&grams),
        "{card}"
    );
    assert!(card.contains("\nA GPT-2 model of "), "{card}");
}

#[test]
fn the_resolved_configuration_alone_reproduces_the_run() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run"]));
    fs::copy(bench.join("run/config.toml"), bench.join("again.toml")).unwrap();
    fs::create_dir(bench.join("elsewhere")).unwrap();
    let mut command = bench.wattle(&["train", "../again.toml", "--device", "cpu", "--out", "run"]);
    command.current_dir(bench.join("elsewhere"));
    expect(0, command);
    let losses = |run: &str| bench.steps(run).iter().map(|s| s.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses("run"), losses("elsewhere/run"));
}

#[test]
fn the_manifest_names_what_the_run_was_made_of() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=2"]));
    expect(0, bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=3"]));
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(bench.join("run/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest.segments.iter().map(|s| (s.id, s.step_start)).collect::<Vec<_>>(), [(0, 0), (1, 2)]);
    assert_eq!(manifest.data.as_ref().unwrap().sha256.len(), 64);
    assert!(manifest.model.as_ref().unwrap().parameters > 0);
    assert!(manifest.command.iter().any(|arg| arg == "train.max_steps=2"));
    assert!(manifest.sensors.iter().any(|s| s.id.starts_with("cpu:") || s.id.starts_with("rapl")));
}

#[test]
fn a_dry_run_prints_the_plan_and_leaves_no_run() {
    let bench = Workbench::new();
    let output = bench.train(&["--dry-run"]).output().unwrap();
    assert!(output.status.success());
    let plan = String::from_utf8(output.stdout).unwrap();
    for part in ["parameters", "36 of 128 tokens, 12 an epoch: 3.00 epochs", "nanoGPT's count", "memory"] {
        assert!(plan.contains(part), "{part:?} is not in\n{plan}");
    }
    assert_eq!(bench.list("."), ["cache", "text.txt"]);
}

#[test]
fn a_budget_ends_the_run_with_a_checkpoint_and_a_record() {
    let bench = Workbench::new();
    expect(
        0,
        bench.train(&["--out", "run", "--set", "train.epochs=100000", "--set", "budget.max_energy_kwh=4e-5"]),
    );
    let Some(EventBody::Stop { step, reason: StopReason::Budget }) =
        bench.events("run").last().map(|e| e.body.clone())
    else {
        panic!("not stopped by its budget");
    };
    let whole = bench.records("run").pop().unwrap();
    assert_eq!((whole.kind, whole.step_end), (RecordKind::Final, step));
    // A run of a few seconds: a checkpoint that a busy disk holds up is a good part of the budget.
    assert!(whole.facility_kwh > 1e-5 && whole.facility_kwh < 6e-5, "{}", whole.facility_kwh);
    assert!(bench.join("run/checkpoints/latest/state.json").exists());
}

#[test]
fn a_budget_holds_with_the_last_checkpoint_reckoned_in() {
    let bench = Workbench::new();
    // Four seconds at the board's 300 W.
    let budget_kwh = 1200.0 / 3.6e6;
    let budget = format!("budget.max_energy_kwh={budget_kwh}");
    let args = ["--out", "run", "--set", "energy.gpus=all", "--set", "train.epochs=100000", "--set", &budget];
    let said = expect(0, with_board(bench.train(&args)));
    assert!(said.contains("another step with the last checkpoint takes about"), "{said}");
    let whole = bench.records("run").pop().unwrap();
    assert_eq!(whole.kind, RecordKind::Final);
    // Steps and checkpoints of milliseconds, and readings 50 ms old at most; but a busy disk may hold up the last
    // checkpoint, or those by which it is predicted. Twice that prediction is kept free while one is being written.
    let share = whole.facility_kwh / budget_kwh;
    assert!(share > 0.2 && share < 1.5, "{share} of the budget");
}
