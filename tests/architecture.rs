//! The arrows of the house, over `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Direct dependencies of every crate of the workspace, those of its tests left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let normal = dependencies.filter(|d| d["kind"].is_null());
        normal.map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|p| (p["name"].as_str().unwrap().to_owned(), names(p))).collect()
}

/// Everything that `name` depends on within the workspace, and candle.
fn reach(all: &BTreeMap<String, BTreeSet<String>>, name: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut waiting = vec![name.to_owned()];
    while let Some(next) = waiting.pop() {
        for dependency in all.get(&next).into_iter().flatten() {
            if reached.insert(dependency.clone()) {
                waiting.push(dependency.clone());
            }
        }
    }
    reached
}

#[test]
fn arrows_point_down_and_the_columns_meet_in_the_session_alone() {
    let all = dependencies();
    let reach = |name: &str| reach(&all, name);
    let learning = ["wattle-data", "wattle-ops", "wattle-model", "wattle-train"];
    let measuring = ["wattle-meter"];
    for learner in learning {
        for meter in measuring {
            assert!(!reach(learner).contains(meter), "{learner} reaches {meter}");
            assert!(!reach(meter).contains(learner), "{meter} reaches {learner}");
        }
    }
    for free in
        ["wattle-runlog", "wattle-meter", "wattle-grid", "wattle-data", "wattle-random", "wattle-settings"]
    {
        let candle = reach(free).into_iter().find(|name| name.starts_with("candle"));
        assert_eq!(candle, None, "{free} reaches candle");
    }
    let of_ours = reach("wattle-settings").into_iter().find(|name| name.starts_with("wattle"));
    assert_eq!(of_ours, None, "what defines settings knows none");
    let of_ours: Vec<_> =
        reach("wattle-dist").into_iter().filter(|name| name.starts_with("wattle")).collect();
    assert!(of_ours.iter().all(|name| name == "wattle-cuda"), "ranks know nothing of training: {of_ours:?}");
    for (name, direct) in &all {
        assert!(!direct.contains("wattle"), "{name} depends on the command line");
        let meets = ["wattle-meter", "wattle-train"].iter().all(|column| reach(name).contains(*column));
        let may_meet = ["wattle", "wattle-session"].contains(&name.as_str());
        assert!(!meets || may_meet, "{name} joins learning and measuring");
    }
}

#[test]
fn versions_stand_in_the_workspace_alone() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for entry in std::fs::read_dir(root).unwrap() {
        let manifest = entry.unwrap().path().join("Cargo.toml");
        let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
        let dependencies = text.split("dependencies]").skip(1).flat_map(str::lines);
        for line in dependencies.take_while(|line| !line.starts_with('[')).filter(|line| line.contains(" = "))
        {
            assert!(!line.contains("version"), "{}: {line}", manifest.display());
        }
    }
}
