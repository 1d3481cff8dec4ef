//! The meter beside a training run: what becomes of its figures in the run directory.
//!
//! Nothing in here ends a run. What goes wrong is logged once, and the files say `error` where figures would be.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use wattle_meter::books::{carbon, continuity};
use wattle_meter::config::stated_machine;
use wattle_meter::export::codecarbon::{Row, RunFacts};
use wattle_meter::{
    CarbonConfig, EDGE_TIMEOUT, Entry, GpuSelection, IntensityTable, Ledger, LedgerOptions, Live, MeterError,
    Pricing, ResumePoint, Sampler, SamplerOptions, Tally, Tariff, TokensBeside, TraceTarget, TraceWriter,
    Used, Watch, WindowEnergy, Workload, discover_for,
};
use wattle_report::words::describe::unmetered_warning;
use wattle_runlog::beside::Projected;
use wattle_runlog::grid::{GridEntry, Intensities};
use wattle_runlog::machine::other_traces;
use wattle_runlog::manifest::{Drivers, Host, SensorInfo};
use wattle_runlog::record::{EMISSIONS_SCHEMA, RecordKind, SensorKind};
use wattle_runlog::{
    ComputeDevice, Event, EventBody, Joules, LineFile, MonotonicNs, Record, RunDir, RunlogError, Segment,
    Span, StopReason, WallAnchor,
};
use wattle_train::Ranks;

use crate::config::Config;
use crate::error::SessionError;
use crate::nodes::OtherNodes;
use crate::seats::Seats;

/// A run's meter, its books, and the files that they are written to.
pub struct Metering {
    run_id: String,
    segment: u32,
    workload: Workload,
    others: Option<OtherNodes>,
    sampler: Option<Sampler>,
    ledger: Ledger,
    emissions: LineFile,
    csv: PathBuf,
    facts: Facts,
    /// Where the record under way began.
    start: Mark,
    spans: Vec<Span>,
    /// The run so far, between records.
    tally: Tally,
    /// Where segments that do not follow on each other are looked for, until they have been told.
    trace: Option<PathBuf>,
}

/// What the manifest says of metering.
#[derive(Clone, Debug)]
pub struct MeterInfo {
    /// The sensors.
    pub sensors: Vec<SensorInfo>,
    /// Driver versions.
    pub drivers: Drivers,
}

struct Facts {
    name: String,
    host: Host,
    gpu_models: Vec<String>,
}

/// A moment between two steps.
#[derive(Clone, Copy)]
struct Mark {
    edge: wattle_meter::Edge,
    step: u64,
    tokens: u64,
}

/// What a metered run is made of.
pub(crate) struct MeteringOptions<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The run directory.
    pub run: &'a RunDir,
    /// The run's id.
    pub run_id: &'a str,
    /// The segment that begins.
    pub segment: &'a Segment,
    /// What is computed on, on all machines.
    pub devices: &'a [ComputeDevice],
    /// Events of earlier segments.
    pub events: &'a [Event],
    /// The checkpoint that the run goes on from.
    pub resumed: Option<ResumePoint>,
    /// What the grid said in earlier segments.
    pub grid: &'a [GridEntry],
    /// What is known of the grid now; `None` if nobody is asked.
    pub known: Option<&'a Intensities>,
    /// What goes through the model beside the tokens that are learnt.
    pub beside: Option<TokensBeside>,
    /// Who trains together, and where; `None` if this process trains alone.
    pub together: Option<(&'a Ranks, &'a Seats)>,
}

impl Metering {
    /// Starts the sampling thread, and books what earlier segments left unrecorded.
    ///
    /// # Errors
    /// If `emissions.jsonl` cannot be written or is damaged: then the run directory is not what it should be.
    pub fn start(options: &MeteringOptions<'_>) -> Result<(Self, MeterInfo), RunlogError> {
        let MeteringOptions { config, run, run_id, segment, devices, resumed, grid, known, .. } = options;
        let (mut emissions, recovered) = LineFile::open(&run.emissions(), Record::from_json)?;
        let carbon =
            carbon::resolve(&config.carbon).expect("its faults were looked for with the configuration's");
        let tariff = Tariff::from_config(&config.cost);
        let anchor = segment.anchor().unwrap_or_else(WallAnchor::now);
        let pricing = Pricing {
            pue: config.energy.pue,
            intensity: carbon.intensity_g_per_kwh,
            grid: known.cloned(),
            table: intensity_table(&config.carbon),
            tariff: tariff.clone(),
            anchor,
        };
        let workload = options.together.map_or(Workload::ThisProcess, |(_, seats)| seats.workload());
        let own = options.together.map(|(_, seats)| seats.devices_of(0));
        let discovery = discover_for(&config.energy, own.as_deref().unwrap_or(devices), workload);
        let unmetered = discovery.unmetered();
        if !unmetered.is_empty() {
            let left_out = matches!(config.energy.gpus, GpuSelection::None | GpuSelection::Boards(_));
            let remedy = if left_out { "; energy.gpus = \"used\" meters what is trained on" } else { "" };
            tracing::warn!("{}{remedy}", unmetered_warning(&unmetered));
        }
        let ledger_options = LedgerOptions {
            run_id: (*run_id).to_owned(),
            segment: segment.id,
            anchor,
            pue: config.energy.pue,
            carbon,
            tariff,
            devices: devices.len() as u32,
            trained_on: discovery.trained_on.clone(),
        };
        let mut ledger = Ledger::resume(ledger_options, &recovered.entries)
            .with_table(pricing.table.clone())
            .with_machine(stated_machine(&config.energy, &config.carbon))
            .with_other_traces(other_traces(run.path()))
            .with_tokens_beside(options.beside.clone());
        for id in grid.iter().map(|entry| entry.segment).collect::<BTreeSet<_>>() {
            Intensities::of_segment(*grid, id).into_iter().for_each(|known| ledger.set_grid(id, known));
        }
        known.iter().for_each(|known| ledger.set_grid(segment.id, (*known).clone()));
        book_tails(&mut ledger, &mut emissions, options)?;
        for finding in discovery.findings.iter().filter(|finding| finding.remedy.is_some()) {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            tracing::debug!("{}: {}; to fix it: {remedy}", finding.what, finding.detail);
        }
        let info = MeterInfo { sensors: discovery.sensor_infos(), drivers: discovery.drivers.clone() };
        let gpus = info.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu);
        let mut metering = Self {
            run_id: (*run_id).to_owned(),
            segment: segment.id,
            sampler: None,
            tally: Tally::new(pricing, ledger.used()),
            trace: resumed.is_some().then(|| run.power_trace()),
            workload,
            others: None,
            ledger,
            emissions,
            csv: run.emissions_csv(),
            facts: Facts {
                name: config.run.name.clone(),
                host: Host::here(),
                gpu_models: gpus.map(|sensor| sensor.description.clone()).collect(),
            },
            start: Mark { edge: now_missing(), step: 0, tokens: 0 },
            spans: Vec::new(),
        };
        metering.start_sampler(run, segment, discovery.sensors, config.energy.interval_ms);
        metering.start.edge = metering.edge();
        metering.measure_idle(Duration::from_secs_f64(config.energy.idle_baseline_s));
        if let Some(point) = resumed {
            metering.start = Mark { step: point.step, tokens: point.tokens, ..metering.start };
        }
        Ok((metering, info))
    }

    /// Hears of the meters of other machines, which take part from now on.
    ///
    /// # Errors
    /// If the ranks have parted.
    pub fn join(&mut self, ranks: &Ranks, seats: &Seats, info: &mut MeterInfo) -> Result<(), SessionError> {
        if let Some((others, infos)) = OtherNodes::hear(ranks, seats)? {
            self.others = Some(others);
            info.sensors.extend(infos);
        }
        Ok(())
    }

    /// What is drawn now, and has been in this segment. Costs next to nothing.
    pub fn live(&self) -> Option<Live> {
        let live = self.sampler.as_ref().map(Sampler::live)?;
        Some(self.others.as_ref().map_or(live, |others| others.of_all(live)))
    }

    /// What every sensor says now, for another thread.
    pub fn watch(&self) -> Option<Watch> {
        self.sampler.as_ref().map(Sampler::watch)
    }

    /// What the run has used so far, for a budget to be held against.
    pub fn used(&mut self) -> Used {
        let live = self.live();
        self.used_by(live)
    }

    /// [`Metering::used`] by a reading of [`Metering::live`].
    pub fn used_by(&mut self, live: Option<Live>) -> Used {
        self.tally.see(MonotonicNs::now(), live.map_or(Joules::ZERO, |live| live.energy));
        self.tally.used()
    }

    /// More is known of the grid.
    pub fn set_grid(&mut self, known: &Intensities) {
        // What was seen so far is priced by what was known so far.
        self.used();
        self.tally.set_grid(known);
        self.ledger.set_grid(self.segment, known.clone());
    }

    /// A phase of work is over.
    pub fn span(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// An end of a record: every machine reads its sensors.
    fn mark(&mut self, step: u64, tokens: u64) -> Mark {
        let mark = Mark { edge: self.edge(), step, tokens };
        if let Some(others) = &mut self.others {
            others.listen();
        }
        mark
    }

    /// Reads every sensor now.
    pub fn edge(&self) -> wattle_meter::Edge {
        self.sampler.as_ref().map_or_else(now_missing, |sampler| sampler.edge(EDGE_TIMEOUT))
    }

    /// Ends the record of an epoch, or of the part of it that this segment made, and writes it, with what the whole run
    /// is expected to use.
    ///
    /// # Errors
    /// If `emissions.jsonl` cannot be written.
    pub fn end_epoch(
        &mut self,
        epoch: u64,
        complete: bool,
        step: u64,
        tokens: u64,
        projection: Option<Projected>,
    ) -> Result<Option<Record>, RunlogError> {
        let end = self.mark(step, tokens);
        let Some(record) = self.record(RecordKind::Epoch, Some(epoch), complete, end) else {
            return Ok(None);
        };
        let record = Record { projection, ..record };
        append(&mut self.emissions, &record)?;
        self.write_csv(&record);
        if let (Some(others), Some(sampler)) = (&mut self.others, &self.sampler) {
            others.book(&record, sampler.live().energy);
        }
        if let Some(sampler) = &self.sampler {
            sampler.forget_before(&end.edge);
        }
        self.tell_breaks();
        self.spans.clear();
        self.start = end;
        Ok(Some(record))
    }

    /// The record of an epoch so far, for a checkpoint in its midst.
    pub fn at_checkpoint(
        &mut self,
        epoch: u64,
        step: u64,
        tokens: u64,
        projection: Option<Projected>,
    ) -> Option<Record> {
        let end = self.mark(step, tokens);
        let record = self.record(RecordKind::Checkpoint, Some(epoch), false, end)?;
        Some(Record { projection, ..record })
    }

    /// Ends metering. A run that is over gets the record of the whole; the energy of one that is to go on is
    /// left to its trace.
    ///
    /// # Errors
    /// If `emissions.jsonl` cannot be written.
    pub fn finish(&mut self, is_over: bool, step: u64, tokens: u64) -> Result<Option<Record>, RunlogError> {
        let end = self.mark(step, tokens);
        let entry = if is_over { self.entry(RecordKind::Final, None, true, end) } else { None };
        let spans = std::mem::take(&mut self.spans);
        let record = entry.map(|entry| self.ledger.close(Entry { spans: &spans, ..entry }));
        if let Some(record) = &record {
            append(&mut self.emissions, record)?;
            self.write_csv(record);
        }
        if let Some(problem) = self.sampler.as_ref().and_then(Sampler::health) {
            tracing::warn!("metering: {problem}");
        }
        if let Some(sampler) = self.sampler.take() {
            sampler.stop();
        }
        self.emissions.sync()?;
        Ok(record)
    }

    /// As [`LineFile::keep`], of `emissions.jsonl`.
    ///
    /// # Errors
    /// If it cannot be looked at or written.
    pub fn keep_records(&mut self) -> Result<Option<String>, RunlogError> {
        self.emissions.keep()
    }

    /// The content of a checkpoint's `emissions.json`: the record, or what kept it from being made.
    pub fn emissions_json(&self, record: Option<&Record>) -> String {
        match record {
            Some(record) => format!("{}\n", record.to_json()),
            None => {
                let why = self.sampler.as_ref().and_then(Sampler::health);
                let why = why.unwrap_or_else(|| "the meter did not answer".to_owned());
                let error = json!({ "schema": EMISSIONS_SCHEMA, "run_id": self.run_id, "error": why });
                format!("{error}\n")
            }
        }
    }

    fn record(&mut self, kind: RecordKind, epoch: Option<u64>, complete: bool, end: Mark) -> Option<Record> {
        let entry = self.entry(kind, epoch, complete, end)?;
        Some(self.ledger.record(Entry { spans: &self.spans, ..entry }))
    }

    /// What a record from the last mark to `end` is made from, but for its spans.
    fn entry(
        &self,
        kind: RecordKind,
        epoch: Option<u64>,
        complete: bool,
        end: Mark,
    ) -> Option<Entry<'static>> {
        let own = self.own_window(&end.edge);
        let window = match (&self.others, own) {
            (Some(others), Some(own)) => others.with_others(own),
            // What the others said is theirs of this stretch alone.
            (Some(others), None) => others.without_this(self.start.edge.t, end.edge.t)?,
            (None, own) => own?,
        };
        Some(Entry {
            kind,
            epoch,
            complete,
            step_start: self.start.step,
            step_end: end.step,
            tokens: end.tokens.saturating_sub(self.start.tokens),
            window,
            spans: &[],
            resources: self.workload.resources(),
            overhead: self.sampler.as_ref().map(Sampler::overhead).unwrap_or_default(),
        })
    }

    /// What this machine used from the last mark to `end`; `None` where its meter does not answer.
    fn own_window(&self, end: &wattle_meter::Edge) -> Option<WindowEnergy> {
        let window = self.sampler.as_ref()?.window(&self.start.edge, end);
        window.inspect_err(|error| tracing::warn!("metering: {error}")).ok()
    }

    /// `emissions.csv` is a copy for other tools: the run does not hang on it.
    fn write_csv(&self, record: &Record) {
        let whole = match record.kind {
            RecordKind::Final => record.clone(),
            _ => self.ledger.whole_run(false, record.resources, record.overhead),
        };
        let Facts { name, host, gpu_models } = &self.facts;
        let facts = RunFacts { project_name: name, host, gpu_models };
        if let Err(error) = Row::new(&whole, &facts).write(&self.csv) {
            tracing::warn!("{error}");
        }
    }

    /// Measures what the machine draws before there is anything to do, if that is asked for.
    fn measure_idle(&self, duration: Duration) {
        let Some(sampler) = self.sampler.as_ref().filter(|_| duration > Duration::ZERO) else { return };
        tracing::info!("measuring the idle machine for {} s", duration.as_secs_f64());
        match sampler.baseline(duration) {
            Ok(baselines) if baselines.is_empty() => {
                tracing::warn!("energy.idle_baseline_s: no sensor here measures, so there is no baseline");
            }
            Ok(baselines) => baselines.iter().for_each(|(id, baseline)| {
                tracing::info!("idle {id}: {}", wattle_report::words::quantity::watts(baseline.power_w));
            }),
            Err(error) => {
                tracing::warn!("energy.idle_baseline_s: {error}; the run goes on without a baseline");
            }
        }
    }

    /// Says, once, what the reader of a run of several segments ought to know of them.
    fn tell_breaks(&mut self) {
        let Some(trace) = self.trace.take() else { return };
        match continuity::breaks(&trace) {
            Ok(breaks) => breaks.iter().for_each(|found| tracing::warn!("metering: {found}")),
            Err(error) => tracing::warn!("metering: {error}"),
        }
    }

    fn start_sampler(
        &mut self,
        run: &RunDir,
        segment: &Segment,
        sensors: Vec<Box<dyn wattle_meter::Sensor>>,
        interval_ms: u64,
    ) {
        let start = || -> Result<Sampler, MeterError> {
            let writer = TraceWriter::open(&run.power_trace())?;
            let trace = TraceTarget { writer, run_id: self.run_id.clone(), segment: segment.clone() };
            Sampler::start(
                sensors,
                SamplerOptions {
                    interval: Duration::from_millis(interval_ms),
                    workload: self.workload,
                    trace: Some(trace),
                },
            )
        };
        match start() {
            Ok(sampler) => self.sampler = Some(sampler),
            Err(error) => tracing::warn!("metering cannot start, training goes on without: {error}"),
        }
    }
}

fn now_missing() -> wattle_meter::Edge {
    wattle_meter::Edge { t: MonotonicNs::now(), missing: true }
}

fn append(emissions: &mut LineFile, record: &Record) -> Result<(), RunlogError> {
    emissions.append(&record.to_json())?;
    emissions.sync()
}

/// Books what killed segments drew after their last record.
fn book_tails(
    ledger: &mut Ledger,
    emissions: &mut LineFile,
    options: &MeteringOptions<'_>,
) -> Result<(), RunlogError> {
    let MeteringOptions { run, events, resumed, .. } = options;
    match ledger.settle(&run.power_trace(), events, *resumed) {
        Ok(records) => records.iter().try_for_each(|record| {
            let how = match has_stopped(events, record.segment) {
                true => "was stopped after its last record",
                false => "was killed",
            };
            let energy = wattle_report::words::quantity::joules(record.energy_j);
            tracing::info!("segment {} {how}: {energy} booked from its power trace", record.segment);
            append(emissions, record)
        }),
        Err(error) => {
            tracing::warn!("metering: what an earlier segment used is not known: {error}");
            Ok(())
        }
    }
}

/// Whether a segment ended by itself, after a checkpoint.
fn has_stopped(events: &[Event], segment: u32) -> bool {
    let last = events.iter().rfind(|event| event.segment == segment);
    let reason = last.and_then(|event| match event.body {
        EventBody::Stop { reason, .. } => Some(reason),
        _ => None,
    });
    reason.is_some_and(|reason| reason != StopReason::Error)
}

/// The table of `carbon.table`.
fn intensity_table(config: &CarbonConfig) -> Option<IntensityTable> {
    let path = config.table.as_ref()?;
    // It was read when the configuration was checked; a file can go in between.
    IntensityTable::open(path)
        .inspect_err(|error| tracing::warn!("{error}; emissions are priced by the yearly mean"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::{NodeTrace, NodeVoice};
    use wattle_dist::Threads;
    use wattle_runlog::DeviceKind;
    use wattle_runlog::machine::machine_of;
    use wattle_runlog::record::Flag;

    /// The record of a moment's training on `cuda:0` by a machine of which NVML shows nothing, and `emissions.csv`.
    fn trained_on_a_board(gpus: GpuSelection) -> (Record, String, String) {
        let scratch = tempfile::tempdir().unwrap();
        let run = RunDir::create(&scratch.path().join("run")).unwrap();
        let mut config = Config::default();
        config.energy.gpus = gpus;
        let segment = Segment::now(0, 0);
        let device = ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal: 0,
            uuid: Some("GPU-of-a-test".to_owned()),
            pci: None,
        };
        let options = MeteringOptions {
            config: &config,
            run: &run,
            run_id: "run-1",
            segment: &segment,
            devices: &[device],
            events: &[],
            resumed: None,
            grid: &[],
            known: None,
            beside: None,
            together: None,
        };
        let (mut metering, _) = Metering::start(&options).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let epoch = metering.end_epoch(1, true, 10, 1_000, None).unwrap().unwrap();
        let json = metering.emissions_json(Some(&epoch));
        let whole = metering.finish(true, 10, 1_000).unwrap().unwrap();
        assert_eq!(whole.unmetered_devices, epoch.unmetered_devices);
        (whole, json, std::fs::read_to_string(run.emissions_csv()).unwrap())
    }

    /// Keeps a thread busy, which is what an estimate goes by.
    fn work() {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(150) {
            std::hint::black_box(began.elapsed());
        }
    }

    #[test]
    fn what_other_machines_used_is_booked_where_this_ones_meter_fails() {
        let scratch = tempfile::tempdir().unwrap();
        let run = RunDir::create(&scratch.path().join("run")).unwrap();
        // A trace that cannot be written keeps this machine's meter from starting.
        std::fs::create_dir(run.power_trace()).unwrap();
        let (config, segment) = (Config::default(), Segment::now(0, 0));
        let mut machines = Threads::machines(&[2, 1]).into_iter().map(|fabric| {
            let ranks = Ranks::new(std::sync::Arc::new(fabric), Duration::from_secs(20));
            let seats = |ranks: &Ranks| Seats::learn(ranks, &ComputeDevice::cpu()).unwrap().unwrap();
            (ranks, seats)
        });
        let (ranks, learn) = machines.next().unwrap();
        let (whole, epochs) = std::thread::scope(|scope| {
            for (ranks, learn) in machines {
                let (config, run) = (&config, run.path());
                scope.spawn(move || {
                    let seats = learn(&ranks);
                    let trace = NodeTrace { run, run_id: "run-1", segment: 0 };
                    let mut voice =
                        NodeVoice::start(&ranks, &seats, &config.energy, &trace).unwrap().unwrap();
                    for is_kept in [true, true, false] {
                        work();
                        voice.say(is_kept);
                    }
                });
            }
            let seats = learn(&ranks);
            let options = MeteringOptions {
                config: &config,
                run: &run,
                run_id: "run-1",
                segment: &segment,
                devices: &[ComputeDevice::cpu()],
                events: &[],
                resumed: None,
                grid: &[],
                known: None,
                beside: None,
                together: Some((&ranks, &seats)),
            };
            let (mut metering, mut info) = Metering::start(&options).unwrap();
            metering.join(&ranks, &seats, &mut info).unwrap();
            let epochs =
                [1, 2].map(|n| metering.end_epoch(n, true, 10 * n, 1_000 * n, None).unwrap().unwrap());
            (metering.finish(true, 20, 2_000).unwrap().unwrap(), epochs)
        });
        for epoch in &epochs {
            let [this, others @ ..] = epoch.sensors.as_slice() else { panic!("{:?}", epoch.sensors) };
            assert_eq!((this.id.as_str(), others[0].id.as_str()), ("missing", "node1/cpu:estimate"));
            assert!(others.iter().all(|other| machine_of(&other.id) == 1), "{others:?}");
            assert_eq!(this.flags, [Flag::NodeMissing, Flag::Estimated]);
            let of_others: Joules = others.iter().map(|other| other.energy_j).sum();
            assert!(of_others > Joules::ZERO, "{others:?}");
            // Two ranks here, one there; figures are rounded to millijoules.
            assert!((this.energy_j - of_others * 2.0).get().abs() < 0.005, "{:?}", epoch.sensors);
            assert!((epoch.energy_j - of_others * 3.0).get().abs() < 0.005, "{:?}", epoch.sensors);
        }
        assert_eq!(epochs[1].start_ns, epochs[0].end_ns, "each stretch is booked once");
        assert_eq!(epochs[1].tokens, 1_000);
        let booked = epochs[0].energy_j + epochs[1].energy_j;
        assert!(whole.energy_j > booked && whole.energy_j < booked * 3.0, "{whole:?}");
    }

    #[test]
    fn a_board_that_trains_unmetered_is_named_in_all_that_is_written() {
        for gpus in [GpuSelection::None, GpuSelection::Used] {
            let (record, json, csv) = trained_on_a_board(gpus);
            assert_eq!(record.unmetered_devices, ["cuda:0"]);
            assert!(json.contains("\"unmetered_devices\":[\"cuda:0\"]"), "{json}");
            assert!(csv.contains("cuda:0 (not metered)"), "{csv}");
            let said = wattle_report::words::describe::describe_energy(&record).remove(0);
            assert!(said.ends_with("without cuda:0 (not metered)"), "{said}");
            let warnings = wattle_report::words::describe::energy_warnings(&record);
            assert!(warnings[0].starts_with("cuda:0 is not metered"), "{warnings:?}");
        }
    }
}
