//! The power limit and the highest clock of a board, which are set for a measurement and put back after it.
//!
//! # References
//! NVML API Reference: `nvmlDeviceSetPowerManagementLimit`, `nvmlDeviceSetGpuLockedClocks`: both need root, and hold for
//! every program on the board until they are set again or the driver is unloaded.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::GpuLockedClocksSetting;
use nvml_wrapper::error::NvmlError;

use crate::error::MeterError;
use crate::sensors::discover::library;
use crate::sensors::nvml::{NvmlLibrary, computing};

/// A board whose limits can be set.
pub struct BoardLimits {
    device: Device<'static>,
    name: String,
    uuid: String,
    found_mw: u32,
}

/// What a limit may be, in milliwatts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitRange {
    /// The least.
    pub min_mw: u32,
    /// The most.
    pub max_mw: u32,
}

/// Clocks below this part of the highest are not worth trying: a board draws half of its power with nothing to do.
const LOWEST_CLOCK: f64 = 0.4;

impl BoardLimits {
    /// Opens the board with this UUID.
    ///
    /// # Errors
    /// If there is no NVML, no such board, or the board tells no limit.
    pub fn open(uuid: &str) -> Result<Self, MeterError> {
        // As for sensors: a device borrows the library, which is needed until exit.
        let library: &'static NvmlLibrary = Box::leak(Box::new(NvmlLibrary::load(library().as_deref())?));
        let device = library.device(uuid)?;
        let name = device.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned());
        let found_mw = device
            .power_management_limit()
            .map_err(|error| limit_error(&name, "does not tell its power limit", &error))?;
        Ok(Self { device, name, uuid: uuid.to_owned(), found_mw })
    }

    /// Its product name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The power limit at which it was found, in milliwatts.
    pub fn found_mw(&self) -> u32 {
        self.found_mw
    }

    /// The power limit now, in milliwatts.
    ///
    /// # Errors
    /// If the board does not tell.
    pub fn limit_mw(&self) -> Result<u32, MeterError> {
        let limit = self.device.power_management_limit();
        limit.map_err(|error| limit_error(&self.name, "does not tell its power limit", &error))
    }

    /// What the power limit may be.
    ///
    /// # Errors
    /// If the board does not tell.
    pub fn range(&self) -> Result<LimitRange, MeterError> {
        let range = self.device.power_management_limit_constraints();
        let range =
            range.map_err(|e| limit_error(&self.name, "does not tell what its power limit may be", &e))?;
        Ok(LimitRange { min_mw: range.min_limit, max_mw: range.max_limit })
    }

    /// Sets the power limit, in milliwatts.
    ///
    /// # Errors
    /// If that is not allowed; usually only root may.
    pub fn set_limit_mw(&mut self, limit_mw: u32) -> Result<(), MeterError> {
        let set = self.device.set_power_management_limit(limit_mw);
        let what = format!("refuses a power limit of {} W", f64::from(limit_mw) / 1e3);
        set.map_err(|error| limit_error(&self.name, &what, &error))
    }

    /// The highest clock of the multiprocessors in MHz.
    ///
    /// # Errors
    /// If the board does not tell.
    pub fn max_clock_mhz(&self) -> Result<u32, MeterError> {
        let clock = self.device.max_clock_info(Clock::SM);
        clock.map_err(|error| limit_error(&self.name, "does not tell its highest clock", &error))
    }

    /// `n` clocks in MHz, evenly up to the highest.
    ///
    /// # Errors
    /// If the board does not tell its highest.
    pub fn clocks(&self, n: u32) -> Result<Vec<u32>, MeterError> {
        let highest = self.max_clock_mhz()?;
        Ok(spread((f64::from(highest) * LOWEST_CLOCK) as u32, highest, n))
    }

    /// `n` power limits in milliwatts, evenly from the least to that at which the board was found, in whole watts.
    ///
    /// # Errors
    /// If the board does not tell what its limit may be.
    pub fn limits(&self, n: u32) -> Result<Vec<u32>, MeterError> {
        let LimitRange { min_mw, max_mw } = self.range()?;
        Ok(spread(min_mw.div_ceil(1000), self.found_mw.min(max_mw) / 1000, n)
            .into_iter()
            .map(|w| w * 1000)
            .collect())
    }

    /// Lets the clock go no higher than this.
    ///
    /// # Errors
    /// If that is not allowed; usually only root may.
    pub fn lock_clock_mhz(&mut self, max_clock_mhz: u32) -> Result<(), MeterError> {
        let setting = GpuLockedClocksSetting::Numeric { min_clock_mhz: 0, max_clock_mhz };
        let set = self.device.set_gpu_locked_clocks(setting);
        set.map_err(|error| {
            limit_error(&self.name, &format!("refuses a clock of {max_clock_mhz} MHz"), &error)
        })
    }

    /// Lets the clock go as it likes. What locked it before is not known to NVML, and is not put back.
    ///
    /// # Errors
    /// If that is not allowed; usually only root may.
    pub fn unlock_clock(&mut self) -> Result<(), MeterError> {
        let reset = self.device.reset_gpu_locked_clocks();
        reset.map_err(|error| limit_error(&self.name, "does not give its clock free", &error))
    }

    /// Numbers of the processes that compute on the board.
    ///
    /// # Errors
    /// If the board does not tell.
    pub fn processes(&self) -> Result<Vec<u32>, MeterError> {
        computing(&self.device).map_err(|e| limit_error(&self.name, "does not tell what computes on it", &e))
    }
}

fn limit_error(name: &str, what: &str, error: &NvmlError) -> MeterError {
    let remedy = match error {
        NvmlError::NoPermission => {
            "; power limits and clocks are root's to set: run as root, or leave out --power and --clock"
        }
        _ => "",
    };
    MeterError::Limit { reason: format!("{name} {what}: {error}{remedy}") }
}

/// `n` numbers evenly from `low` to `high`, both included.
fn spread(low: u32, high: u32, n: u32) -> Vec<u32> {
    let steps = n.max(2) - 1;
    let mut values: Vec<u32> = (0..=steps).map(|i| low + (high - low.min(high)) * i / steps).collect();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spread_evenly_with_both_ends() {
        assert_eq!(spread(200, 700, 6), [200, 300, 400, 500, 600, 700]);
        assert_eq!(spread(100, 100, 3), [100]);
    }
}
