//! Tasks and samples: scored by itself, in training, and compared.

use std::fs;

use serde_json::Value;
use wattle_runlog::{EventBody, Sample, TaskScores};

use crate::workbench::{Workbench, expect};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/lm_eval");
/// f32 against f32, in other orders of summation: 1e-5 was seen.
const TOLERANCE: f64 = 2e-4;

fn json_of(bench: &Workbench, args: &[&str]) -> Value {
    let output = bench.wattle(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn answers_and_scores_are_those_of_lm_evaluation_harness() {
    let bench = Workbench::new();
    let golden: Value = serde_json::from_slice(&fs::read(format!("{GOLDEN}/answers.json")).unwrap()).unwrap();
    let files = ["choice", "cloze", "generate"].map(|kind| format!("{GOLDEN}/{kind}.jsonl"));
    let model = format!("{GOLDEN}/model");
    let evaluate = |batch_size: &str| {
        let args = ["evaluate", &model, "--device", "cpu", "--json", "--batch-size", batch_size, "--tasks"];
        json_of(&bench, &[&args[..], &files.each_ref().map(String::as_str)].concat())
    };
    let found = evaluate("1");
    let tasks = found["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 3);
    for task in tasks {
        let kind = task["task"].as_str().unwrap();
        let expected = &golden["tasks"][kind];
        let (theirs, ours) = (expected["answers"].as_array().unwrap(), task["answers"].as_array().unwrap());
        assert_eq!((theirs.len(), theirs.len() as u64), (ours.len(), task["items"].as_u64().unwrap()));
        for (theirs, ours) in theirs.iter().zip(ours) {
            for key in ["is_greedy", "text", "is_right"] {
                assert_eq!(theirs[key], ours[key], "{kind} {key}");
            }
            let likelihoods =
                |answer: &Value| answer["log_likelihoods"].as_array().cloned().unwrap_or_default();
            for (a, b) in likelihoods(theirs).iter().zip(likelihoods(ours)) {
                assert!((number(a) - number(&b)).abs() < TOLERANCE, "{kind}: {a} against {b}");
            }
        }
        for score in task["scores"].as_array().unwrap() {
            let metric = score["metric"].as_str().unwrap();
            let is_near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b.abs();
            if let Some(value) = expected["scores"][metric].as_f64() {
                assert!(is_near(number(&score["value"]), value), "{kind} {metric}: {score} against {value}");
            }
            if let Some(error) = expected["stderr"][metric].as_f64() {
                assert!(is_near(number(&score["stderr"]), error), "{kind} {metric}: {score} against {error}");
            }
        }
        // The last prompt but one of the choices is longer than the model's context.
        assert_eq!(task["truncated"], 1, "{kind}");
    }
    assert_eq!(evaluate("7")["tasks"], found["tasks"]);
}

#[test]
fn the_table_fits_a_terminal_and_a_wrong_line_is_told() {
    let bench = Workbench::new();
    let (model, choice) = (format!("{GOLDEN}/model"), format!("{GOLDEN}/choice.jsonl"));
    let evaluate = |file: &str| bench.wattle(&["evaluate", &model, "--device", "cpu", "--tasks", file]);
    let output = evaluate(&choice).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("acc_norm") && text.contains("± stderr") && text.contains("36"), "{text}");
    assert!(text.contains("longer than the model's context"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let good = "{\"kind\":\"cloze\",\"prompt\":\"a\",\"answer\":\"b\"}\n";
    fs::write(bench.join("wrong.jsonl"), format!("{good}{}", good.replace("answer", "anser"))).unwrap();
    let said = expect(1, evaluate("wrong.jsonl"));
    for part in ["wrong.jsonl", "line 2", "\"anser\""] {
        assert!(said.contains(part), "{said}");
    }
    let both = ["evaluate", &model, "--tasks", &choice, "--text", &choice];
    let said = expect(2, bench.wattle(&both));
    assert!(said.contains("--text"), "{said}");
}

const PROMPTS: &str = "evaluate.prompts=[\"1 and 2\", \"3 and <b>\"]";

/// Items that the small run's text answers.
fn write_tasks(bench: &Workbench) {
    let sum = |i: usize| {
        let (a, b) = (i % 7, i % 5);
        format!(
            "{{\"kind\":\"choice\",\"prompt\":\"{a} and {b} make\",\"choices\":[\" {}.\",\" 0 and\"],\"answer\":0}}\n",
            a + b
        )
    };
    fs::write(bench.join("sums.jsonl"), (1..13).map(sum).collect::<String>()).unwrap();
    let said = "{\"kind\":\"generate\",\"prompt\":\"1 and\",\"answer\":\" 2\",\"max_tokens\":2}\n";
    fs::write(bench.join("said.jsonl"), said.repeat(3)).unwrap();
}

/// What was found in a run, by step; of steps that were made twice, the last.
fn found(bench: &Workbench, run: &str) -> Vec<(u64, Vec<TaskScores>, Vec<Sample>)> {
    let mut found: Vec<(u64, Vec<TaskScores>, Vec<Sample>)> = Vec::new();
    for event in bench.events(run) {
        match event.body {
            EventBody::Tasks { step, tasks } => {
                found.retain(|(at, ..)| *at < step);
                found.push((step, tasks, Vec::new()));
            }
            EventBody::Samples { step, samples } => {
                let (at, _, of_step) = found.last_mut().unwrap();
                assert_eq!(*at, step);
                *of_step = samples;
            }
            _ => {}
        }
    }
    found
}

#[test]
fn scores_in_training_change_no_bit_are_resumed_and_compared() {
    let bench = Workbench::new();
    write_tasks(&bench);
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    // The characters of every prompt are in the vocabulary.
    fs::write(bench.join("text.txt"), format!("<b> {text}")).unwrap();
    // A rate that does not depend on where a run ends.
    let common = ["--set", "evaluate.every_steps=5", "--set", "schedule.kind=constant"];
    let set = [&common[..], &["--set", "evaluate.prompt_tokens=6"]].concat();
    let tasks = ["--set", "evaluate.tasks=[\"sums.jsonl\", \"said.jsonl\"]", "--set", PROMPTS];
    let examined = |out: &'static str, more: &[&str]| {
        bench.train(&[&["--out", out], &set[..], &tasks[..], more].concat())
    };
    expect(0, bench.train(&[&["--out", "plain"], &common[..]].concat()));
    expect(0, examined("whole", &[]));
    assert_eq!(bench.losses("plain"), bench.losses("whole"));
    let weights = |run: &str| fs::read(bench.join(run).join("checkpoints/latest/model.safetensors")).unwrap();
    assert!(weights("plain") == weights("whole"), "the tasks changed the weights");
    let whole = found(&bench, "whole");
    assert_eq!(
        whole.iter().map(|(step, ..)| *step).collect::<Vec<_>>(),
        [5, 10, 12, 15, 20, 24, 25, 30, 35, 36]
    );
    for (_, tasks, samples) in &whole {
        assert_eq!((tasks.len(), samples.len()), (2, 2));
        assert_eq!((tasks[0].items, tasks[1].kind.as_str()), (12, "generate"));
        assert_eq!(samples[0].text.chars().count(), 6);
    }

    // Cut short after 17 steps by another limit, and gone on with.
    expect(0, examined("parts", &["--set", "train.max_steps=17"]));
    expect(0, examined("parts", &["--resume", "--set", "train.max_steps=36"]));
    let parts: Vec<_> = found(&bench, "parts").into_iter().filter(|(step, ..)| *step != 17).collect();
    assert_eq!(parts, whole);

    // A checkpoint by itself has the score that it had in training, and keeps it.
    let args = ["evaluate", "plain", "--device", "cpu", "--json", "--tasks", "sums.jsonl"];
    let alone = json_of(&bench, &args);
    let last = whole.last().unwrap().1[0].score(None).unwrap();
    assert_eq!(alone["tasks"][0]["scores"][0]["value"], last.value);
    let kept = fs::read_to_string(bench.join("plain/tasks.jsonl")).unwrap();
    assert!(kept.contains("\"step\":36") && kept.lines().count() == 1, "{kept}");

    let compared = json_of(&bench, &["compare", "plain", "whole", "--metric", "sums", "--json"]);
    assert_eq!(compared["metric"]["task"], "sums");
    assert_eq!(compared["runs"][0]["final_loss"], 1.0 - last.value);
    let said = expect(1, bench.wattle(&["compare", "plain", "whole", "--metric", "said"]));
    assert!(said.contains("no score of said") && said.contains("sums:acc_norm"), "{said}");

    // The page shows what was written, as text and not as markup.
    let page = fs::read_to_string(bench.join("whole/report.html")).unwrap();
    assert!(page.contains("<h2>Samples</h2>") && page.contains("3 and &lt;b&gt;"));
    assert!(page.contains("<h2>Tasks</h2>") && !page.contains("3 and <b>"));
    let report = String::from_utf8(bench.wattle(&["report", "whole"]).output().unwrap().stdout).unwrap();
    assert!(report.contains("sums") && report.contains("of 12 items"), "{report}");
}

#[test]
fn a_run_that_cannot_be_examined_does_not_start() {
    let bench = Workbench::new();
    fs::write(
        bench.join("long.jsonl"),
        format!("{{\"kind\":\"cloze\",\"prompt\":\"1\",\"answer\":\"{}\"}}", "1 and ".repeat(5)),
    )
    .unwrap();
    let cases = [
        ("evaluate.tasks=[\"none.jsonl\"]", "none.jsonl"),
        ("evaluate.tasks=[\"long.jsonl\"]", "item 1"),
        ("evaluate.prompts=\"none.txt\"", "none.txt"),
        ("evaluate.prompts=3", "a list of texts"),
    ];
    for (setting, part) in cases {
        let said = expect(
            if part == "a list of texts" { 2 } else { 1 },
            bench.train(&["--out", "run", "--set", setting]),
        );
        assert!(said.contains(part), "{setting}: {said}");
        assert!(!bench.join("run").exists(), "{setting} left a directory");
    }
}
