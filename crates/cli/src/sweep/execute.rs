//! Every run of a sweep as a process of its own, one after the other.
//!
//! A run that fails does not keep the others from being made. A signal that ends one ends the sweep: the same
//! command goes on with it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::folder::{RunState, SweepFolder};
use super::plan::PlannedRun;
use crate::child::{RunningCommand, THIS_BINARY, exit_code};
use crate::exit::Exit;
use crate::ranks::leave;
use crate::signals::StopSignal;

/// The exit status of a run that a signal stopped after a checkpoint.
const REQUEUE: u8 = 75;

/// How runs are made.
#[derive(Clone, Debug, Default)]
pub struct ExecuteOptions {
    /// Arguments of the program itself: `-v`, `-q`.
    pub global: Vec<OsString>,
    /// Arguments of `train` besides configuration and directory.
    pub train: Vec<OsString>,
}

/// How a sweep ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every run was made, but for those that failed.
    Over {
        /// Names of the runs that failed.
        failed: Vec<String>,
    },
    /// A signal ended it.
    Stopped(Exit),
}

/// Makes every run that is not finished.
///
/// # Errors
/// If a run cannot be started at all.
pub fn execute(
    folder: &SweepFolder,
    runs: &[PlannedRun],
    options: &ExecuteOptions,
    signal: &StopSignal,
) -> anyhow::Result<Ending> {
    let mut failed = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let place = format!("[{}/{}] {}", i + 1, runs.len(), run.name);
        folder.wait_for(run)?;
        let state = folder.state(run)?;
        match state {
            RunState::Finished => {
                tracing::info!("{place}: finished already");
                continue;
            }
            RunState::Begun => tracing::info!("{place}: going on"),
            RunState::Absent => tracing::info!("{place}"),
        }
        if signal.is_asked() {
            return Ok(Ending::Stopped(Exit::Requeue));
        }
        let child =
            RunningCommand::spawn(command(folder, run, state, options)).context("cannot start a run")?;
        let status = child.wait().context("how a run ended is not known")?;
        match exit_code(status) {
            0 => {}
            REQUEUE => return Ok(Ending::Stopped(Exit::Requeue)),
            code if signal.is_asked() => return Ok(Ending::Stopped(Exit::Child(code))),
            code => {
                tracing::error!("{}: exit status {code}; the others go on", run.name);
                failed.push(run.name.clone());
            }
        }
    }
    Ok(Ending::Over { failed })
}

fn command(folder: &SweepFolder, run: &PlannedRun, state: RunState, options: &ExecuteOptions) -> Command {
    let mut command = Command::new(THIS_BINARY);
    leave(&mut command);
    command.arg0("wattle").args(&options.global).arg("train").arg(folder.config(run));
    command.arg("--out").arg(folder.run(run)).args(&options.train);
    if state == RunState::Begun {
        command.arg("--resume=auto");
    }
    // Not SIGTERM: the kernel sends it once for each thread of the sweep, and the second ends a run at once anyway.
    let end_with_parent = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: the closure makes one system call and neither allocates nor takes a lock.
    unsafe {
        // A sweep that is killed takes its run along, which goes on from its last checkpoint.
        command.pre_exec(end_with_parent);
    }
    command
}
