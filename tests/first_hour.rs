//! What a newcomer meets first: a configuration file to edit, a list of runs, completions, manual pages.

use std::fs;

use crate::workbench::{Workbench, expect};

fn stdout(command: &mut std::process::Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `train --dry-run` says of a configuration, without the peak, which counts the data as far as they are prepared.
fn plan(bench: &Workbench, args: &[&str]) -> Vec<String> {
    let plan = stdout(&mut bench.wattle(&[&["train", "--dry-run", "--device", "cpu"], args].concat()));
    plan.lines().filter(|line| !line.starts_with("peak")).map(str::to_owned).collect()
}

#[test]
fn a_configuration_that_was_written_out_is_the_preset() {
    let bench = Workbench::new();
    for preset in ["default", "article"] {
        let file = format!("{preset}.toml");
        let said = expect(0, bench.wattle(&["init", &file, "--preset", preset]));
        assert!(said.contains(&format!("wattle train {file}")), "{said}");
        assert_eq!(plan(&bench, &[&file]), plan(&bench, &["--preset", preset]));
    }
    let text = fs::read_to_string(bench.join("default.toml")).unwrap();
    assert!(text.contains("\nn_layers = 4\n") && text.contains("\n#dropout = 0.0\n"), "{text}");
    // Every key stands there once, and every default is TOML.
    for line in text.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' ')) {
        assert!(line.contains(" = <") || line.parse::<toml::Table>().is_ok(), "{line}");
    }
    assert!(text.lines().filter(|line| line.contains(" = ")).count() > 100, "{text}");

    let refused = expect(2, bench.wattle(&["init", "default.toml"]));
    assert!(refused.contains("default.toml exists"), "{refused}");
    assert_eq!(fs::read_to_string(bench.join("default.toml")).unwrap(), text);
    let wrong = expect(2, bench.wattle(&["init", "wrong.toml", "--set", "model.n_layer=2"]));
    assert!(wrong.contains("n_layers") && !bench.join("wrong.toml").exists(), "{wrong}");
    let set = stdout(&mut bench.wattle(&["init", "-", "--set", "model.n_layers=2"]));
    assert!(set.contains("\nn_layers = 2\n"), "{set}");
}

#[test]
fn runs_are_listed() {
    let bench = Workbench::new();
    let nothing = expect(1, bench.wattle(&["runs"]));
    assert!(nothing.contains("runs: there is no such"), "{nothing}");
    expect(0, bench.train(&["--out", "runs/a", "--set", "train.max_steps=3"]));
    let text = stdout(&mut bench.wattle(&["runs"]));
    assert!(text.contains("a ") && text.contains("done"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&mut bench.wattle(&["runs", "--json"]))).unwrap();
    assert_eq!(json["runs"][0]["path"], "runs/a");
    assert_eq!(json["runs"][0]["steps"], 3);
}

#[test]
fn shells_complete_commands_keys_and_runs() {
    let bench = Workbench::new();
    let registration = |shell: &str| stdout(bench.wattle(&[]).env("COMPLETE", shell));
    for shell in ["bash", "zsh", "fish"] {
        assert!(registration(shell).contains("wattle"), "{shell}");
    }
    let complete = |words: &[&str]| {
        let mut command = bench.wattle(&[&["--", "wattle"], words].concat());
        let index = words.len().to_string();
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_IFS", "\n");
        stdout(command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true"))
    };
    assert!(complete(&["tr"]).contains("train"));
    assert!(complete(&["train", "--preset", "g"]).contains("gpt2-124m"));
    assert!(complete(&["train", "--set", "optimizer.le"]).contains("optimizer.learning_rate="));
    fs::create_dir_all(bench.join("runs/mine")).unwrap();
    fs::write(bench.join("runs/mine/manifest.json"), "{}").unwrap();
    assert!(complete(&["report", "runs/m"]).contains("runs/mine"));
}

#[test]
fn every_command_has_a_manual_page() {
    let bench = Workbench::new();
    expect(0, bench.wattle(&["man", "--out", "man1"]));
    for page in ["wattle.1", "wattle-train.1", "wattle-report.1"] {
        let text = fs::read_to_string(bench.join("man1").join(page)).unwrap();
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{page}: {text}");
    }
    assert!(!bench.join("man1/wattle-tune-trial.1").exists());
}
