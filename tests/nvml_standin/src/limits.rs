//! Power limits and clocks that were set, which every process that has loaded the library sees.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

/// The highest power limit, and the one at the start.
pub const MAX_MW: u32 = 700_000;
/// The lowest.
pub const MIN_MW: u32 = 200_000;
/// The highest clock in MHz.
const MAX_MHZ: u32 = 1_980;

/// A file of changes; each line is a moment in nanoseconds, a limit in milliwatts, and a clock in MHz or 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    path: PathBuf,
    work: Option<Work>,
}

/// What work takes: `idle_watts:memory_share`.
///
/// The board draws its idle power and the cube of its clock above that; of the time of a piece of work, a share waits for
/// memory whatever the clock. Whoever computes here takes the same time at every limit, so the board draws instead what a
/// real one would have drawn for the work: its power times how much longer it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    idle: f64,
    memory: f64,
}

/// A limit and a clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Power limit in milliwatts.
    pub limit_mw: u32,
    /// Locked clock in MHz; 0: free.
    pub clock_mhz: u32,
}

impl Default for Limit {
    fn default() -> Self {
        Self { limit_mw: MAX_MW, clock_mhz: 0 }
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected idle_watts:memory_share, got {text:?}");
        let (idle, memory) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self { idle: idle.parse().map_err(|_| wrong())?, memory: memory.parse().map_err(|_| wrong())? })
    }
}

impl Work {
    /// Watts at a limit, as if the work took no longer.
    pub fn power(&self, limit: Limit) -> Watts {
        let span = f64::from(MAX_MW) / 1e3 - self.idle;
        let by_power = ((f64::from(limit.limit_mw) / 1e3 - self.idle) / span).max(0.01).cbrt();
        let by_clock =
            if limit.clock_mhz == 0 { 1.0 } else { f64::from(limit.clock_mhz) / f64::from(MAX_MHZ) };
        let clock = by_power.min(by_clock);
        Watts((self.idle + span * clock.powi(3)) * (self.memory + (1.0 - self.memory) / clock))
    }
}

impl Limits {
    /// Limits that are kept in a file.
    pub fn new(path: PathBuf, work: Option<Work>) -> Self {
        Self { path, work }
    }

    /// Every change, in order.
    pub fn changes(&self) -> Vec<(MonotonicNs, Limit)> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let change = |line: &str| {
            let mut numbers = line.split(' ').map(|number| number.parse::<u64>().ok());
            let mut next = || numbers.next().flatten();
            let (t, limit_mw, clock_mhz) = (next()?, next()?, next()?);
            Some((MonotonicNs(t), Limit { limit_mw: limit_mw as u32, clock_mhz: clock_mhz as u32 }))
        };
        text.lines().filter_map(change).collect()
    }

    /// What holds now.
    pub fn now(&self) -> Limit {
        self.changes().last().map_or_else(Limit::default, |(_, limit)| *limit)
    }

    /// Changes it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, limit: Limit) -> std::io::Result<()> {
        let line = format!("{} {} {}\n", MonotonicNs::now().0, limit.limit_mw, limit.clock_mhz);
        fs::OpenOptions::new().append(true).create(true).open(&self.path)?.write_all(line.as_bytes())
    }

    /// Energy since boot, if the board draws by its limit.
    pub fn energy(&self, t: MonotonicNs) -> Option<Joules> {
        let work = self.work?;
        let changes = self.changes();
        let ends = changes.iter().map(|(t, _)| *t).chain([t]);
        let starts = [(MonotonicNs(0), Limit::default())].into_iter().chain(changes.iter().copied());
        let part = |((start, limit), end): ((MonotonicNs, Limit), MonotonicNs)| {
            let end = end.min(t);
            let seconds = if end > start { end.since(start) } else { Seconds::ZERO };
            work.power(limit) * seconds
        };
        Some(starts.zip(ends).map(part).sum())
    }

    /// Power at a moment, if the board draws by its limit.
    pub fn power(&self, t: MonotonicNs) -> Option<Watts> {
        let work = self.work?;
        let before = self.changes().into_iter().rev().find(|(changed, _)| *changed <= t);
        Some(work.power(before.map_or_else(Limit::default, |(_, limit)| limit)))
    }
}
