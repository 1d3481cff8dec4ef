//! The program as its users meet it: every test runs the real binary.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adapters;
mod architecture;
mod article;
mod bad_input;
mod calibrate;
mod checkpoints;
mod circles;
mod complaints;
mod conversations;
mod crash;
mod disk;
mod export;
#[cfg(target_os = "linux")]
mod faults;
mod first_hour;
mod grid;
mod habits;
mod help;
mod limits;
mod meddling;
#[cfg(target_os = "linux")]
mod memory;
mod meter;
mod metering;
mod metrics;
mod mixture;
mod own_model;
mod packing;
mod parquet_file;
mod prepare;
mod ranks;
mod readme;
mod report;
mod resume;
mod run_directory;
mod sweep;
mod tasks;
mod tune;
mod verify;
mod workbench;
