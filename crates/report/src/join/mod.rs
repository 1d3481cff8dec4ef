//! A run's files, read and joined: what it was doing, what it drew and what it had learnt at each moment.

pub mod energy_curve;
pub mod epochs;
pub mod learning;
pub mod nearest;
pub mod power;
pub mod provenance;
pub mod report;
pub mod reprice;
pub mod run;
pub mod status;
pub mod timeline;
pub mod waiting;

pub(crate) mod step_times;

mod doubts;
mod first_steps;
mod idle;
mod open;
mod unmetered;
