//! What can be asked for power or energy, and which of it this machine has.

pub mod board_limits;
pub(crate) mod calibrated;
pub mod calibrations;
pub(crate) mod clock_fields;
pub mod discover;
pub(crate) mod driver_samples;
pub mod estimate;
pub mod nvml;
pub mod own_thread;
pub mod rapl;
pub mod sensor;
pub mod share;
pub mod trained_on;
pub mod visible;
pub mod workload;
