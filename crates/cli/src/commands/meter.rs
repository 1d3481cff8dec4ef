//! `wattle meter`: what any command cost.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use wattle_grid::{Grid, GridConfig};
use wattle_meter::books::carbon;
use wattle_meter::sensors::discover::discover_visible;
use wattle_meter::{
    CarbonConfig, EDGE_TIMEOUT, EnergyConfig, Entry, Ledger, LedgerOptions, Live, Sampler, SamplerOptions,
    TraceTarget, TraceWriter, Workload,
};
use wattle_report::words::describe::{describe_energy, describe_sensor, energy_warnings};
use wattle_report::words::quantity::{duration, joules, watts};
use wattle_runlog::clock::file_stamp;
use wattle_runlog::record::{Carbon, MeteredCommand, RecordKind, Resources};
use wattle_runlog::{MonotonicNs, Record, Seconds, Segment, WallAnchor};

use crate::args::MeterArgs;
use crate::child::{RunningCommand, exit_code};
use crate::exit::{BadUsage, Exit};
use crate::metrics::{MetricsServer, registry};
use crate::output_file::OutputFile;
use crate::status_line::StatusLine;

/// Time between two looks at what the command's processes use.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A command is one segment.
const SEGMENT: u32 = 0;

/// What the flags come to.
struct Configuration {
    energy: EnergyConfig,
    carbon: CarbonConfig,
    grid: GridConfig,
}

/// Runs a command and accounts for it.
pub fn run(args: &MeterArgs, quiet: bool) -> anyhow::Result<Exit> {
    let Configuration { energy, carbon: carbon_config, grid } = configuration(args)?;
    let json = args.json.as_deref().map(|path| OutputFile::open(path, "--json")).transpose()?;
    let discovery = discover_visible(&energy, Workload::Children);
    for unmet in &discovery.unmet {
        tracing::warn!(
            "--gpus {}: {}; the command runs, and that board is not metered",
            unmet.board,
            unmet.why
        );
    }
    let n_gpus = discovery.sensor_infos().iter().filter(|sensor| sensor.id.starts_with("gpu:")).count();
    for finding in discovery.findings.iter().filter(|finding| finding.remedy.is_some()) {
        tracing::debug!("{}: {}; wattle devices says how to fix it", finding.what, finding.detail);
    }
    let unmetered_boards = discovery.unmet.iter().map(|unmet| unmet.board).collect();
    let run_id = format!("command-{}-{:x}", file_stamp(), std::process::id());
    let trace = args.trace.as_deref().map(|path| trace_target(path, &run_id)).transpose()?;
    let grid = Grid::start(&grid).map_err(|fault| BadUsage { faults: vec![by_flag(fault.to_string())] })?;
    let options = SamplerOptions { interval: energy.interval(), workload: Workload::Children, trace };
    let sampler = Sampler::start(discovery.sensors, options)?;
    let _server = args
        .metrics_addr
        .and_then(|addr| MetricsServer::start("--metrics-addr", addr, registry(&run_id, sampler.watch())));
    let mut ledger = Ledger::new(LedgerOptions {
        run_id,
        segment: SEGMENT,
        anchor: WallAnchor::now(),
        pue: energy.pue,
        carbon: carbon::resolve(&carbon_config).expect("its faults were looked for"),
        tariff: None,
        devices: n_gpus.max(1) as u32,
        trained_on: discovery.trained_on,
    });

    let start = sampler.edge(EDGE_TIMEOUT);
    let command = match RunningCommand::start(&args.command) {
        Ok(command) => command,
        Err(error) => {
            tracing::error!("{error}");
            return Ok(Exit::Child(error.status));
        }
    };
    let (status, resources) = wait(command, &sampler, !quiet)?;
    // From here on the command's status is passed back, whatever becomes of its figures.
    let end = sampler.edge(EDGE_TIMEOUT);
    let window = match sampler.window(&start, &end) {
        Ok(window) => window,
        Err(error) => {
            tracing::error!("what the command used is not known: {error}");
            return Ok(Exit::Child(exit_code(status)));
        }
    };
    if let Some(grid) = &grid {
        ledger.set_grid(SEGMENT, (*grid.known()).clone());
    }
    let mut record = ledger.record(Entry {
        kind: RecordKind::Command,
        epoch: None,
        complete: status.success(),
        step_start: 0,
        step_end: 0,
        tokens: 0,
        window,
        spans: &[],
        resources,
        overhead: sampler.overhead(),
    });
    let arguments = args.command.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let (exit_status, left_running) = (exit_code(status), Workload::Children.n_running());
    record.command = Some(MeteredCommand { arguments, exit_status, unmetered_boards, left_running });
    summarize(&record);
    if let Some(Err(error)) = json.map(|json| json.finish(&format!("{}\n", record.to_json()))) {
        tracing::error!("{error:#}");
    }
    Ok(Exit::Child(exit_code(status)))
}

/// A new trace: what is there already is not written over, and a second command is no segment of the first.
fn trace_target(path: &Path, run_id: &str) -> anyhow::Result<TraceTarget> {
    if path.exists() {
        anyhow::bail!("--trace {}: the file is there already; choose another path", path.display());
    }
    let writer = TraceWriter::open(path).context("--trace")?;
    Ok(TraceTarget { writer, run_id: run_id.to_owned(), segment: Segment::now(SEGMENT, 0) })
}

fn configuration(args: &MeterArgs) -> Result<Configuration, BadUsage> {
    let mut energy = EnergyConfig { gpus: args.gpus.clone().unwrap_or_default(), ..EnergyConfig::default() };
    if let Some(interval_ms) = args.interval_ms {
        energy.interval_ms = interval_ms;
    }
    let carbon = CarbonConfig { region: args.region.clone(), ..CarbonConfig::default() };
    let (zone, url) = (args.grid_zone.clone(), args.grid_url.clone());
    let grid = GridConfig { provider: args.grid, zone, url, ..GridConfig::default() };
    let mut faults = [energy.faults(), carbon.faults(), grid.faults()].concat();
    if !grid.is_on() && (grid.zone.is_some() || grid.url.is_some()) {
        faults
            .push("--grid-zone and --grid-url say where a provider is asked; name it with --grid".to_owned());
    }
    match faults.is_empty() {
        true => Ok(Configuration { energy, carbon, grid }),
        false => Err(BadUsage { faults: faults.into_iter().map(by_flag).collect() }),
    }
}

/// A fault with flags in place of the sections' own names.
fn by_flag(fault: String) -> String {
    let flags = [
        ("energy.interval_ms", "--interval-ms"),
        ("carbon.region", "--region"),
        ("grid.provider", "--grid"),
        ("grid.zone", "--grid-zone"),
        ("grid.url", "--grid-url"),
    ];
    flags.iter().fold(fault, |fault, (key, flag)| fault.replace(key, flag))
}

/// Waits for the command's end, with the live figures at the foot of the terminal. Returns what its processes
/// used of memory and disk besides: it cannot be asked for once they are gone.
fn wait(
    command: RunningCommand,
    sampler: &Sampler,
    is_shown: bool,
) -> anyhow::Result<(ExitStatus, Resources)> {
    let line = if is_shown { StatusLine::take() } else { None };
    thread::scope(|scope| {
        let (ended, end) = channel::<()>();
        let watch = scope.spawn(move || watch(line, sampler, &end));
        let status = command.wait().context("how the command ended is not known");
        drop(ended);
        let seen = watch.join().unwrap_or_default();
        // Once all have been waited for, the kernel knows their processor time to the end.
        Ok((status?, Resources { cpu_s: Some(Workload::Children.cpu_time()), ..seen }))
    })
}

fn watch(mut line: Option<StatusLine>, sampler: &Sampler, end: &Receiver<()>) -> Resources {
    let started = MonotonicNs::now();
    let mut earlier: Option<(MonotonicNs, Seconds)> = None;
    let mut most = Workload::Children.resources();
    while end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let resources = Workload::Children.resources();
        most.peak_memory_bytes = most.peak_memory_bytes.max(resources.peak_memory_bytes);
        most.bytes_read = most.bytes_read.max(resources.bytes_read);
        let Some(line) = &mut line else { continue };
        let (now, cpu_time) = (MonotonicNs::now(), Workload::Children.cpu_time());
        let load = earlier.map(|(then, before)| (cpu_time - before).get() / now.since(then).get());
        earlier = Some((now, cpu_time));
        line.show(&live_line(now.since(started), &sampler.live(), load));
    }
    most
}

/// ` 12.0 s · 85.0 W (estimated) · 1.02 kJ · CPU 193 % `
fn live_line(elapsed: Seconds, live: &Live, load: Option<f64>) -> String {
    let estimated = if live.measured_fraction < 0.5 { " (estimated)" } else { "" };
    let mut parts = vec![duration(elapsed)];
    parts.extend(live.power.map(|power| format!("{}{estimated}", watts(power))));
    parts.push(joules(live.energy));
    parts.extend(load.map(|load| format!("CPU {:.0} %", load * 100.0)));
    format!(" {} ", parts.join(" · "))
}

/// What the command cost, for a person.
fn summarize(record: &Record) {
    energy_warnings(record).iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut parts = vec![duration(record.duration_s)];
    parts.extend(describe_energy(record));
    parts.extend(record.resources.cpu_s.map(|cpu_s| format!("CPU time {}", duration(cpu_s))));
    tracing::info!("{}", parts.join(" · "));
    if record.carbon.grid.is_some() {
        let Carbon { intensity_g_per_kwh, region, source, basis, .. } = &record.carbon;
        tracing::info!("  {:.0} g/kWh in {region} by {source} ({basis})", intensity_g_per_kwh.get());
    }
    for line in record.sensors.iter().flat_map(describe_sensor) {
        tracing::info!("  {line}");
    }
    match record.command.as_ref().map_or(0, |command| command.left_running) {
        0 => {}
        1 => tracing::info!(
            "a process that it started is still running; what that uses from now on is not counted"
        ),
        n => tracing::info!(
            "{n} processes that it started are still running; what they use from now on is not counted"
        ),
    }
}
