//! kill -9 at any moment: every file can be read, nothing is there twice, what was used is known, and the run goes on
//! from a whole checkpoint to the same bits. Half of the runs leave a checkpoint after each step, so that one is nearly
//! always being written while steps are made.
//!
//! `WATTLE_CRASH_MOMENTS=200 cargo test --test tests crash` tries more moments than the few of an ordinary run.

use std::collections::HashSet;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wattle_random::{Purpose, Stream};
use wattle_runlog::record::RecordKind;
use wattle_runlog::{EventBody, MonotonicNs, StopReason};
use wattle_train::TrainState;
use wattle_train::checkpoint::FileSum;

use crate::workbench::{Running, Workbench, expect};

/// Moments tried unless told otherwise.
const MOMENTS: u64 = 12;
/// Every how many steps a run leaves a checkpoint.
const EVERY_STEPS: [&str; 2] = ["checkpoint.every_steps=5", "checkpoint.every_steps=1"];
/// A moment is drawn from so many microseconds after the start.
const WITHIN_US: u32 = 2_500_000;
/// Readings are made durable once a second; the rest is for a busy machine that is late with it.
const SYNC_S: f64 = 1.5;

#[test]
fn killed_at_any_moment_no_file_is_torn_and_at_most_a_second_of_energy_is_lost() {
    let moments = fuzz::size("WATTLE_CRASH_MOMENTS", MOMENTS);
    let random = Stream::new(29, Purpose::Order, 0);
    let bench = Workbench::new();
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("text.txt"), text.repeat(40)).unwrap();
    // Its corpus is prepared, so that the moments fall within training too.
    expect(0, bench.train(&["--out", "warm", "--set", "train.max_steps=1"]));
    let mut reached = Vec::new();
    for moment in 0..moments {
        let run = format!("run-{moment}");
        let settings = ["train.epochs=1000", "schedule.kind=constant", EVERY_STEPS[moment as usize % 2]];
        let settings: Vec<&str> = settings.into_iter().flat_map(|pair| ["--set", pair]).collect();
        let child = Running::start(bench.train(&[&["--out", run.as_str()], &settings[..]].concat()));
        sleep(Duration::from_micros(u64::from(random.word(moment) % WITHIN_US)));
        child.signal(Signal::KILL);
        let killed = MonotonicNs::now();
        drop(child);
        if !bench.join(&run).join("run.lock").exists() {
            continue;
        }
        expect_whole_checkpoints(&bench, &run);
        reached.push((go_on_and_check(&bench, &run, &settings, killed), run));
    }
    let Some(most) = reached.iter().map(|(step, _)| *step).max() else { return };
    let (max_steps, constant) = (format!("train.max_steps={most}"), "schedule.kind=constant");
    let long = ["train.epochs=1000", constant, &max_steps].into_iter().flat_map(|pair| ["--set", pair]);
    expect(0, bench.train(&["--out", "never-killed"].into_iter().chain(long).collect::<Vec<_>>()));
    let whole = bench.losses("never-killed");
    for (step, run) in reached {
        assert!(bench.losses(&run) == whole[..step as usize], "{run}: other losses than without a kill");
    }
    println!("attack: kills: {moments} cases, 0 failures");
}

/// Every checkpoint that has its name is whole, and the last that was told of is there, or one after it.
fn expect_whole_checkpoints(bench: &Workbench, run: &str) {
    let folder = bench.join(run).join("checkpoints");
    let Ok(entries) = fs::read_dir(&folder) else { return };
    let mut newest = None;
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok()) else {
            continue;
        };
        let state = TrainState::read(&path).unwrap();
        let sums: Vec<_> = state.files.iter().map(|file| FileSum::of(&path, &file.name).unwrap()).collect();
        assert_eq!((state.step, sums), (step, state.files), "{run}: {name} is not whole");
        newest = newest.max(Some(step));
    }
    let told = bench.events(run).into_iter().rev().find_map(|event| match event.body {
        EventBody::Checkpoint { step, .. } => Some(step),
        _ => None,
    });
    assert!(
        newest >= told,
        "{run}: the checkpoint of step {told:?} was told of, and the newest is {newest:?}"
    );
    assert!(told.is_none() || folder.join("latest").exists(), "{run}: latest leads nowhere");
}

/// Goes on with a killed run for a few steps, and looks at everything that it then holds. Returns the last step.
fn go_on_and_check(bench: &Workbench, run: &str, settings: &[&str], killed: MonotonicNs) -> u64 {
    let reached = bench.steps(run).last().map_or(0, |step| step.step);
    let max_steps = format!("train.max_steps={}", reached + 2);
    let started = Instant::now();
    let args = [&["--out", run, "--resume", "--set", &max_steps], settings].concat();
    expect(0, bench.train(&args));
    assert!(started.elapsed() < Duration::from_secs(60), "{run}: going on took {:?}", started.elapsed());

    let events = bench.events(run);
    assert!(matches!(events.last().unwrap().body, EventBody::Stop { reason: StopReason::Done, .. }), "{run}");
    let steps: Vec<(u32, u64)> = events
        .iter()
        .filter_map(|event| match &event.body {
            EventBody::Step(step) => Some((event.segment, step.step)),
            _ => None,
        })
        .collect();
    let distinct: HashSet<_> = steps.iter().copied().collect();
    assert_eq!(distinct.len(), steps.len(), "{run}: a step is there twice in one segment");
    let numbers: HashSet<u64> = steps.iter().map(|(_, step)| *step).collect();
    assert_eq!(numbers.len() as u64, reached + 2, "{run}: a step is missing");

    let records = bench.records(run);
    let last = records.last().unwrap();
    assert_eq!((last.kind, last.energy_j), (RecordKind::Final, last.cumulative.energy_j), "{run}");
    let parts: f64 = records.iter().filter(|r| r.kind != RecordKind::Final).map(|r| r.energy_j.get()).sum();
    assert!(parts <= last.energy_j.get() + 1e-6, "{run}: parts of {parts} J, {:?} in all", last.energy_j);
    // What the killed segment's records reach up to, if it had begun to sample.
    let known = records.iter().filter(|r| r.segment == 0).filter_map(|r| r.end_ns).max();
    if let Some(known) = known {
        let lost = killed.since(known).get();
        assert!(lost < SYNC_S, "{run}: {lost} s before the kill are not accounted for");
    }
    reached + 2
}
