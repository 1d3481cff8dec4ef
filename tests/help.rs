//! Help texts, as they are read.

use crate::workbench::Workbench;

fn help(args: &[&str]) -> String {
    let bench = Workbench::new();
    let output = bench.wattle(args).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_texts() {
    insta::assert_snapshot!("help", help(&["--help"]));
    insta::assert_snapshot!("help_train", help(&["train", "--help"]));
    insta::assert_snapshot!("help_prepare", help(&["prepare", "--help"]));
    insta::assert_snapshot!("help_generate", help(&["generate", "--help"]));
    insta::assert_snapshot!("help_evaluate", help(&["evaluate", "--help"]));
    insta::assert_snapshot!("help_verify", help(&["verify", "--help"]));
    insta::assert_snapshot!("help_export", help(&["export", "--help"]));
    insta::assert_snapshot!("help_meter", help(&["meter", "--help"]));
    insta::assert_snapshot!("help_report", help(&["report", "--help"]));
    insta::assert_snapshot!("help_compare", help(&["compare", "--help"]));
    insta::assert_snapshot!("help_sweep", help(&["sweep", "--help"]));
    insta::assert_snapshot!("help_estimate", help(&["estimate", "--help"]));
    insta::assert_snapshot!("help_tune", help(&["tune", "--help"]));
    insta::assert_snapshot!("help_calibrate", help(&["calibrate", "--help"]));
    insta::assert_snapshot!("help_devices", help(&["devices", "--help"]));
}
