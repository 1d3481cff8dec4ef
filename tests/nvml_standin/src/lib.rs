//! A `libnvidia-ml.so` of our own: boards whose power is a known function of time.
//!
//! Tests point `NVML_LIBRARY` at it, and everything between the NVML wrapper and a run's records is then
//! exercised as on a machine with a GPU, with the right answer known. [`library`] says where it is.
//!
//! It is told how to behave by environment variables, read when it is loaded:
//!
//! | variable | what | default |
//! |---|---|---|
//! | `NVML_STANDIN_BOARDS` | how many boards there are | 1 |
//! | `NVML_STANDIN_POWER` | what each draws: `steady:W`, `square:W:W:period_ms` (low first), `ramp:W:W:period_ms`, `burst:W:W:period_ms:width_ms` (high last) | `steady:300` |
//! | `NVML_STANDIN_LIMITS` | a file that keeps limits and clocks that are set; without it nobody may set any | none |
//! | `NVML_STANDIN_WORK` | `idle_watts:memory_share`: boards draw by their limits ([`limits::Work`]) | they do not |
//! | `NVML_STANDIN_COUNTER_STEP_MS` | how often the energy counter moves | 100 |
//! | `NVML_STANDIN_UPDATE_MS` | how often power readings move | 100 |
//! | `NVML_STANDIN_WINDOW_MS` | how much of the time before an update instant power sees; 0: the moment alone | 25 |
//! | `NVML_STANDIN_AVERAGE_MS` | how much of it averaged power sees | 1000 |
//! | `NVML_STANDIN_RESET_AT_S` | seconds after loading at which the counter starts again from zero | never |
//! | `NVML_STANDIN_STUCK_AT_S` | seconds after loading at which the counter stops | never |
//! | `NVML_STANDIN_LOST_AT_S` | seconds after loading at which the boards stop answering (code 15) | never |
//! | `NVML_STANDIN_LATENCY_MS` | how long each reading takes | 0 |
//! | `NVML_STANDIN_PROFILE` | `h100`: an H100 under load ([`Knobs::h100`]); the other variables change it | none |
//! | `NVML_STANDIN_COUNTER_PHASE_US` | by how much the counter's ticks come after whole steps of the clock | 0 |
//! | `NVML_STANDIN_COUNTER_SPIN_US` | processor time of a reading of the counter; one in fifty takes five times as long | 0 |
//! | `NVML_STANDIN_POWER_SPIN_US` | processor time of a reading of power | 0 |
//! | `NVML_STANDIN_SAMPLE_US` | how often the driver samples power by itself; 0: it does not | 0 |
//! | `NVML_STANDIN_SAMPLE_WINDOW_US` | how much of the time before a sample it sees | 10000 |
//! | `NVML_STANDIN_CLOCK_AHEAD_MS` | by how much the clock of those samples is ahead of the wall clock | 0 |
//! | `NVML_STANDIN_CAPPED` | share of time for which the power limit holds clocks back, as counted; below 0: not counted | -1 |
//! | `NVML_STANDIN_SM_MHZ`, `_MAX_SM_MHZ` | clock of the multiprocessors, and the highest; 0: not told | 0 |
//! | `NVML_STANDIN_MIG` | 1: the boards are divided, each into one instance, named by [`mig`] | 0 |
//! | `NVML_STANDIN_PROCESSES` | comma list of processes that compute on each board; `self` is the one that asks | none |
//! | `NVML_STANDIN_THROTTLE` | what holds clocks back, in NVML's bits | 0 |
//! | `NVML_STANDIN_TEMPERATURE_C` | how hot the boards are | 45 |
//! | `NVML_STANDIN_NOT_SUPPORTED` | comma list of what boards do not have: `energy`, `power`, `instant`, `average`, `uuid`, `pci`, `limit`, `processes`, `throttle`, `temperature` | none |
//! | `NVML_STANDIN_ERROR` | comma list of quantities that fail with code 999, each with `@S` if only `S` seconds after loading: `energy@0.5` | none |
//! | `NVML_STANDIN_HANG` | comma list of functions that never return, each with `@S` if only `S` seconds after the first call: `nvmlInit_v2`, `nvmlDeviceGetTotalEnergyConsumption@2` | none |
//! | `NVML_STANDIN_ANSWER` | comma list of `FUNCTION=ANSWER`, each with `@S` as above: a code, or for values that say nothing `ones`, `zeros` or `noise`: `nvmlDeviceGetName=999` | none |
//!
//! Board *i* has the UUID and the PCI address that [`uuid`] and [`pci`] give. Power is a function of
//! `CLOCK_MONOTONIC`, so a test computes the energy between two moments by [`Power::between`]. A variable that
//! cannot be read makes initialization fail with code 999.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod knobs;
mod library;
pub mod limits;
mod nonsense;
pub mod nvml;
mod power;

pub use knobs::Knobs;
pub use library::library;
pub use power::Power;

/// The UUID of a board.
pub fn uuid(board: u32) -> String {
    format!("GPU-57a9d000-0000-4000-8000-{board:012x}")
}

/// The UUID of the one instance of a divided board.
pub fn mig(board: u32) -> String {
    format!("MIG-57a9d000-0000-5000-8000-{board:012x}")
}

/// The PCI address of a board, as NVML writes it.
pub fn pci(board: u32) -> String {
    format!("00000000:{:02X}:00.0", board + 1)
}
