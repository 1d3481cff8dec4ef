//! A disk that is full, by the limit on file sizes that any process can set for itself.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::workbench::{Workbench, expect};

/// Lets no file of the command grow beyond `bytes`.
fn limited(mut command: Command, bytes: u64) -> Command {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    // SAFETY: between fork and exec the closure makes one system call and touches nothing else.
    unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Fsize, limit)?)) };
    command
}

#[test]
fn a_checkpoint_that_does_not_fit_is_absent_and_the_one_before_it_stands() {
    let bench = Workbench::new();
    // A rate that does not hang on how long the run is to be.
    let train = |out: &str, max_steps: &str| {
        let max_steps = format!("train.max_steps={max_steps}");
        bench.train(&["--out", out, "--resume=auto", "--set", "schedule.kind=constant", "--set", &max_steps])
    };
    expect(0, train("run", "6"));
    let size = |name: &str| bench.join("run/checkpoints/latest").join(name).metadata().unwrap().len();
    let room = size("model.safetensors").midpoint(size("optimizer.safetensors"));
    let said = expect(1, limited(train("run", "0"), room));
    assert!(said.contains("optimizer.safetensors") && said.contains("cannot write"), "{said}");
    assert_eq!(bench.list("run/checkpoints"), ["best", "latest", "step-00000005", "step-00000006"]);
    // With room again, it goes on as if nothing had been.
    expect(0, train("run", "0"));
    expect(0, train("whole", "0"));
    assert_eq!(bench.losses("run"), bench.losses("whole"));
}

#[test]
fn data_that_do_not_fit_leave_nothing() {
    let bench = Workbench::new();
    let said = expect(1, limited(bench.train(&["--out", "run"]), 1_000));
    assert!(said.contains("cannot") || said.contains("could not"), "{said}");
    assert!(!bench.join("run").exists());
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=2"]));
}
