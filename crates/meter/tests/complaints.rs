//! What users of other meters complain of, and why it cannot happen here: one test a complaint.
//!
//! The complaints are those gathered from the trackers of Zeus, CodeCarbon and carbontracker; each test names
//! its own. What only the whole program can show is tested with it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nvml_standin::{library, mig, uuid};
use wattle_meter::books::projection::{Fit, Projector};
use wattle_meter::readings::trace::SegmentHeader;
use wattle_meter::readings::trace_reader::{TraceItem, TraceReader};
use wattle_meter::sensors::discover::{discover, visible_gpus};
use wattle_meter::sensors::estimate;
use wattle_meter::{
    Discovery, EDGE_TIMEOUT, EnergyConfig, FindingState, GpuSelection, Sampler, SamplerOptions, Sensor,
    TraceWriter, WindowEnergy, Workload,
};
use wattle_runlog::manifest::{Host, Segment};
use wattle_runlog::record::{Flag, Method, SensorKind, SensorRecord};
use wattle_runlog::{ComputeDevice, DeviceKind, Joules, MonotonicNs, Watts};

/// Runs an ignored test of this file in a process of its own, with the stand-in told `knobs`.
fn alone(case: &str, knobs: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", case, "--ignored", "--nocapture"]).env("NVML_LIBRARY", library());
    command.env_remove("CUDA_VISIBLE_DEVICES").env_remove("CUDA_DEVICE_ORDER");
    command.envs(knobs.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{case} with {knobs:?}: {text}");
}

fn found(gpus: GpuSelection, devices: &[ComputeDevice]) -> Discovery {
    let powercap_root = PathBuf::from("/nonexistent");
    discover(&EnergyConfig { gpus, powercap_root, ..EnergyConfig::default() }, devices)
}

fn boards(discovery: &Discovery) -> Vec<String> {
    let infos = discovery.sensor_infos().into_iter();
    infos.filter(|info| info.kind == SensorKind::Gpu).map(|info| info.id).collect()
}

fn measure(discovery: Discovery, ms: u64) -> WindowEnergy {
    let sampler = Sampler::start(discovery.sensors, SamplerOptions::default()).unwrap();
    let start = sampler.edge(Duration::from_secs(10));
    sleep(Duration::from_millis(ms));
    let end = sampler.edge(Duration::from_secs(10));
    sampler.window(&start, &end).unwrap()
}

fn board(window: &WindowEnergy) -> &SensorRecord {
    window.sensors.iter().find(|sensor| sensor.kind == SensorKind::Gpu).unwrap()
}

fn gpu(number: u32) -> ComputeDevice {
    ComputeDevice { kind: DeviceKind::Cuda, ordinal: 0, uuid: Some(uuid(number)), pci: None }
}

/// codecarbon#1316: a counter that could not be read was taken for 0 kWh.
#[test]
fn a_missing_counter_is_not_zero_kilowatt_hours() {
    alone("missing_counter_case", &[("NVML_STANDIN_NOT_SUPPORTED", "energy")]);
    alone("missing_board_case", &[("NVML_STANDIN_LOST_AT_S", "0.3"), ("NVML_STANDIN_COUNTER_STEP_MS", "10")]);
}

#[test]
#[ignore = "run by a_missing_counter_is_not_zero_kilowatt_hours"]
fn missing_counter_case() {
    let window = measure(found(GpuSelection::All, &[]), 500);
    let record = board(&window);
    assert_eq!((record.counter_j, record.method), (None, Method::PowerIntegral));
    let drawn = Watts(300.0) * window.duration();
    assert!(
        (record.energy_j - drawn).get().abs() <= record.uncertainty_j.unwrap().get() + 0.01,
        "{record:?}"
    );
}

#[test]
#[ignore = "run by a_missing_counter_is_not_zero_kilowatt_hours"]
fn missing_board_case() {
    let window = measure(found(GpuSelection::All, &[]), 1_500);
    let record = board(&window);
    // What is not known is in the interval, up to the board's limit.
    let drawn = Watts(300.0) * window.duration();
    assert!(record.flags.contains(&Flag::DeviceLost), "{record:?}");
    assert!((record.energy_j - drawn).get().abs() <= record.uncertainty_j.unwrap().get(), "{record:?}");
}

/// codecarbon#567: all eight GPUs of a machine were counted for a job on one.
#[test]
fn a_job_on_one_of_eight_boards_is_charged_one_board() {
    alone("one_of_eight_case", &[("NVML_STANDIN_BOARDS", "8")]);
}

#[test]
#[ignore = "run by a_job_on_one_of_eight_boards_is_charged_one_board"]
fn one_of_eight_case() {
    let discovery = found(GpuSelection::Used, &[gpu(5)]);
    assert_eq!(boards(&discovery), [format!("gpu:{}", uuid(5))]);
    let window = measure(discovery, 1_000);
    assert_eq!(window.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu).count(), 1);
    let drawn = Watts(300.0) * window.duration();
    assert!((board(&window).energy_j - drawn).get().abs() < 0.25 * drawn.get(), "{window:?}");
}

/// codecarbon#544: eight ranks, eight files, and totals eight times too large.
#[test]
fn a_board_named_twice_is_counted_once() {
    alone("twice_case", &[("NVML_STANDIN_BOARDS", "2")]);
}

#[test]
#[ignore = "run by a_board_named_twice_is_counted_once"]
fn twice_case() {
    let by_pci = ComputeDevice { uuid: None, pci: Some(nvml_standin::pci(1)), ..gpu(1) };
    assert_eq!(boards(&found(GpuSelection::Used, &[gpu(1), by_pci, gpu(1)])).len(), 1);
}

/// codecarbon#629: a container was charged with the memory of its whole host.
#[test]
fn a_process_is_charged_with_the_memory_that_it_holds() {
    let mut sensor = estimate::dram(Workload::ThisProcess).unwrap();
    let read = |sensor: &mut dyn Sensor| {
        let reading = sensor.read();
        (reading.t, reading.counter.measured().unwrap().0)
    };
    let (from, before) = read(&mut sensor);
    sleep(Duration::from_millis(700));
    let (to, after) = read(&mut sensor);
    let host = Host::here().memory_bytes.unwrap();
    let held = Workload::ThisProcess.resident_bytes() as f64 / host as f64;
    // No machine has more than 32 modules in this model, of 5 W each; twice what is held now is ample.
    let ample = Watts(32.0 * 5.0 * held * 2.0) * to.since(from);
    assert!(((after - before) as f64) <= ample.get() * 1e3 + 1.0, "{} mJ", after - before);
}

/// codecarbon#232 and #960: RAPL that may not be read was replaced by an estimate without a word.
#[test]
fn unreadable_rapl_is_said_and_what_replaces_it_is_called_an_estimate() {
    let dir = tempfile::tempdir().unwrap();
    let zone = dir.path().join("intel-rapl:0");
    std::fs::create_dir_all(zone.join("energy_uj")).unwrap();
    std::fs::write(zone.join("name"), "package-0\n").unwrap();
    let powercap_root = dir.path().to_owned();
    let config = EnergyConfig { gpus: GpuSelection::None, powercap_root, ..EnergyConfig::default() };
    let discovery = discover(&config, &[]);
    let states: Vec<_> = discovery.findings.iter().map(|finding| finding.state).collect();
    assert!(states.contains(&FindingState::Unreadable) && states.contains(&FindingState::Estimated));
    let window = measure(discovery, 100);
    assert_eq!(window.measured_fraction, 0.0);
    assert!(window.sensors.iter().all(|sensor| sensor.flags.contains(&Flag::Estimated)), "{window:?}");
}

/// codecarbon#878: the meter made an 11 s run last 115 s.
#[test]
fn a_slow_driver_slows_the_meter_and_not_the_run() {
    alone("slow_driver_case", &[("NVML_STANDIN_LATENCY_MS", "100")]);
}

#[test]
#[ignore = "run by a_slow_driver_slows_the_meter_and_not_the_run"]
fn slow_driver_case() {
    let sampler = Sampler::start(found(GpuSelection::All, &[]).sensors, SamplerOptions::default()).unwrap();
    while sampler.overhead().interval_ms.is_none_or(|interval| interval <= 50.0) {
        sleep(Duration::from_millis(10));
    }
    // Whoever trains waits no longer than it said, answer or not.
    let edge = sampler.edge(EDGE_TIMEOUT);
    assert!(edge.missing, "three calls of 100 ms do not fit into 100 ms");
    let overhead = sampler.overhead();
    assert!(overhead.read_p50_us >= Some(300_000.0), "{overhead:?}");
}

/// Zeus opens its log with mode "w": what a run had written before it was resumed was gone.
#[test]
fn a_resumed_run_keeps_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("power.trace");
    for id in 0..3 {
        let mut writer = TraceWriter::open(&path).unwrap();
        let header = SegmentHeader::new("run", Segment::now(id, 0), 50.0, []);
        writer.begin_segment(&header).unwrap();
    }
    let headers = TraceReader::open(&path).unwrap().map(Result::unwrap);
    let ids: Vec<_> = headers
        .filter_map(|item| match item {
            TraceItem::Segment(header) => Some(header.segment.id),
            TraceItem::Sample(_) => None,
        })
        .collect();
    assert_eq!(ids, [0, 1, 2]);
}

/// carbontracker#17: it predicted what training would take, and nothing stopped at it.
#[test]
fn a_run_that_will_not_fit_is_known_early() {
    let mut projector = Projector::new(10_000);
    for step in (0..=500).step_by(50) {
        projector.note(step, Joules(step as f64 * 20.0));
    }
    let projection = projector.project().unwrap();
    assert_eq!(projection.against(Joules(100_000.0)), Fit::DoesNot, "a twentieth of the run is enough");
    assert_eq!(projection.against(Joules(300_000.0)), Fit::Fits);
}

/// zeus#109: it crashed on boards that are divided (MIG).
#[test]
fn a_divided_board_is_metered_whole_and_that_is_said() {
    let instance = mig(0);
    alone("divided_case", &[("NVML_STANDIN_MIG", "1"), ("CUDA_VISIBLE_DEVICES", &instance)]);
}

#[test]
#[ignore = "run by a_divided_board_is_metered_whole_and_that_is_said"]
fn divided_case() {
    let window = measure(found(GpuSelection::Used, &visible_gpus()), 300);
    let record = board(&window);
    assert!(record.flags.contains(&Flag::WholeDevice) && record.energy_j > Joules::ZERO, "{record:?}");
}

/// codecarbon#1037: one field that a board reports as unsupported ended all metering.
#[test]
fn whatever_fields_a_board_lacks_the_others_are_read() {
    let fields = ["energy", "instant", "average", "power", "limit", "processes", "throttle", "pci"];
    for lacking in fields {
        alone("lacking_case", &[("NVML_STANDIN_NOT_SUPPORTED", lacking)]);
    }
    alone("lacking_case", &[("NVML_STANDIN_NOT_SUPPORTED", "energy,instant,limit,processes,throttle,pci")]);
}

#[test]
#[ignore = "run by whatever_fields_a_board_lacks_the_others_are_read"]
fn lacking_case() {
    let window = measure(found(GpuSelection::All, &[]), 300);
    let record = board(&window);
    assert!(record.energy_j > Joules::ZERO && record.samples > 0, "{record:?}");
}

/// ml-energy/zeus#181: the counter said 187 J, power 327 J over the same time, and nobody noticed.
#[test]
fn a_counter_that_power_contradicts_is_flagged_and_the_interval_holds_both() {
    use wattle_meter::readings::history::History;
    use wattle_meter::sensors::sensor::{
        Channels, CounterSpec, CounterValue, PowerSource, Quantity, Reading,
    };
    let info = found(GpuSelection::None, &[]).sensor_infos().remove(0);
    let info = wattle_runlog::manifest::SensorInfo { method: Method::Counter, ..info };
    let channels = Channels {
        power: Some(PowerSource::Instant),
        average: false,
        counter: Some(CounterSpec::MILLIJOULES),
        ..Channels::default()
    };
    let mut history = History::new(info, channels, Duration::from_millis(50));
    let at = |i: u64| MonotonicNs(i * 50_000_000);
    for i in 0..=100 {
        history.push(&Reading {
            t: at(i),
            power: Quantity::Measured(Watts(327.0 / 5.0)),
            average: Quantity::Unsupported,
            counter: Quantity::Measured(CounterValue(i * 1_870)),
        });
    }
    let window = WindowEnergy::of([&history], at(0), at(100), None, false);
    let record = &window.sensors[0];
    assert!(record.flags.contains(&Flag::Disagree), "{record:?}");
    for said in [187.0, 327.0] {
        assert!((record.energy_j.get() - said).abs() <= record.uncertainty_j.unwrap().get(), "{record:?}");
    }
}
