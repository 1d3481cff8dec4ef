//! A compute device as both columns name it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of processor does the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The host's processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The device that a trainer computes on, with what a meter needs to find the same board.
///
/// CUDA and NVML number boards differently; only the UUID and the PCI address mean the same to both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputeDevice {
    /// Kind of processor.
    pub kind: DeviceKind,
    /// The trainer's own index among devices of this kind.
    pub ordinal: u32,
    /// The board's UUID as NVML writes it (`GPU-…`), where there is one.
    pub uuid: Option<String>,
    /// The board's PCI address (`domain:bus:device.function`), where there is one.
    pub pci: Option<String>,
}

impl ComputeDevice {
    /// The host's processor.
    pub fn cpu() -> Self {
        Self { kind: DeviceKind::Cpu, ordinal: 0, uuid: None, pci: None }
    }
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeviceKind::Cpu => f.write_str("cpu"),
            DeviceKind::Cuda => write!(f, "cuda:{}", self.ordinal),
        }
    }
}
