//! Trials as processes of their own.
//!
//! A trial trains one configuration until its standard input ends: for each line with a number of seconds it answers with
//! a line of JSON, a [`Window`]. Threads and memory are then those of a run, and a configuration that does not fit ends
//! its own process alone. While a trial waits it computes nothing; ways that differ by the board alone share one, and where
//! there is memory for it, trials of small models wait for their next turn instead of starting anew.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use indicatif::MultiProgress;
use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;
use wattle_runlog::run_dir::write_atomic;
use wattle_session::Config;
use wattle_session::memory::{self, Need};
use wattle_session::trial::trial;
use wattle_tune::{Failure, Way, Window};

use super::board::Board;
use crate::args::TuneTrialArgs;
use crate::child::THIS_BINARY;
use crate::config::{Layer, Sources, resolve_quietly};
use crate::display::Display;
use crate::exit::{BadUsage, Exit};
use crate::following::Following;
use crate::signals::StopSignal;
use crate::terminal::print_line;
use crate::threads::set_threads;

/// How often a signal is looked for while a trial goes on.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Most trials that wait at once.
const MOST_WAITING: usize = 8;
/// What is kept of a trial's messages.
const MESSAGES_BYTES: u64 = 64 << 10;

/// Makes trials; one of them computes at a time.
pub struct Trials<'a> {
    config: &'a Config,
    device: String,
    window: Duration,
    signal: &'a StopSignal,
    board: Option<Board>,
    scratch: TempDir,
    /// The newest last.
    running: Vec<Running>,
    /// How many may wait at once.
    n_waiting: usize,
    told: Box<dyn FnMut(&Way) + 'a>,
}

/// A trial that waits for the next line.
struct Running {
    settings: BTreeMap<String, String>,
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    messages: JoinHandle<String>,
}

impl<'a> Trials<'a> {
    /// Trials of `config`; `told` hears of each before it begins. `need` is what one takes of the host's memory, if that is
    /// all that it takes.
    pub fn new(
        config: &'a Config,
        device: String,
        window: Duration,
        signal: &'a StopSignal,
        board: Option<Board>,
        need: Option<&Need>,
        told: impl FnMut(&Way) + 'a,
    ) -> anyhow::Result<Self> {
        let scratch =
            tempfile::tempdir().context("a temporary folder cannot be made; set TMPDIR to another place")?;
        // Only what is left over half of the memory: each trial looks for itself whether it fits.
        let fits = |need: &Need| {
            memory::free().is_some_and(|free| need.bytes.saturating_mul(2 * MOST_WAITING as u64) < free.bytes)
        };
        let n_waiting = if need.is_some_and(fits) { MOST_WAITING } else { 1 };
        let (running, told) = (Vec::new(), Box::new(told));
        Ok(Self { config, device, window, signal, board, scratch, running, n_waiting, told })
    }

    /// Trains in a way for one window.
    ///
    /// # Errors
    /// If the way cannot be taken, a signal came, or no process can be started.
    pub fn measure(&mut self, way: &Way) -> Result<Window, Failure> {
        if self.signal.is_asked() {
            return Err(Failure::Stopped);
        }
        (self.told)(way);
        if let Some(board) = &mut self.board {
            board.set(way).map_err(|error| Failure::Broken(format!("{error:#}")))?;
        }
        let running = match self.running.iter().position(|running| running.settings == way.settings) {
            Some(idx) => self.running.remove(idx),
            None => {
                // Another goes first: both may not fit.
                self.running.drain(..(self.running.len() + 1).saturating_sub(self.n_waiting));
                self.start(way)?
            }
        };
        self.running.push(running);
        let newest = self.running.last_mut().expect("one was just added");
        let answer = newest.ask(self.window, self.signal);
        if answer.is_err() {
            self.running.pop();
        }
        answer
    }

    /// The configuration of a way.
    ///
    /// # Errors
    /// If its settings contradict each other.
    pub fn config_of(&self, way: &Way) -> Result<Config, Failure> {
        let set = way.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let sources = Sources { set, ..Sources::default() };
        let resolved =
            resolve_quietly(Some(Layer::of("the configuration", self.config.to_table())), &sources);
        resolved.map(|(config, _)| config).map_err(|faults| Failure::Impossible(faults.join("; ")))
    }

    fn start(&self, way: &Way) -> Result<Running, Failure> {
        let config = self.config_of(way)?;
        let path = self.scratch.path().join("trial.toml");
        let broken = |error: io::Error| Failure::Broken(format!("a trial cannot be started: {error}"));
        write_atomic(&path, config.to_toml().as_bytes())
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let mut command = Command::new(THIS_BINARY);
        command.arg0("wattle").args(["-q", "tune-trial"]).arg(path).args(["--device", &self.device]);
        command.arg("--kernels").arg(self.scratch.path().join("kernels.json"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A signal of the terminal is for the tuner, which ends its trial.
        command.process_group(0);
        let end_with_parent = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
        // SAFETY: the closure makes one system call and neither allocates nor takes a lock.
        unsafe { command.pre_exec(end_with_parent) };
        let mut child = command.spawn().map_err(broken)?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = (input, output, errors) else {
            return Err(Failure::Broken("a trial has no pipes".to_owned()));
        };
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            // An answer that cannot be read is one that does not come.
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        let messages = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What could not be read of it is not there to be told.
            let _ = errors.take(MESSAGES_BYTES).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Running { settings: way.settings.clone(), child, input, answers, messages })
    }
}

impl Running {
    fn ask(&mut self, window: Duration, signal: &StopSignal) -> Result<Window, Failure> {
        // A trial that has ended already is noticed by its silence.
        let _ = writeln!(self.input, "{}", window.as_secs_f64());
        loop {
            if signal.is_asked() {
                return Err(Failure::Stopped);
            }
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(line) => {
                    return serde_json::from_str(&line)
                        .map_err(|error| Failure::Broken(format!("a trial answered {line:?}: {error}")));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::Impossible(self.last_words())),
            }
        }
    }

    /// Why it ended.
    fn last_words(&mut self) -> String {
        let status = self.child.wait();
        let messages = std::mem::replace(&mut self.messages, std::thread::spawn(String::new));
        let messages = messages.join().unwrap_or_default();
        let last = messages
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map(|line| line.trim().trim_start_matches("error: ").to_owned());
        last.unwrap_or_else(|| match status {
            Ok(status) => format!("its process ended with {status}"),
            Err(error) => format!("its process ended: {error}"),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing that is worth keeping.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side: trains until standard input ends.
pub fn run_trial(args: &TuneTrialArgs) -> anyhow::Result<Exit> {
    let config = Config::read(&args.config).map_err(|faults| BadUsage { faults })?;
    set_threads(config.train.threads);
    let mut following = Following::without_run(Display::new(MultiProgress::new(), false));
    let dataset = wattle_session::data::prepare(&config, wattle_data::Verify::FirstUse, &mut following)?;
    let device = args.device.open()?;
    let mut next = || {
        let mut line = String::new();
        io::stdin().read_line(&mut line).ok().filter(|n| *n > 0)?;
        line.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    };
    let mut told = |window: Window| {
        let line = serde_json::to_string(&window).expect("a window is plain data");
        print_line(&line).map_err(|error| wattle_session::SessionError::config(error.to_string()))
    };
    trial(&config, &dataset, &device, Some(Path::new(&args.kernels)), &mut next, &mut told)?;
    Ok(Exit::Done)
}

/// Where a configuration is left, and nothing is there yet.
///
/// # Errors
/// If a file is there.
pub fn free_path(path: &Path) -> Result<&Path, BadUsage> {
    match path.symlink_metadata() {
        Ok(found) if found.is_file() => Err(BadUsage::new(format!(
            "{} exists already; remove it, or name another file by --out",
            path.display()
        ))),
        _ => Ok(path),
    }
}
