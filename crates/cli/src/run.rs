//! Which run directory a command means, and what is already in it.

use std::path::{Path, PathBuf};

use wattle_runlog::clock::file_stamp;
use wattle_runlog::{Event, EventBody, LineFile, Manifest, RunDir, RunlogError, StopReason};

use crate::args::TrainArgs;
use crate::config::{Config, Layer, Preset, Sources, differences, resolve};
use crate::exit::BadUsage;

/// Where run directories are made.
const RUNS: &str = "runs";

/// A configuration and the directory to run it in.
pub struct Target {
    /// The configuration, checked.
    pub config: Config,
    /// The run directory.
    pub path: PathBuf,
    /// Whether there is a run in it to go on with.
    pub exists: bool,
}

/// What an earlier segment left.
pub struct Earlier {
    /// The manifest; none if the run was killed before it had one.
    pub manifest: Option<Manifest>,
    /// All events.
    pub events: Vec<Event>,
}

/// Finds out what `args` ask for.
///
/// # Errors
/// If the configuration is wrong, or is not that of the run to go on with.
pub fn target(args: &TrainArgs) -> Result<Target, BadUsage> {
    let is_bare = args.config.is_none() && args.preset.is_none();
    let sources = Sources {
        preset: args.preset.or(is_bare.then_some(Preset::Default)),
        file: args.config.clone(),
        set: args.set.clone(),
        over: Vec::new(),
    };
    let bad = |faults| BadUsage { faults };
    let given = || resolve(None, &sources).map_err(bad);
    let path = match (&args.out, args.resume) {
        (Some(out), false) => return Ok(Target { config: given()?, path: out.clone(), exists: false }),
        (Some(out), true) if out.join("config.toml").exists() => Some(out.clone()),
        // Killed within its first moments, before it had written its configuration.
        (Some(out), true) if out.join("run.lock").exists() => {
            return Ok(Target { config: given()?, path: out.clone(), exists: true });
        }
        (Some(_), true) => None,
        (None, false) => None,
        (None, true) => newest_unfinished(&given()?.run.name),
    };
    let Some(path) = path else {
        let config = given()?;
        let path = args.out.clone().unwrap_or_else(|| unused_path(&config.run.name));
        if args.resume {
            tracing::info!("there is no run to go on with: starting anew in {}", path.display());
        }
        return Ok(Target { config, path, exists: false });
    };
    let stored_layer = Layer::read(&path.join("config.toml")).map_err(BadUsage::new)?;
    let stored = resolve(Some(stored_layer.clone()), &Sources::default()).map_err(bad)?;
    let config = match is_bare {
        true => resolve(Some(stored_layer), &Sources { set: args.set.clone(), ..Sources::default() })
            .map_err(bad)?,
        false => resolve(Some(Layer::derived_of(&stored)), &sources).map_err(bad)?,
    };
    let differences = differences(&stored, &config);
    if !differences.is_empty() {
        return Err(BadUsage::new(format!(
            "{} was begun with another configuration; leave these as they were, or start anew with another --out:\n  {}",
            path.display(),
            differences.join("\n  ")
        )));
    }
    Ok(Target { config, path, exists: true })
}

impl Earlier {
    /// Reads what is in `run`.
    ///
    /// # Errors
    /// If a file in it is damaged.
    pub fn read(run: &RunDir) -> Result<Self, RunlogError> {
        let manifest = if run.manifest().exists() { Some(run.read_manifest()?) } else { None };
        let events = match run.events().exists() {
            true => LineFile::read(&run.events(), Event::from_json)?.entries,
            false => Vec::new(),
        };
        Ok(Self { manifest, events })
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { manifest: None, events: Vec::new() }
    }
}

/// Whether the events of a run end in its end.
pub fn is_finished(events: &[Event]) -> bool {
    let ended =
        |reason: &StopReason| matches!(reason, StopReason::Done | StopReason::EarlyStop | StopReason::Budget);
    matches!(events.last().map(|event| &event.body), Some(EventBody::Stop { reason, .. }) if ended(reason))
}

fn newest_unfinished(name: &str) -> Option<PathBuf> {
    let prefix = format!("{name}-");
    let mut runs: Vec<PathBuf> = std::fs::read_dir(RUNS)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| stamp_of(path, &prefix).is_some() && path.join("config.toml").exists())
        .collect();
    runs.sort();
    runs.into_iter().rev().find(|path| {
        let events = LineFile::read(&path.join("events.jsonl"), Event::from_json);
        !events.is_ok_and(|events| is_finished(&events.entries))
    })
}

/// What follows the run's name in a directory's, if it is the time that [`unused_path`] puts there.
fn stamp_of<'a>(path: &'a Path, prefix: &str) -> Option<&'a str> {
    let stamp = path.file_name()?.to_str()?.strip_prefix(prefix)?;
    stamp.starts_with(|c: char| c.is_ascii_digit()).then_some(stamp)
}

fn unused_path(name: &str) -> PathBuf {
    let base = format!("{name}-{}", file_stamp());
    let plain = Path::new(RUNS).join(&base);
    let numbered = (2..).map(|n| Path::new(RUNS).join(format!("{base}-{n}")));
    std::iter::once(plain).chain(numbered).find(|path| !path.exists()).expect("some number is free")
}

/// A new run directory that is removed again unless it is kept: a run that cannot start leaves nothing.
pub struct NewRun {
    run: Option<RunDir>,
    existed: bool,
}

impl NewRun {
    /// Makes the directory.
    ///
    /// # Errors
    /// If something is there already, or it cannot be made.
    pub fn create(path: &Path) -> Result<Self, RunlogError> {
        let existed = path.exists();
        Ok(Self { run: Some(RunDir::create(path)?), existed })
    }

    /// The directory.
    pub fn dir(&self) -> &RunDir {
        self.run.as_ref().expect("it is taken out only by keep and drop")
    }

    /// Leaves the directory for good.
    pub fn keep(mut self) -> RunDir {
        self.run.take().expect("it is taken out only by keep and drop")
    }
}

impl Drop for NewRun {
    fn drop(&mut self) {
        let Some(run) = self.run.take() else { return };
        let path = run.path().to_owned();
        // The error that kept the run from starting is the one to report.
        let _ = match self.existed {
            true => remove_content(&path),
            false => std::fs::remove_dir_all(&path),
        };
    }
}

fn remove_content(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    Ok(())
}
