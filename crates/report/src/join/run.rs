//! A run directory's files, as they were when they were read.

use std::path::PathBuf;

use wattle_runlog::grid::GridEntry;
use wattle_runlog::{Event, Manifest, Record, TaskResult};

use crate::join::power::PowerHistory;

/// A run directory's files.
#[derive(Debug)]
pub struct Run {
    /// The directory.
    pub path: PathBuf,
    /// `manifest.json`
    pub manifest: Manifest,
    /// `config.toml`
    pub config: toml::Table,
    /// `events.jsonl`, empty before the first. Steps that were read together have been given their own times.
    pub events: Vec<Event>,
    /// `emissions.jsonl`, empty before the first.
    pub records: Vec<Record>,
    /// `tasks.jsonl`, empty where no checkpoint was scored by itself.
    pub task_results: Vec<TaskResult>,
    /// `grid.jsonl`, empty where nobody was asked.
    pub grid: Vec<GridEntry>,
    /// `power.trace`, down-sampled; without sensors where there is none.
    pub power: PowerHistory,
    /// Whether a process holds the run's lock.
    pub is_locked: bool,
    /// What was not as it should be, each a sentence.
    pub notes: Vec<String>,
}
