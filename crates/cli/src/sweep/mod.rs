//! A sweep: several ways of training, each with several seeds, as ordinary runs in one folder.
//!
//! - [`mod@file`] reads `SWEEP.toml`
//! - [`strategy`]: its strategies, and those that a matrix makes of them
//! - [`plan`]: every run with its configuration, in the order in which they are made
//! - [`folder`]: where the runs lie, and which of them are done
//! - [`mod@execute`]: each run a process of its own

pub mod execute;
pub mod file;
pub mod folder;
pub mod plan;
pub mod strategy;

pub use execute::{Ending, ExecuteOptions, execute};
pub use file::SweepFile;
pub use folder::{RunState, SweepFolder};
pub use plan::{PlannedRun, SweepPlan};
