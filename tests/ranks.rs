//! One run on several ranks, started by the `mpirun` programs of this machine.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wattle_runlog::machine::machine_of;
use wattle_runlog::record::{Flag, RecordKind, SensorKind};
use wattle_runlog::{EventBody, Joules, Manifest, StopReason};

use crate::workbench::{Running, Workbench, expect, wait_until};

/// Set to `required`, tests fail where no launcher is installed.
const REQUIRED: &str = "WATTLE_TEST_MPI";
const LAUNCHERS: [&str; 2] = ["mpirun.openmpi", "mpirun.mpich"];
/// What all runs here have besides the small run's settings: eight sequences a step in four leaves of two.
const LEAVES: &[&str] =
    &["train.reduce_leaves=4", "train.micro_batch_size=0", "train.threads=0", "train.epochs=2"];

/// Few cores: one job at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static JOB: Mutex<()> = Mutex::new(());
    JOB.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Launchers that are installed. What is missing is said, in spite of the harness.
fn launchers(test: &str) -> Vec<&'static str> {
    let is_there = |name: &&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
    };
    for missing in LAUNCHERS.iter().filter(|name| !is_there(name)) {
        assert!(std::env::var(REQUIRED).is_err(), "{REQUIRED} is set and there is no {missing}");
        let note = format!("{test}: SKIPPED for {missing}, which is not installed\n");
        std::io::stderr().write_all(note.as_bytes()).unwrap();
    }
    LAUNCHERS.into_iter().filter(|name| is_there(name)).collect()
}

/// Ranks of the small run with more arguments; one number of ranks, and their own arguments, for each faked machine.
fn mpirun(launcher: &str, bench: &Workbench, machines: &[(usize, &[&str])], args: &[&str]) -> Command {
    let mut command = Command::new(launcher);
    if launcher.contains("openmpi") {
        command.arg("--oversubscribe");
    }
    for (idx, (n_ranks, own)) in machines.iter().enumerate() {
        if idx > 0 {
            command.arg(":");
        }
        command.args(["-n", &n_ranks.to_string(), "env", &format!("WATTLE_NODE=machine {idx}")]);
        // Where there is a stand-in for NVML, its board draws more on each machine.
        command.arg(format!("NVML_STANDIN_POWER=steady:{}", 300 + 100 * idx));
        let train = bench.train(&[]);
        command.arg(train.get_program()).args(train.get_args());
        LEAVES.iter().for_each(|pair| {
            command.args(["--set", pair]);
        });
        command.args(args).args(*own);
    }
    for (name, value) in bench.train(&[]).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(bench.path()).stdin(std::process::Stdio::null());
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

fn alone(bench: &Workbench, args: &[&str]) -> Command {
    let mut command = bench.train(args);
    LEAVES.iter().for_each(|pair| {
        command.args(["--set", pair]);
    });
    command
}

fn tensors(bench: &Workbench, run: &str) -> [Vec<u8>; 2] {
    let latest = bench.join(run).join("checkpoints/latest");
    ["model.safetensors", "optimizer.safetensors"].map(|name| fs::read(latest.join(name)).unwrap())
}

/// The process of a rank of the run `run`.
fn process_of(rank: usize, run: &str) -> Option<Pid> {
    let numbers =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let found = numbers.filter_map(|number| number.parse::<i32>().ok()).find(|number| {
        let read = |file| fs::read(format!("/proc/{number}/{file}")).unwrap_or_default();
        let (name, words, variables) = (read("comm"), read("cmdline"), read("environ"));
        let has = |bytes: &[u8], wanted: &str| bytes.split(|b| *b == 0).any(|word| word == wanted.as_bytes());
        let variable = |name: &str| has(&variables, &format!("{name}={rank}"));
        name == b"wattle\n" && has(&words, run) && (variable("OMPI_COMM_WORLD_RANK") || variable("PMI_RANK"))
    });
    found.and_then(Pid::from_raw)
}

fn has_checkpoint(bench: &Workbench, run: &str) -> bool {
    bench.join(run).join("checkpoints/latest").exists()
}

#[test]
fn any_launcher_and_number_of_ranks_trains_to_the_bits_of_one_process() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    expect(0, alone(&bench, &["--out", "alone"]));
    for launcher in launchers("ranks") {
        for n_ranks in [1, 2, 4] {
            let run = format!("{launcher}-{n_ranks}");
            expect(0, mpirun(launcher, &bench, &[(n_ranks, &[])], &["--out", &run]));
            assert_eq!(bench.losses(&run), bench.losses("alone"), "{run}");
            assert!(tensors(&bench, &run) == tensors(&bench, "alone"), "{run}");
            let evaluations = |run: &str| -> Vec<u64> {
                let loss = |event: wattle_runlog::Event| match event.body {
                    EventBody::Evaluate(event) => Some(event.loss.to_bits()),
                    _ => None,
                };
                bench.events(run).into_iter().filter_map(loss).collect()
            };
            assert_eq!(evaluations(&run), evaluations("alone"), "{run}");
            let manifest = Manifest::read(&bench.join(&run).join("manifest.json")).unwrap();
            let ranks = manifest.segments[0].ranks.as_ref().map_or(1, |ranks| ranks.world);
            assert_eq!(ranks, n_ranks);
        }
    }
}

#[test]
fn ranks_that_own_matrices_train_by_muon_to_the_bits_of_one_process() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let by_muon = |run: &'static str| ["--out", run, "--set", "optimizer.kind=muon"];
    expect(0, alone(&bench, &by_muon("alone")));
    let Some(launcher) = launchers("muon").first().copied() else { return };
    expect(0, mpirun(launcher, &bench, &[(2, &[])], &by_muon("two")));
    assert_eq!(bench.losses("two"), bench.losses("alone"));
    assert!(tensors(&bench, "two") == tensors(&bench, "alone"));
}

#[test]
fn a_run_stopped_by_a_signal_to_any_rank_goes_on_with_any_number_of_ranks() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    expect(0, alone(&bench, &["--out", "alone"]));
    for launcher in launchers("resume") {
        let run = format!("parts-{launcher}");
        for (n_ranks, signalled, step) in [(4, 3, 4), (2, 0, 11)] {
            let args = ["--out", run.as_str(), "--resume=auto"];
            let child = mpirun(launcher, &bench, &[(n_ranks, &[])], &args);
            let mut child = Running::start(child);
            wait_until("a step", || bench.steps(&run).last().is_some_and(|last| last.step >= step));
            if let Some(rank) = process_of(signalled, &run) {
                kill_process(rank, Signal::TERM).unwrap();
            }
            let status = child.0.wait().unwrap();
            // A small run may be over before the signal comes.
            let reason = match bench.events(&run).last().unwrap().body {
                EventBody::Stop { reason, .. } => reason,
                ref other => panic!("{other:?}"),
            };
            assert_eq!(status.code(), Some(if reason == StopReason::Signal { 75 } else { 0 }), "{launcher}");
        }
        expect(0, alone(&bench, &["--out", &run, "--resume=auto"]));
        assert_eq!(bench.losses(&run), bench.losses("alone"), "{launcher}");
        assert!(tensors(&bench, &run) == tensors(&bench, "alone"), "{launcher}");
    }
}

#[test]
fn a_rank_that_stands_still_ends_the_others_at_their_deadline_and_is_named() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    for launcher in launchers("silence") {
        let run = format!("still-{launcher}");
        let args = ["--out", run.as_str(), "--set", "train.rank_deadline_s=2", "--set", "train.epochs=400"];
        let log = bench.join(&format!("{launcher}.log"));
        let file = fs::File::create(&log).unwrap();
        let mut command = mpirun(launcher, &bench, &[(2, &[])], &args);
        let mut child = Running(command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap());
        wait_until("a checkpoint", || has_checkpoint(&bench, &run));
        let still = process_of(1, &run).unwrap();
        kill_process(still, Signal::STOP).unwrap();
        let began = Instant::now();
        let status = child.0.wait().unwrap();
        let _ = kill_process(still, Signal::KILL);
        let said = fs::read_to_string(&log).unwrap();
        assert!(!status.success() && began.elapsed() < Duration::from_secs(100), "{said}");
        let told: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        let [told] = told.as_slice() else { panic!("{said}") };
        assert!(told.starts_with("error: rank 1 did not answer within "), "{told}");
        assert!(told.contains("Rank 0 leaves at step ") && told.contains("checkpoints/step-"), "{told}");
        assert_eq!(status.code(), Some(76), "{said}");
        // Nothing is half-written: it goes on from there.
        let more = ["--out", &run, "--resume", "--set", "train.max_steps=1000", "--set", "train.epochs=0"];
        let goes_on = alone(&bench, &more);
        let going_on = Running::start(goes_on);
        let before = bench.steps(&run).len();
        wait_until("another step", || bench.steps(&run).len() > before);
        drop(going_on);
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_run_and_nothing_is_half_written() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    for launcher in launchers("kill") {
        let run = format!("killed-{launcher}");
        let args = ["--out", run.as_str(), "--set", "train.rank_deadline_s=2", "--set", "train.epochs=400"];
        let mut child = Running::start(mpirun(
            launcher,
            &bench,
            &[(3, &["--set", "train.batch_size=9", "--set", "train.reduce_leaves=1"])],
            &args,
        ));
        wait_until("a checkpoint", || has_checkpoint(&bench, &run));
        kill_process(process_of(2, &run).unwrap(), Signal::KILL).unwrap();
        assert!(!child.0.wait().unwrap().success());
        wait_until("the end of all ranks", || process_of(0, &run).is_none() && process_of(1, &run).is_none());
        let checkpoint = fs::canonicalize(bench.join(&run).join("checkpoints/latest")).unwrap();
        expect(
            0,
            bench.wattle(&[
                "generate",
                "--prompt",
                "1",
                checkpoint.to_str().unwrap(),
                "--max-tokens",
                "2",
                "--device",
                "cpu",
            ]),
        );
    }
}

#[test]
fn ranks_that_were_not_started_alike_are_refused_by_name_and_leave_nothing() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let errors = |said: &str| -> Vec<String> {
        let lines = said.lines().filter(|line| line.starts_with("error: "));
        lines.map(str::to_owned).collect()
    };
    for launcher in launchers("refusals") {
        let other: &[&str] = &["--set", "optimizer.learning_rate=0.5"];
        let said = expect(
            2,
            mpirun(
                launcher,
                &bench,
                &[(1, &[]), (2, other)],
                &["--out", "unlike", "--set", "train.batch_size=9", "--set", "train.reduce_leaves=1"],
            ),
        );
        assert_eq!(errors(&said), ["error: ranks 1 and 2: has another configuration than rank 0:"], "{said}");
        assert!(said.contains("  optimizer.learning_rate: 0.5, not 0.002"), "{said}");

        let said = expect(2, mpirun(launcher, &bench, &[(3, &[])], &["--out", "unlike"]));
        assert_eq!(errors(&said).len(), 1, "{said}");
        assert!(
            said.contains("train.batch_size = 8: expected a multiple of the number of ranks, 3"),
            "{said}"
        );

        fs::write(bench.join("other.txt"), "quite another text. ".repeat(300)).unwrap();
        let other: &[&str] = &["--set", "data.input=[\"other.txt\"]"];
        let said = expect(2, mpirun(launcher, &bench, &[(1, &[]), (1, other)], &["--out", "unlike"]));
        assert!(
            said.contains("error: rank 1: has another configuration than rank 0:\n  data.input"),
            "{said}"
        );

        let said = expect(
            2,
            mpirun(launcher, &bench, &[(2, &[])], &["--out", "unlike", "--set", "train.batchsize=8"]),
        );
        assert_eq!(errors(&said).len(), 1, "{said}");
        assert!(!bench.join("unlike").exists());
    }
}

#[test]
fn a_directory_that_a_rank_does_not_share_is_refused_and_a_plan_is_printed_once() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let Some(launcher) = launchers("shared").first().copied() else { return };
    let plan = mpirun(launcher, &bench, &[(2, &[])], &["--dry-run"]).output().unwrap();
    let said = String::from_utf8(plan.stdout).unwrap();
    assert_eq!(said.matches("parameters").count(), 1, "{said}");

    // A rank for which something else is mounted over the folder of runs; a relative path finds it there.
    let hidden = bench.join("hidden");
    fs::create_dir(&hidden).unwrap();
    let script = format!("mount -t tmpfs none {} && exec \"$@\"", hidden.display());
    let may_mount = Command::new("unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).status();
    if !may_mount.is_ok_and(|status| status.success()) {
        std::io::stderr().write_all(b"shared: SKIPPED, since mounting is not allowed here\n").unwrap();
        return;
    }
    let mut command = mpirun(launcher, &bench, &[(1, &[])], &["--out", "hidden/run"]);
    let second = mpirun(launcher, &bench, &[(1, &[])], &["--out", "hidden/run"]);
    let second = second.get_args().skip_while(|arg| *arg != "env");
    command.args([":", "-n", "1", "unshare", "-m", "sh", "-c", &script, "sh"]).args(second);
    let said = expect(2, command);
    assert!(
        said.contains("error: rank 1: ") && said.contains("is not the run directory of rank 0"),
        "{said}"
    );
    assert!(bench.list("hidden").is_empty(), "nothing is left");
}

#[test]
fn a_library_of_another_mpi_than_the_launchers_is_refused() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let both = launchers("another library");
    if both.len() < 2 {
        return;
    }
    for (launcher, library) in [("mpirun.openmpi", "libmpich.so.12"), ("mpirun.mpich", "libmpi.so.40")] {
        let mut command = mpirun(launcher, &bench, &[(2, &[])], &["--out", "other"]);
        let said = expect(2, std::mem::replace(command.env("WATTLE_MPI", library), Command::new("true")));
        assert!(said.contains("started 2 ranks, but") && said.contains("connects 1"), "{said}");
        assert!(!bench.join("other").exists());
    }
}

#[test]
fn without_mpi_a_launched_rank_says_what_is_missing() {
    let bench = Workbench::new();
    // Rank 1 without a rank 0 is a shell in which a launcher's variables are left over.
    for rank in ["0", "1"] {
        let mut command = bench.train(&["--out", "none"]);
        command.envs([
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_RANK", rank),
            ("WATTLE_MPI", "libnothing.so"),
        ]);
        let said = expect(2, command);
        assert!(said.contains("no MPI library can be opened") && said.contains("libnothing.so"), "{said}");
        assert!(!bench.join("none").exists());
    }

    // A command line that is wrong is wrong on all ranks, and the first says so.
    let bogus = |rank: &str| {
        let mut command = bench.wattle(&["train", "--bogus"]);
        command.envs([("PMI_RANK", rank), ("PMI_SIZE", "2")]);
        expect(2, command)
    };
    assert!(bogus("0").contains("unexpected argument '--bogus'"));
    assert_eq!(bogus("1"), "");

    // A command that trains on no ranks is nobody's follower.
    let mut command = bench.wattle(&["evaluate", "nowhere", "--text", "text.txt"]);
    command.envs([("PMI_RANK", "1"), ("PMI_SIZE", "2")]);
    let said = expect(1, command);
    assert!(said.contains("error: nowhere: there is nothing here"), "{said}");
}

#[test]
fn machines_meter_themselves_and_one_record_has_them_all() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    for launcher in launchers("energy") {
        let run = format!("machines-{launcher}");
        let args = ["--out", run.as_str(), "--set", "train.epochs=4"];
        expect(0, mpirun(launcher, &bench, &[(2, &[]), (1, &[]), (1, &[])], &args));
        let records = bench.records(&run);
        let whole = records.iter().find(|record| record.kind == RecordKind::Final).unwrap();
        let of_machine = |prefix: &str| -> Joules {
            let sensors = whole.sensors.iter().filter(|sensor| sensor.id.starts_with(prefix));
            sensors.map(|sensor| sensor.energy_j).sum()
        };
        let parts = [of_machine("cpu:") + of_machine("dram:"), of_machine("node1/"), of_machine("node2/")];
        assert!(parts.iter().all(|part| *part > Joules::ZERO), "{parts:?}");
        let sum: Joules = parts.into_iter().sum();
        assert!((sum - whole.energy_j).get().abs() < 1e-3, "{parts:?} and {:?}", whole.energy_j);
        assert!(whole.sensors.iter().all(|sensor| !sensor.flags.contains(&Flag::NodeMissing)));
        let epochs: Joules = records
            .iter()
            .filter(|record| record.kind != RecordKind::Final)
            .map(|record| record.energy_j)
            .sum();
        assert!(epochs <= whole.energy_j + Joules(1e-3));
        let phases = (whole.phases.wait, whole.phases.exchange);
        assert!(phases.0 > Joules::ZERO && phases.1 > Joules::ZERO, "{phases:?}");
        for trace in ["power.trace", "power.1.trace", "power.2.trace"] {
            assert!(fs::metadata(bench.join(&run).join(trace)).unwrap().len() > 1000, "{trace}");
        }
        let manifest = Manifest::read(&bench.join(&run).join("manifest.json")).unwrap();
        let ranks = manifest.segments[0].ranks.clone().unwrap();
        let sizes: Vec<usize> = ranks.nodes.iter().map(|node| node.ranks).collect();
        assert_eq!((ranks.world, sizes), (4, vec![2, 1, 1]));
        assert!(manifest.sensors.iter().any(|sensor| sensor.id == "node2/cpu:estimate"));
    }
}

#[test]
fn boards_are_metered_once_whatever_the_number_of_ranks_and_a_budget_counts_those_of_all_machines() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let Some(launcher) = launchers("boards").first().copied() else { return };
    // Epochs of about a second, and a budget that a last checkpoint on a slow disk is a small part of.
    let text = fs::read_to_string(bench.join("text.txt")).unwrap().repeat(20);
    fs::write(bench.join("text.txt"), text).unwrap();
    let budget = 4200.0;
    let set =
        ["energy.gpus=all", "train.epochs=100000", &format!("budget.max_energy_kwh={}", budget / 3.6e6)];
    let mut args = vec!["--out", "boards"];
    set.iter().for_each(|pair| args.extend(["--set", *pair]));
    let mut command = mpirun(launcher, &bench, &[(2, &[]), (2, &[])], &args);
    command.env("NVML_LIBRARY", nvml_standin::library());
    expect(0, command);
    let whole = bench.records("boards").into_iter().find(|record| record.kind == RecordKind::Final).unwrap();
    let boards: Vec<_> = whole.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu).collect();
    let machines: Vec<_> = boards.iter().map(|board| machine_of(&board.id)).collect();
    assert_eq!(machines, [0, 1], "{boards:?}");
    for (board, expected) in boards.iter().zip([300.0, 400.0]) {
        let mean = board.mean_w.unwrap().get();
        assert!((mean / expected - 1.0).abs() < 0.1, "{}: {mean} W", board.id);
    }
    let used = whole.energy_j.get();
    // Between records the other machine's part is an estimate.
    assert!(used > 0.5 * budget && used < 2.0 * budget, "{used} J");
    let stops = bench.events("boards").into_iter().filter_map(|event| match event.body {
        EventBody::Stop { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(stops.collect::<Vec<_>>(), [StopReason::Budget]);
}

#[test]
fn what_machines_drew_before_all_were_killed_is_booked_with_the_rest() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let Some(launcher) = launchers("repair").first().copied() else { return };
    // An epoch that does not end before the kill.
    let text = fs::read_to_string(bench.join("text.txt")).unwrap().repeat(2000);
    fs::write(bench.join("text.txt"), text).unwrap();
    let args = ["--out", "tail"];
    let machines: &[(usize, &[&str])] = &[(1, &[]), (1, &[])];
    let child = Running::start(mpirun(launcher, &bench, machines, &args));
    wait_until("a checkpoint", || has_checkpoint(&bench, "tail"));
    // A trace is written out every second or so.
    std::thread::sleep(Duration::from_secs(3));
    for rank in [0, 1] {
        kill_process(process_of(rank, "tail").unwrap(), Signal::KILL).unwrap();
    }
    drop(child);
    wait_until("the end of all ranks", || process_of(0, "tail").is_none() && process_of(1, "tail").is_none());
    let steps = format!("train.max_steps={}", bench.steps("tail").last().unwrap().step + 5);
    let more = ["--out", "tail", "--resume", "--set", "train.epochs=0", "--set", &steps];
    expect(0, alone(&bench, &more));
    let records = bench.records("tail");
    let tail = records.iter().find(|record| record.kind == RecordKind::Interrupted).unwrap();
    let other = tail.sensors.iter().find(|sensor| sensor.id == "node1/cpu:estimate").unwrap();
    let here = tail.sensors.iter().find(|sensor| sensor.id == "cpu:estimate").unwrap();
    let ratio = other.energy_j / here.energy_j;
    assert!((0.25..4.0).contains(&ratio), "both machines did the same work: {ratio}");
    assert!(Path::new(&bench.join("tail").join("power.1.trace")).exists());
}

#[test]
fn a_sweep_that_a_launcher_started_trains_each_run_alone_and_several_are_refused() {
    let _job = one_at_a_time();
    let bench = Workbench::new();
    let runs = "preset = \"default\"\nseeds = [1, 2]\n[set]\ndata.input = [\"text.txt\"]\ntokenizer.kind = \"chars\"\n\
                model.n_layers = 1\nmodel.n_heads = 2\nmodel.d_model = 16\nmodel.context = 16\n\
                train.batch_size = 4\ntrain.micro_batch_size = 4\ntrain.max_steps = 3\ntrain.epochs = 0\n\
                [[strategy]]\nname = \"base\"\n";
    fs::write(bench.join("s.toml"), runs).unwrap();
    for launcher in launchers("sweep") {
        let sweep = |n_ranks: &str| {
            let mut command = Command::new(launcher);
            if launcher.contains("openmpi") {
                command.arg("--oversubscribe");
            }
            let alone = bench.wattle(&["sweep", "s.toml", "--device", "cpu", "--out", launcher]);
            command.args(["-n", n_ranks]).arg(alone.get_program()).args(alone.get_args());
            command.current_dir(bench.path()).stdin(std::process::Stdio::null());
            command.env("XDG_CACHE_HOME", bench.join("cache"));
            command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
            command
        };
        let said = expect(2, sweep("2"));
        assert!(said.contains("error: wattle sweep was started 2 times by a launcher"), "{said}");
        assert!(!bench.join(launcher).exists());
        expect(0, sweep("1"));
    }
}
