//! What sampling costs, and how narrow its intervals are, on a board whose calls take as long as an H100's: with the
//! counter read at its ticks and the driver's samples, and with everything read twenty times a second.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nvml_standin::library;
use wattle_meter::sensors::discover::discover;
use wattle_meter::sensors::sensor::{Channels, Clocks, Reading, Sensor, Survey};
use wattle_meter::{EnergyConfig, GpuSelection, Sampler, SamplerOptions};
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::SensorKind;
use wattle_runlog::{Joules, Seconds};

/// Sampling may take this share of a core: twice the aim, since switching threads costs more on a busy machine.
const MOST: f64 = 0.01;

/// Reads the counter with everything else and leaves the driver's samples alone.
struct EveryRound(Box<dyn Sensor>);

impl Sensor for EveryRound {
    fn info(&self) -> &SensorInfo {
        self.0.info()
    }

    fn channels(&self) -> Channels {
        let channels = self.0.channels();
        let counter = channels.counter.or(channels.slow_counter);
        Channels { counter, slow_counter: None, samples: false, ..channels }
    }

    fn read(&mut self) -> Reading {
        let reading = self.0.read();
        match self.0.channels().slow_counter {
            Some(_) => Reading { counter: self.0.read_counter().value, ..reading },
            None => reading,
        }
    }

    fn read_clocks(&mut self) -> Option<Clocks> {
        self.0.read_clocks()
    }

    fn cpu_time(&self) -> Seconds {
        self.0.cpu_time()
    }

    fn survey(&mut self) -> Survey {
        self.0.survey()
    }
}

fn boards() -> Vec<Box<dyn Sensor>> {
    let powercap_root = PathBuf::from("/nonexistent");
    let config = EnergyConfig { gpus: GpuSelection::All, powercap_root, ..EnergyConfig::default() };
    let mut sensors = discover(&config, &[]).sensors;
    sensors.retain(|sensor| sensor.info().kind == SensorKind::Gpu);
    sensors
}

/// What sampling takes of a core after its first seconds, and the half-widths of windows of these lengths.
fn sample(sensors: Vec<Box<dyn Sensor>>, windows_s: &[f64]) -> (f64, Vec<Joules>) {
    let sampler = Sampler::start(sensors, SamplerOptions::default()).unwrap();
    sleep(Duration::from_secs(3));
    let (first, before) = (sampler.edge(Duration::from_secs(10)), sampler.overhead());
    let mut start = first;
    let mut half_widths = Vec::new();
    for seconds in windows_s {
        sleep(Duration::from_secs_f64(*seconds));
        let end = sampler.edge(Duration::from_secs(10));
        half_widths.push(sampler.window(&start, &end).unwrap().uncertainty.unwrap());
        start = end;
    }
    let used = sampler.overhead().sampler_cpu_s - before.sampler_cpu_s;
    (used / start.since(&first), half_widths)
}

/// Runs an ignored test of this file in a process of its own: the stand-in takes its knobs from the environment.
fn alone(case: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", case, "--ignored", "--nocapture"]).env("NVML_LIBRARY", library());
    command.env("NVML_STANDIN_PROFILE", "h100").env_remove("CUDA_VISIBLE_DEVICES");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{case}: {text}");
    text.into_owned()
}

#[test]
fn an_expensive_counter_costs_little() {
    alone("h100_case");
}

#[test]
#[ignore = "run by an_expensive_counter_costs_little"]
fn h100_case() {
    let (share, half_widths) = sample(boards(), &[0.4, 8.0]);
    assert!(share <= MOST, "{:.3} % of a core", share * 100.0);
    assert!(half_widths[0] <= Joules(5.0), "{half_widths:?}");
    let (every_round, _) = sample(boards().into_iter().map(each_round).collect(), &[2.0]);
    assert!(
        every_round > 8.0 * share,
        "twenty calls of 3.3 ms a second: {every_round}, {share} at its ticks"
    );
}

fn each_round(sensor: Box<dyn Sensor>) -> Box<dyn Sensor> {
    Box::new(EveryRound(sensor))
}

#[test]
#[ignore = "makes the table of docs/meter.md: cargo test -p wattle-meter --test cost figures -- --ignored --nocapture"]
#[allow(clippy::print_stdout, reason = "its output is what it is for")]
fn figures() {
    println!("{}", alone("figures_case"));
}

#[test]
#[ignore = "run by figures"]
#[allow(clippy::print_stdout, reason = "its output is what it is for")]
fn figures_case() {
    let windows_s = [0.4, 3.0, 30.0];
    let row = |name: &str, (share, half_widths): (f64, Vec<Joules>)| {
        println!(
            "{name}: {:.2} % of a core; half-widths {half_widths:.2?} over {windows_s:?} s",
            share * 100.0
        );
    };
    row("every round", sample(boards().into_iter().map(each_round).collect(), &windows_s));
    row("at its ticks", sample(boards(), &windows_s));
}
