//! GPU boards, through NVIDIA's management library.
//!
//! A board's energy counter, its instant power and its averaged power are read side by side, so that each can be
//! held against the others. Each is asked for once when the board is opened; what the board, its driver or the
//! library does not have is unsupported from then on. The reading of a board includes its memory.
//!
//! Averaged power is a mean over one second on Ampere and newer boards, but not on those with a GA100; there, and
//! on older boards, every field is taken for instant power.
//!
//! A board that is divided (MIG) is counted whole, and flagged so: its instances share one supply.
//!
//! # References
//! - NVML API Reference: `nvmlDeviceGetTotalEnergyConsumption`, `nvmlDeviceGetFieldValues`,
//!   `nvmlDeviceGetPowerUsage`
//! - Yang, Adamek, Armour, *Part-time Power Measurements* (2024): what the fields mean on which board, and
//!   gain errors of several per cent a board

use std::path::Path;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::{DeviceArchitecture, SampleValue};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::{Device, Nvml};
use wattle_runlog::manifest::{Drivers, PowerLimits, SensorInfo};
use wattle_runlog::record::{Flag, Method, SensorKind};
use wattle_runlog::{Celsius, MonotonicNs, Seconds, Watts};

use crate::error::MeterError;
use crate::sensors::clock_fields::ClockFields;
use crate::sensors::driver_samples::DriverSamples;
use crate::sensors::sensor::{
    Channels, Clocks, CounterReading, CounterSpec, CounterValue, Missing, PowerSample, PowerSource, Quantity,
    Reading, Sensor, Survey,
};
use crate::sensors::workload::{Workload, thread_cpu_time};

/// The environment variable that names another NVML library.
pub const LIBRARY_VARIABLE: &str = "NVML_LIBRARY";

/// Bound on the gain error of a data-centre board's power reading (Yang et al. found −6 % to +13 % over all
/// boards, within 5 % on most data-centre ones).
pub const SYSTEMATIC_FRACTION: f64 = 0.05;

/// `NVML_FI_DEV_POWER_AVERAGE`
const FIELD_POWER_AVERAGE: FieldId = FieldId(185);
/// `NVML_FI_DEV_POWER_INSTANT`
const FIELD_POWER_INSTANT: FieldId = FieldId(186);

/// Boards that one machine may have: a count beyond it is a broken library's.
const MOST_BOARDS: u32 = 4096;
/// Processes that may compute on one board; Linux has no more (`PID_MAX_LIMIT`).
const MOST_PROCESSES: u32 = 1 << 22;

/// Processor time of a call from which on a counter is read seldom: twenty calls of it a second are half a per cent of
/// a core. On an H100 a call takes thirteen times that.
const SLOW_CALL: Seconds = Seconds(250e-6);

/// NVML, loaded and initialized.
#[derive(Debug)]
pub struct NvmlLibrary {
    nvml: Nvml,
    library: String,
}

/// What a library is called in messages.
pub(crate) fn library_name(library: Option<&Path>) -> String {
    library.map_or_else(|| "libnvidia-ml.so.1".to_owned(), |path| path.display().to_string())
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
        let name = library_name(library);
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
        if count > MOST_BOARDS {
            return Err(self.error(format!("it counts {count} boards, more than any machine has")));
        }
        Ok((0..count).map(|index| self.board(index)).collect())
    }

    /// The UUID of the board that an instance of a divided board (`MIG-…`) belongs to.
    pub fn board_of_instance(&self, uuid: &str) -> Option<String> {
        self.nvml.device_by_uuid(uuid).ok()?.mig_parent_device().ok()?.uuid().ok()
    }

    /// The board with this UUID.
    pub(crate) fn device(&self, uuid: &str) -> Result<Device<'_>, MeterError> {
        self.nvml.device_by_uuid(uuid).map_err(|error| self.error(format!("board {uuid}: {error}")))
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
    ///
    /// Processes of `workload` are those that do not contend for a board.
    pub fn open(
        self,
        boards: Vec<Board>,
        workload: Workload,
    ) -> Vec<(Board, Result<NvmlSensor, MeterError>)> {
        if boards.is_empty() {
            return Vec::new();
        }
        // A device borrows the library, and sensors live as long as the process meters, on another thread.
        // The library is loaded once a discovery and needed until exit, so it is kept for good.
        let library: &'static Self = Box::leak(Box::new(self));
        boards.into_iter().map(|board| (board.clone(), NvmlSensor::open(library, &board, workload))).collect()
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
pub(crate) fn pci_address(text: &str) -> Option<(u32, u32, u32, u32)> {
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
    /// Whether the counter takes too much processor time to be read with everything else.
    is_slow: bool,
    power: Option<PowerField>,
    average: Option<PowerField>,
    /// The driver's own samples.
    samples: Option<DriverSamples>,
    /// What the board tells of its clock.
    clocks: Option<ClockFields>,
    temperature: bool,
    /// Whether an averaged field is a mean over a second.
    averages: bool,
    workload: Workload,
}

/// Where a board's power is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PowerField {
    Instant,
    Average,
    /// `nvmlDeviceGetPowerUsage`: a one-second average on newer boards.
    Usage,
}

impl NvmlSensor {
    fn open(library: &'static NvmlLibrary, board: &Board, workload: Workload) -> Result<Self, MeterError> {
        let error = |reason: String| library.error(format!("board {}: {reason}", board.index));
        let device = library.nvml.device_by_index(board.index).map_err(|e| error(e.to_string()))?;
        let counter = is_supported(&device.total_energy_consumption());
        let is_slow = counter && is_slow(&device);
        let samples = DriverSamples::open(&library.nvml, &device);
        let clocks = ClockFields::open(&device);
        let first = |fields: &[PowerField]| {
            fields.iter().copied().find(|field| is_supported(&field.read_mw(&device)))
        };
        let power = first(&[PowerField::Instant, PowerField::Average, PowerField::Usage]);
        let averages = averages(&device, &board.name);
        let beside = power == Some(PowerField::Instant) && averages;
        let average = beside.then(|| first(&[PowerField::Average, PowerField::Usage])).flatten();
        if !counter && power.is_none() && samples.is_none() {
            return Err(error("it gives neither energy nor power".to_owned()));
        }
        let id = board.sensor_id();
        let temperature = is_supported(&device.temperature(TemperatureSensor::Gpu));
        let is_divided = device.mig_mode().is_ok_and(|mode| mode.current != 0);
        let info = SensorInfo {
            kind: SensorKind::Gpu,
            method: match (counter, samples.is_some()) {
                (true, _) => Method::Counter,
                (false, true) => Method::DriverSamples,
                (false, false) => Method::PowerIntegral,
            },
            description: describe(board, counter, power, average, samples.is_some(), is_divided),
            systematic_fraction: SYSTEMATIC_FRACTION,
            systematic_id: format!("gain/{id}"),
            id,
            flags: if is_divided { vec![Flag::WholeDevice] } else { Vec::new() },
            assumption: None,
            calibration: None,
            limits: limits(&device),
        };
        Ok(Self {
            device,
            info,
            counter,
            is_slow,
            power,
            average,
            samples,
            clocks,
            temperature,
            averages,
            workload,
        })
    }

    fn temperature(&self) -> Option<Celsius> {
        self.device.temperature(TemperatureSensor::Gpu).ok().map(|degrees| Celsius(f64::from(degrees)))
    }

    /// What holds of the board whatever it says, besides what it told itself.
    pub(crate) fn flag(&mut self, flag: Flag) {
        self.info.flags.push(flag);
    }
}

impl Sensor for NvmlSensor {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn channels(&self) -> Channels {
        let averaged = self.averages;
        Channels {
            power: self.power.map(|field| match field {
                PowerField::Average | PowerField::Usage if averaged => PowerSource::Average,
                PowerField::Instant | PowerField::Average | PowerField::Usage => PowerSource::Instant,
            }),
            average: self.average.is_some(),
            counter: (self.counter && !self.is_slow).then_some(CounterSpec::MILLIJOULES),
            temperature: self.temperature,
            slow_counter: (self.counter && self.is_slow).then_some(CounterSpec::MILLIJOULES),
            samples: self.samples.is_some(),
            clocks: self.clocks.is_some(),
        }
    }

    fn read(&mut self) -> Reading {
        let before = MonotonicNs::now();
        let counter = if self.counter && !self.is_slow {
            quantity(self.device.total_energy_consumption().map(CounterValue))
        } else {
            Quantity::Unsupported
        };
        let read = |field: Option<PowerField>| match field {
            Some(field) => power_quantity(field.read_mw(&self.device)),
            None => Quantity::Unsupported,
        };
        let (power, average) = (read(self.power), read(self.average));
        Reading { t: before.midpoint(MonotonicNs::now()), power, average, counter }
    }

    fn read_counter(&mut self) -> CounterReading {
        let before = MonotonicNs::now();
        let value = quantity(self.device.total_energy_consumption().map(CounterValue));
        CounterReading { before, after: MonotonicNs::now(), value }
    }

    fn read_samples(&mut self) -> Vec<PowerSample> {
        self.samples.as_mut().map_or_else(Vec::new, |samples| samples.read(&self.device))
    }

    fn read_clocks(&mut self) -> Option<Clocks> {
        self.clocks.as_ref().map(|clocks| clocks.read(&self.device))
    }

    fn survey(&mut self) -> Survey {
        let pids = computing(&self.device).ok();
        Survey {
            contended: pids.map(|pids| self.workload.shares_with(&pids)),
            throttle: self.device.current_throttle_reasons().map(throttle_names).unwrap_or_default(),
            temperature: if self.temperature { self.temperature() } else { None },
        }
    }
}

/// Numbers of the processes that compute on a board.
pub(crate) fn computing(device: &Device<'_>) -> Result<Vec<u32>, NvmlError> {
    // The wrapper takes memory for as many as the library counts.
    if device.running_compute_processes_count()? > MOST_PROCESSES {
        return Err(NvmlError::UnexpectedVariant(MOST_PROCESSES));
    }
    Ok(device.running_compute_processes()?.into_iter().map(|process| process.pid).collect())
}

/// Whether what this board calls an average is one over a second.
///
/// "On Ampere (except GA100) or newer GPUs, the API returns power averaged over 1 sec interval" (NVML API
/// Reference, `nvmlDeviceGetPowerUsage`). A board whose architecture is not known is taken for a newer one.
fn averages(device: &Device<'_>, name: &str) -> bool {
    use DeviceArchitecture::{Kepler, Maxwell, Pascal, Turing, Volta};
    let ga100 = name.split_whitespace().any(|word| {
        ["A100", "A800", "A30", "A30X", "A100X"].contains(&word.split('-').next().unwrap_or(word))
    });
    let older = matches!(device.architecture(), Ok(Kepler | Maxwell | Pascal | Volta | Turing));
    !ga100 && !older
}

/// Whether reading the counter costs more than [`SLOW_CALL`]: the median of some calls after a first one, which may load
/// something.
fn is_slow(device: &Device<'_>) -> bool {
    let cost = || {
        let before = thread_cpu_time();
        // What it says is of no interest here.
        let _ = device.total_energy_consumption();
        thread_cpu_time() - before
    };
    cost();
    let mut costs = [cost(), cost(), cost()].map(Seconds::get);
    costs.sort_by(f64::total_cmp);
    Seconds(costs[1]) >= SLOW_CALL
}

fn limits(device: &Device<'_>) -> Option<PowerLimits> {
    let watts = |mw: u32| Watts(f64::from(mw) / 1e3);
    let enforced_w = device.enforced_power_limit().ok().map(watts)?;
    let range = device.power_management_limit_constraints().ok();
    let (min_w, max_w) = (range.as_ref().map(|r| watts(r.min_limit)), range.map(|r| watts(r.max_limit)));
    Some(PowerLimits { enforced_w, min_w, max_w })
}

/// NVML's names of what holds clocks back; idling does not.
fn throttle_names(reasons: ThrottleReasons) -> Vec<&'static str> {
    let known = [
        (ThrottleReasons::SW_POWER_CAP, "sw_power_cap"),
        (ThrottleReasons::HW_SLOWDOWN, "hw_slowdown"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "sw_thermal_slowdown"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hw_thermal_slowdown"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "hw_power_brake_slowdown"),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "applications_clocks_setting"),
        (ThrottleReasons::SYNC_BOOST, "sync_boost"),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display_clock_setting"),
    ];
    known.into_iter().filter(|(reason, _)| reasons.contains(*reason)).map(|(_, name)| name).collect()
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

fn describe(
    board: &Board,
    counter: bool,
    power: Option<PowerField>,
    average: Option<PowerField>,
    has_samples: bool,
    is_divided: bool,
) -> String {
    let power = match power {
        Some(PowerField::Instant) => "instant power",
        Some(PowerField::Average) => "averaged power",
        Some(PowerField::Usage) => "power usage",
        None => "no power",
    };
    let counter = if counter { "energy counter" } else { "no energy counter" };
    let average = average.map_or("", |_| ", averaged power");
    let samples = if has_samples { ", the driver's samples" } else { "" };
    let pci = board.pci.as_deref().map(|pci| format!(" at {pci}")).unwrap_or_default();
    let whole = if is_divided { "; divided (MIG), counted whole" } else { "" };
    format!("{}{pci}: {counter}, {power}{average}{samples}{whole}", board.name)
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
