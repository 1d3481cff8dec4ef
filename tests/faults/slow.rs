//! A disk that is slow: steps go on while it takes a checkpoint.

use std::fs;

use wattle_runlog::EventBody;
use wattle_runlog::record::{PhaseJoules, RecordKind};

use super::injector::{Fault, Injector, When};
use crate::workbench::{Workbench, expect};

#[test]
fn steps_go_on_while_a_slow_disk_takes_a_checkpoint_and_the_next_one_waits_for_it() {
    let (bench, injector) = (Workbench::new(), Injector::new());
    let train = |run: &str, background: &str| {
        let background = format!("checkpoint.background={background}");
        let settings = ["train.max_steps=20", "checkpoint.keep=0", "checkpoint.every_epochs=0", &background];
        let settings = settings.into_iter().flat_map(|pair| ["--set", pair]);
        bench.train(&["--out", run].into_iter().chain(settings).collect::<Vec<_>>())
    };
    expect(0, train("quick", "false"));
    for (run, is_beside) in [("beside", true), ("waited", false)] {
        let mut command = train(run, if is_beside { "true" } else { "false" });
        // A checkpoint makes ten files and more durable.
        let slow = Fault { call: "sync", effect: "slow", when: When::Every(1) };
        injector.inject(&mut command, &bench.join(run).join("checkpoints"), Some(slow));
        expect(0, command);
        assert!(injector.seen().iter().filter(|seen| seen.failed).count() > 40, "{run}");

        assert_eq!(bench.losses(run), bench.losses("quick"), "{run}");
        for step in ["step-00000005", "step-00000010", "step-00000015", "step-00000020"] {
            for file in ["model.safetensors", "optimizer.safetensors", "config.json", "tokenizer.json"] {
                let read = |run: &str| fs::read(bench.join(run).join("checkpoints").join(step).join(file));
                assert!(read(run).unwrap() == read("quick").unwrap(), "{run}: {file} of {step}");
            }
        }
        // Each event's step, or of a checkpoint its step and the last one told before it.
        let (mut told, mut at_checkpoints) = (0, Vec::new());
        for event in bench.events(run) {
            match event.body {
                EventBody::Step(step) => told = step.step,
                EventBody::Checkpoint { step, .. } => at_checkpoints.push((step, told)),
                _ => {}
            }
        }
        // While one is written, training reaches the next one, and waits.
        let expected = if is_beside { [10, 15, 20, 20] } else { [5, 10, 15, 20] };
        let steps: Vec<u64> = at_checkpoints.iter().map(|(step, _)| *step).collect();
        let reached: Vec<u64> = at_checkpoints.iter().map(|(_, told)| *told).collect();
        assert_eq!((&steps[..], &reached[..]), (&[5, 10, 15, 20][..], &expected[..]), "{run}");

        let records = bench.records(run);
        let whole = records.iter().find(|record| record.kind == RecordKind::Final).unwrap();
        let PhaseJoules { checkpoint, .. } = whole.phases;
        assert!(checkpoint.get() > 0.0, "{run}: {whole:?}");
        let rest = (whole.phases.total() - whole.energy_j).get().abs();
        assert!(rest < 1e-6 * whole.energy_j.get(), "{run}: {rest} J of {:?}", whole.energy_j);
    }
}
