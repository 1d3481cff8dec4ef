//! Where the runs of a sweep lie.
//!
//! ```text
//! DIR/sweep.toml           the sweep as it was asked for
//! DIR/configs/NAME.toml    the whole configuration of each run
//! DIR/NAME/                each run, as any other
//! DIR/compare.html, .json  the runs that are done, side by side
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use wattle_runlog::run_dir::write_atomic;
use wattle_runlog::{Event, LineFile};
use wattle_session::config::all_differences;
use wattle_session::earlier::is_finished;

use super::plan::PlannedRun;

use crate::config::{Layer, Sources, resolve};
use crate::exit::BadUsage;

/// How long a run is waited for that somebody else is at.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// The folder of a sweep, held by this process alone.
#[derive(Debug)]
pub struct SweepFolder {
    path: PathBuf,
    _lock: File,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Nothing is there.
    Absent,
    /// It was begun, and is to go on.
    Begun,
    /// It has come to its end.
    Finished,
}

impl SweepFolder {
    /// Makes the folder, or opens it to go on.
    ///
    /// # Errors
    /// If something else is in it, or another process is at it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("--out {}: cannot be used", path.display());
        let is_new = !path.join("sweep.toml").exists() && !path.join("sweep.lock").exists();
        fs::create_dir_all(path).with_context(cannot)?;
        if is_new && fs::read_dir(path).with_context(cannot)?.next().is_some() {
            let fault =
                format!("--out {}: holds something else than a sweep; choose another", path.display());
            return Err(BadUsage::new(fault).into());
        }
        let lock = File::create(path.join("sweep.lock")).with_context(cannot)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "{}: another process is at this sweep; wait for it, or choose another --out",
                path.display()
            );
        }
        fs::create_dir_all(path.join("configs")).with_context(cannot)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A run's directory.
    pub fn run(&self, run: &PlannedRun) -> PathBuf {
        self.path.join(&run.name)
    }

    /// A run's configuration file.
    pub fn config(&self, run: &PlannedRun) -> PathBuf {
        self.path.join("configs").join(format!("{}.toml", run.name))
    }

    /// Writes down what was asked for, once it is known that nothing in the folder contradicts it.
    ///
    /// # Errors
    /// If a run was begun with another configuration, or a file cannot be written.
    pub fn write(&self, sweep: &str, runs: &[PlannedRun]) -> anyhow::Result<()> {
        let faults: Vec<_> = runs.iter().filter_map(|run| self.contradiction(run)).collect();
        if !faults.is_empty() {
            return Err(BadUsage { faults }.into());
        }
        write_atomic(&self.path.join("sweep.toml"), sweep.as_bytes())?;
        for run in runs {
            write_atomic(&self.config(run), run.config.to_toml().as_bytes())?;
        }
        Ok(())
    }

    /// How a run that is there differs from what is asked for.
    fn contradiction(&self, run: &PlannedRun) -> Option<String> {
        let path = self.run(run).join("config.toml");
        if !path.exists() {
            return None;
        }
        let stored = Layer::read(&path)
            .map_err(|fault| vec![fault])
            .and_then(|layer| resolve(Some(layer), &Sources::default()));
        let differences = match stored {
            Ok(stored) => all_differences(&stored, &run.config),
            Err(faults) => faults,
        };
        (!differences.is_empty()).then(|| {
            format!(
                "{} was begun with another configuration; leave the sweep as it was, or choose another --out:\n  {}",
                self.run(run).display(),
                differences.join("\n  ")
            )
        })
    }

    /// How far a run has come.
    ///
    /// # Errors
    /// If its events are damaged.
    pub fn state(&self, run: &PlannedRun) -> anyhow::Result<RunState> {
        let path = self.run(run);
        if !path.exists() {
            return Ok(RunState::Absent);
        }
        let events = path.join("events.jsonl");
        if !events.exists() {
            return Ok(RunState::Begun);
        }
        let events = LineFile::read(&events, Event::from_json)?.entries;
        Ok(if is_finished(&events) { RunState::Finished } else { RunState::Begun })
    }

    /// Waits until no process writes to a run any more.
    ///
    /// # Errors
    /// If one still does after a minute.
    pub fn wait_for(&self, run: &PlannedRun) -> anyhow::Result<()> {
        let Ok(lock) = File::open(self.run(run).join("run.lock")) else { return Ok(()) };
        let started = Instant::now();
        while flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
            if started.elapsed() > LEFT_BEHIND {
                let holder = fs::read_to_string(self.run(run).join("run.lock")).unwrap_or_default();
                bail!("{} is being written by {}; end it first", self.run(run).display(), holder.trim());
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sweep_is_left_alone_and_a_sweep_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        let error = SweepFolder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("--out") && error.contains("something else"), "{error}");
        let path = dir.path().join("sweep");
        let held = SweepFolder::open(&path).unwrap();
        let error = SweepFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(held);
        SweepFolder::open(&path).unwrap();
    }
}
