//! Names of sensors and traces where several machines train together: those of other machines than the first have their
//! machine's in them.

use std::path::{Path, PathBuf};

use crate::manifest::SensorInfo;
use crate::record::SensorRecord;

/// What names of a machine's sensors begin with.
const PREFIX: &str = "node";

/// A machine by its number, from 0.
pub fn machine_name(node: usize) -> String {
    format!("{PREFIX}{node}")
}

/// The number of the machine that a sensor of this name is on.
pub fn machine_of(sensor: &str) -> usize {
    let node = |sensor: &str| sensor.split_once('/')?.0.strip_prefix(PREFIX)?.parse().ok();
    node(sensor).unwrap_or(0)
}

/// The file of a run directory that another machine than the first leaves its readings in: `power.1.trace` and so on.
pub fn trace_name(node: usize) -> String {
    format!("power.{node}.trace")
}

/// The traces that other machines have left in a run directory, each with its machine's name.
pub fn other_traces(run: &Path) -> Vec<(String, PathBuf)> {
    let node_of = |name: &str| name.strip_prefix("power.")?.strip_suffix(".trace")?.parse::<usize>().ok();
    let entries = std::fs::read_dir(run).into_iter().flatten().flatten();
    let mut found: Vec<(usize, PathBuf)> =
        entries.filter_map(|entry| Some((node_of(entry.file_name().to_str()?)?, entry.path()))).collect();
    found.sort();
    found.into_iter().map(|(node, path)| (machine_name(node), path)).collect()
}

/// The name of a sensor on its machine.
pub fn on_its_machine(sensor: &str) -> &str {
    match sensor.split_once('/') {
        Some((machine, name)) if machine.starts_with(PREFIX) => name,
        _ => sensor,
    }
}

/// The name, of all machines, that a sensor of `machine` has.
pub fn sensor_of(machine: &str, name: &str) -> String {
    format!("{machine}/{name}")
}

impl SensorInfo {
    /// The same of another machine, whose name its own and that of its error then begin with.
    #[must_use]
    pub fn of_machine(self, machine: &str) -> Self {
        let (id, systematic_id) = (sensor_of(machine, &self.id), sensor_of(machine, &self.systematic_id));
        Self { id, systematic_id, ..self }
    }
}

impl SensorRecord {
    /// As [`SensorInfo::of_machine`].
    #[must_use]
    pub fn of_machine(self, machine: &str) -> Self {
        let (id, systematic_id) = (sensor_of(machine, &self.id), sensor_of(machine, &self.systematic_id));
        Self { id, systematic_id, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensors_name_tells_its_machine() {
        assert_eq!(machine_of(&sensor_of(&machine_name(12), "gpu:GPU-1")), 12);
        for name in ["cpu:estimate", "gpu:MIG-GPU-1/2/3", "node/x", "nodes/x", "node1"] {
            assert_eq!(machine_of(name), 0, "{name}");
        }
    }
}
