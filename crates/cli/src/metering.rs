//! The meter beside a training run: what becomes of its figures in the run directory.
//!
//! Nothing in here ends a run. What goes wrong is logged once, and the files say `error` where figures would be.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use wattle_meter::codecarbon::{Row, RunFacts};
use wattle_meter::ledger::Tariff;
use wattle_meter::sampler::EDGE_TIMEOUT;
use wattle_meter::{
    Entry, Ledger, LedgerOptions, Live, MeterError, ResumePoint, Sampler, SamplerOptions, TraceTarget,
    TraceWriter, Workload, carbon, discover,
};
use wattle_runlog::manifest::{Drivers, Host, SensorInfo};
use wattle_runlog::record::{Cumulative, EMISSIONS_SCHEMA, RecordKind, SensorKind};
use wattle_runlog::{
    ComputeDevice, Event, GramsCo2e, Joules, LineFile, Record, RunDir, RunlogError, Segment, Span, WallAnchor,
};

use crate::config::Config;

/// A run's meter, its books, and the files that they are written to.
pub struct Metering {
    run_id: String,
    sampler: Option<Sampler>,
    ledger: Ledger,
    emissions: LineFile,
    csv: PathBuf,
    facts: Facts,
    /// Where the record under way began.
    start: Mark,
    spans: Vec<Span>,
    /// Energy and emissions of earlier segments.
    carried: Cumulative,
    per_joule: PerJoule,
}

/// What the manifest says of metering.
#[derive(Clone, Debug)]
pub struct MeterInfo {
    /// The sensors.
    pub sensors: Vec<SensorInfo>,
    /// Driver versions.
    pub drivers: Drivers,
}

/// What a run has used so far, over all its segments.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Energy of the building.
    pub facility_kwh: f64,
    /// Emissions.
    pub emissions: GramsCo2e,
    /// Cost, if there is a tariff.
    pub cost: Option<f64>,
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

/// What a joule at the sensor comes to.
struct PerJoule {
    pue: f64,
    grams: f64,
    cost: Option<f64>,
}

/// What a metered run is made of.
pub struct MeteringOptions<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The run directory.
    pub run: &'a RunDir,
    /// The run's id.
    pub run_id: &'a str,
    /// The segment that begins.
    pub segment: &'a Segment,
    /// What is computed on.
    pub device: &'a ComputeDevice,
    /// Events of earlier segments.
    pub events: &'a [Event],
    /// The checkpoint that the run goes on from.
    pub resumed: Option<ResumePoint>,
}

impl Metering {
    /// Starts the sampling thread, and books what earlier segments left unrecorded.
    ///
    /// # Errors
    /// If `emissions.jsonl` cannot be written or is damaged: then the run directory is not what it should be.
    pub fn start(options: &MeteringOptions<'_>) -> Result<(Self, MeterInfo), RunlogError> {
        let MeteringOptions { config, run, run_id, segment, device, events, resumed } = options;
        let (emissions, recovered) = LineFile::open(&run.emissions(), Record::from_json)?;
        let carbon =
            carbon::resolve(&config.carbon).expect("its faults were looked for with the configuration's");
        let tariff = Tariff::from_config(&config.cost);
        let per_joule = PerJoule {
            pue: config.energy.pue,
            grams: (carbon.intensity_g_per_kwh * Joules(config.energy.pue)).get(),
            cost: tariff.as_ref().map(|t| t.per_kwh * Joules(config.energy.pue).kwh()),
        };
        let ledger_options = LedgerOptions {
            run_id: (*run_id).to_owned(),
            segment: segment.id,
            anchor: segment.anchor().unwrap_or_else(WallAnchor::now),
            pue: config.energy.pue,
            carbon,
            tariff,
            devices: 1,
        };
        let ledger = Ledger::resume(ledger_options, &recovered.entries);
        let discovery = discover(&config.energy, std::slice::from_ref(*device));
        for finding in discovery.findings.iter().filter(|finding| finding.remedy.is_some()) {
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            tracing::debug!("{}: {}; to mend it: {remedy}", finding.what, finding.detail);
        }
        let info = MeterInfo { sensors: discovery.sensor_infos(), drivers: discovery.drivers.clone() };
        let gpus = info.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu);
        let mut metering = Self {
            run_id: (*run_id).to_owned(),
            sampler: None,
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
            carried: Cumulative::default(),
            per_joule,
        };
        metering.settle(run, events, *resumed)?;
        metering.carried = metering.ledger.cumulative();
        metering.start_sampler(run, segment, discovery.sensors, config.energy.interval_ms);
        metering.start.edge = metering.edge();
        if let Some(point) = resumed {
            metering.start = Mark { step: point.step, tokens: point.tokens, ..metering.start };
        }
        Ok((metering, info))
    }

    /// What is drawn now, and has been in this segment. Costs next to nothing.
    pub fn live(&self) -> Option<Live> {
        self.sampler.as_ref().map(Sampler::live)
    }

    /// Emissions of this segment so far.
    pub fn emissions_so_far(&self, live: &Live) -> GramsCo2e {
        GramsCo2e(live.energy.get() * self.per_joule.grams)
    }

    /// What the run has used so far, for a budget to be held against.
    pub fn used(&self) -> Used {
        let energy = self.live().map_or(Joules::ZERO, |live| live.energy);
        let carried = &self.carried;
        Used {
            facility_kwh: (carried.energy_j + energy).kwh() * self.per_joule.pue,
            emissions: carried.emissions_g + GramsCo2e(energy.get() * self.per_joule.grams),
            cost: self.per_joule.cost.map(|cost| carried.cost.unwrap_or(0.0) + energy.get() * cost),
        }
    }

    /// A phase of work is over.
    pub fn span(&mut self, span: Span) {
        self.spans.push(span);
    }

    /// Reads every sensor now.
    pub fn edge(&self) -> wattle_meter::Edge {
        self.sampler.as_ref().map_or_else(now_missing, |sampler| sampler.edge(EDGE_TIMEOUT))
    }

    /// Ends the record of an epoch, or of the part of it that this segment made, and writes it.
    ///
    /// # Errors
    /// If `emissions.jsonl` cannot be written.
    pub fn end_epoch(
        &mut self,
        epoch: u64,
        complete: bool,
        step: u64,
        tokens: u64,
    ) -> Result<Option<Record>, RunlogError> {
        let end = Mark { edge: self.edge(), step, tokens };
        let Some(record) = self.record(RecordKind::Epoch, Some(epoch), complete, end) else {
            return Ok(None);
        };
        self.append(&record)?;
        self.write_csv(&record);
        if let Some(sampler) = &self.sampler {
            sampler.forget_before(&end.edge);
        }
        self.spans.clear();
        self.start = end;
        Ok(Some(record))
    }

    /// The record of an epoch so far, for a checkpoint in its midst.
    pub fn at_checkpoint(&mut self, epoch: u64, step: u64, tokens: u64) -> Option<Record> {
        let end = Mark { edge: self.edge(), step, tokens };
        self.record(RecordKind::Checkpoint, Some(epoch), false, end)
    }

    /// Ends metering. A run that is over gets the record of the whole; the energy of one that is to go on is
    /// left to its trace.
    ///
    /// # Errors
    /// If `emissions.jsonl` cannot be written.
    pub fn finish(&mut self, is_over: bool, step: u64, tokens: u64) -> Result<Option<Record>, RunlogError> {
        let end = Mark { edge: self.edge(), step, tokens };
        let entry = if is_over { self.entry(RecordKind::Final, None, true, end) } else { None };
        let spans = std::mem::take(&mut self.spans);
        let record = entry.map(|entry| self.ledger.close(Entry { spans: &spans, ..entry }));
        if let Some(record) = &record {
            self.append(record)?;
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
        let sampler = self.sampler.as_ref()?;
        let window = match sampler.window(&self.start.edge, &end.edge) {
            Ok(window) => window,
            Err(error) => {
                tracing::warn!("metering: {error}");
                return None;
            }
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
            resources: Workload::ThisProcess.resources(),
            overhead: sampler.overhead(),
        })
    }

    fn append(&mut self, record: &Record) -> Result<(), RunlogError> {
        self.emissions.append(&record.to_json())?;
        self.emissions.sync()
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

    /// Books what killed segments drew after their last record.
    fn settle(
        &mut self,
        run: &RunDir,
        events: &[Event],
        resumed: Option<ResumePoint>,
    ) -> Result<(), RunlogError> {
        match self.ledger.settle(&run.power_trace(), events, resumed) {
            Ok(records) => records.iter().try_for_each(|record| {
                tracing::info!(
                    "segment {} ended without a record: {} booked from its power trace",
                    record.segment,
                    crate::humanize::joules(record.energy_j)
                );
                self.append(record)
            }),
            Err(error) => {
                tracing::warn!("metering: what an earlier segment used is not known: {error}");
                Ok(())
            }
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
                    workload: Workload::ThisProcess,
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
    wattle_meter::Edge { t: wattle_runlog::MonotonicNs::now(), missing: true }
}
