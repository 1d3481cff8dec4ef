//! The power samples that NVIDIA's driver takes by itself.
//!
//! The driver keeps the last few seconds of total power (`nvmlDeviceGetSamples` with `NVML_TOTAL_POWER_SAMPLES`), some
//! 20 ms apart on an H100, each with a time of its own: microseconds since 1970 by the CPU's clock, as NVML states it.
//! That clock is mapped to the monotonic one ([`DriverClock`]).
//!
//! # References
//! NVML API Reference, `nvmlDeviceGetSamples`

use std::ffi::c_uint;

use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings::{nvmlDevice_t, nvmlSample_t, nvmlSamplingType_t, nvmlValue_t};
use wattle_runlog::{MonotonicNs, WallAnchor, Watts};

use crate::sensors::sensor::PowerSample;

/// `NVML_TOTAL_POWER_SAMPLES`
const TOTAL_POWER: nvmlSamplingType_t = 0;

/// Samples that are taken over by one call. An H100's driver keeps 120.
const MOST: usize = 4096;

const SUCCESS: c_uint = 0;
/// There is no sample that is newer than the last one.
const NOT_FOUND: c_uint = 6;

const UNSIGNED_INT: c_uint = 1;
const UNSIGNED_LONG: c_uint = 2;
const UNSIGNED_LONG_LONG: c_uint = 3;

type GetSamples = unsafe extern "C" fn(
    nvmlDevice_t,
    nvmlSamplingType_t,
    u64,
    *mut c_uint,
    *mut c_uint,
    *mut nvmlSample_t,
) -> c_uint;

/// The samples of one board.
pub(crate) struct DriverSamples {
    call: GetSamples,
    buffer: Vec<nvmlSample_t>,
    /// The driver's time of the last sample, in microseconds.
    last_us: u64,
    clock: DriverClock,
}

impl DriverSamples {
    /// `None` where the driver keeps no samples of power.
    pub(crate) fn open(nvml: &'static Nvml, device: &Device<'_>) -> Option<Self> {
        let call = *nvml.lib().nvmlDeviceGetSamples.as_ref().ok()?;
        let empty = nvmlSample_t { timeStamp: 0, sampleValue: nvmlValue_t { ullVal: 0 } };
        let mut samples = Self { call, buffer: vec![empty; MOST], last_us: 0, clock: DriverClock::default() };
        // What lies in the buffer is from before anything was metered.
        let first = samples.take(device).ok()?;
        let (last_us, _) = first.last()?;
        samples.last_us = *last_us;
        Some(samples)
    }

    /// The samples since the last call.
    pub(crate) fn read(&mut self, device: &Device<'_>) -> Vec<PowerSample> {
        let Ok(new) = self.take(device) else { return Vec::new() };
        let anchor = WallAnchor::now();
        if let Some((newest, _)) = new.last() {
            self.last_us = self.last_us.max(*newest);
            self.clock.note(*newest, anchor);
        }
        let sample = |(us, power)| Some(PowerSample { t: self.clock.moment(us, anchor)?, power });
        new.into_iter().filter_map(sample).filter(|sample| sample.t <= anchor.monotonic).collect()
    }

    /// The samples after `last_us`, in the order of their times.
    fn take(&mut self, device: &Device<'_>) -> Result<Vec<(u64, Watts)>, c_uint> {
        let (mut kind, mut count) = (0, MOST as c_uint);
        // SAFETY: the handle is used for this call only, on a device whose library is loaded for good.
        let handle = unsafe { device.handle() };
        // SAFETY: `call` is the library's function of this type; the buffer has room for `count` samples, and `kind`
        // and `count` may be written.
        let code = unsafe {
            (self.call)(
                handle,
                TOTAL_POWER,
                self.last_us,
                &raw mut kind,
                &raw mut count,
                self.buffer.as_mut_ptr(),
            )
        };
        if code == NOT_FOUND {
            return Ok(Vec::new());
        }
        if code != SUCCESS {
            return Err(code);
        }
        let last_us = self.last_us;
        let filled = &self.buffer[..(count as usize).min(MOST)];
        let value = |sample: &nvmlSample_t| {
            // SAFETY: every member of the union is a number, which may be any bits; the driver says which it wrote.
            let mw = unsafe {
                match kind {
                    UNSIGNED_INT => u64::from(sample.sampleValue.uiVal),
                    UNSIGNED_LONG | UNSIGNED_LONG_LONG => sample.sampleValue.ullVal,
                    _ => return None,
                }
            };
            let is_new = sample.timeStamp > last_us && mw > 0 && mw < HIGHEST_MW;
            is_new.then_some((sample.timeStamp, Watts(mw as f64 / 1e3)))
        };
        let mut samples: Vec<_> = filled.iter().filter_map(value).collect();
        samples.sort_by_key(|(us, _)| *us);
        samples.dedup_by_key(|(us, _)| *us);
        Ok(samples)
    }
}

/// No board draws more than this.
const HIGHEST_MW: u64 = 100_000_000;

/// A newest sample is no older than this when it is read: some sampling periods.
const OLDEST_NS: i64 = 200_000_000;

/// What the offset may grow by from one call to the next.
const DRIFT_NS: i64 = 50_000;

/// Clocks that are set alike differ by less.
const SAME_CLOCK_NS: i64 = 5_000_000;

/// How far the driver's clock is from the monotonic one.
///
/// Where the newest sample of every call is as old as it may be by the wall clock, the driver's clock is the wall clock,
/// and is mapped as that is now. Otherwise the newest sample that any call has found tells: it was taken at most one
/// period before the call.
#[derive(Debug, Default)]
pub(crate) struct DriverClock {
    /// Calls whose newest sample could not have been taken then by the wall clock.
    strange: u32,
    calls: u32,
    /// The least that the monotonic clock was ahead of the driver's, in nanoseconds, among the last calls.
    offset_ns: Option<i64>,
}

impl DriverClock {
    /// A call at `anchor` found `newest_us` as the newest sample's time.
    pub(crate) fn note(&mut self, newest_us: u64, anchor: WallAnchor) {
        let Some(newest_ns) = nanoseconds(newest_us) else { return };
        let age = anchor.wall_ns.saturating_sub(newest_ns);
        self.calls += 1;
        self.strange += u32::from(!(-SAME_CLOCK_NS..=OLDEST_NS).contains(&age));
        let offset = (anchor.monotonic.0 as i64).saturating_sub(newest_ns);
        // A clock that is slewed is followed, at some microseconds a call.
        let before = self.offset_ns.map_or(offset, |before| before.saturating_add(DRIFT_NS));
        self.offset_ns = Some(before.min(offset));
    }

    /// The moment of a sample, as the clocks stand at `anchor`.
    pub(crate) fn moment(&self, us: u64, anchor: WallAnchor) -> Option<MonotonicNs> {
        let ns = nanoseconds(us)?;
        let is_wall = self.strange * 2 <= self.calls;
        let offset =
            if is_wall { (anchor.monotonic.0 as i64).checked_sub(anchor.wall_ns)? } else { self.offset_ns? };
        u64::try_from(ns.checked_add(offset)?).ok().map(MonotonicNs)
    }
}

fn nanoseconds(us: u64) -> Option<i64> {
    i64::try_from(us).ok()?.checked_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads once a second for a minute a driver that samples every 21 ms by a clock that is `ahead_ns` of the wall
    /// clock, and returns how far the last sample's moment is from when it was taken.
    fn off_ms(ahead_ns: i64) -> f64 {
        let mut clock = DriverClock::default();
        let mut off = f64::NAN;
        for call in 0..60u64 {
            let monotonic = 7_000_000_000 + call * 1_003_700_000;
            let anchor = WallAnchor {
                wall_ns: 1_790_000_000_000_000_000 + monotonic as i64,
                monotonic: MonotonicNs(monotonic),
            };
            let taken = monotonic / 21_000_000 * 21_000_000;
            let newest = (1_790_000_000_000_000_000 + taken as i64 + ahead_ns) as u64 / 1_000;
            clock.note(newest, anchor);
            off = (clock.moment(newest, anchor).unwrap().0 as f64 - taken as f64) / 1e6;
        }
        off
    }

    #[test]
    fn samples_are_where_they_were_taken_by_whatever_clock() {
        assert!(off_ms(0).abs() < 0.01, "the wall clock");
        // The newest sample that was ever found was some milliseconds old.
        assert!(off_ms(3_600_000_000_000).abs() < 4.0, "{}", off_ms(3_600_000_000_000));
        assert!(off_ms(-1_700_000_000_000_000_000).abs() < 4.0, "time since boot");
    }

    #[test]
    fn nonsense_is_no_moment() {
        let mut clock = DriverClock::default();
        let anchor = WallAnchor { wall_ns: 1_790_000_000_000_000_000, monotonic: MonotonicNs(5) };
        clock.note(u64::MAX, anchor);
        assert_eq!(clock.moment(u64::MAX, anchor), None);
        assert_eq!(clock.moment(0, anchor), None);
    }
}
