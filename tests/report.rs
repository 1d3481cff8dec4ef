//! Runs read again: one, several, and one that is planned.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::workbench::{Workbench, expect};

fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_is_reported_as_its_records_say() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run"]));
    let text = printed(bench.wattle(&["report", "run", "--html", "run.html"]));
    assert!(text.contains("where the joules went") && text.contains("estimated"), "{text}");
    let report: Value = serde_json::from_str(&printed(bench.wattle(&["report", "run", "--json"]))).unwrap();
    assert_eq!(report["schema"], "wattle.report/1");
    let whole = bench.records("run").pop().unwrap();
    assert_eq!(report["totals"]["energy_j"].as_f64(), Some(whole.energy_j.get()));
    let page = fs::read_to_string(bench.join("run.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg") && page.len() < 1_000_000);
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "<script src"] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
    let said = expect(1, bench.wattle(&["report", "nowhere"]));
    assert!(said.contains("nowhere: there is no such run directory"), "{said}");
    let said = expect(1, bench.wattle(&["report", "rum"]));
    assert!(said.contains("did you mean run"), "{said}");
    let said = expect(1, bench.wattle(&["compare", "run", "."]));
    assert!(said.contains("it holds ./run"), "{said}");
}

#[test]
fn a_page_on_stdout_is_all_that_stands_there() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run"]));
    expect(0, bench.train(&["--out", "again", "--set", "run.seed=2"]));
    for args in [&["report", "run"][..], &["compare", "run", "again"]] {
        let page = printed(bench.wattle(&[args, &["--html", "-"]].concat()));
        assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"), "{args:?}");
        let said = expect(2, bench.wattle(&[args, &["--html", "-", "--json"]].concat()));
        assert!(said.contains("--html") && said.contains("--json"), "{said}");
    }
    assert!(!bench.join("-").exists());
}

#[test]
fn what_is_printed_fits_a_terminal_of_eighty_columns() {
    let bench = Workbench::new();
    let name = "run.name=a-name-as-long-as-anybody-gives-to-a-run-whose-settings-are-all-in-it-seed-1";
    let long = "a-directory-with-the-name-of-a-run-whose-settings-are-all-in-it-and-some-that-are-not";
    expect(0, bench.train(&["--out", "run"]));
    expect(
        0,
        bench.train(&["--out", long, "--set", name, "--set", "optimizer.learning_rate=0.001234567891"]),
    );
    let estimate = ["estimate", "--params", "175B", "--tokens", "300B", "--gpu", "V100", "--gpus", "10000"];
    for args in [&["report", long][..], &["compare", "run", long], &estimate, &["devices"]] {
        for line in printed(bench.wattle(args)).lines() {
            assert!(line.chars().count() <= 80, "{args:?}: {line}");
        }
    }
    let mut dumb = bench.wattle(&["report", "run"]);
    dumb.env("TERM", "dumb");
    let text = printed(dumb);
    assert!(text.contains("###") && !text.contains('█') && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn an_old_run_is_priced_again_and_nothing_in_it_changes() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run"]));
    let files = ["emissions.jsonl", "power.trace", "emissions.csv"];
    let read = || files.map(|name| fs::read(bench.join("run").join(name)).unwrap());
    let before = read();
    let now = jiff::Timestamp::now();
    let row = |hour: i64| format!("{},1000\n", now + jiff::SignedDuration::from_hours(hour));
    let rows: String = (-1..2).map(row).collect();
    fs::write(bench.join("table.csv"), format!("timestamp,g_per_kwh\n{rows}")).unwrap();
    let args = ["report", "run", "--reprice", "table.csv", "--json"];
    let report: Value = serde_json::from_str(&printed(bench.wattle(&args))).unwrap();
    let whole = bench.records("run").pop().unwrap();
    let after = report["repriced"]["emissions_g"].as_f64().unwrap();
    assert!((after - whole.facility_kwh * 1000.0).abs() < 1e-6, "{after}");
    assert_eq!(read(), before);
    fs::write(bench.join("old.csv"), "timestamp,g_per_kwh\n2020-01-01T00:00:00Z,1\n").unwrap();
    let said = expect(1, bench.wattle(&["report", "run", "--reprice", "old.csv"]));
    assert!(said.contains("old.csv"), "{said}");
}

#[test]
fn runs_with_other_tokenizers_are_compared_in_bits_a_byte() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "chars"]));
    expect(0, bench.train(&["--out", "bytes", "--set", "tokenizer.kind=bytes"]));
    let compare: Value =
        serde_json::from_str(&printed(bench.wattle(&["compare", "chars", "bytes", "--json"]))).unwrap();
    assert_eq!(compare["measure"], "bits_per_byte", "{compare:#}");
    let conditions = compare["conditions"].as_array().unwrap();
    let of = |what: &str| conditions.iter().find(|c| c["what"].as_str().unwrap().contains(what));
    assert!(of("different data").is_none(), "the text is the same: {conditions:?}");
    assert_eq!(of("tokenizers differ").unwrap()["is_blocking"], false);
    let text = printed(bench.wattle(&["compare", "chars", "bytes", "--html", "compare.html"]));
    assert!(text.contains("bits a byte") && text.contains("tokenizer.kind"), "{text}");
    assert!(fs::read_to_string(bench.join("compare.html")).unwrap().contains("<svg"));
    expect(0, bench.train(&["--out", "again", "--set", "run.seed=2"]));
    let same: Value =
        serde_json::from_str(&printed(bench.wattle(&["compare", "chars", "again", "--json"]))).unwrap();
    assert_eq!(same["measure"], "nats_per_token");
    assert_eq!(same["groups"].as_array().unwrap().len(), 1, "two seeds of one way");
}

#[test]
fn a_run_that_no_machine_here_can_do_is_estimated_with_its_assumptions() {
    let bench = Workbench::new();
    let args = ["estimate", "--params", "175B", "--tokens", "300B", "--gpu", "V100", "--gpus", "10000"];
    let text = printed(bench.wattle(&args));
    assert!(text.contains("assumed") && text.contains("MWh") && text.contains("tCO2e"), "{text}");
    let said = expect(
        2,
        bench.wattle(&["estimate", "--params", "x", "--tokens", "1", "--gpu", "Z9", "--gpus", "1"]),
    );
    assert!(said.contains("--params") && said.contains("V100"), "{said}");
}

#[test]
fn a_measured_step_is_scaled_to_many_gpus() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run"]));
    let scale = ["estimate", "--run", "run", "--gpus", "64", "--network", "100"];
    let text = printed(bench.wattle(&scale));
    assert!(text.contains("simulated") && text.contains("800 Gbit/s a machine of 8 GPUs"), "{text}");
    assert!(text.contains("% estimated"), "no board was measured: {text}");
    let json = |more: &[&str]| -> Value {
        let text = printed(bench.wattle(&[&scale[..], more, &["--json"]].concat()));
        serde_json::from_str(&text).unwrap()
    };
    let scaling = json(&[]);
    assert_eq!(scaling["schema"], "wattle.scaling/1");
    let gpus: Vec<_> = scaling["points"].as_array().unwrap().iter().map(|p| p["gpus"].as_u64()).collect();
    assert_eq!(gpus, [1, 8, 16, 32, 64].map(Some));
    let efficiency = |scaling: &Value| scaling["points"][4]["efficiency"].as_f64().unwrap();
    let shared = json(&["--network-per", "machine", "--network-hop-us", "1000"]);
    assert!(efficiency(&shared) < efficiency(&scaling), "less bandwidth and slower hops");
    let said = expect(2, bench.wattle(&[&scale[..], &["--overlap", "2", "--shard", "3"]].concat()));
    assert!(said.contains("--overlap 2") && said.contains("--shard 3"), "{said}");
    let said = expect(2, bench.wattle(&["estimate", "--run", "run", "--gpus", "8"]));
    assert!(said.contains("--network"), "{said}");
    let said = expect(2, bench.wattle(&[&scale[..], &["--tokens", "1B"]].concat()));
    assert!(said.contains("--tokens"), "{said}");
}
