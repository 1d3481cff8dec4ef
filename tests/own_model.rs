//! The example of a model of one's own, run as a user would.

use wattle_runlog::{Event, EventBody, LineFile};
use wattle_session::{Config, Outcome, SessionError, Trained};

use wattle_train::config::ScheduleKind;

use crate::workbench::Workbench;

#[path = "../examples/own_model.rs"]
mod example;

fn train(bench: &Workbench, steps: u64) -> Trained {
    match example::train(config(bench, steps), &bench.join("run")).unwrap() {
        Outcome::Trained(trained) => *trained,
        other @ (Outcome::WasFinished | Outcome::Followed(_)) => panic!("{other:?}"),
    }
}

fn config(bench: &Workbench, steps: u64) -> Config {
    let mut config = example::config(&bench.join("text.txt"), steps);
    config.data.cache_dir = Some(bench.join("cache"));
    // A longer run then has the same learning rates.
    config.schedule.kind = ScheduleKind::Constant;
    config
}

fn losses(bench: &Workbench) -> Vec<f32> {
    let events = LineFile::read(&bench.join("run/events.jsonl"), Event::from_json).unwrap().entries;
    let step = |event: Event| match event.body {
        EventBody::Step(step) => Some(step.loss),
        _ => None,
    };
    events.into_iter().filter_map(step).collect()
}

#[test]
fn a_candle_nn_model_trains_is_metered_and_goes_on_from_its_checkpoint() {
    let bench = Workbench::new();
    let text = bench.join("text.txt");
    std::fs::write(&text, "the cat sat on the mat and the dog sat on the log. ".repeat(200)).unwrap();
    let first = train(&bench, 60);
    let energy = first.record.unwrap().energy_j;
    assert!(energy.get() > 0.0, "{energy:?}");
    let learnt = losses(&bench);
    assert_eq!(learnt.len(), 60);
    assert!(learnt[59] < 0.7 * learnt[0], "{} then {}", learnt[0], learnt[59]);
    let checkpoint = bench.join("run/checkpoints/latest");
    for name in ["model.safetensors", "optimizer.safetensors", "emissions.json", "README.md"] {
        assert!(checkpoint.join(name).exists(), "{name}");
    }
    let card = std::fs::read_to_string(checkpoint.join("README.md")).unwrap();
    assert!(card.contains("A speller model of"), "{card}");
    assert!(bench.join("run/report.html").exists());

    let stored = std::fs::read_to_string(bench.join("run/config.toml")).unwrap();
    assert!(stored.contains("context = 16") && !stored.contains("n_layers"), "{stored}");
    let again = example::train(config(&bench, 60), &bench.join("run")).unwrap();
    assert!(matches!(again, Outcome::WasFinished));
    let second = train(&bench, 70);
    assert_eq!((second.step, losses(&bench).len()), (70, 70));

    // The same 70 steps without a stop.
    let other = Workbench::new();
    std::fs::copy(&text, other.join("text.txt")).unwrap();
    train(&other, 70);
    assert_eq!(losses(&bench), losses(&other));
}

#[test]
fn a_session_refuses_what_the_command_line_refuses() {
    let bench = Workbench::new();
    std::fs::write(bench.join("text.txt"), "a b c d e f g h i j. ".repeat(200)).unwrap();
    let refused = |config: Config| match example::train(config, &bench.join("run")) {
        Err(SessionError::Config(faults)) => faults.join("\n"),
        other => panic!("{other:?}"),
    };
    let mut wrong = config(&bench, 5);
    (wrong.optimizer.learning_rate, wrong.train.batch_size) = (-1.0, 0);
    let said = refused(wrong);
    assert!(said.contains("optimizer.learning_rate = -1") && said.contains("train.batch_size = 0"), "{said}");
    let mut wrong = config(&bench, 5);
    wrong.model.context = 32;
    assert!(refused(wrong).contains("model.context = 32: the model's own context is 16"));
    assert!(!bench.join("run").exists());

    train(&bench, 5);
    let mut other = config(&bench, 9);
    other.optimizer.learning_rate = 1e-4;
    let said = refused(other);
    assert!(said.contains("optimizer.learning_rate: 0.01 in the run, 0.0001 now"), "{said}");
}
