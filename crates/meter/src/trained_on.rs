//! Which sensor measures each device that is computed on, and which devices none measures.
//!
//! A board that computes unmetered would look cheap: what it draws is missing from every figure. So each record
//! names such devices.

use wattle_runlog::{ComputeDevice, DeviceKind, Joules};

use crate::window::WindowEnergy;

/// A board that is computed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainedOn {
    /// Its name, such as `cuda:0`.
    pub device: String,
    /// The id that its sensor has, whether or not there is one; `None` if the board is unknown to NVML.
    pub sensor: Option<String>,
}

impl TrainedOn {
    /// A device on a machine without NVML. Its UUID still gives its sensor's id.
    /// `None` for a processor, which is always measured or modelled.
    pub(crate) fn without_nvml(device: &ComputeDevice) -> Option<Self> {
        let sensor = device.uuid.as_ref().map(|uuid| format!("gpu:{uuid}"));
        (device.kind == DeviceKind::Cuda).then(|| Self { device: device.to_string(), sensor })
    }

    fn is_measured_in(&self, window: &WindowEnergy) -> bool {
        let sensor = window.sensors.iter().find(|sensor| Some(&sensor.id) == self.sensor.as_ref());
        // Within no time at all there need be no reading.
        let is_empty = window.start >= window.end;
        sensor.is_some_and(|sensor| sensor.samples > 0 || sensor.energy_j > Joules::ZERO || is_empty)
    }
}

/// The devices of `devices` that no sensor measured within `window`: it has none, or that gave no reading.
pub fn unmetered(devices: &[TrainedOn], window: &WindowEnergy) -> Vec<String> {
    devices
        .iter()
        .filter(|device| !device.is_measured_in(window))
        .map(|device| device.device.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::sensor::tests::{BOARD, board_info, reading};
    use std::time::Duration;
    use wattle_runlog::{MonotonicNs, Watts};

    fn on(sensor: Option<&str>) -> Vec<TrainedOn> {
        vec![TrainedOn { device: "cuda:0".to_owned(), sensor: sensor.map(str::to_owned) }]
    }

    fn window(history: &History, end_ms: u64) -> WindowEnergy {
        WindowEnergy::of([history], MonotonicNs(0), MonotonicNs(end_ms * 1_000_000), None, false)
    }

    #[test]
    fn a_board_without_a_sensor_or_without_a_reading_is_not_metered() {
        let mut history = History::new(board_info(), BOARD, Duration::from_millis(50));
        assert_eq!(unmetered(&on(Some("gpu:x")), &window(&history, 1_000)), ["cuda:0"], "it gave no reading");
        for i in 0..=20u64 {
            history.push(&reading(MonotonicNs(i * 50_000_000), Some(Watts(300.0)), Some(i * 15_000)));
        }
        assert!(unmetered(&on(Some("gpu:x")), &window(&history, 1_000)).is_empty());
        assert!(unmetered(&on(Some("gpu:x")), &window(&history, 0)).is_empty(), "no time has passed");
        for other in [Some("gpu:y"), None] {
            assert_eq!(unmetered(&on(other), &window(&history, 1_000)), ["cuda:0"], "another board's sensor");
        }
        assert!(unmetered(&[], &window(&history, 1_000)).is_empty(), "a processor is modelled at least");
    }
}
