//! From the real NVML wrapper to a window's energy, on boards whose power is known.
//!
//! The stand-in takes its knobs from the environment, which belongs to a whole process. So each case is a test
//! that is ignored, and one that runs it alone in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nvml_standin::{Power, library, pci, uuid};
use wattle_meter::readings::trace::{Sample, SampleValue, TraceQuantity};
use wattle_meter::readings::trace_reader::{TraceItem, TraceReader};
use wattle_meter::sensors::discover::{check_boards, discover, discover_with, visible_gpus};
use wattle_meter::sensors::visible::VisibleDevices;
use wattle_meter::{
    Discovery, EnergyConfig, FindingState, GpuSelection, Sampler, SamplerOptions, TraceTarget, TraceWriter,
    WindowEnergy, Workload, unmetered,
};
use wattle_runlog::manifest::PowerLimits;
use wattle_runlog::record::{Flag, Method, SensorRecord};
use wattle_runlog::{ComputeDevice, DeviceKind, Joules, Segment, Watts};

const SQUARE: &str = "square:150:450:70";

/// Runs an ignored test of this file in a process of its own, with the stand-in told `knobs`.
fn alone(case: &str, knobs: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", case, "--ignored", "--nocapture"]).env("NVML_LIBRARY", library());
    command.env_remove("CUDA_VISIBLE_DEVICES").env_remove("CUDA_DEVICE_ORDER");
    for (knob, value) in knobs {
        command.env(knob, value);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{case}: {text}");
}

fn config(gpus: GpuSelection) -> EnergyConfig {
    EnergyConfig { gpus, powercap_root: PathBuf::from("/nonexistent"), ..EnergyConfig::default() }
}

fn all_boards() -> Discovery {
    discover(&config(GpuSelection::All), &[])
}

fn ids(discovery: &Discovery) -> Vec<String> {
    discovery.sensor_infos().into_iter().map(|info| info.id).filter(|id| id.starts_with("gpu:")).collect()
}

/// Samples all boards every 20 ms for `ms`.
fn measure(ms: u64) -> WindowEnergy {
    let options = SamplerOptions { interval: Duration::from_millis(20), ..SamplerOptions::default() };
    let sampler = Sampler::start(all_boards().sensors, options).unwrap();
    let start = sampler.edge(Duration::from_secs(10));
    sleep(Duration::from_millis(ms));
    let end = sampler.edge(Duration::from_secs(10));
    assert_eq!(sampler.health(), None);
    sampler.window(&start, &end).unwrap()
}

fn board(window: &WindowEnergy, board: u32) -> &SensorRecord {
    let id = format!("gpu:{}", uuid(board));
    window.sensors.iter().find(|sensor| sensor.id == id).unwrap()
}

#[test]
fn a_counter_gives_the_energy_that_was_drawn() {
    alone(
        "counter_case",
        &[
            ("NVML_STANDIN_BOARDS", "2"),
            ("NVML_STANDIN_POWER", SQUARE),
            ("NVML_STANDIN_COUNTER_STEP_MS", "20"),
            ("NVML_STANDIN_UPDATE_MS", "5"),
        ],
    );
}

#[test]
#[ignore = "run by a_counter_gives_the_energy_that_was_drawn"]
fn counter_case() {
    let window = measure(1_500);
    let exact = SQUARE.parse::<Power>().unwrap().between(window.start, window.end);
    for number in 0..2 {
        let record = board(&window, number);
        assert_eq!(record.method, Method::Counter);
        // Each end may miss a step of 20 ms and a sampling interval of 20 ms at 450 W.
        let allowed = 2.0 * 0.04 * 450.0;
        assert!((record.energy_j - exact).get().abs() < allowed, "{record:?}, drawn {exact:?}");
        // The integral sees 70 ms periods every 20 ms, or less often on a busy machine.
        let integral = record.integral_j.unwrap();
        assert!((integral - exact).get().abs() < 0.2 * exact.get(), "{record:?}, drawn {exact:?}");
        assert!(record.max_w <= Some(Watts(450.0)) && record.samples > 10);
        assert!(!record.flags.contains(&Flag::CounterReset) && !record.flags.contains(&Flag::DeviceLost));
    }
}

#[test]
fn what_a_board_does_not_have_is_done_without() {
    for missing in ["energy", "energy,instant", "energy,instant,average", "instant,average,power"] {
        alone("unsupported_case", &[("NVML_STANDIN_NOT_SUPPORTED", missing)]);
    }
    alone("nothing_case", &[("NVML_STANDIN_NOT_SUPPORTED", "energy,instant,average,power")]);
    alone("nameless_case", &[("NVML_STANDIN_NOT_SUPPORTED", "uuid")]);
}

#[test]
#[ignore = "run by what_a_board_does_not_have_is_done_without"]
fn unsupported_case() {
    let window = measure(500);
    let record = board(&window, 0);
    let exact = Watts(300.0) * window.duration();
    if std::env::var("NVML_STANDIN_NOT_SUPPORTED").unwrap().starts_with("energy") {
        assert_eq!((record.method, record.counter_j), (Method::PowerIntegral, None));
        assert!((record.energy_j - exact).get().abs() < 0.01, "{record:?}");
    } else {
        assert_eq!((record.method, record.integral_j, record.max_w), (Method::Counter, None, None));
        assert!((record.energy_j - exact).get().abs() < 60.0, "{record:?}");
    }
}

#[test]
#[ignore = "run by what_a_board_does_not_have_is_done_without"]
fn nothing_case() {
    let discovery = all_boards();
    assert!(ids(&discovery).is_empty());
    let finding = discovery.findings.iter().find(|f| f.what == format!("gpu:{}", uuid(0))).unwrap();
    assert_eq!(finding.state, FindingState::Unreadable);
    assert!(finding.detail.contains("neither energy nor power"), "{finding:?}");
}

#[test]
#[ignore = "run by what_a_board_does_not_have_is_done_without"]
fn nameless_case() {
    assert_eq!(ids(&all_boards()), [format!("gpu:{}", pci(0))]);
}

#[test]
fn a_lost_board_is_flagged_and_sampling_goes_on() {
    alone("lost_case", &[("NVML_STANDIN_LOST_AT_S", "1.0"), ("NVML_STANDIN_COUNTER_STEP_MS", "10")]);
}

#[test]
#[ignore = "run by a_lost_board_is_flagged_and_sampling_goes_on"]
fn lost_case() {
    let window = measure(2_000);
    let record = board(&window, 0);
    assert!(record.flags.contains(&Flag::DeviceLost), "{record:?}");
    // Lost a second after the library was loaded, which was before the window.
    assert!(record.energy_j > Joules::ZERO && record.energy_j < Joules(303.0), "{record:?}");
    // What is not known is not nothing: the rest, a second at least, at 300 W.
    assert!(record.uncertainty_j.unwrap() > Joules(280.0), "{record:?}");
    assert!(window.sensors.len() > 1, "the host is still estimated");
}

#[test]
fn a_counter_that_breaks_gives_way_to_power() {
    alone("broken_case", &[("NVML_STANDIN_RESET_AT_S", "1.0"), ("FLAG", "reset")]);
    alone("broken_case", &[("NVML_STANDIN_STUCK_AT_S", "0.2"), ("FLAG", "stuck")]);
}

#[test]
#[ignore = "run by a_counter_that_breaks_gives_way_to_power"]
fn broken_case() {
    let stuck = std::env::var("FLAG").unwrap() == "stuck";
    let window = measure(if stuck { 3_500 } else { 2_000 });
    let record = board(&window, 0);
    let flag = if stuck { Flag::CounterStuck } else { Flag::CounterReset };
    assert!(record.flags.contains(&flag) && record.method == Method::PowerIntegral, "{record:?}");
    assert!((record.energy_j - Watts(300.0) * window.duration()).get().abs() < 0.01, "{record:?}");
}

#[test]
fn a_slow_driver_costs_the_edge_and_not_the_run() {
    alone("slow_case", &[("NVML_STANDIN_LATENCY_MS", "150")]);
}

#[test]
#[ignore = "run by a_slow_driver_costs_the_edge_and_not_the_run"]
fn slow_case() {
    let sampler = Sampler::start(all_boards().sensors, SamplerOptions::default()).unwrap();
    let start = sampler.edge(wattle_meter::EDGE_TIMEOUT);
    assert!(start.missing, "two calls of 150 ms do not fit into 100 ms");
    sleep(Duration::from_millis(1_000));
    let end = sampler.edge(Duration::from_secs(10));
    let window = sampler.window(&start, &end).unwrap();
    assert!(board(&window, 0).flags.contains(&Flag::EdgeMissing), "{window:?}");
    assert!(sampler.overhead().missed_deadlines > 0);
}

#[test]
fn the_boards_that_are_used_are_metered() {
    alone("selection_case", &[("NVML_STANDIN_BOARDS", "3")]);
    let third = format!("2,{}", uuid(0));
    let visible = [("NVML_STANDIN_BOARDS", "3"), ("CUDA_VISIBLE_DEVICES", third.as_str())];
    alone("assumed_case", &visible);
    alone("visible_case", &[&visible[..], &[("CUDA_DEVICE_ORDER", "PCI_BUS_ID")]].concat());
    let instance = nvml_standin::mig(1);
    alone(
        "mig_case",
        &[("NVML_STANDIN_BOARDS", "2"), ("NVML_STANDIN_MIG", "1"), ("CUDA_VISIBLE_DEVICES", &instance)],
    );
}

#[test]
#[ignore = "run by the_boards_that_are_used_are_metered"]
fn selection_case() {
    let gpu = |uuid: Option<String>, pci: Option<String>| ComputeDevice {
        kind: DeviceKind::Cuda,
        ordinal: 0,
        uuid,
        pci,
    };
    let used = |devices: &[ComputeDevice]| ids(&discover(&config(GpuSelection::Used), devices));
    let id = |board: u32| format!("gpu:{}", uuid(board));
    assert_eq!(used(&[gpu(Some(uuid(2)), None)]), [id(2)]);
    assert_eq!(used(&[gpu(None, Some(pci(1).to_lowercase()[4..].to_owned()))]), [id(1)]);
    assert!(used(&[ComputeDevice::cpu()]).is_empty());
    assert_eq!(ids(&discover(&config(GpuSelection::Boards(vec![1])), &[])), [id(1)]);
    assert_eq!(ids(&all_boards()).len(), 3);
    assert!(ids(&discover(&config(GpuSelection::None), &[gpu(Some(uuid(2)), None)])).is_empty());
    let drivers = all_boards().drivers;
    assert_eq!(drivers.nvidia.as_deref(), Some("570.00.standin"));
    assert_eq!(drivers.cuda.as_deref(), Some("12.8"));
}

#[test]
#[ignore = "run by the_boards_that_are_used_are_metered"]
fn visible_case() {
    let visible = visible_gpus();
    let uuids: Vec<_> = visible.iter().map(|device| device.uuid.clone().unwrap()).collect();
    assert_eq!(uuids, [uuid(2), uuid(0)]);
    assert_eq!(ids(&discover(&config(GpuSelection::Used), &visible)).len(), 2);
}

fn flags_of(discovery: &Discovery, board: u32) -> Vec<Flag> {
    let id = format!("gpu:{}", uuid(board));
    discovery.sensor_infos().into_iter().find(|info| info.id == id).unwrap().flags
}

#[test]
#[ignore = "run by the_boards_that_are_used_are_metered"]
fn assumed_case() {
    let discovery = discover(&config(GpuSelection::Used), &visible_gpus());
    assert_eq!(ids(&discovery).len(), 2);
    assert_eq!(flags_of(&discovery, 2), [Flag::OrderAssumed], "named by number");
    assert!(flags_of(&discovery, 0).is_empty(), "named by UUID");
    let finding = discovery.findings.iter().find(|finding| finding.what == "cuda:0").unwrap();
    assert!(finding.remedy.as_ref().unwrap().contains("PCI_BUS_ID"), "{finding:?}");
}

#[test]
#[ignore = "run by the_boards_that_are_used_are_metered"]
fn mig_case() {
    let discovery = discover(&config(GpuSelection::Used), &visible_gpus());
    assert_eq!(ids(&discovery), [format!("gpu:{}", uuid(1))]);
    assert_eq!(flags_of(&discovery, 1), [Flag::WholeDevice]);
    let info = discovery.sensor_infos().remove(0);
    assert!(info.description.contains("counted whole"), "{info:?}");
}

#[test]
fn who_else_computes_on_a_board_and_what_holds_it_back_is_said() {
    let parent = std::os::unix::process::parent_id().to_string();
    let others = format!("self,{parent}");
    // HW slowdown and thermal: bits 3 and 6 of NVML's.
    alone(
        "contended_case",
        &[("NVML_STANDIN_PROCESSES", &others), ("NVML_STANDIN_THROTTLE", "72"), ("CONTENDED", "1")],
    );
    alone("contended_case", &[("NVML_STANDIN_PROCESSES", "self"), ("NVML_STANDIN_THROTTLE", "1")]);
    alone("contended_case", &[("NVML_STANDIN_NOT_SUPPORTED", "processes,throttle,limit")]);
}

#[test]
#[ignore = "run by who_else_computes_on_a_board_and_what_holds_it_back_is_said"]
fn contended_case() {
    let contended = std::env::var_os("CONTENDED").is_some();
    let window = measure(300);
    let record = board(&window, 0);
    assert_eq!(record.flags.contains(&Flag::Contended), contended, "{record:?}");
    let expected: &[&str] = if contended { &["hw_slowdown", "hw_thermal_slowdown"] } else { &[] };
    assert_eq!(record.throttle, expected);
    let limits = all_boards().sensor_infos().remove(0).limits;
    let unsupported = std::env::var("NVML_STANDIN_NOT_SUPPORTED").is_ok();
    let expected =
        PowerLimits { enforced_w: Watts(700.0), min_w: Some(Watts(200.0)), max_w: Some(Watts(700.0)) };
    assert_eq!(limits, (!unsupported).then_some(expected));
}

/// A process killed in the midst of sampling costs no more of the trace than what waited to be made durable.
#[test]
fn a_killed_process_leaves_a_trace_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("power.trace");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_case", "--ignored"])
        .env("NVML_LIBRARY", library())
        .env("TRACE", &path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let samples = || {
        let items = TraceReader::open(&path).map(|reader| reader.map(Result::unwrap).collect::<Vec<_>>());
        items.unwrap_or_default().into_iter().filter(|item| matches!(item, TraceItem::Sample(_))).count()
    };
    // Two batches, so that the kill falls somewhere between two.
    while samples() < 100 {
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = samples();
    let mut writer = TraceWriter::open(&path).unwrap();
    writer.sync().unwrap();
    assert!(left >= 100 && samples() == left);
}

#[test]
#[ignore = "run by a_killed_process_leaves_a_trace_that_is_read, which kills it"]
fn killed_case() {
    let path = PathBuf::from(std::env::var_os("TRACE").unwrap());
    let writer = TraceWriter::open(&path).unwrap();
    let trace = TraceTarget { writer, run_id: "killed".to_owned(), segment: Segment::now(0, 0) };
    let options = SamplerOptions {
        interval: Duration::from_millis(10),
        trace: Some(trace),
        ..SamplerOptions::default()
    };
    let _sampler = Sampler::start(all_boards().sensors, options).unwrap();
    sleep(Duration::from_secs(60));
}

#[test]
fn a_library_that_is_none_is_a_finding() {
    let config = config(GpuSelection::All);
    let manifest = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let discovery =
        discover_with(&config, &[], Workload::ThisProcess, Some(manifest), &VisibleDevices::default());
    assert_eq!(discovery.findings[0].state, FindingState::Absent);
    assert!(discovery.findings[0].detail.contains("Cargo.toml"), "{:?}", discovery.findings);
}

#[test]
fn a_board_that_trains_unmetered_is_known() {
    let boards = ("NVML_STANDIN_BOARDS", "2");
    alone("unmetered_case", &[boards]);
    alone("unreadable_case", &[boards, ("NVML_STANDIN_NOT_SUPPORTED", "energy,power,instant,average")]);
    alone("silent_case", &[boards, ("NVML_STANDIN_LOST_AT_S", "0.3")]);
}

fn trained_on() -> [ComputeDevice; 1] {
    [ComputeDevice { kind: DeviceKind::Cuda, ordinal: 0, uuid: Some(uuid(1)), pci: None }]
}

/// What a record would say of a fifth of a second that begins after a wait.
fn unmetered_in(discovery: Discovery, wait_ms: u64) -> Vec<String> {
    let options = SamplerOptions { interval: Duration::from_millis(20), ..SamplerOptions::default() };
    let devices = discovery.trained_on.clone();
    let sampler = Sampler::start(discovery.sensors, options).unwrap();
    sleep(Duration::from_millis(wait_ms));
    let start = sampler.edge(Duration::from_secs(10));
    sleep(Duration::from_millis(200));
    let end = sampler.edge(Duration::from_secs(10));
    unmetered(&devices, &sampler.window(&start, &end).unwrap())
}

#[test]
#[ignore = "run by a_board_that_trains_unmetered_is_known"]
fn unmetered_case() {
    for (gpus, expected) in [
        (GpuSelection::Used, &[][..]),
        (GpuSelection::All, &[]),
        (GpuSelection::Boards(vec![1]), &[]),
        (GpuSelection::None, &["cuda:0"]),
        (GpuSelection::Boards(vec![0]), &["cuda:0"]),
    ] {
        let discovery = discover(&config(gpus.clone()), &trained_on());
        assert_eq!(discovery.unmetered(), expected, "{gpus:?}");
        assert_eq!(unmetered_in(discovery, 0), expected, "{gpus:?}");
    }
    assert!(check_boards(&config(GpuSelection::Boards(vec![0, 1]))).is_ok());
    let error = check_boards(&config(GpuSelection::Boards(vec![0, 2]))).unwrap_err().to_string();
    assert!(
        error.contains("board 2") && error.contains("boards here: 0 (") && error.contains("1 ("),
        "{error}"
    );
}

#[test]
#[ignore = "run by a_board_that_trains_unmetered_is_known"]
fn unreadable_case() {
    let discovery = discover(&config(GpuSelection::Used), &trained_on());
    assert_eq!(discovery.unmetered(), ["cuda:0"]);
    assert_eq!(unmetered_in(discovery, 0), ["cuda:0"]);
    let asked = discover(&config(GpuSelection::Boards(vec![1])), &trained_on());
    assert_eq!(asked.unmet.iter().map(|unmet| unmet.board).collect::<Vec<_>>(), [1]);
}

#[test]
#[ignore = "run by a_board_that_trains_unmetered_is_known"]
fn silent_case() {
    let discovery = discover(&config(GpuSelection::Used), &trained_on());
    assert!(discovery.unmetered().is_empty());
    assert_eq!(unmetered_in(discovery, 700), ["cuda:0"], "no reading of it since");
}

#[test]
fn an_expensive_counter_is_read_at_its_ticks_and_the_drivers_samples_lie_in_the_trace() {
    alone("h100_case", &[("NVML_STANDIN_PROFILE", "h100"), ("NVML_STANDIN_CLOCK_AHEAD_MS", "3600000")]);
    alone("h100_case", &[("NVML_STANDIN_PROFILE", "h100"), ("NVML_STANDIN_POWER", "square:200:700:1000")]);
}

#[test]
#[ignore = "run by an_expensive_counter_is_read_at_its_ticks_and_the_drivers_samples_lie_in_the_trace"]
fn h100_case() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("power.trace");
    let writer = TraceWriter::open(&path).unwrap();
    let trace = Some(TraceTarget { writer, run_id: "run-1".to_owned(), segment: Segment::now(0, 0) });
    let sampler =
        Sampler::start(all_boards().sensors, SamplerOptions { trace, ..SamplerOptions::default() }).unwrap();
    sleep(Duration::from_millis(2_000));
    let edge = || sampler.edge(Duration::from_secs(10));
    let edges = [
        edge(),
        (sleep(Duration::from_millis(700)), edge()).1,
        (sleep(Duration::from_millis(400)), edge()).1,
    ];
    let parts = [0, 1].map(|i| sampler.window(&edges[i], &edges[i + 1]).unwrap());
    let whole = sampler.window(&edges[0], &edges[2]).unwrap();
    assert_eq!(sampler.health(), None);
    drop(sampler);
    let knob = std::env::var("NVML_STANDIN_POWER").unwrap_or_else(|_| "steady:690".to_owned());
    let exact = knob.parse::<Power>().unwrap().between(whole.start, whole.end);
    let record = board(&whole, 0);
    assert_eq!(record.method, Method::Counter, "{record:?}");
    // A busy machine delays calls, which the half-width knows of.
    let allowed = record.uncertainty_j.unwrap().get() * 2.0;
    assert!((record.energy_j - exact).get().abs() <= allowed, "{record:?}, drawn {exact:?}");
    let clocks = record.clocks.as_ref().unwrap();
    let capped = clocks.held_back_s["sw_power_cap"].get() / whole.duration().get();
    assert!((capped - 0.83).abs() < 0.1, "{capped}: {clocks:?}");
    assert_eq!((clocks.sm_mean_mhz, clocks.sm_max_mhz), (Some(1_735.0), Some(1_980.0)));
    let sum = board(&parts[0], 0).energy_j + board(&parts[1], 0).energy_j;
    assert!((sum - record.energy_j).get().abs() < 1e-3, "{sum:?} and {record:?}");

    let items: Vec<_> = TraceReader::open(&path).unwrap().map(Result::unwrap).collect();
    let TraceItem::Segment(header) = &items[0] else { panic!("{items:?}") };
    let board =
        |quantity| header.channels.iter().find(|c| c.quantity == quantity && c.sensor.id.starts_with("gpu:"));
    let (counter, samples) =
        (board(TraceQuantity::EnergyMj).unwrap(), board(TraceQuantity::SampleMw).unwrap());
    assert!(counter.at_ticks);
    let of = |channel: u8| -> Vec<Sample> {
        let samples = items.iter().filter_map(|item| match item {
            TraceItem::Sample(sample) if sample.channel == channel => Some(*sample),
            _ => None,
        });
        samples.collect()
    };
    let (ticks, samples) = (of(counter.channel), of(samples.channel));
    assert!(ticks.iter().chain(&samples).all(|sample| matches!(sample.value, SampleValue::Measured(_))));
    assert!(
        (5..60).contains(&ticks.len()) && samples.len() > 100,
        "{} ticks, {} samples",
        ticks.len(),
        samples.len()
    );
    assert!(samples.is_sorted_by_key(|sample| sample.t) && ticks.is_sorted_by_key(|sample| sample.t));
}
