//! A board's clock, and for how long what held it back.
//!
//! The driver counts the time under each reason for lower clocks, in nanoseconds: fields that NVML calls performance
//! policies or clocks event reasons. What `nvidia-smi -q -d PERFORMANCE` shows as "Clocks Event Reasons Counters" are
//! the same counts.
//!
//! # References
//! NVML API Reference, field values: `NVML_FI_DEV_PERF_POLICY_POWER`, `NVML_FI_DEV_CLOCKS_EVENT_REASON_*`

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use wattle_runlog::{MonotonicNs, Seconds};

use crate::sensors::sensor::Clocks;

/// Counts of time and the names of what they count, which are those of the throttle reasons. The wrapper translates
/// those ids that drivers number differently.
const REASONS: [(u32, &str); 5] = [
    (field_id::NVML_FI_DEV_PERF_POLICY_POWER, "sw_power_cap"),
    (field_id::NVML_FI_DEV_PERF_POLICY_SYNC_BOOST, "sync_boost"),
    (field_id::NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN, "sw_thermal_slowdown"),
    (field_id::NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN, "hw_thermal_slowdown"),
    (field_id::NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN, "hw_power_brake_slowdown"),
];

/// What a board tells of its clock.
pub(crate) struct ClockFields {
    reasons: Vec<(u32, &'static str)>,
    max_sm_mhz: Option<f64>,
    has_clock: bool,
}

impl ClockFields {
    /// `None` for a board that tells neither its clock nor what holds it back.
    pub(crate) fn open(device: &Device<'_>) -> Option<Self> {
        let reasons: Vec<_> = REASONS.into_iter().filter(|(id, _)| count(device, *id).is_some()).collect();
        let has_clock = device.clock_info(Clock::SM).is_ok();
        let max_sm_mhz = device.max_clock_info(Clock::SM).ok().map(f64::from).filter(|_| has_clock);
        (has_clock || !reasons.is_empty()).then_some(Self { reasons, max_sm_mhz, has_clock })
    }

    pub(crate) fn read(&self, device: &Device<'_>) -> Clocks {
        let before = MonotonicNs::now();
        let held_back = |(id, name): &(u32, &'static str)| Some((*name, count(device, *id)?));
        let held_back = self.reasons.iter().filter_map(held_back).collect();
        let sm_mhz = device.clock_info(Clock::SM).ok().map(f64::from).filter(|_| self.has_clock);
        Clocks { t: before.midpoint(MonotonicNs::now()), sm_mhz, max_sm_mhz: self.max_sm_mhz, held_back }
    }
}

/// A count of nanoseconds; `None` where the board does not keep it.
fn count(device: &Device<'_>, field: u32) -> Option<Seconds> {
    let sample = device.field_values_for(&[FieldId(field)]).ok()?.pop()?.ok()?;
    match sample.value.ok()? {
        SampleValue::U64(ns) => Some(Seconds::from_ns(ns)),
        SampleValue::U32(ns) => Some(Seconds::from_ns(u64::from(ns))),
        SampleValue::F64(_) | SampleValue::I64(_) => None,
    }
}
