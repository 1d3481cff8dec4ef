//! A run directory, read as it stands: finished, stopped, or being written at this moment.
//!
//! Nothing is written and nothing is locked for longer than it takes to see whether somebody else holds the lock.
//! A torn last line or sample is what a run that goes on looks like; it is left for the next reading.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use wattle_runlog::grid::GridEntry;
use wattle_runlog::machine::other_traces;
use wattle_runlog::manifest::MANIFEST_SCHEMA;
use wattle_runlog::{Event, LineFile, Manifest, Record, RunlogError, TaskResult};

use crate::error::ReportError;
use crate::join::power::PowerHistory;
use crate::join::run::Run;
use crate::join::{first_steps, idle, step_times};

impl Run {
    /// Reads the run directory at `path`.
    ///
    /// # Errors
    /// If it is no run directory, or one of its files is damaged elsewhere than at its end.
    pub fn open(path: &Path) -> Result<Self, ReportError> {
        let manifest = read_manifest(path)?;
        let config = read_config(&path.join("config.toml"))?;
        let is_locked = is_locked(path);
        let mut notes = Vec::new();
        let mut events = read_lines(&path.join("events.jsonl"), Event::from_json, is_locked, &mut notes)?;
        if step_times::spread(&mut events, &manifest.segments) > 0 {
            notes.push(
                "events.jsonl states when losses were read; each step's own time is derived from its rate"
                    .to_owned(),
            );
        }
        let records = read_lines(&path.join("emissions.jsonl"), Record::from_json, is_locked, &mut notes)?;
        let grid = read_lines(&path.join("grid.jsonl"), GridEntry::from_json, is_locked, &mut notes)?;
        let task_results =
            read_lines(&path.join("tasks.jsonl"), TaskResult::from_json, is_locked, &mut notes)?;
        let mut power = PowerHistory::read(&path.join("power.trace"))?;
        note_damage(&mut notes, "power.trace", power.damaged_bytes);
        for (machine, trace) in other_traces(path) {
            let other = PowerHistory::read(&trace)?;
            let name = trace.file_name().unwrap_or_default().to_string_lossy().into_owned();
            note_damage(&mut notes, &name, other.damaged_bytes);
            power.add_machine(&machine, other, &manifest.segments);
        }
        let path = path.to_owned();
        let mut run =
            Self { path, manifest, config, events, records, task_results, grid, power, is_locked, notes };
        idle::leave_out(&mut run);
        first_steps::tell(&mut run);
        Ok(run)
    }
}

fn note_damage(notes: &mut Vec<String>, file: &str, bytes: u64) {
    if bytes > 0 {
        notes.push(format!("{file}: {bytes} bytes are damaged; the curves leave them out"));
    }
}

fn read_manifest(run: &Path) -> Result<Manifest, ReportError> {
    let path = run.join("manifest.json");
    if !path.is_file() {
        return Err(ReportError::no_run(run));
    }
    let json = wattle_files::read(&path, wattle_files::SMALL).map_err(RunlogError::io("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&json)
        .map_err(|e| ReportError::corrupt(&path, format!("not a manifest of a run: {e}")))?;
    if manifest.schema != MANIFEST_SCHEMA {
        let reason = format!("expected schema {MANIFEST_SCHEMA:?}, got {:?}", manifest.schema);
        return Err(ReportError::corrupt(&path, reason));
    }
    Ok(manifest)
}

fn read_config(path: &Path) -> Result<toml::Table, ReportError> {
    let text = wattle_files::read_text(path, wattle_files::SMALL).map_err(RunlogError::io("read", path))?;
    text.parse().map_err(|e| ReportError::corrupt(path, format!("not TOML: {e}")))
}

/// Every whole line; none where there is no file yet.
fn read_lines<T>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, String>,
    is_locked: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<T>, ReportError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let lines = LineFile::read(path, parse)?;
    if lines.cut_bytes > 0 && !is_locked {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        notes.push(format!("{name}: its last {} bytes are torn off and were left out", lines.cut_bytes));
    }
    Ok(lines.entries)
}

/// Whether another process holds the lock. Where that cannot be told, nobody does.
fn is_locked(run: &Path) -> bool {
    let Ok(file) = File::open(run.join("run.lock")) else { return false };
    matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
}
