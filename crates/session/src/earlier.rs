//! What is in a run directory already.

use std::path::Path;

use wattle_runlog::{Event, EventBody, LineFile, Manifest, RunlogError, StopReason};

/// What an earlier segment left.
pub struct Earlier {
    /// The manifest; none if the run was killed before it had one.
    pub manifest: Option<Manifest>,
    /// All events.
    pub events: Vec<Event>,
}

impl Earlier {
    /// Reads what is in the run directory `run`, which is not opened for that.
    ///
    /// # Errors
    /// If a file in it is damaged.
    pub fn read(run: &Path) -> Result<Self, RunlogError> {
        let (manifest, events) = (run.join("manifest.json"), run.join("events.jsonl"));
        let manifest = if manifest.exists() { Some(Manifest::read(&manifest)?) } else { None };
        let events = match events.exists() {
            true => LineFile::read(&events, Event::from_json)?.entries,
            false => Vec::new(),
        };
        Ok(Self { manifest, events })
    }

    /// Whether a process was started after the last event.
    pub fn was_opened_again(&self) -> bool {
        let last_event = self.events.last().map(|event| event.segment);
        let last_segment = self.manifest.iter().flat_map(|manifest| &manifest.segments).map(|s| s.id).max();
        last_segment > last_event
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { manifest: None, events: Vec::new() }
    }
}

/// Whether the events of a run end in its end.
pub fn is_finished(events: &[Event]) -> bool {
    ended(events).is_some()
}

/// The step and the reason with which the events of a run end, if that is its end.
pub fn ended(events: &[Event]) -> Option<(u64, StopReason)> {
    match events.last().map(|event| &event.body) {
        Some(&EventBody::Stop { step, reason }) => match reason {
            StopReason::Done | StopReason::EarlyStop | StopReason::Budget => Some((step, reason)),
            StopReason::Signal | StopReason::Error => None,
        },
        _ => None,
    }
}

/// Whether a run already ended at this step. What came after was lost, and is not asked for any more.
pub fn was_finished_at(events: &[Event], at: u64) -> bool {
    (1..=events.len()).any(|n| ended(&events[..n]).is_some_and(|(step, _)| step == at))
}

/// Whether there is a run in a directory, perhaps one that was killed before it had written anything.
pub fn is_run(path: &Path) -> bool {
    path.join("config.toml").exists() || path.join("run.lock").exists()
}
