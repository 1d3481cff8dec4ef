//! What pauses for cleaner electricity saved, and what they cost.

use serde::Serialize;
use wattle_meter::books::waiting::waited;
use wattle_runlog::{GramsCo2e, Joules, Seconds};

use crate::error::ReportError;
use crate::join::run::Run;

/// The pauses of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// How many there were.
    pub pauses: usize,
    /// How long they lasted.
    pub time_s: Seconds,
    /// What the machine drew in them.
    pub idle_j: Joules,
    /// Emissions of that.
    pub idle_g: GramsCo2e,
    /// Emissions of everything else that the segments with pauses did, as the grid's figures price it in the end.
    pub work_g: GramsCo2e,
    /// What the same work would have emitted without the pauses, at the intensities that were seen.
    pub at_once_g: GramsCo2e,
    /// What waiting saved, `idle_g` taken off; below zero where it cost more.
    pub saved_g: GramsCo2e,
}

impl Waiting {
    /// Reckons them from the run's trace; `None` without pauses, or where the trace does not tell.
    pub(crate) fn of(run: &Run) -> Result<Option<Self>, ReportError> {
        let trace = run.path.join("power.trace");
        let waited = waited(&run.manifest.segments, &run.events, &run.grid, &trace)?;
        Ok(waited.map(|waited| Self {
            pauses: waited.pauses.len(),
            time_s: waited.time(),
            idle_j: waited.idle,
            idle_g: waited.idle_emissions,
            work_g: waited.work,
            at_once_g: waited.at_once,
            saved_g: waited.saved(),
        }))
    }

    /// The share of what running at once would have emitted.
    pub fn saved_fraction(&self) -> f64 {
        if self.at_once_g > GramsCo2e::ZERO { self.saved_g / self.at_once_g } else { 0.0 }
    }
}
