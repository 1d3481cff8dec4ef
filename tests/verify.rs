//! `wattle verify`: the operations of this machine against their references.

use serde_json::Value;

use crate::workbench::{Workbench, expect};

#[test]
fn every_operation_and_gradient_is_checked_and_holds() {
    let bench = Workbench::new();
    let output = bench.wattle(&["verify", "--device", "cpu", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema"], &report["failed"]), (&"wattle.verify/1".into(), &0.into()));
    let checks = report["checks"].as_array().unwrap();
    let places = report["places"].as_array().unwrap();
    assert_eq!(places[0], "cpu baseline");
    for (op, outputs) in [
        ("embedding", &["out", "grad_token_table", "grad_position_table"][..]),
        ("layer_norm", &["out", "sum", "grad_x", "grad_weight", "grad_bias"]),
        ("rms_norm", &["out", "sum", "grad_x", "grad_weight"]),
        ("linear", &["out", "grad_x", "grad_weight", "grad_bias"]),
        ("rope", &["out", "grad_x"]),
        ("attention", &["out", "grad_qkv"]),
        ("activation", &["out", "grad_x", "grad_bias"]),
        ("swiglu", &["out", "grad_gate", "grad_up"]),
        ("dropout", &["out", "grad_x"]),
        ("classifier", &["losses", "grad_x", "grad_weight"]),
        ("grad_norm", &["out"]),
        ("adamw", &["value", "mean", "mean_square"]),
        ("muon", &["value", "momentum"]),
    ] {
        for (output, place) in outputs.iter().flat_map(|output| places.iter().map(move |p| (output, p))) {
            let is_it = |c: &&Value| c["op"] == op && c["output"] == *output && c["place"] == *place;
            let check = checks.iter().find(is_it).unwrap_or_else(|| panic!("{op} {output} on {place}"));
            assert!(check["largest_error"].is_f64() && check["holds"] == true, "{check}");
        }
    }
}

#[test]
fn a_person_gets_a_table_and_a_device_that_is_not_there_is_said() {
    let bench = Workbench::new();
    let output = bench.wattle(&["verify", "--device", "cpu"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("op "), "{text}");
    assert!(text.contains("cpu baseline") && text.contains("all hold"), "{text}");
    let said = expect(1, bench.wattle(&["verify", "--device", "cuda:97"]));
    assert!(said.contains("--device cuda:97 cannot be had"), "{said}");
}
