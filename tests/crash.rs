//! kill -9 at any moment: every file can be read, nothing is there twice, and what was used is known.
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

use crate::workbench::{Running, Workbench, expect};

/// Moments tried unless told otherwise.
const MOMENTS: u64 = 12;
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
    for moment in 0..moments {
        let run = format!("run-{moment}");
        let child = Running::start(bench.train(&["--out", &run, "--set", "train.epochs=1000"]));
        sleep(Duration::from_micros(u64::from(random.word(moment) % WITHIN_US)));
        child.signal(Signal::KILL);
        let killed = MonotonicNs::now();
        drop(child);
        if !bench.join(&run).join("run.lock").exists() {
            continue;
        }
        go_on_and_check(&bench, &run, killed);
    }
    println!("attack: kills: {moments} cases, 0 failures");
}

/// Goes on with a killed run for a few steps, and looks at everything that it then holds.
fn go_on_and_check(bench: &Workbench, run: &str, killed: MonotonicNs) {
    let reached = bench.steps(run).last().map_or(0, |step| step.step);
    let max_steps = format!("train.max_steps={}", reached + 2);
    let started = Instant::now();
    expect(0, bench.train(&["--out", run, "--resume", "--set", "train.epochs=1000", "--set", &max_steps]));
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
}
