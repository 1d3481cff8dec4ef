//! The thread that reads the sensors, and what it shows of them while it runs.

pub mod counter_schedule;
pub mod live;
pub mod sampler;
pub mod sampler_options;

mod activity;
mod latency;
mod worker;
