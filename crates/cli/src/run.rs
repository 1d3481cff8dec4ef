//! Which run directory a command means, and what is already in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use wattle_report::join::nearest::most_alike;
use wattle_runlog::clock::file_stamp;
use wattle_runlog::{Event, LineFile};
use wattle_session::Config;
use wattle_session::config::resume_faults;
use wattle_session::earlier::{Earlier, is_finished, is_run};

use crate::args::{Resume, TrainArgs};
use crate::config::{Layer, Sources, resolve, resolve_quietly};
use crate::exit::BadUsage;

/// Where run directories are made.
const RUNS: &str = "runs";
/// A run's configuration.
const CONFIG: &str = "config.toml";

/// A configuration and the directory to run it in.
pub struct Target {
    /// The configuration, checked.
    pub config: Config,
    /// The run directory.
    pub path: PathBuf,
    /// The run that is there already.
    pub found: Option<Found>,
}

/// A run that is there already.
pub struct Found {
    /// Its own configuration; none if it was killed before it had written one.
    pub stored: Option<Config>,
    /// How it was found.
    pub by: FoundBy,
}

/// How a run was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// By `--out`.
    Path,
    /// By the configuration's name: the newest run that is not finished, or else the newest.
    Name,
}

/// Finds out what `args` ask for. Nothing is changed.
///
/// # Errors
/// If the configuration is wrong, or is not that of the run to go on with, or that run is not there.
pub fn target(args: &TrainArgs) -> Result<Target, BadUsage> {
    let is_bare = args.source.is_bare();
    let sources = args.source.sources();
    let bad = |faults| BadUsage { faults };
    let given = || resolve(None, &sources).map_err(bad);
    let (path, by) = match (&args.out, args.resume) {
        (Some(out), None) => return Ok(Target { config: given()?, path: out.clone(), found: None }),
        (None, None) => return anew(given()?),
        (Some(out), Some(_)) if is_run(out) => (out.clone(), FoundBy::Path),
        (Some(out), Some(Resume::Auto)) => {
            tracing::info!("{} holds no run yet: starting one", out.display());
            return Ok(Target { config: given()?, path: out.clone(), found: None });
        }
        (Some(out), Some(Resume::Existing)) => return Err(BadUsage::new(no_run(out))),
        (None, Some(_)) => {
            let (config, _) = resolve_quietly(None, &sources).map_err(bad)?;
            match newest_of(&config.run.name) {
                Some(path) => (path, FoundBy::Name),
                None => {
                    let target = anew(given()?)?;
                    tracing::info!(
                        "there is no run to resume: starting a new one in {}",
                        target.path.display()
                    );
                    return Ok(target);
                }
            }
        }
    };
    // Killed within its first moments, before it had written its configuration.
    if !path.join(CONFIG).exists() {
        return Ok(Target { config: given()?, path, found: Some(Found { stored: None, by }) });
    }
    let layer = Layer::read(&path.join(CONFIG)).map_err(BadUsage::new)?;
    let stored = resolve(Some(layer.clone()), &Sources::default()).map_err(bad)?;
    let config = match is_bare {
        true => resolve(Some(layer), &Sources { set: args.source.set.clone(), ..Sources::default() })
            .map_err(bad)?,
        false => resolve(Some(Layer::derived_of(&stored)), &sources).map_err(bad)?,
    };
    let differences = resume_faults(&path, &stored, &config);
    if !differences.is_empty() {
        if by == FoundBy::Name && Earlier::read(&path).is_ok_and(|run| is_finished(&run.events)) {
            let target = anew(given()?)?;
            tracing::info!(
                "{} is finished and had another configuration: starting a new run in {}",
                path.display(),
                target.path.display()
            );
            return Ok(target);
        }
        return Err(BadUsage::new(format!(
            "{} was begun with another configuration; leave these as they were, or start a new run {}:\n  {}",
            path.display(),
            match by {
                FoundBy::Path => "with another --out",
                FoundBy::Name => "without --resume",
            },
            differences.join("\n  ")
        )));
    }
    Ok(Target { config, path, found: Some(Found { stored: Some(stored), by }) })
}

fn anew(config: Config) -> Result<Target, BadUsage> {
    let path = unused_path(&config.run.name);
    Ok(Target { config, path, found: None })
}

/// The message for a run directory that does not exist, with similar names.
fn no_run(out: &Path) -> String {
    let what = if out.exists() { "holds no run" } else { "does not exist" };
    let meant = match near(out) {
        names if names.is_empty() => String::new(),
        names => format!(" Did you mean {}?", names.join(" or ")),
    };
    format!(
        "--resume --out {}: {what}, so there is nothing to resume.{meant} --resume=auto starts a run where there \
         is none",
        out.display()
    )
}

/// Run directories beside `out`, and in `runs/`, whose names are like its name.
fn near(out: &Path) -> Vec<String> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let folders = [parent, Path::new(RUNS)].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let runs = folders.flatten().filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_run(path));
    // Of names that are equally similar, the latest first.
    let runs: BTreeSet<PathBuf> =
        runs.map(|path| path.strip_prefix(".").map(Path::to_owned).unwrap_or(path)).collect();
    most_alike(&name, runs.into_iter().rev()).iter().map(|path| path.display().to_string()).collect()
}

impl Target {
    /// Whether the run was found by its name.
    pub fn is_found_by_name(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.by == FoundBy::Name)
    }
}

/// Directories of runs with this name that [`unused_path`] made, the newest first.
fn runs_of(name: &str) -> Vec<PathBuf> {
    let prefix = format!("{name}-");
    let entries = std::fs::read_dir(RUNS).into_iter().flatten();
    let mut runs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| stamp_of(path, &prefix).is_some() && path.join(CONFIG).exists())
        .collect();
    runs.sort_by(|a, b| b.cmp(a));
    runs
}

/// The newest run of this name that is not finished, or else the newest.
fn newest_of(name: &str) -> Option<PathBuf> {
    unfinished_of(name).next().or_else(|| runs_of(name).into_iter().next())
}

fn unfinished_of(name: &str) -> impl Iterator<Item = PathBuf> {
    runs_of(name).into_iter().filter(|path| {
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
