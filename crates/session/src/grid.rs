//! The grid beside a run: what is learnt of it is written down, and training waits where the policy says so.

use std::sync::Arc;

use wattle_grid::watch::plan;
use wattle_grid::{Decision, Grid, GridConfig, Outlook, Policy, StartKind, Wait};
use wattle_runlog::clock::boot_id;
use wattle_runlog::grid::{GridEntry, Intensities};
use wattle_runlog::{
    Joules, LineFile, Manifest, MonotonicNs, RunDir, RunlogError, Seconds, WallAnchor, Watts,
};

use crate::config::Config;
use crate::error::SessionError;

/// Between two decisions. Steps are often far shorter.
const DECIDE_EVERY: Seconds = Seconds(0.25);
/// After waiting for so long it is known what the machine draws meanwhile.
const IDLE_KNOWN_AFTER: Seconds = Seconds(10.0);

/// What asks, before there is a run directory.
pub(crate) fn start(config: &Config) -> Result<Option<Grid>, SessionError> {
    Grid::start(&config.grid).map_err(|fault| SessionError::config(fault.to_string()))
}

/// What earlier segments have learnt; nothing where nobody was asked.
pub(crate) fn earlier_entries(dir: &RunDir) -> Result<Vec<GridEntry>, RunlogError> {
    match dir.grid().exists() {
        true => Ok(LineFile::read(&dir.grid(), GridEntry::from_json)?.entries),
        false => Ok(Vec::new()),
    }
}

/// The grid beside one segment.
pub(crate) struct GridBeside {
    grid: Grid,
    segment: u32,
    /// `grid.jsonl`
    log: LineFile,
    policy: Policy,
    known: Arc<Intensities>,
    decided: Option<(MonotonicNs, Decision)>,
    pause: Option<Pause>,
}

/// A pause under way.
pub(crate) struct Pause {
    /// What it waits for.
    pub(crate) wait: Wait,
    /// When it began, and what the process had used by then; `None` while steps are still in flight.
    pub(crate) begun: Option<(MonotonicNs, Option<Joules>)>,
}

/// What the run is like at this moment.
pub(crate) struct RunNow {
    /// What is left, once that is known.
    pub(crate) left: Option<(Seconds, Watts)>,
    /// What the process has used, if a meter runs.
    pub(crate) used: Option<Joules>,
}

impl GridBeside {
    /// Opens `grid.jsonl`, and writes down what is known already.
    pub(crate) fn open(
        grid: Grid,
        config: &GridConfig,
        dir: &RunDir,
        manifest: &Manifest,
        segment: u32,
    ) -> Result<Self, RunlogError> {
        let (log, _) = LineFile::open(&dir.grid(), GridEntry::from_json)?;
        let policy = Policy::new(config, grid.clock(), since_start(manifest));
        let known = grid.known();
        let mut beside = Self { grid, segment, log, policy, known, decided: None, pause: None };
        beside.write_news()?;
        Ok(beside)
    }

    /// What is known.
    pub(crate) fn known(&self) -> &Intensities {
        &self.known
    }

    /// Writes down what is new. Returns whether there was anything.
    pub(crate) fn learn(&mut self) -> Result<bool, RunlogError> {
        let known = self.grid.known();
        if Arc::ptr_eq(&known, &self.known) {
            return Ok(false);
        }
        self.known = known;
        self.decided = None;
        self.write_news()?;
        Ok(true)
    }

    fn write_news(&mut self) -> Result<(), RunlogError> {
        let news = self.grid.news(self.segment);
        for entry in &news {
            self.log.append(&entry.to_json())?;
        }
        if news.is_empty() { Ok(()) } else { self.log.sync() }
    }

    /// As [`LineFile::keep`], of `grid.jsonl`.
    pub(crate) fn keep_log(&mut self) -> Result<Option<String>, RunlogError> {
        self.log.keep()
    }

    /// Whether to wait now.
    pub(crate) fn decide(&mut self, run: &dyn Fn() -> RunNow) -> Option<Wait> {
        if !self.policy.may_wait() {
            return None;
        }
        let now = MonotonicNs::now();
        if let Some((at, decision)) = &self.decided
            && now.since(*at) < DECIDE_EVERY
        {
            return wait_of(decision);
        }
        let RunNow { left, used } = run();
        let outlook = Outlook { now, clock: self.grid.clock(), left, idle: self.idle(now, used) };
        let decision = self.policy.decide(&self.known, &outlook);
        if let Decision::Go(Some(said)) = &decision {
            tracing::info!("{said}");
        }
        let wait = wait_of(&decision);
        self.decided = Some((now, decision));
        wait
    }

    /// What the machine draws in the pause under way.
    fn idle(&self, now: MonotonicNs, used: Option<Joules>) -> Option<Watts> {
        let (since, before) = self.pause.as_ref()?.begun?;
        let time = now.since(since);
        (time >= IDLE_KNOWN_AFTER).then_some((used? - before?) / time)
    }

    /// The pause under way.
    pub(crate) fn pause_mut(&mut self) -> &mut Option<Pause> {
        &mut self.pause
    }
}

fn wait_of(decision: &Decision) -> Option<Wait> {
    match decision {
        Decision::Wait(wait) => Some(wait.clone()),
        Decision::Go(_) => None,
    }
}

/// How long ago the run was first started: by the monotonic clock if the machine has not been booted since.
fn since_start(manifest: &Manifest) -> Seconds {
    let Some(first) = manifest.segments.first() else { return Seconds::ZERO };
    let now = WallAnchor::now();
    if first.boot_id == boot_id() {
        return now.monotonic.since(first.monotonic_anchor);
    }
    first.anchor().map_or(Seconds::ZERO, |then| {
        Seconds::from_ns(now.wall_ns.saturating_sub(then.wall_ns).max(0).unsigned_abs())
    })
}

/// What a run of `config` would ask, and for what it would wait: pairs of a word and a sentence, for a person. Nobody is
/// asked.
pub fn describe(config: &Config) -> Vec<(&'static str, String)> {
    let GridConfig { start, deadline, pause_above_g, .. } = &config.grid;
    let Some((asked, known)) = plan(&config.grid) else { return Vec::new() };
    let key = config.grid.provider().and_then(|provider| provider.key()).map_or(String::new(), |key| {
        let is_set = std::env::var_os(key.variable).is_some_and(|key| !key.is_empty());
        format!(", with the key in {} ({})", key.variable, if is_set { "set" } else { "not set" })
    });
    let mut lines = vec![("grid", format!("would ask {}{key}", asked.join(" and ")))];
    let deadline = || deadline.clone().unwrap_or_default();
    let mut waits = Vec::new();
    if *start == StartKind::Cleanest {
        waits.push(format!("in the cleanest hours that end by {}, after some first steps", deadline()));
    }
    if let Some(limit) = pause_above_g {
        waits.push(format!("while the grid emits at most {limit} g/kWh"));
    }
    if !waits.is_empty() {
        lines.push(("trains", waits.join("; ")));
    }
    lines.push((
        "known",
        match known.and_then(|known| outlook(&known)) {
            Some(outlook) => format!("{outlook}, from another run's answers"),
            None => "nothing yet: no run on this machine has asked for this interval".to_owned(),
        },
    ));
    lines
}

/// The intensity now and the lowest to come.
fn outlook(known: &Intensities) -> Option<String> {
    let clock = WallAnchor::now();
    let (now, by) = known.at(clock.monotonic)?;
    let later = known.rows().iter().filter(|row| row.from > clock.monotonic);
    let lowest = later.min_by(|a, b| a.intensity.get().total_cmp(&b.intensity.get()));
    let lowest = lowest.map_or(String::new(), |row| {
        format!(", at the lowest {} from {}", row.intensity.get(), clock.rfc3339_at(row.from))
    });
    Some(format!("{} g/kWh now ({}){lowest}", now.get(), by.name()))
}
