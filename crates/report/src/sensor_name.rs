//! Sensors as they are called in front of people.

use std::collections::BTreeMap;

use wattle_runlog::DeviceKind;
use wattle_runlog::record::SensorKind;

use crate::report::Provenance;

/// A sensor's id without the middle of a board's UUID: `gpu:57a9…0001`.
pub fn short(id: &str) -> String {
    let Some(uuid) = id.strip_prefix("gpu:GPU-").filter(|uuid| uuid.is_ascii() && uuid.len() > 12) else {
        return id.to_owned();
    };
    format!("gpu:{}…{}", &uuid[..4], &uuid[uuid.len() - 4..])
}

/// What a run computed on: the names of its boards, or of the processor.
pub fn compute(provenance: &Provenance) -> String {
    let boards = boards(provenance);
    let is_cuda = provenance.devices.iter().any(|device| device.kind == DeviceKind::Cuda);
    if is_cuda && !boards.is_empty() {
        return boards;
    }
    let host = &provenance.host;
    format!("{}, {} CPUs", host.cpu_model.as_deref().unwrap_or("unknown processor"), host.cpus)
}

/// The metered boards by name: `2 × NVIDIA H200`.
fn boards(provenance: &Provenance) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for sensor in provenance.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu) {
        // The meter describes a board as its name, its place, and what it can read of it.
        let description = sensor.description.as_str();
        let name = description.split_once(" at ").map_or(description, |(name, _)| name);
        *counts.entry(name).or_default() += 1;
    }
    let names =
        counts.into_iter().map(|(name, n)| if n > 1 { format!("{n} × {name}") } else { name.to_owned() });
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_keeps_its_ends() {
        assert_eq!(short("gpu:GPU-57a9d000-0000-4000-8000-000000000001"), "gpu:57a9…0001");
        for id in ["gpu:0", "cpu:estimate", "gpu:GPU-é", "gpu:GPU-ééééééééé"] {
            assert_eq!(short(id), id);
        }
    }
}
