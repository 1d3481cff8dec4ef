//! Names of sensors where several machines train together: those of other machines than the first begin with their
//! machine's.

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

/// The name of a sensor on its machine.
pub fn on_its_machine(sensor: &str) -> &str {
    match sensor.split_once('/') {
        Some((machine, name)) if machine.starts_with(PREFIX) => name,
        _ => sensor,
    }
}

fn named(machine: &str, name: &str) -> String {
    format!("{machine}/{name}")
}

impl SensorInfo {
    /// The same of another machine, whose name its own and that of its error then begin with.
    #[must_use]
    pub fn of_machine(self, machine: &str) -> Self {
        let (id, systematic_id) = (named(machine, &self.id), named(machine, &self.systematic_id));
        Self { id, systematic_id, ..self }
    }
}

impl SensorRecord {
    /// As [`SensorInfo::of_machine`].
    #[must_use]
    pub fn of_machine(self, machine: &str) -> Self {
        let (id, systematic_id) = (named(machine, &self.id), named(machine, &self.systematic_id));
        Self { id, systematic_id, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensors_name_tells_its_machine() {
        assert_eq!(machine_of(&named(&machine_name(12), "gpu:GPU-1")), 12);
        for name in ["cpu:estimate", "gpu:MIG-GPU-1/2/3", "node/x", "nodes/x", "node1"] {
            assert_eq!(machine_of(name), 0, "{name}");
        }
    }
}
