//! Stopping and going on: what was learnt is the same to the bit, what was used is booked.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use wattle_random::{Purpose, Stream};
use wattle_runlog::record::RecordKind;
use wattle_runlog::{EventBody, StopReason};

use crate::workbench::{Running, Workbench, expect};

/// Losses by step; where a step was made twice, both times with the same bits.
fn losses(bench: &Workbench, run: &str) -> Vec<(u64, u32)> {
    let mut losses: Vec<(u64, u32)> =
        bench.steps(run).iter().map(|step| (step.step, step.loss.to_bits())).collect();
    losses.sort_unstable();
    losses.dedup();
    losses
}

/// Waits until the run has made `step`, and then a little.
fn wait_for_step(bench: &Workbench, run: &str, step: u64, then: Duration) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while bench.steps(run).last().is_none_or(|last| last.step < step) {
        assert!(Instant::now() < deadline, "step {step} was not made in time");
        sleep(Duration::from_millis(2));
    }
    sleep(then);
}

#[test]
fn killed_at_random_points_every_loss_is_the_same_to_the_bit() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "whole"]));
    let whole = losses(&bench, "whole");
    assert_eq!(whole.len(), 36);

    let random = Stream::new(11, Purpose::Order, 0);
    for trial in 0..4u64 {
        let run = format!("killed-{trial}");
        let args = ["--out", run.as_str(), "--resume=auto"];
        for kill in 0..3 {
            let already = bench.steps(&run).last().map_or(0, |last| last.step);
            let draw = |i: u64, n: u32| u64::from(random.word(trial * 16 + kill * 4 + i) % n);
            let child = Running::start(bench.train(&args));
            wait_for_step(
                &bench,
                &run,
                (already + 1 + draw(0, 9)).min(35),
                Duration::from_micros(draw(1, 9000)),
            );
            child.signal(Signal::KILL);
        }
        expect(0, bench.train(&args));
        assert_eq!(losses(&bench, &run), whole, "trial {trial}");
        let weights =
            |run: &str| fs::read(bench.join(run).join("checkpoints/latest/model.safetensors")).unwrap();
        assert!(weights(&run) == weights("whole"), "trial {trial}: other weights");
    }
}

#[test]
fn a_closed_terminal_stops_a_run_unless_it_was_told_to_ignore_that() {
    let bench = Workbench::new();
    let long = |run| bench.train(&["--out", run, "--set", "train.epochs=1000"]);
    // The tests themselves may have been started by nohup, whose children ignore the signal too.
    let mut unless_ignored = Command::new("env");
    let plain = long("plain");
    unless_ignored.arg("--default-signal=HUP").arg(plain.get_program()).args(plain.get_args());
    unless_ignored.current_dir(bench.path()).env("XDG_CACHE_HOME", bench.join("cache"));
    let mut child = Running::start(unless_ignored);
    wait_for_step(&bench, "plain", 8, Duration::ZERO);
    child.signal(Signal::HUP);
    assert_eq!(child.0.wait().unwrap().code(), Some(75));

    let mut under_nohup = Command::new("nohup");
    let plain = long("nohup");
    under_nohup.arg(plain.get_program()).args(plain.get_args()).current_dir(bench.path());
    under_nohup.env("XDG_CACHE_HOME", bench.join("cache")).stdin(Stdio::null());
    let mut child = Running::start(under_nohup);
    wait_for_step(&bench, "nohup", 8, Duration::ZERO);
    child.signal(Signal::HUP);
    let step = bench.steps("nohup").len() as u64;
    wait_for_step(&bench, "nohup", step + 20, Duration::ZERO);
    child.signal(Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(75));
}

#[test]
fn sigterm_leaves_a_checkpoint_and_asks_to_be_requeued() {
    let bench = Workbench::new();
    let long = ["--out", "run", "--resume=auto", "--set", "train.epochs=1000"];
    let mut child = Running::start(bench.train(&long));
    wait_for_step(&bench, "run", 8, Duration::ZERO);
    child.signal(Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(75));
    let events = bench.events("run");
    let Some(EventBody::Stop { step, reason: StopReason::Signal }) = events.last().map(|e| e.body.clone())
    else {
        panic!("{:?}", events.last());
    };
    assert_eq!(
        fs::read_link(bench.join("run/checkpoints/latest")).unwrap().to_str().unwrap(),
        format!("step-{step:08}")
    );
    let max_steps = format!("train.max_steps={}", step + 5);
    expect(0, bench.train(&[&long[..], &["--set", &max_steps]].concat()));
    let steps: Vec<u64> = bench.steps("run").iter().map(|s| s.step).collect();
    assert_eq!(steps, (1..=step + 5).collect::<Vec<_>>(), "no step is made twice");
    let records = bench.records("run");
    assert_eq!(records.last().unwrap().cumulative.wasted_j.get(), 0.0);
}

#[test]
fn prices_may_change_at_a_resume_and_each_segment_keeps_its_own() {
    let bench = Workbench::new();
    let set = |pairs: &[&str]| {
        let mut args = vec!["--out".to_owned(), "run".to_owned(), "--resume=auto".to_owned()];
        pairs.iter().for_each(|pair| args.extend(["--set".to_owned(), (*pair).to_owned()]));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        bench.train(&args)
    };
    let first =
        ["train.epochs=1000", "carbon.intensity_g_per_kwh=400", "cost.price_per_kwh=0.2", "energy.pue=2.0"];
    let mut child = Running::start(set(&first));
    wait_for_step(&bench, "run", 20, Duration::from_millis(200));
    child.signal(Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(75));
    let step = bench.steps("run").len();
    let (more, last) = (format!("train.max_steps={}", step + 5), format!("train.max_steps={}", step + 10));

    // Another currency is refused, and nothing is changed.
    let dollars = [&more, "train.epochs=1000", "cost.price_per_kwh=0.3", "cost.currency=USD"];
    let said = expect(2, set(&dollars));
    assert!(said.contains("cost.currency: \"EUR\" in the run, \"USD\" now; its costs are in EUR"), "{said}");

    let second = [&more, "energy.pue=1.0", "carbon.intensity_g_per_kwh=100", "cost.price_per_kwh=0.3"];
    expect(0, set(&second));
    // By the preset again, which has no price; the stored one goes on otherwise.
    let mut third = set(&[&last, "train.epochs=1000", "carbon.intensity_g_per_kwh=100"]);
    third.args(["--preset", "default"]);
    expect(0, third);

    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
    let records = bench.records("run");
    let (grams, prices, pues) = ([400.0, 100.0, 100.0], [Some(0.2), Some(0.3), None], [2.0, 1.0, 1.0]);
    let mut emissions = 0.0;
    for record in records.iter().filter(|record| record.kind.is_additive()) {
        let segment = record.segment as usize;
        assert_eq!((record.pue, record.carbon.intensity_g_per_kwh.get()), (pues[segment], grams[segment]));
        assert_eq!(record.cost.as_ref().map(|cost| cost.tariff_per_kwh), prices[segment]);
        assert!(near(record.emissions_g.get(), record.facility_kwh * grams[segment]), "{record:?}");
        emissions += record.emissions_g.get();
        assert!(near(record.cumulative.emissions_g.get(), emissions), "{record:?}");
    }
    assert!(records.iter().any(|record| record.kind == RecordKind::Interrupted && record.segment == 0));
    let whole: Vec<_> = records.iter().filter(|record| record.kind == RecordKind::Final).collect();
    let [two, three] = whole[..] else { panic!("{whole:?}") };
    let cost = two.cost.as_ref().unwrap();
    assert!(cost.energy_fraction.is_none() && (0.2..0.3).contains(&cost.tariff_per_kwh), "{cost:?}");
    assert!((1.0..2.0).contains(&two.pue) && two.carbon.basis.starts_with("the mean of segments"), "{two:?}");
    let partial = three.cost.as_ref().unwrap();
    let priced = records.iter().filter(|record| record.kind.is_additive());
    let sum: f64 = priced.filter_map(|record| record.cost.as_ref()).map(|cost| cost.value).sum();
    assert!(near(partial.value, sum), "a part without a price adds nothing: {partial:?}, {sum}");
    let fraction = partial.energy_fraction.unwrap();
    assert!(
        fraction > 0.0 && fraction < 1.0 && three.cumulative.cost_fraction == Some(fraction),
        "{three:?}"
    );
    let report = String::from_utf8(bench.wattle(&["report", "run"]).output().unwrap().stdout).unwrap();
    let said = report.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("of the energy") && said.contains("the mean of segments with 400 g/kWh"), "{said}");
    // With the price gone, its currency is not asked for either.
    assert!(!fs::read_to_string(bench.join("run/config.toml")).unwrap().contains("currency"));
}

#[test]
fn a_finished_run_is_left_alone_unless_it_may_go_on_for_longer() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=10"]));
    let before = bench.content("run");
    // As before, with less, and with a limit that makes no difference.
    for limit in ["train.max_steps=10", "train.max_steps=7", "train.epochs=9"] {
        let said = expect(0, bench.train(&["--out", "run", "--resume", "--set", limit]));
        assert!(said.contains("run is finished: nothing to do"), "{said}");
        assert!(bench.content("run") == before, "{limit}: a process that does nothing leaves no trace");
    }
    // Threads and logging may change with it: they change no bit.
    let longer = ["--set", "train.max_steps=12", "--set", "train.threads=2", "--set", "train.log_every=2"];
    expect(0, bench.train(&[&["--out", "run", "--resume"], &longer[..]].concat()));
    assert_eq!(bench.steps("run").last().unwrap().step, 12);
    assert_eq!(bench.events("run").iter().map(|event| event.segment).max(), Some(1));
}

#[test]
fn a_run_that_its_budget_ended_goes_on_with_a_larger_one_alone() {
    let bench = Workbench::new();
    let budget = |kwh: &str| {
        let budget = format!("budget.max_energy_kwh={kwh}");
        let long = ["--out", "run", "--resume=auto", "--set", "train.epochs=100000", "--set"];
        bench.train(&[&long[..], &[budget.as_str()]].concat())
    };
    expect(0, budget("2e-6"));
    let (before, step) = (bench.content("run"), bench.steps("run").last().unwrap().step);
    for kwh in ["2e-6", "1e-6"] {
        let said = expect(0, budget(kwh));
        assert!(said.contains("run is finished: nothing to do"), "{said}");
        assert!(bench.content("run") == before, "{kwh}");
    }
    expect(0, budget("3e-6"));
    assert!(bench.steps("run").last().unwrap().step > step);
}

#[test]
fn a_run_that_was_killed_just_before_its_end_gets_its_end() {
    let bench = Workbench::new();
    let args = ["--out", "run", "--resume=auto", "--set", "train.max_steps=10"];
    expect(0, bench.train(&args));
    // Killed after its last checkpoint.
    for (file, last) in [("run/events.jsonl", "\"event\":\"stop\""), ("run/emissions.jsonl", "\"final\"")] {
        let text = fs::read_to_string(bench.join(file)).unwrap();
        let (rest, line) = text.trim_end().rsplit_once('\n').unwrap();
        assert!(line.contains(last), "{line}");
        fs::write(bench.join(file), format!("{rest}\n")).unwrap();
    }
    expect(0, bench.train(&args));
    assert_eq!(bench.steps("run").len(), 10, "no step is made twice");
    let last = bench.events("run").pop().unwrap().body;
    assert_eq!(last, EventBody::Stop { step: 10, reason: StopReason::Done });
    assert_eq!(bench.records("run").last().unwrap().kind, RecordKind::Final);
}

#[test]
fn a_run_directory_that_is_not_there_is_an_error_with_the_nearest_names() {
    let bench = Workbench::new();
    for run in ["runs/baseline-1", "runs/baseline-2", "elsewhere/small"] {
        expect(0, bench.train(&["--out", run, "--set", "train.max_steps=2"]));
    }
    let before = bench.list(".");
    let refused = |out: &str| {
        let said = expect(2, bench.train(&["--out", out, "--resume", "--set", "train.max_steps=2"]));
        assert!(said.contains(&format!("--out {out}")) && said.contains("--resume=auto"), "{said}");
        assert_eq!(bench.list("."), before);
        said
    };
    let said = refused("runs/basline-1");
    assert!(
        said.contains("does not exist") && said.contains("Did you mean runs/baseline-1 or runs/baseline-2?"),
        "{said}"
    );
    assert!(refused("baseline-2").contains("Did you mean runs/baseline-2 or"), "of another folder");
    assert!(refused("elsewhere/smal").contains("Did you mean elsewhere/small?"));
    assert!(!refused("quite/another").contains("Did you mean"));
    fs::create_dir(bench.join("elsewhere/empty")).unwrap();
    assert!(refused("elsewhere/empty").contains("holds no run"));
    // Jobs that are requeued blindly.
    let said = expect(0, bench.train(&["--out", "new", "--resume=auto", "--set", "train.max_steps=2"]));
    assert!(said.contains("new holds no run yet: starting one"), "{said}");
    assert_eq!(bench.steps("new").len(), 2);
}

#[test]
fn before_the_first_checkpoint_it_starts_again_in_place_and_books_the_waste() {
    let bench = Workbench::new();
    // Enough text that the run is not over before it is killed.
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("text.txt"), text.repeat(40)).unwrap();
    let args =
        ["--out", "run", "--resume=auto", "--set", "checkpoint.every_steps=0", "--set", "train.epochs=1"];
    let child = Running::start(bench.train(&args));
    // Samples are made durable once a second: what a killed run used is known up to the last of them.
    wait_for_step(&bench, "run", 1, Duration::from_millis(30));
    child.signal(Signal::KILL);
    drop(child);
    expect(0, bench.train(&args));
    let steps = bench.steps("run");
    let again = steps.iter().rposition(|step| step.step == 1).unwrap();
    assert!(again >= 1 && steps.len() - again > 400, "{again} of {} steps were made before", steps.len());
    assert_eq!(losses(&bench, "run").len(), steps.len() - again, "the same losses both times");
    let records = bench.records("run");
    let last = records.last().unwrap();
    assert_eq!((last.kind, last.segment), (RecordKind::Final, 1));
    for record in records.iter().filter(|record| record.kind == RecordKind::Interrupted) {
        assert_eq!(record.segment, 0);
        assert!((last.cumulative.wasted_j.get() - record.energy_j.get()).abs() < 1e-6);
    }
}

#[test]
fn another_configuration_is_refused_with_every_difference() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=3"]));
    let said = expect(
        2,
        bench.train(&["--out", "run", "--resume", "--preset", "default", "--set", "model.n_layers=3"]),
    );
    assert!(said.contains("model.n_layers: 2 in the run, 3 now"), "{said}");
    assert!(said.contains("--out"), "{said}");
}

#[test]
fn other_data_are_refused() {
    let bench = Workbench::new();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=3"]));
    let before = bench.content("run");
    let text = fs::read_to_string(bench.join("text.txt")).unwrap();
    fs::write(bench.join("text.txt"), text.replacen("make", "made", 1)).unwrap();
    let said = expect(1, bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=6"]));
    assert!(said.contains("the data have changed") && said.contains("data.input"), "{said}");
    assert!(bench.content("run") == before, "nothing was changed");
}

#[test]
fn resume_without_out_takes_the_newest_unfinished_run_or_starts_anew() {
    let bench = Workbench::new();
    let said = expect(0, bench.train(&["--resume", "--set", "train.max_steps=3"]));
    assert!(said.contains("no run to resume: starting a new one in runs/small-"), "{said}");
    let first = format!("runs/{}", bench.list("runs")[0]);
    let before = bench.content(&first);
    // After success it does not train anew in silence.
    let said = expect(0, bench.train(&["--resume", "--set", "train.max_steps=3"]));
    assert!(said.contains(&format!("{first} is finished")) && said.contains("leave out --resume"), "{said}");
    assert!(bench.list("runs").len() == 1 && bench.content(&first) == before);
    // Another configuration of the same name is another run.
    let long = ["--resume", "--set", "train.epochs=1000", "--set", "run.seed=2"];
    let mut child = Running::start(bench.train(&long));
    let deadline = Instant::now() + Duration::from_secs(120);
    while bench.list("runs").len() < 2 && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
    let newest = bench.list("runs").pop().unwrap();
    let run = format!("runs/{newest}");
    wait_for_step(&bench, &run, 6, Duration::ZERO);
    child.signal(Signal::INT);
    assert_eq!(child.0.wait().unwrap().code(), Some(75));
    let max_steps = bench.steps(&run).last().unwrap().step + 3;
    let max_steps_key = format!("train.max_steps={max_steps}");
    expect(0, bench.train(&[&long[..], &["--set", &max_steps_key]].concat()));
    assert_eq!(bench.steps(&run).last().unwrap().step, max_steps);
    assert_eq!(bench.list("runs").len(), 2);
    let said = expect(0, bench.train(&[&long[..], &["--set", &max_steps_key]].concat()));
    assert!(said.contains(&format!("{run} is finished")), "{said}");
}

#[test]
fn an_older_run_that_is_not_finished_is_resumed_before_a_newer_one_that_is() {
    let bench = Workbench::new();
    let at = |name: &str, max_steps: &str| {
        bench.train(&["--out", &format!("runs/small-{name}"), "--set", max_steps])
    };
    expect(0, at("20260101-000000", "train.max_steps=3"));
    expect(0, at("20260102-000000", "train.max_steps=3"));
    let events = bench.join("runs/small-20260101-000000/events.jsonl");
    let text = fs::read_to_string(&events).unwrap();
    fs::write(&events, format!("{}\n", text.trim_end().rsplit_once('\n').unwrap().0)).unwrap();
    let newer = bench.content("runs/small-20260102-000000");
    expect(0, bench.train(&["--resume", "--set", "train.max_steps=3"]));
    let last = bench.events("runs/small-20260101-000000").pop().unwrap().body;
    assert_eq!(last, EventBody::Stop { step: 3, reason: StopReason::Done });
    assert_eq!(bench.content("runs/small-20260102-000000"), newer);
    let said = expect(0, bench.train(&["--resume", "--set", "train.max_steps=3"]));
    assert!(said.contains("runs/small-20260102-000000 is finished"), "{said}");
}

#[test]
fn a_run_that_was_killed_before_it_wrote_anything_can_be_taken_up() {
    let bench = Workbench::new();
    fs::create_dir_all(bench.join("run/checkpoints")).unwrap();
    fs::write(bench.join("run/run.lock"), "process 1\n").unwrap();
    expect(1, bench.train(&["--out", "run", "--set", "train.max_steps=3"]));
    expect(0, bench.train(&["--out", "run", "--resume", "--set", "train.max_steps=3"]));
    assert_eq!(bench.steps("run").len(), 3);
}

#[test]
fn two_processes_never_write_to_one_run() {
    let bench = Workbench::new();
    let child = Running::start(bench.train(&["--out", "run", "--set", "train.epochs=1000"]));
    wait_for_step(&bench, "run", 6, Duration::ZERO);
    let said = expect(1, bench.train(&["--out", "run", "--resume", "--set", "train.epochs=1000"]));
    assert!(said.contains("run.lock") && said.contains(&format!("process {}", child.0.id())), "{said}");
}
