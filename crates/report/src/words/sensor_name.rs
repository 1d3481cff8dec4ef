//! Sensors as they are called in front of people.

use std::collections::BTreeMap;

use wattle_runlog::ComputeDevice;
use wattle_runlog::machine::{machine_name, machine_of, on_its_machine};
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::SensorKind;

/// Display names of a run's sensors: a board's name, with its number if there are several.
#[derive(Clone, Debug, Default)]
pub struct SensorNames {
    names: BTreeMap<String, String>,
}

impl SensorNames {
    /// The names of these sensors. Boards used for training are numbered as the trainer numbers them.
    pub fn of(sensors: &[SensorInfo], devices: &[ComputeDevice]) -> Self {
        let boards: Vec<_> = sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu).collect();
        let numbers: Vec<_> = boards.iter().map(|board| number_of(board, devices)).collect();
        let are_known = numbers.iter().all(Option::is_some);
        let are_apart = boards.iter().any(|board| machine_of(&board.id) > 0);
        let name = |(i, board): (usize, &&SensorInfo)| {
            let number = numbers[i].filter(|_| are_known).unwrap_or(i as u32);
            let name = board_name(board);
            let of_machine = match are_apart {
                true => format!(" of {}", machine_name(machine_of(&board.id))),
                false => String::new(),
            };
            let numbered = if boards.len() > 1 { format!("{name} #{number}") } else { name.to_owned() };
            (board.id.clone(), numbered + &of_machine)
        };
        Self { names: boards.iter().enumerate().map(name).collect() }
    }

    /// A sensor's name; its id if it is not a board.
    pub fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    /// Several sensors' names, separated by commas.
    pub fn list(&self, ids: &[String]) -> String {
        ids.iter().map(|id| self.name(id)).collect::<Vec<_>>().join(", ")
    }
}

fn number_of(board: &SensorInfo, devices: &[ComputeDevice]) -> Option<u32> {
    let uuid = on_its_machine(&board.id).strip_prefix("gpu:")?;
    devices.iter().find(|device| device.uuid.as_deref() == Some(uuid)).map(|device| device.ordinal)
}

/// The meter describes a board as its name, its place, and what it can read of it.
pub(crate) fn board_name(board: &SensorInfo) -> &str {
    let description = board.description.as_str();
    description.split_once(" at ").map_or(description, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_runlog::DeviceKind;

    fn board(id: &str) -> SensorInfo {
        let description = "NVIDIA H100 80GB HBM3 at 00000000:00:06.0: energy counter".to_owned();
        SensorInfo { id: id.to_owned(), description, ..crate::synthetic::gpu_info() }
    }

    #[test]
    fn a_board_is_called_by_its_name_and_several_by_their_numbers_too() {
        let one = SensorNames::of(&[board("gpu:GPU-a")], &[]);
        assert_eq!(one.name("gpu:GPU-a"), "NVIDIA H100 80GB HBM3");
        assert_eq!(one.name("cpu:estimate"), "cpu:estimate");
        let two = [board("gpu:GPU-a"), board("gpu:GPU-b")];
        assert_eq!(SensorNames::of(&two, &[]).name("gpu:GPU-b"), "NVIDIA H100 80GB HBM3 #1");
        let device = |ordinal, uuid: &str| ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal,
            uuid: Some(uuid.to_owned()),
            pci: None,
        };
        let numbered = SensorNames::of(&two, &[device(5, "GPU-a"), device(3, "GPU-b")]);
        assert_eq!(numbered.name("gpu:GPU-b"), "NVIDIA H100 80GB HBM3 #3");
        let of_two_machines = [board("gpu:GPU-a"), board("node1/gpu:GPU-b")];
        let names = SensorNames::of(&of_two_machines, &[device(0, "GPU-a"), device(0, "GPU-b")]);
        assert_eq!(names.name("gpu:GPU-a"), "NVIDIA H100 80GB HBM3 #0 of node0");
        assert_eq!(names.name("node1/gpu:GPU-b"), "NVIDIA H100 80GB HBM3 #0 of node1");
    }
}
