//! The energy between two moments, its uncertainty, and its division by what the run was doing.

pub mod figure;
pub mod phases;
pub mod profile;
pub mod stretch;
pub mod unmetered;
pub mod window;

pub(crate) mod regression;
