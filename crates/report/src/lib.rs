//! Runs in tables, pages and comparisons: what was learnt, and what it cost.
//!
//! Reads run directories, finished or being written, and never writes into them. Opens no device.
//!
//! Each folder leans on those above it alone:
//!
//! - [`words`]: for a terminal
//!   - [`quantity`](words::quantity), [`sensor_name`](words::sensor_name), [`flags`](words::flags): figures, sensors
//!     and their flags in words
//!   - [`describe`](words::describe): a record in words, for a log line
//!   - [`table`](words::table): columns and line breaks
//! - [`join`]: one run
//!   - [`run`](join::run): a run directory's files; [`nearest`](join::nearest) to a path without one
//!   - [`status`](join::status), [`timeline`](join::timeline): how it stands, and its running time
//!   - [`power`](join::power), [`energy_curve`](join::energy_curve): what it had drawn by any moment
//!   - [`learning`](join::learning): what it had learnt by then
//!   - [`report`](mod@join::report): all of it joined, `wattle.report/1`; [`epochs`](join::epochs) row by row,
//!     [`provenance`](join::provenance), [`reprice`](join::reprice) by another table
//! - [`mod@text`]: a report for a terminal
//! - [`page`](mod@page): a report for a browser
//! - [`list`]: the runs of a folder, `wattle.runs/1`
//! - [`mod@compare`]: runs side by side, `wattle.compare/1`
//! - [`mod@estimate`]: runs that no machine here can do, `wattle.estimate/1`
//! - [`mod@scaling`]: a measured step on many GPUs, `wattle.scaling/1`

pub mod compare;
pub mod error;
pub mod estimate;
pub mod join;
pub mod list;
pub mod page;
pub mod scaling;
pub mod text;
pub mod words;

#[cfg(test)]
mod synthetic;

pub use error::ReportError;
pub use join::report::Report;
pub use join::run::Run;
pub use join::status::Status;
