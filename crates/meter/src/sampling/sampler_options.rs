//! How to sample, and where to write it.

use std::time::Duration;

use wattle_runlog::manifest::Segment;

use crate::readings::trace_writer::TraceWriter;
use crate::sensors::workload::Workload;

/// How to sample.
#[derive(Debug)]
pub struct SamplerOptions {
    /// Time between two rounds of readings. Default 50 ms.
    pub interval: Duration,
    /// The processes whose share of the host's processor time is stated beside whole-package energy.
    pub workload: Workload,
    /// Where every reading is written; nowhere by default.
    pub trace: Option<TraceTarget>,
}

/// The trace of a run, and the segment of it that begins.
#[derive(Debug)]
pub struct TraceTarget {
    /// The open trace.
    pub writer: TraceWriter,
    /// The run's id.
    pub run_id: String,
    /// The segment, as in the manifest.
    pub segment: Segment,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { interval: Duration::from_millis(50), workload: Workload::ThisProcess, trace: None }
    }
}
