//! Runs in tables, pages and comparisons: what was learnt, and what it cost.
//!
//! Reads run directories, finished or being written, and never writes into them. Opens no device.
//!
//! - [`run`]: a run directory's files, [`status`] and [`timeline`] of the run; [`nearest`] to a path without one
//! - [`power`], [`energy_curve`]: what it had drawn by any moment
//! - [`learning`]: what it had learnt by then
//! - [`report`](mod@report): all of it joined, `wattle.report/1`; [`epochs`] row by row, [`flags`] in words, [`reprice`] by another table
//! - [`quantity`], [`sensor_name`], [`table`], [`mod@text`]: for a terminal
//! - [`describe`]: a record in words, for a log line
//! - [`mod@compare`]: runs side by side, `wattle.compare/1`
//! - [`mod@estimate`]: runs that no machine here can do, `wattle.estimate/1`
//! - [`decimate`](mod@decimate), [`page`](mod@page): for a browser

mod doubts;
mod energy_words;
mod idle;
mod phase_words;
mod step_times;
mod unmetered;

pub mod compare;
pub mod decimate;
pub mod describe;
pub mod energy_curve;
pub mod epochs;
pub mod error;
pub mod estimate;
pub mod flags;
pub mod learning;
pub mod nearest;
pub mod page;
pub mod power;
pub mod quantity;
pub mod report;
pub mod reprice;
pub mod run;
pub mod sensor_name;
pub mod status;
pub mod table;
pub mod text;
pub mod timeline;

#[cfg(test)]
mod synthetic;

pub use error::ReportError;
pub use report::Report;
pub use run::Run;
pub use status::Status;
