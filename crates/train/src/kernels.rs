//! `kernels.json`: which way a board does each job, and what that depends on.
//!
//! ```json
//! {
//!   "schema": "wattle.kernels/1",
//!   "made_on": {"board": "NVIDIA H100 80GB HBM3", "driver": "580.159.04", "cublaslt": "130100", …},
//!   "choices": {"classifier_bwd bf16 n=8192 v=50257": "row_in_shared", …},
//!   "measured": [{"job": "classifier_bwd bf16 n=8192 v=50257", "us": {"read_thrice": 1098.0, "row_in_shared": 604.2}}, …]
//! }
//! ```
//!
//! A run is the same to the bit only with the same choices, so a resumed run takes those of its checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wattle_ops::board::select::Measured;
use wattle_ops::board::{Board, Job};

use crate::error::TrainError;

/// Name of the file, in run directories and checkpoints.
pub const KERNELS_FILE: &str = "kernels.json";
/// Its schema.
const SCHEMA: &str = "wattle.kernels/1";

/// Choices, and what they were made on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    schema: String,
    made_on: BTreeMap<String, String>,
    choices: BTreeMap<String, String>,
    /// For people: what the choices were made by, where they were made by measuring.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    measured: Vec<MeasuredJob>,
}

/// How long each way of a job took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuredJob {
    job: String,
    /// Microseconds by way; `None` for a way that cannot be taken.
    us: BTreeMap<String, Option<f32>>,
}

impl Kernels {
    /// Those that `board` has now, of which some were `measured`.
    pub fn of(board: &dyn Board, measured: &[Measured]) -> Self {
        let choices = board.choices().all();
        Self {
            schema: SCHEMA.to_owned(),
            made_on: board.identity().into_iter().collect(),
            choices: choices.into_iter().map(|(job, way)| (job.as_str().to_owned(), way)).collect(),
            measured: measured.iter().map(MeasuredJob::of).collect(),
        }
    }

    /// Whether they are the same choices, however they came about.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.choices == other.choices && self.made_on == other.made_on
    }

    /// Whether nothing was chosen.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// What differs between where they were made and `board`, each as `driver: 580.95 there, 580.159 here`; nothing if
    /// they mean the same here.
    pub fn differences(&self, board: &dyn Board) -> Vec<String> {
        let here: BTreeMap<String, String> = board.identity().into_iter().collect();
        let names: std::collections::BTreeSet<&String> = self.made_on.keys().chain(here.keys()).collect();
        let shown = |value: Option<&String>| value.map_or("not stated", String::as_str).to_owned();
        names
            .into_iter()
            .map(|name| (name, self.made_on.get(name), here.get(name)))
            .filter(|(_, there, here)| there != here)
            .map(|(name, there, here)| format!("{name}: {} there, {} here", shown(there), shown(here)))
            .collect()
    }

    /// Makes `board` do each job in its way.
    pub fn apply(&self, board: &dyn Board) {
        self.choices.iter().for_each(|(job, way)| board.choices().set(&Job::named(job), way));
    }

    /// The content of the file.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("names and ways are plain data");
        format!("{text}\n")
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not of this schema.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let unreadable = |reason: String| TrainError::Kernels { path: path.to_owned(), reason };
        let text =
            wattle_files::read_stream(path, wattle_files::SMALL).map_err(|e| unreadable(e.to_string()))?;
        Self::parse(&text).map_err(unreadable)
    }

    /// What the leading rank sent.
    ///
    /// # Errors
    /// If it is not of this schema.
    pub(crate) fn of_leader(bytes: &[u8]) -> Result<Self, TrainError> {
        let kernels = Self::parse(&String::from_utf8_lossy(bytes));
        kernels.map_err(|reason| TrainError::Kernels { path: "kernels.json of rank 0".into(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let kernels: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match kernels.schema.as_str() {
            SCHEMA => Ok(kernels),
            other => Err(format!("schema {other:?}, expected {SCHEMA:?}")),
        }
    }
}

impl MeasuredJob {
    fn of(measured: &Measured) -> Self {
        let ways = measured.ways.iter().map(|way| (way.name.clone(), way.time.as_ref().ok().copied()));
        Self { job: measured.job.as_str().to_owned(), us: ways.collect() }
    }
}
