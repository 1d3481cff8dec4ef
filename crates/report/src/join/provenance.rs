//! Where a run came from: versions, machine, devices, data and model.

use std::collections::BTreeMap;

use serde::Serialize;
use wattle_runlog::manifest::{DataInfo, Drivers, Host, ModelInfo, Segment, SensorInfo, Versions};
use wattle_runlog::record::SensorKind;
use wattle_runlog::{ComputeDevice, DeviceKind};

use crate::join::run::Run;
use crate::words::sensor_name::board_name;

/// Where a run came from.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    /// Versions of what made it.
    pub versions: Versions,
    /// Driver versions.
    pub drivers: Drivers,
    /// The command line that started it.
    pub command: Vec<String>,
    /// `run.seed`
    pub seed: u64,
    /// What it computes on.
    pub devices: Vec<ComputeDevice>,
    /// The machine.
    pub host: Host,
    /// What was metered.
    pub sensors: Vec<SensorInfo>,
    /// The data trained on.
    pub data: Option<DataInfo>,
    /// The model's size.
    pub model: Option<ModelInfo>,
    /// One entry a process.
    pub segments: Vec<Segment>,
}

impl Provenance {
    pub(crate) fn of(run: &Run) -> Self {
        let manifest = run.manifest.clone();
        Self {
            versions: manifest.versions,
            drivers: manifest.drivers,
            command: manifest.command,
            seed: manifest.seed,
            devices: manifest.devices,
            host: manifest.host,
            sensors: manifest.sensors,
            data: manifest.data,
            model: manifest.model,
            segments: manifest.segments,
        }
    }

    /// What the run computed on: the names of its boards, or of the processor.
    pub fn computed_on(&self) -> String {
        let boards = self.boards();
        let is_cuda = self.devices.iter().any(|device| device.kind == DeviceKind::Cuda);
        match is_cuda {
            true if boards.is_empty() => "a GPU that was not metered".to_owned(),
            true => boards,
            false => {
                let host = &self.host;
                format!("{}, {} CPUs", host.cpu_model.as_deref().unwrap_or("unknown processor"), host.cpus)
            }
        }
    }

    /// The metered boards by name: `2 × NVIDIA H200`.
    fn boards(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for sensor in self.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu) {
            *counts.entry(board_name(sensor)).or_default() += 1;
        }
        let names =
            counts.into_iter().map(|(name, n)| if n > 1 { format!("{n} × {name}") } else { name.to_owned() });
        names.collect::<Vec<_>>().join(", ")
    }
}
