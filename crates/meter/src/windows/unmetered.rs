//! The devices computed on that no sensor measured.
//!
//! A board that computes unmetered would look cheap: what it draws is missing from every figure. So each record
//! names such devices.

use wattle_runlog::Joules;

use crate::sensors::trained_on::TrainedOn;
use crate::windows::window::WindowEnergy;

/// The devices of `devices` that no sensor measured within `window`: it has none, or that gave no reading.
pub fn unmetered(devices: &[TrainedOn], window: &WindowEnergy) -> Vec<String> {
    devices.iter().filter(|device| !is_measured(device, window)).map(|device| device.device.clone()).collect()
}

fn is_measured(device: &TrainedOn, window: &WindowEnergy) -> bool {
    let sensor = window.sensors.iter().find(|sensor| Some(&sensor.id) == device.sensor.as_ref());
    // Within no time at all there need be no reading.
    let is_empty = window.start >= window.end;
    sensor.is_some_and(|sensor| sensor.samples > 0 || sensor.energy_j > Joules::ZERO || is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::history::History;
    use crate::sensors::sensor::tests::{BOARD, board_info, reading};
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
