//! The boards that are computed on, and the id of the sensor that measures each.

use wattle_runlog::{ComputeDevice, DeviceKind};

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
}
