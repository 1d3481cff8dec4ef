//! The sensors of this machine: what was found, what cannot be read, and what would mend it.
//!
//! Discovery never fails as a whole. What is not there is a [`Finding`], and what can be modelled instead is.

use std::io;
use std::path::{Path, PathBuf};

use wattle_runlog::manifest::{Drivers, Host, SensorInfo};
use wattle_runlog::record::{Flag, SensorKind};
use wattle_runlog::{ComputeDevice, DeviceKind, Watts};

use crate::config::{EnergyConfig, GpuSelection};
use crate::error::MeterError;
use crate::sensors::calibrated::Calibrated;
use crate::sensors::calibrations::{Calibration, Calibrations};
use crate::sensors::estimate;
use crate::sensors::nvml::{Board, LIBRARY_VARIABLE, NvmlLibrary, NvmlSensor, library_name};
use crate::sensors::own_thread::{DISCOVERY_TIME, OwnThread, in_time};
use crate::sensors::rapl::{self, Domain};
use crate::sensors::sensor::Sensor;
use crate::sensors::trained_on::TrainedOn;
use crate::sensors::visible::{Shown, VisibleDevices};
use crate::sensors::workload::Workload;

/// What helps where there is no NVML.
const NO_DRIVER: &str = "install the NVIDIA driver, or name its library by NVML_LIBRARY";

/// What a machine offers to a meter.
#[derive(Default)]
pub struct Discovery {
    /// The sensors to sample. They do not overlap.
    pub sensors: Vec<Box<dyn Sensor>>,
    /// What was looked for, and what came of it.
    pub findings: Vec<Finding>,
    /// Driver versions.
    pub drivers: Drivers,
    /// The boards that are computed on; for a command, those that it is shown and that were selected.
    pub trained_on: Vec<TrainedOn>,
    /// Boards that `energy.gpus` names and that cannot be metered, each with why.
    pub unmet: Vec<Unmet>,
}

/// A board that was asked for and cannot be metered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// NVML's number.
    pub board: u32,
    /// Why not.
    pub why: String,
}

/// What came of looking for one source of readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for.
    pub what: String,
    /// What came of it.
    pub state: FindingState,
    /// More of it, for a person.
    pub detail: String,
    /// The command or key that mends it.
    pub remedy: Option<String>,
}

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingState {
    /// It is there and is read.
    Found,
    /// It is there and is left out, as was asked.
    NotSelected,
    /// It is there and cannot be read.
    Unreadable,
    /// It is not there.
    Absent,
    /// It is not there, and a model stands for it.
    Estimated,
}

/// Finds the sensors for a run of this process on `devices`.
pub fn discover(config: &EnergyConfig, devices: &[ComputeDevice]) -> Discovery {
    discover_for(config, devices, Workload::ThisProcess)
}

/// Finds the sensors for a run of `workload` on `devices`.
pub fn discover_for(config: &EnergyConfig, devices: &[ComputeDevice], workload: Workload) -> Discovery {
    let visible = VisibleDevices::from_env();
    discover_with(config, devices, workload, library().as_deref(), &visible).calibrated(config)
}

/// Finds the sensors for `workload` on the boards that CUDA would show a program started from here.
pub fn discover_visible(config: &EnergyConfig, workload: Workload) -> Discovery {
    let visible = VisibleDevices::from_env();
    discover_on(config, Wanted::Shown, workload, library().as_deref(), &visible).calibrated(config)
}

/// The boards that CUDA would show a program started from here, as devices. One that is known by its number
/// alone has no identity: what is discovered for it is flagged.
pub fn visible_gpus() -> Vec<ComputeDevice> {
    let find = || {
        let Ok(nvml) = NvmlLibrary::load(library().as_deref()) else { return Vec::new() };
        let boards: Vec<_> = nvml.boards().unwrap_or_default().into_iter().flatten().collect();
        let shown = VisibleDevices::from_env().shown(&boards, &|instance| nvml.board_of_instance(instance));
        as_devices(&boards, &shown)
    };
    in_time(DISCOVERY_TIME, find).unwrap_or_default()
}

/// Checks that every board that `energy.gpus` names is there.
///
/// # Errors
/// If one is not; the error names those that are.
pub fn check_boards(config: &EnergyConfig) -> Result<(), MeterError> {
    check_boards_with(config, library().as_deref())
}

/// [`check_boards`] with the library that it takes from the environment given.
///
/// # Errors
/// As [`check_boards`].
pub fn check_boards_with(config: &EnergyConfig, library: Option<&Path>) -> Result<(), MeterError> {
    let GpuSelection::Boards(numbers) = &config.gpus else { return Ok(()) };
    let path = library.map(Path::to_owned);
    let there = in_time(DISCOVERY_TIME, move || NvmlLibrary::load(path.as_deref())?.boards())
        .unwrap_or_else(|| Err(no_answer(library)));
    let (boards, why) = match there {
        Ok(answers) => {
            let boards: Vec<_> = answers.into_iter().flatten().collect();
            (absent(numbers, &boards), boards_there(&boards))
        }
        Err(error) => (numbers.clone(), format!("{error}; {NO_DRIVER}")),
    };
    match boards.is_empty() {
        true => Ok(()),
        false => Err(MeterError::NoSuchBoard {
            boards,
            why: format!("{why}; energy.gpus = \"used\" needs no number"),
        }),
    }
}

/// The numbers that no board has.
fn absent(numbers: &[u32], boards: &[Board]) -> Vec<u32> {
    numbers.iter().copied().filter(|number| !boards.iter().any(|board| board.index == *number)).collect()
}

/// `boards here: 0 (NVIDIA H100), 1 (NVIDIA H100)`
fn boards_there(boards: &[Board]) -> String {
    let names: Vec<_> = boards.iter().map(|board| format!("{} ({})", board.index, board.name)).collect();
    match names.is_empty() {
        true => "there are no boards here".to_owned(),
        false => format!("boards here: {}", names.join(", ")),
    }
}

/// Boards that are shown, as devices.
fn as_devices(boards: &[Board], shown: &[Shown<'_>]) -> Vec<ComputeDevice> {
    // Whatever the order, all of them are all of them.
    let all = boards.iter().all(|board| shown.iter().any(|shown| shown.board == board));
    let device = |(ordinal, shown): (usize, &Shown<'_>)| {
        let identity = |name: &Option<String>| name.clone().filter(|_| all || shown.is_certain);
        ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal: ordinal as u32,
            uuid: identity(&shown.board.uuid),
            pci: identity(&shown.board.pci),
        }
    };
    shown.iter().enumerate().map(device).collect()
}

/// Finds the sensors for `workload` on `devices`, with what [`discover`] takes from the environment given.
pub fn discover_with(
    config: &EnergyConfig,
    devices: &[ComputeDevice],
    workload: Workload,
    library: Option<&Path>,
    visible: &VisibleDevices,
) -> Discovery {
    discover_on(config, Wanted::Devices(devices.to_vec()), workload, library, visible)
}

/// What is computed on.
#[derive(Clone)]
enum Wanted {
    /// These devices.
    Devices(Vec<ComputeDevice>),
    /// Whatever CUDA shows.
    Shown,
}

fn discover_on(
    config: &EnergyConfig,
    wanted: Wanted,
    workload: Workload,
    library: Option<&Path>,
    visible: &VisibleDevices,
) -> Discovery {
    let mut discovery = discover_gpus(&config.gpus, wanted, workload, library, visible);
    discovery.add_rapl(&config.powercap_root);
    discovery.add_estimates(config, workload);
    discovery
}

/// What NVML offers, or that it does not answer.
fn discover_gpus(
    selection: &GpuSelection,
    wanted: Wanted,
    workload: Workload,
    library: Option<&Path>,
    visible: &VisibleDevices,
) -> Discovery {
    let (selected, computed_on) = (selection.clone(), wanted.clone());
    let (path, visible) = (library.map(Path::to_owned), visible.clone());
    let find = move || {
        let mut discovery = Discovery::default();
        discovery.add_gpus(&selected, &computed_on, (path.as_deref(), &visible), workload);
        discovery
    };
    in_time(DISCOVERY_TIME, find).unwrap_or_else(|| {
        let error = no_answer(library);
        tracing::warn!("{error}; GPUs are not metered");
        let mut discovery = Discovery::default();
        discovery.without_nvml(selection, &wanted, FindingState::Unreadable, &error);
        discovery
    })
}

fn no_answer(library: Option<&Path>) -> MeterError {
    MeterError::Nvml {
        library: library_name(library),
        reason: format!("no answer within {} s: the driver hangs", DISCOVERY_TIME.as_secs()),
    }
}

/// `calibrated on 2026-11-28: times 1.043 ± 1.2 %`
fn calibration_words(calibration: &Calibration) -> String {
    let date = calibration.made_at.split('T').next().unwrap_or_default();
    let (gain, half_width) = (calibration.gain, calibration.gain_uncertainty * 100.0);
    format!("calibrated on {date}: times {gain:.4} ± {half_width:.1} %")
}

/// A board to be metered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Selected {
    board: Board,
    /// Whether it was taken for the one that is used by its number alone.
    order_assumed: bool,
}

impl Discovery {
    /// What the manifest says of the sensors.
    pub fn sensor_infos(&self) -> Vec<SensorInfo> {
        self.sensors.iter().map(|sensor| sensor.info().clone()).collect()
    }

    /// The same with each sensor corrected for which `energy.calibration`, or the file of this user, has a calibration.
    fn calibrated(self, config: &EnergyConfig) -> Self {
        let path = config.calibration.clone().or_else(Calibrations::default_path);
        match path.filter(|path| config.calibrated && path.exists()) {
            Some(path) => self.calibrated_by(&path),
            None => self,
        }
    }

    fn calibrated_by(mut self, path: &Path) -> Self {
        let calibrations = match Calibrations::read(path) {
            Ok(calibrations) => calibrations,
            Err(error) => {
                tracing::warn!("{error}; sensors are not calibrated");
                let remedy = "make it again by wattle calibrate, or set energy.calibrated = false".to_owned();
                self.find("calibration", FindingState::Unreadable, error.to_string(), Some(remedy));
                return self;
            }
        };
        let mut found = Vec::new();
        let calibrate = |sensor: Box<dyn Sensor>| -> Box<dyn Sensor> {
            let Some(calibration) = calibrations.of(sensor.info()) else { return sensor };
            let info = calibration.applied_to(sensor.info(), path);
            found.push((info.id.clone(), calibration_words(calibration)));
            Box::new(Calibrated::new(sensor, info, calibration.gain))
        };
        self.sensors = self.sensors.into_iter().map(calibrate).collect();
        for (id, words) in found {
            self.find(&id, FindingState::Found, words, None);
        }
        self
    }

    /// The devices that are computed on and that no sensor will measure.
    pub fn unmetered(&self) -> Vec<String> {
        let has_sensor =
            |on: &&TrainedOn| self.sensors.iter().any(|sensor| on.sensor.as_ref() == Some(&sensor.info().id));
        self.trained_on.iter().filter(|on| !has_sensor(on)).map(|on| on.device.clone()).collect()
    }

    fn add_gpus(
        &mut self,
        selection: &GpuSelection,
        wanted: &Wanted,
        (library, visible): (Option<&Path>, &VisibleDevices),
        workload: Workload,
    ) {
        let nvml = match NvmlLibrary::load(library) {
            Ok(nvml) => nvml,
            Err(error) => return self.without_nvml(selection, wanted, FindingState::Absent, &error),
        };
        self.drivers = nvml.drivers();
        let answers = match nvml.boards() {
            Ok(answers) => answers,
            Err(error) => return self.without_nvml(selection, wanted, FindingState::Unreadable, &error),
        };
        let mut boards = Vec::new();
        for answer in answers {
            match answer {
                Ok(board) => boards.push(board),
                Err(error) => self.find("gpu", FindingState::Unreadable, error.to_string(), None),
            }
        }
        let shown = visible.shown(&boards, &|instance| nvml.board_of_instance(instance));
        let devices = match wanted {
            Wanted::Devices(devices) => devices.to_vec(),
            Wanted::Shown => as_devices(&boards, &shown),
        };
        let selected = self.select(selection, &boards, &devices, &shown);
        let is_selected = |board: &Board| selected.iter().any(|selected| selected.board == *board);
        self.trained_on = match wanted {
            Wanted::Devices(devices) => {
                devices.iter().filter_map(|device| trained_on(device, &boards, &shown)).collect()
            }
            Wanted::Shown => shown
                .iter()
                .map(|shown| shown.board)
                .filter(|board| is_selected(board))
                .map(shown_board)
                .collect(),
        };
        for board in boards.iter().filter(|board| !is_selected(board)) {
            self.find(&board.sensor_id(), FindingState::NotSelected, board.name.clone(), None);
        }
        let assumed: Vec<_> = selected.iter().map(|selected| selected.order_assumed).collect();
        let boards = selected.into_iter().map(|selected| selected.board).collect();
        for ((board, sensor), assumed) in nvml.open(boards, workload).into_iter().zip(assumed) {
            match sensor {
                Ok(mut sensor) => {
                    if assumed {
                        sensor.flag(Flag::OrderAssumed);
                    }
                    self.add_board(sensor);
                }
                Err(error) => {
                    if matches!(selection, GpuSelection::Boards(_)) {
                        self.unmet.push(Unmet { board: board.index, why: error.to_string() });
                    }
                    self.find(&board.sensor_id(), FindingState::Unreadable, error.to_string(), None);
                }
            }
        }
    }

    fn add_board(&mut self, sensor: NvmlSensor) {
        let id = sensor.info().id.clone();
        match OwnThread::start(sensor) {
            Ok(sensor) => self.add(Box::new(sensor)),
            Err(error) => self.find(&id, FindingState::Unreadable, error.to_string(), None),
        }
    }

    /// What is said where NVML does not even tell which boards there are.
    fn without_nvml(
        &mut self,
        selection: &GpuSelection,
        wanted: &Wanted,
        state: FindingState,
        error: &MeterError,
    ) {
        if let Wanted::Devices(devices) = wanted {
            self.trained_on = devices.iter().filter_map(TrainedOn::without_nvml).collect();
        }
        if let GpuSelection::Boards(numbers) = selection {
            let unmet = |number: &u32| Unmet { board: *number, why: error.to_string() };
            self.unmet = numbers.iter().map(unmet).collect();
        }
        let is_missed = !self.trained_on.is_empty() || !self.unmet.is_empty();
        self.find("gpu", state, error.to_string(), is_missed.then(|| NO_DRIVER.to_owned()));
    }

    /// The boards to meter, each once.
    fn select(
        &mut self,
        selection: &GpuSelection,
        boards: &[Board],
        devices: &[ComputeDevice],
        shown: &[Shown<'_>],
    ) -> Vec<Selected> {
        let certain = |board: &Board| Selected { board: board.clone(), order_assumed: false };
        match selection {
            GpuSelection::None => Vec::new(),
            GpuSelection::All => boards.iter().map(certain).collect(),
            GpuSelection::Boards(numbers) => {
                for board in absent(numbers, boards) {
                    let why = format!("there is no such board; {}", boards_there(boards));
                    let remedy = "choose energy.gpus from the numbers that nvidia-smi shows".to_owned();
                    self.find(&format!("gpu:{board}"), FindingState::Absent, why.clone(), Some(remedy));
                    self.unmet.push(Unmet { board, why });
                }
                boards.iter().filter(|board| numbers.contains(&board.index)).map(certain).collect()
            }
            GpuSelection::Used => {
                let mut used: Vec<Selected> = Vec::new();
                for device in devices.iter().filter(|device| device.kind == DeviceKind::Cuda) {
                    match self.board_of(device, boards, shown) {
                        Some(found) if !used.iter().any(|used| used.board == found.board) => used.push(found),
                        _ => {}
                    }
                }
                used
            }
        }
    }

    /// The board that a device is: by UUID, else by PCI address, else by number and flagged so.
    fn board_of(
        &mut self,
        device: &ComputeDevice,
        boards: &[Board],
        shown: &[Shown<'_>],
    ) -> Option<Selected> {
        if let Some(board) = identified(device, boards) {
            return Some(Selected { board: board.clone(), order_assumed: false });
        }
        let name = device.to_string();
        if device.uuid.is_some() || device.pci.is_some() {
            let detail = format!("NVML has no board {}", device.uuid.as_ref().or(device.pci.as_ref())?);
            self.find(&name, FindingState::Absent, detail, None);
            return None;
        }
        let found = shown.get(device.ordinal as usize);
        let remedy = "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the boards by energy.gpus = [0]".to_owned();
        match found {
            Some(shown) if shown.is_certain => {}
            Some(shown) => {
                let id = shown.board.sensor_id();
                let detail = format!("taken for {id} by its number, which CUDA and NVML may count apart");
                self.find(&name, FindingState::Found, detail, Some(remedy));
            }
            None => {
                let detail = "NVML has no board of this number".to_owned();
                self.find(&name, FindingState::Absent, detail, Some(remedy));
            }
        }
        found.map(|shown| Selected { board: shown.board.clone(), order_assumed: !shown.is_certain })
    }

    fn add_rapl(&mut self, root: &Path) {
        let domains = rapl::domains(root);
        if domains.is_empty() {
            let detail = format!("{} holds no RAPL domain, as in most virtual machines", root.display());
            return self.find("rapl", FindingState::Absent, detail, None);
        }
        let host = Host::here().hostname;
        let mut refused: Vec<(Domain, io::Error)> = Vec::new();
        for domain in domains {
            match domain.open(&host) {
                Ok(sensor) => self.add(Box::new(sensor)),
                Err(error) => refused.push((domain, error)),
            }
        }
        self.find_refused(refused);
    }

    fn find_refused(&mut self, refused: Vec<(Domain, io::Error)>) {
        let (denied, broken): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|(_, error)| error.kind() == io::ErrorKind::PermissionDenied);
        for (domain, error) in broken {
            self.find(&domain.sensor_id(), FindingState::Unreadable, error.to_string(), None);
        }
        if !denied.is_empty() {
            let denied: Vec<_> = denied.into_iter().map(|(domain, _)| domain).collect();
            let names: Vec<_> = denied.iter().map(Domain::sensor_id).collect();
            let detail = format!("{} may be read by root alone (CVE-2020-8694)", names.join(", "));
            self.find("rapl", FindingState::Unreadable, detail, Some(rapl::remedy(&denied)));
        }
    }

    /// A model for each part of the host that no sensor covers.
    fn add_estimates(&mut self, config: &EnergyConfig, workload: Workload) {
        let covers = |kind: SensorKind| {
            self.sensors.iter().any(|s| s.info().kind == kind || s.info().kind == SensorKind::Platform)
        };
        let (cpu, dram) = (covers(SensorKind::Cpu), covers(SensorKind::Dram));
        if !cpu {
            self.add_estimate(Box::new(estimate::cpu(workload, config.cpu_tdp_w.map(Watts))));
        }
        if !dram && let Some(sensor) = estimate::dram(workload) {
            self.add_estimate(Box::new(sensor));
        }
    }

    fn add(&mut self, sensor: Box<dyn Sensor>) {
        let info = sensor.info().clone();
        self.find(&info.id, FindingState::Found, info.description, None);
        self.sensors.push(sensor);
    }

    fn add_estimate(&mut self, sensor: Box<dyn Sensor>) {
        let info = sensor.info().clone();
        let remedy = info
            .flags
            .contains(&Flag::GuessedTdp)
            .then(|| "set energy.cpu_tdp_w to the processor's thermal design power".to_owned());
        self.find(&info.id, FindingState::Estimated, info.description, remedy);
        self.sensors.push(sensor);
    }

    fn find(&mut self, what: &str, state: FindingState, detail: String, remedy: Option<String>) {
        self.findings.push(Finding { what: what.to_owned(), state, detail, remedy });
    }
}

/// The board with a device's UUID or PCI address.
fn identified<'a>(device: &ComputeDevice, boards: &'a [Board]) -> Option<&'a Board> {
    let by_uuid = |uuid: &String| boards.iter().find(|board| board.has_uuid(uuid));
    let by_pci = |pci: &String| boards.iter().find(|board| board.has_pci(pci));
    device.uuid.as_ref().and_then(by_uuid).or_else(|| device.pci.as_ref().and_then(by_pci))
}

/// A device with its sensor's id, whether or not its board is selected; `None` for a processor.
fn trained_on(device: &ComputeDevice, boards: &[Board], shown: &[Shown<'_>]) -> Option<TrainedOn> {
    let has_identity = device.uuid.is_some() || device.pci.is_some();
    let by_number = || shown.get(device.ordinal as usize).filter(|_| !has_identity).map(|shown| shown.board);
    let board = identified(device, boards).or_else(by_number);
    let unknown = TrainedOn::without_nvml(device)?;
    Some(TrainedOn { sensor: board.map(Board::sensor_id), ..unknown })
}

/// A board that a command is shown: CUDA's number for it need not be known.
fn shown_board(board: &Board) -> TrainedOn {
    TrainedOn { device: board.sensor_id(), sensor: Some(board.sensor_id()) }
}

/// The library that the environment names.
pub(crate) fn library() -> Option<PathBuf> {
    std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::calibrations::tests::calibration;

    fn boards() -> Vec<Board> {
        (0..3)
            .map(|i| Board {
                index: i,
                name: "board".to_owned(),
                uuid: Some(format!("GPU-{i}a")),
                pci: Some(format!("00000000:0{i}:00.0")),
            })
            .collect()
    }

    fn cuda(ordinal: u32, uuid: Option<&str>, pci: Option<&str>) -> ComputeDevice {
        ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal,
            uuid: uuid.map(str::to_owned),
            pci: pci.map(str::to_owned),
        }
    }

    fn selected(
        selection: &GpuSelection,
        devices: &[ComputeDevice],
        visible: Option<&str>,
    ) -> (Vec<u32>, Vec<Finding>) {
        let (boards, visible) =
            (boards(), VisibleDevices { list: visible.map(str::to_owned), by_pci: false });
        let mut discovery = Discovery::default();
        let shown = visible.shown(&boards, &|_| None);
        let selected = discovery.select(selection, &boards, devices, &shown);
        let by_number = selected.iter().any(|selected| selected.order_assumed);
        let says_so = discovery.findings.iter().any(|finding| finding.detail.contains("by its number"));
        assert_eq!(by_number, says_so);
        (selected.iter().map(|selected| selected.board.index).collect(), discovery.findings)
    }

    #[test]
    fn used_boards_are_found_by_identity_and_not_by_number() {
        let devices = [cuda(0, Some("GPU-2a"), None), cuda(1, None, Some("0000:01:00.0"))];
        let (numbers, findings) = selected(&GpuSelection::Used, &devices, None);
        assert_eq!(numbers, [2, 1]);
        assert!(findings.is_empty(), "{findings:?}");
        let (numbers, findings) = selected(&GpuSelection::Used, &[cuda(0, Some("GPU-7"), None)], None);
        assert!(numbers.is_empty());
        assert_eq!(findings[0].state, FindingState::Absent);
    }

    #[test]
    fn a_device_without_identity_is_taken_by_number_and_that_is_said() {
        let (numbers, findings) = selected(&GpuSelection::Used, &[cuda(1, None, None)], None);
        assert_eq!(numbers, [1]);
        assert!(findings[0].detail.contains("by its number"), "{findings:?}");
        assert_eq!(selected(&GpuSelection::Used, &[cuda(1, None, None)], Some("0,2")).0, [2]);
        assert_eq!(selected(&GpuSelection::Used, &[cuda(0, None, None)], Some("GPU-1")).0, [1]);
    }

    #[test]
    fn training_on_the_processor_uses_no_board() {
        assert!(selected(&GpuSelection::Used, &[ComputeDevice::cpu()], None).0.is_empty());
        assert_eq!(selected(&GpuSelection::All, &[ComputeDevice::cpu()], None).0, [0, 1, 2]);
        let (numbers, findings) = selected(&GpuSelection::Boards(vec![1, 9]), &[], None);
        assert_eq!((numbers, findings[0].what.as_str()), (vec![1], "gpu:9"));
    }

    #[test]
    fn a_device_is_known_with_its_sensor_whether_or_not_that_is_selected() {
        let boards = boards();
        let visible = VisibleDevices { list: Some("1".to_owned()), by_pci: false };
        let shown = visible.shown(&boards, &|_| None);
        let sensor = |device: &ComputeDevice| trained_on(device, &boards, &shown).map(|on| on.sensor);
        assert_eq!(sensor(&cuda(0, Some("GPU-2a"), None)), Some(Some("gpu:GPU-2a".to_owned())));
        assert_eq!(sensor(&cuda(0, None, None)), Some(Some("gpu:GPU-1a".to_owned())), "by its number");
        assert_eq!(sensor(&cuda(0, Some("GPU-7"), None)), Some(None), "NVML has no such board");
        assert_eq!(sensor(&ComputeDevice::cpu()), None);
    }

    #[test]
    fn a_machine_without_anything_is_estimated_and_never_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let config = EnergyConfig { powercap_root: dir.path().to_owned(), ..EnergyConfig::default() };
        let nowhere = dir.path().join("libnvidia-ml.so");
        let discovery = discover_with(
            &config,
            &[cuda(0, None, None)],
            Workload::ThisProcess,
            Some(&nowhere),
            &VisibleDevices::default(),
        );
        let ids: Vec<_> = discovery.sensor_infos().into_iter().map(|info| info.id).collect();
        assert_eq!(ids, [estimate::CPU_ID, estimate::DRAM_ID]);
        let states: Vec<_> = discovery.findings.iter().map(|finding| finding.state).collect();
        use FindingState::{Absent, Estimated};
        assert_eq!(states, [Absent, Absent, Estimated, Estimated]);
        assert!(discovery.findings[0].remedy.as_ref().unwrap().contains(LIBRARY_VARIABLE));
        assert_eq!(discovery.unmetered(), ["cuda:0"]);
        let named = EnergyConfig { gpus: GpuSelection::Boards(vec![0, 3]), ..config };
        let error = check_boards_with(&named, Some(&nowhere)).unwrap_err().to_string();
        assert!(
            error.starts_with("energy.gpus names board 0, 3:") && error.contains(LIBRARY_VARIABLE),
            "{error}"
        );
        let visible = VisibleDevices::default();
        let discovery = discover_with(&named, &[], Workload::ThisProcess, Some(&nowhere), &visible);
        assert_eq!(discovery.unmet.iter().map(|unmet| unmet.board).collect::<Vec<_>>(), [0, 3]);
    }

    #[test]
    fn counters_that_may_not_be_read_come_with_the_command_that_mends_it() {
        let mut discovery = Discovery::default();
        let domain = Domain {
            name: "package-0".to_owned(),
            kind: SensorKind::Cpu,
            path: PathBuf::from("/sys/class/powercap/intel-rapl:0"),
        };
        discovery.find_refused(vec![(domain, io::ErrorKind::PermissionDenied.into())]);
        let finding = &discovery.findings[0];
        assert_eq!(finding.state, FindingState::Unreadable);
        assert_eq!(
            finding.remedy.as_deref(),
            Some("sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj")
        );
    }

    #[test]
    fn a_sensor_that_has_a_calibration_is_corrected_and_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let zone = dir.path().join("intel-rapl:0");
        std::fs::create_dir(&zone).unwrap();
        std::fs::write(zone.join("name"), "package-0\n").unwrap();
        std::fs::write(zone.join("energy_uj"), "5000000\n").unwrap();
        let path = dir.path().join("calibrations.json");
        let config = EnergyConfig {
            powercap_root: dir.path().to_owned(),
            calibration: Some(path.clone()),
            ..EnergyConfig::default()
        };
        let nowhere = dir.path().join("libnvidia-ml.so");
        let find =
            || discover_with(&config, &[], Workload::ThisProcess, Some(&nowhere), &VisibleDevices::default());
        let plain = find().sensor_infos()[0].clone();
        let mut file = Calibrations::read_or_none(&path).unwrap();
        let systematic_id = plain.systematic_id.clone();
        file.replace(&[Calibration { systematic_id, ..calibration(1.1) }]);
        file.write(&path).unwrap();
        let mut discovery = find().calibrated(&config);
        let info = discovery.sensor_infos()[0].clone();
        assert_eq!((info.systematic_fraction, info.calibration.unwrap().gain), (0.012, 1.1));
        let counter = discovery.sensors[0].read().counter;
        assert_eq!(counter.measured().map(|value| value.0), Some(5_500_000));
        let said = &discovery.findings.last().unwrap().detail;
        assert_eq!(said, "calibrated on 2026-11-28: times 1.1000 ± 1.2 %");
        let off = EnergyConfig { calibrated: false, ..config.clone() };
        assert_eq!(find().calibrated(&off).sensor_infos()[0], plain);
        std::fs::write(&path, "{}").unwrap();
        let spoilt = find().calibrated(&config);
        assert_eq!(spoilt.sensor_infos()[0], plain);
        assert_eq!(spoilt.findings.last().unwrap().state, FindingState::Unreadable);
    }

    #[test]
    fn rapl_stands_before_the_estimates() {
        let dir = tempfile::tempdir().unwrap();
        let zone = dir.path().join("intel-rapl:0");
        std::fs::create_dir(&zone).unwrap();
        std::fs::write(zone.join("name"), "package-0\n").unwrap();
        std::fs::write(zone.join("energy_uj"), "5\n").unwrap();
        let config = EnergyConfig { powercap_root: dir.path().to_owned(), ..EnergyConfig::default() };
        let nowhere = dir.path().join("libnvidia-ml.so");
        let discovery =
            discover_with(&config, &[], Workload::ThisProcess, Some(&nowhere), &VisibleDevices::default());
        let ids: Vec<_> = discovery.sensor_infos().into_iter().map(|info| info.id).collect();
        assert_eq!(ids, ["cpu:package-0", estimate::DRAM_ID]);
    }
}
