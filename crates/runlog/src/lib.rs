//! The vocabulary that training and metering share, and what a run leaves on disk.
//!
//! The learning column (data, ops, model, train) and the measuring column (meter, report) never depend on each
//! other; what both speak of is defined here: units, the clock, compute devices, spans of time, events and
//! emission records, and the layout of the run directory that holds them. This crate opens no device and
//! computes nothing but checksums.
//!
//! - [`units`]: joules, watts, seconds, grams: never a bare number
//! - [`clock`]: monotonic nanoseconds, anchored to wall time once a segment
//! - [`device`]: a compute device that both columns can recognise
//! - [`span`]: what the trainer was doing from when to when
//! - [`event`]: what happened, one JSON line each (`events.jsonl`)
//! - [`grid`]: what the grid emitted meanwhile, one JSON line each (`grid.jsonl`)
//! - [`record`]: what it cost, one JSON line each (`emissions.jsonl`)
//! - [`held`]: files that are still there in the end, whatever others do to their names
//! - [`lines`]: append-only files that survive a crash
//! - [`machine`]: how sensors of several machines are called
//! - [`manifest`]: where, on what and from what the run was made (`manifest.json`)
//! - [`score`]: what a model scored on tasks (`tasks.jsonl`)
//! - [`run_dir`]: the run directory, its lock, and atomic writes

pub mod beside;
pub mod calibration;
pub mod clock;
pub mod device;
pub mod error;
pub mod event;
pub mod grid;
pub mod held;
pub mod lines;
pub mod machine;
pub mod manifest;
pub mod masked;
pub mod record;
pub mod run_dir;
pub mod score;
pub mod span;
pub mod units;

pub use clock::{MonotonicNs, WallAnchor};
pub use device::{ComputeDevice, DeviceKind};
pub use error::RunlogError;
pub use event::{Event, EventBody, StopReason};
pub use held::{HeldFile, Tampered};
pub use lines::LineFile;
pub use manifest::{Manifest, Segment};
pub use record::Record;
pub use run_dir::RunDir;
pub use score::{Sample, Score, TaskResult, TaskScores};
pub use span::{Phase, Span, SpanClock};
pub use units::{Celsius, GramsCo2e, GramsPerKwh, Joules, Seconds, Watts};
