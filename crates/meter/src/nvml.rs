//! GPU boards, through NVIDIA's management library.
//!
//! A board's energy counter comes first, then its instant power, then its averaged power. Each is asked for
//! once when the board is opened; what the board, its driver or the library does not have is unsupported from
//! then on. The reading of a board includes its memory.
//!
//! # References
//! - NVML API Reference: `nvmlDeviceGetTotalEnergyConsumption`, `nvmlDeviceGetFieldValues`,
//!   `nvmlDeviceGetPowerUsage`
//! - Yang, Adamek, Armour, *Part-time Power Measurements* (2024): what the fields mean on which board, and
//!   gain errors of several per cent a board

use std::path::Path;

use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use wattle_runlog::manifest::{Drivers, SensorInfo};
use wattle_runlog::record::{Method, SensorKind};
use wattle_runlog::{MonotonicNs, Watts};

use crate::error::MeterError;
use crate::sensor::{Channels, CounterSpec, CounterValue, Missing, PowerSource, Quantity, Reading, Sensor};

/// The environment variable that names another NVML library.
pub const LIBRARY_VARIABLE: &str = "NVML_LIBRARY";

/// Bound on the gain error of a data-centre board's power reading (Yang et al. found −6 % to +13 % over all
/// boards, within 5 % on most data-centre ones).
pub const SYSTEMATIC_FRACTION: f64 = 0.05;

/// `NVML_FI_DEV_POWER_AVERAGE`
const FIELD_POWER_AVERAGE: FieldId = FieldId(185);
/// `NVML_FI_DEV_POWER_INSTANT`
const FIELD_POWER_INSTANT: FieldId = FieldId(186);

/// NVML, loaded and initialized.
#[derive(Debug)]
pub struct NvmlLibrary {
    nvml: Nvml,
    library: String,
}

/// A board as NVML knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// NVML's number, which need not be CUDA's.
    pub index: u32,
    /// Product name.
    pub name: String,
    /// `GPU-…`
    pub uuid: Option<String>,
    /// `domain:bus:device.function`
    pub pci: Option<String>,
}

impl NvmlLibrary {
    /// Loads `library`, or without it what the loader finds as `libnvidia-ml.so.1`.
    ///
    /// # Errors
    /// If there is none, or no driver behind it.
    pub fn load(library: Option<&Path>) -> Result<Self, MeterError> {
        let name = library.map_or_else(|| "libnvidia-ml.so.1".to_owned(), |path| path.display().to_string());
        let mut builder = Nvml::builder();
        if let Some(path) = library {
            builder.lib_path(path.as_os_str());
        }
        let nvml = builder
            .init()
            .map_err(|error| MeterError::Nvml { library: name.clone(), reason: error.to_string() })?;
        Ok(Self { nvml, library: name })
    }

    /// Versions of the driver, where it tells.
    pub fn drivers(&self) -> Drivers {
        let cuda = self.nvml.sys_cuda_driver_version().ok().map(|version| {
            format!(
                "{}.{}",
                nvml_wrapper::cuda_driver_version_major(version),
                nvml_wrapper::cuda_driver_version_minor(version)
            )
        });
        Drivers { nvidia: self.nvml.sys_driver_version().ok(), cuda }
    }

    /// Every board, in NVML's order; a board that does not answer is an error in its place.
    ///
    /// # Errors
    /// If the boards cannot even be counted.
    pub fn boards(&self) -> Result<Vec<Result<Board, MeterError>>, MeterError> {
        let count = self.nvml.device_count().map_err(|error| self.error(error.to_string()))?;
        Ok((0..count).map(|index| self.board(index)).collect())
    }

    fn board(&self, index: u32) -> Result<Board, MeterError> {
        let device = self
            .nvml
            .device_by_index(index)
            .map_err(|error| self.error(format!("board {index}: {error}")))?;
        Ok(Board {
            index,
            name: device.name().unwrap_or_else(|_| "NVIDIA GPU".to_owned()),
            uuid: device.uuid().ok(),
            pci: device.pci_info().ok().map(|pci| pci.bus_id),
        })
    }

    /// Opens boards as sensors, each with what it is or why it cannot be metered.
    pub fn open(self, boards: Vec<Board>) -> Vec<(Board, Result<NvmlSensor, MeterError>)> {
        if boards.is_empty() {
            return Vec::new();
        }
        // A device borrows the library, and sensors live as long as the process meters, on another thread.
        // The library is loaded once a discovery and needed until exit, so it is kept for good.
        let library: &'static Self = Box::leak(Box::new(self));
        boards.into_iter().map(|board| (board.clone(), NvmlSensor::open(library, &board))).collect()
    }

    fn error(&self, reason: String) -> MeterError {
        MeterError::Nvml { library: self.library.clone(), reason }
    }
}

impl Board {
    /// The sensor's id: by UUID, which stays when boards are added or moved.
    pub fn sensor_id(&self) -> String {
        let identity = self.uuid.as_deref().or(self.pci.as_deref());
        identity.map_or_else(|| format!("gpu:{}", self.index), |identity| format!("gpu:{identity}"))
    }

    /// Whether `uuid` is this board's, with or without NVML's prefix.
    pub fn has_uuid(&self, uuid: &str) -> bool {
        let bare = |uuid: &str| uuid.trim_start_matches("GPU-").to_ascii_lowercase();
        self.uuid.as_deref().is_some_and(|own| bare(own) == bare(uuid))
    }

    /// Whether `pci` is this board's address, whatever the width of its domain.
    pub fn has_pci(&self, pci: &str) -> bool {
        let own = self.pci.as_deref().and_then(pci_address);
        own.is_some() && own == pci_address(pci)
    }
}

/// `domain:bus:device.function` as numbers; a missing domain is 0.
fn pci_address(text: &str) -> Option<(u32, u32, u32, u32)> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let (rest, function) = text.rsplit_once('.').unwrap_or((text, "0"));
    let parts: Vec<_> = rest.split(':').collect();
    match parts[..] {
        [bus, device] => Some((0, hex(bus)?, hex(device)?, hex(function)?)),
        [domain, bus, device] => Some((hex(domain)?, hex(bus)?, hex(device)?, hex(function)?)),
        _ => None,
    }
}

/// One board.
pub struct NvmlSensor {
    device: Device<'static>,
    info: SensorInfo,
    counter: bool,
    power: Option<PowerField>,
}

/// Where a board's power is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PowerField {
    Instant,
    Average,
    /// `nvmlDeviceGetPowerUsage`: a one-second average on newer boards, taken as one on all.
    Usage,
}

impl NvmlSensor {
    fn open(library: &'static NvmlLibrary, board: &Board) -> Result<Self, MeterError> {
        let error = |reason: String| library.error(format!("board {}: {reason}", board.index));
        let device = library.nvml.device_by_index(board.index).map_err(|e| error(e.to_string()))?;
        let counter = is_supported(&device.total_energy_consumption());
        let power = [PowerField::Instant, PowerField::Average, PowerField::Usage]
            .into_iter()
            .find(|field| is_supported(&field.read_mw(&device)));
        if !counter && power.is_none() {
            return Err(error("it gives neither energy nor power".to_owned()));
        }
        let id = board.sensor_id();
        let info = SensorInfo {
            kind: SensorKind::Gpu,
            method: if counter { Method::Counter } else { Method::PowerIntegral },
            description: describe(board, counter, power),
            systematic_fraction: SYSTEMATIC_FRACTION,
            systematic_id: format!("gain/{id}"),
            id,
        };
        Ok(Self { device, info, counter, power })
    }
}

impl Sensor for NvmlSensor {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn channels(&self) -> Channels {
        Channels {
            power: self.power.map(|field| match field {
                PowerField::Instant => PowerSource::Instant,
                PowerField::Average | PowerField::Usage => PowerSource::Average,
            }),
            counter: self.counter.then_some(CounterSpec::MILLIJOULES),
        }
    }

    fn read(&mut self) -> Reading {
        let before = MonotonicNs::now();
        let counter = if self.counter {
            quantity(self.device.total_energy_consumption().map(CounterValue))
        } else {
            Quantity::Unsupported
        };
        let power = match self.power {
            Some(field) => power_quantity(field.read_mw(&self.device)),
            None => Quantity::Unsupported,
        };
        Reading { t: before.midpoint(MonotonicNs::now()), power, counter }
    }
}

impl PowerField {
    fn read_mw(self, device: &Device<'_>) -> Result<u64, NvmlError> {
        match self {
            Self::Instant => field_mw(device, FIELD_POWER_INSTANT),
            Self::Average => field_mw(device, FIELD_POWER_AVERAGE),
            Self::Usage => device.power_usage().map(u64::from),
        }
    }
}

fn field_mw(device: &Device<'_>, field: FieldId) -> Result<u64, NvmlError> {
    let sample = device.field_values_for(&[field])?.pop().ok_or(NvmlError::NoData)??;
    match sample.value? {
        SampleValue::U32(mw) => Ok(u64::from(mw)),
        SampleValue::U64(mw) => Ok(mw),
        SampleValue::F64(_) | SampleValue::I64(_) => Err(NvmlError::NotSupported),
    }
}

/// Whether a first answer means that the quantity is there, even if it was missing just then.
fn is_supported<T>(answer: &Result<T, NvmlError>) -> bool {
    !matches!(
        answer,
        Err(NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound
            | NvmlError::InvalidArg
            | NvmlError::NoPermission)
    )
}

fn quantity<T>(answer: Result<T, NvmlError>) -> Quantity<T> {
    match answer {
        Ok(value) => Quantity::Measured(value),
        Err(NvmlError::GpuLost) => Quantity::Missing(Missing::DeviceLost),
        Err(error) => Quantity::Missing(Missing::Refused(error.to_string())),
    }
}

fn power_quantity(answer: Result<u64, NvmlError>) -> Quantity<Watts> {
    match quantity(answer) {
        // A powered board draws something: zeros come when it is asked faster than it measures (Zeus).
        Quantity::Measured(0) => Quantity::Missing(Missing::Refused("answered 0 mW".to_owned())),
        Quantity::Measured(mw) => Quantity::Measured(Watts(mw as f64 / 1e3)),
        Quantity::Unsupported => Quantity::Unsupported,
        Quantity::Missing(reason) => Quantity::Missing(reason),
    }
}

fn describe(board: &Board, counter: bool, power: Option<PowerField>) -> String {
    let power = match power {
        Some(PowerField::Instant) => "instant power",
        Some(PowerField::Average) => "averaged power",
        Some(PowerField::Usage) => "power usage",
        None => "no power",
    };
    let counter = if counter { "energy counter" } else { "no energy counter" };
    let pci = board.pci.as_deref().map(|pci| format!(" at {pci}")).unwrap_or_default();
    format!("{}{pci}: {counter}, {power}", board.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_known_by_its_identity_however_it_is_written() {
        let board = Board {
            index: 1,
            name: "NVIDIA H200".to_owned(),
            uuid: Some("GPU-5A0e".to_owned()),
            pci: Some("00000000:3B:00.0".to_owned()),
        };
        assert!(board.has_uuid("GPU-5a0e") && board.has_uuid("5a0E") && !board.has_uuid("GPU-5a0f"));
        assert!(board.has_pci("0000:3b:00.0") && board.has_pci("3b:00.0"));
        assert!(!board.has_pci("0001:3b:00.0") && !board.has_pci("nonsense"));
        assert_eq!(board.sensor_id(), "gpu:GPU-5A0e");
        let nameless = Board { uuid: None, pci: None, ..board };
        assert!(!nameless.has_pci("nonsense"), "two unknown addresses are not the same one");
        assert_eq!(nameless.sensor_id(), "gpu:1");
    }

    #[test]
    fn a_zero_from_a_powered_board_is_missing() {
        assert_eq!(power_quantity(Ok(300_500)), Quantity::Measured(Watts(300.5)));
        assert!(power_quantity(Ok(0)).measured().is_none());
        assert!(power_quantity(Err(NvmlError::GpuLost)).is_lost());
    }
}
