//! Sensors held against a wall meter.

pub mod log;
