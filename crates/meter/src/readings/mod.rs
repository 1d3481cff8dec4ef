//! What the sensors have said: on disk as `power.trace`, in memory as running sums.

pub mod history;
pub mod ticks;
pub mod trace;
pub mod trace_reader;
pub mod trace_writer;

pub(crate) mod fused;
pub(crate) mod order;
pub(crate) mod samples;
