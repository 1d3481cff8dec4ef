//! A board's power limit and clock, put back whatever happens.
//!
//! Before the first change another process is started that waits for this one: when its standard input ends without a word,
//! this one has died, and it puts the board back. So do we ourselves at every other end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use wattle_meter::{BoardLimits, EnergyConfig, discover};
use wattle_runlog::ComputeDevice;
use wattle_runlog::record::SensorKind;
use wattle_tune::Way;

use crate::args::TuneRestoreArgs;
use crate::child::THIS_BINARY;
use crate::exit::Exit;

/// What the watcher says once it could put the board back.
const READY: &str = "ready";
/// What it is told when nothing is left to be put back.
const DONE: &[u8] = b"done\n";

/// A board that is changed for a while.
pub struct Board {
    limits: BoardLimits,
    watcher: Watcher,
    /// What is set now.
    now: (Option<u32>, Option<u32>),
}

struct Watcher {
    child: Child,
    input: Option<ChildStdin>,
}

/// The board to change: the one that is metered.
///
/// # Errors
/// If no board is metered or more than one is, if it cannot be opened, or if others compute on it.
pub fn find(config: &EnergyConfig, device: &ComputeDevice) -> anyhow::Result<BoardLimits> {
    let sensors = discover(config, std::slice::from_ref(device)).sensor_infos();
    let gpus: Vec<_> = sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu).collect();
    let [gpu] = &gpus[..] else {
        bail!(
            "--power and --clock change the board that is metered, and {} here; name one by energy.gpus = [0]",
            match gpus.len() {
                0 => "there is none".to_owned(),
                n => format!("{n} are metered"),
            }
        );
    };
    let uuid = gpu.id.trim_start_matches("gpu:");
    let limits = BoardLimits::open(uuid)?;
    let others = limits.processes()?;
    if !others.is_empty() {
        let numbers = others.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        bail!(
            "other processes compute on {}: {numbers}; its limits are theirs too, so wait for them",
            limits.name()
        );
    }
    Ok(limits)
}

impl Board {
    /// Starts to watch over the board. Nothing is changed yet.
    ///
    /// # Errors
    /// If the watcher cannot be started, or could not put the board back.
    pub fn watch(limits: BoardLimits, changes_clock: bool) -> anyhow::Result<Self> {
        let watcher = Watcher::start(&limits, changes_clock)?;
        let now = (Some(limits.found_mw()), None);
        Ok(Self { limits, watcher, now })
    }

    /// Changes the board to what `way` asks for.
    ///
    /// # Errors
    /// If the board refuses.
    pub fn set(&mut self, way: &Way) -> anyhow::Result<()> {
        let (limit, clock) = self.now;
        if way.power_limit_mw != limit
            && let Some(limit_mw) = way.power_limit_mw
        {
            self.limits.set_limit_mw(limit_mw)?;
            self.now.0 = way.power_limit_mw;
        }
        if way.clock_mhz != clock {
            match way.clock_mhz {
                Some(mhz) => self.limits.lock_clock_mhz(mhz)?,
                None => self.limits.unlock_clock()?,
            }
            self.now.1 = way.clock_mhz;
        }
        Ok(())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let found = Way { power_limit_mw: Some(self.limits.found_mw()), ..Way::default() };
        match self.set(&found) {
            Ok(()) => self.watcher.dismiss(),
            // It tries once more, and says how it went.
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

impl Watcher {
    fn start(limits: &BoardLimits, changes_clock: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(THIS_BINARY);
        command.arg0("wattle").args(["tune-restore", limits.uuid()]).arg(limits.found_mw().to_string());
        if changes_clock {
            command.arg("--unlock-clock");
        }
        // Its own group: what a terminal sends to this process is not for it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a watcher over the board cannot be started")?;
        let input = child.stdin.take();
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output)
                .read_line(&mut line)
                .context("the watcher over the board does not answer")?;
        }
        let mut watcher = Self { child, input };
        if line.trim() != READY {
            watcher.dismiss();
            bail!("the limits of {} could not be put back, so they are not changed", limits.name());
        }
        Ok(watcher)
    }

    /// Nothing is left to be put back.
    fn dismiss(&mut self) {
        if let Some(mut input) = self.input.take() {
            // If it is gone there is nobody to tell.
            let _ = input.write_all(DONE);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The end of its input is what it waits for.
        self.input.take();
        let _ = self.child.wait();
    }
}

/// The watcher: waits for the end of standard input, and puts the board back unless it was told that this is done.
pub fn run_restore(args: &TuneRestoreArgs) -> anyhow::Result<Exit> {
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::default()).context("cannot listen for signals")?;
    }
    let mut limits = BoardLimits::open(&args.uuid)?;
    // What is not allowed now will not be later.
    limits.set_limit_mw(args.limit_mw)?;
    crate::terminal::print_line(READY)?;
    let mut said = Vec::new();
    // Whatever ends the input, the other side is gone.
    let _ = std::io::stdin().read_to_end(&mut said);
    if said == DONE {
        return Ok(Exit::Done);
    }
    if args.unlock_clock {
        limits.unlock_clock()?;
    }
    limits.set_limit_mw(args.limit_mw)?;
    tracing::warn!(
        "wattle tune ended early: {} is at its power limit of {} W again",
        limits.name(),
        f64::from(args.limit_mw) / 1e3
    );
    Ok(Exit::Done)
}
