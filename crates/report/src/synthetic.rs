//! Small runs for tests, written by the writers that real runs are written by.

use std::path::Path;

use serde_json::json;
use wattle_meter::TraceWriter;
use wattle_meter::readings::trace::{Sample, SampleValue, SegmentHeader};
use wattle_meter::sensors::sensor::{Channels, PowerSource};
use wattle_runlog::event::{EvaluateEvent, StepEvent};
use wattle_runlog::manifest::{
    DataInfo, Drivers, Host, LossFloor, MANIFEST_SCHEMA, ModelInfo, Segment, SensorInfo, Versions,
};
use wattle_runlog::record::RecordKind;
use wattle_runlog::{
    ComputeDevice, DeviceKind, Event, EventBody, LineFile, Manifest, MonotonicNs, Record, RunDir, StopReason,
};

use crate::join::run::Run;

const STEP_MS: u64 = 100;
const TOKENS_PER_STEP: u64 = 512;
const STEPS_PER_EPOCH: u64 = 20;

/// A run of epochs of twenty steps of 100 ms, on a board that draws 100 W in the first half of each epoch and
/// twice as much in the second. Records say one per cent more than the trace.
#[derive(Clone, Debug)]
pub(crate) struct SyntheticRun {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) n_epochs: u64,
    pub(crate) watts: f64,
    /// What the validation loss falls to.
    pub(crate) floor: f64,
    /// The entropy of the validation split in nats a token, if it is known.
    pub(crate) entropy: Option<f64>,
    /// The board's temperature at the start, if it tells; it rises by a degree a second.
    pub(crate) degrees: Option<f64>,
    pub(crate) method: &'static str,
    pub(crate) systematic: (&'static str, f64),
    pub(crate) data_sha256: &'static str,
    pub(crate) power_limit_w: Option<f64>,
    pub(crate) learning_rate: f64,
    /// Whether the first process was killed after step 25 and a second went on from step 20.
    pub(crate) is_resumed: bool,
    pub(crate) stop: Option<StopReason>,
    /// A device that its records list as unmetered.
    pub(crate) unmetered: Option<&'static str>,
    /// Whether the board has no sensor and only the host is estimated.
    pub(crate) has_host_alone: bool,
    /// Share of the energy that is an estimated host's.
    pub(crate) host_share: f64,
    /// 95 % half-width of the board's energy.
    pub(crate) half_width: f64,
    /// Time before the first step, in which nothing is recorded.
    pub(crate) setup_ms: u64,
    /// Whether the losses of ten steps are read together, as earlier versions read them on a board.
    pub(crate) is_read_late: bool,
    /// What held the board's clocks back.
    pub(crate) throttle: &'static [&'static str],
    pub(crate) is_contended: bool,
}

impl SyntheticRun {
    pub(crate) fn small() -> Self {
        Self {
            name: "small",
            seed: 1,
            n_epochs: 2,
            watts: 100.0,
            floor: 2.0,
            entropy: Some(1.75),
            degrees: None,
            method: "counter",
            systematic: ("nvml:energy-counter", 0.05),
            data_sha256: "data-1",
            power_limit_w: None,
            learning_rate: 0.002,
            is_resumed: false,
            stop: Some(StopReason::Done),
            unmetered: None,
            has_host_alone: false,
            host_share: 0.0,
            half_width: 2.0,
            setup_ms: 0,
            is_read_late: false,
            throttle: &[],
            is_contended: true,
        }
    }

    /// As earlier versions wrote a run on a board with `energy.gpus = "none"`.
    pub(crate) fn unmetered() -> Self {
        Self { has_host_alone: true, watts: 1.0, ..Self::small() }
    }

    /// With a long name and large figures.
    pub(crate) fn wide() -> Self {
        Self {
            name: "a-name-that-somebody-gave-to-a-run-with-all-of-its-keys-in-it-and-some-more-besides-them",
            watts: 123_456.7,
            host_share: 0.1,
            ..Self::small()
        }
    }

    pub(crate) fn resumed() -> Self {
        Self { is_resumed: true, ..Self::small() }
    }

    /// Writes the run into `dir`, which is empty or not there, and reads it.
    pub(crate) fn write(&self, dir: &Path) -> Run {
        let run = RunDir::create(dir).unwrap();
        run.write_manifest(&self.manifest()).unwrap();
        std::fs::write(run.config(), self.config()).unwrap();
        let (mut events, _) = LineFile::open(&run.events(), Event::from_json).unwrap();
        self.events().iter().for_each(|event| events.append(&event.to_json()).unwrap());
        let (mut records, _) = LineFile::open(&run.emissions(), Record::from_json).unwrap();
        self.records().iter().for_each(|record| records.append(&record.to_json()).unwrap());
        for (segment, steps) in self.segments() {
            write_trace(&run.power_trace(), segment, &self.readings(steps), self.degrees);
        }
        drop(run);
        Run::open(dir).unwrap()
    }

    /// Each segment's first and last step.
    fn segments(&self) -> Vec<(u32, (u64, u64))> {
        let end = self.n_epochs * STEPS_PER_EPOCH;
        if self.is_resumed { vec![(0, (0, 25)), (1, (20, end))] } else { vec![(0, (0, end))] }
    }

    fn readings(&self, (from, to): (u64, u64)) -> Vec<(u64, f64)> {
        let end_ms = (to - from) * STEP_MS;
        let watts = |ms: u64| {
            let within_epoch = (from * STEP_MS + ms) % (STEPS_PER_EPOCH * STEP_MS);
            if within_epoch < STEPS_PER_EPOCH * STEP_MS / 2 { self.watts } else { 2.0 * self.watts }
        };
        let interval_ms = if self.n_epochs > 100 { 10_000 } else { 10 };
        (0..=end_ms).step_by(interval_ms).map(|ms| (ms, watts(ms))).collect()
    }

    fn manifest(&self) -> Manifest {
        Manifest {
            schema: MANIFEST_SCHEMA.to_owned(),
            run_id: format!("{}-20261123-150000-1a2b", self.name),
            name: self.name.to_owned(),
            versions: Versions { wattle: "0.1.0".to_owned(), candle: Some("0.11.1".to_owned()) },
            command: ["wattle", "train", "--set", "run.name=\"<b>&\""].map(str::to_owned).to_vec(),
            seed: self.seed,
            devices: vec![ComputeDevice {
                kind: DeviceKind::Cuda,
                ordinal: 0,
                uuid: Some("GPU-1".to_owned()),
                pci: None,
            }],
            drivers: Drivers { nvidia: Some("580.65".to_owned()), cuda: Some("13.0".to_owned()) },
            host: Host {
                hostname: "bench".to_owned(),
                os: "Linux 6.12".to_owned(),
                cpu_model: Some("A processor".to_owned()),
                cpus: 8,
                memory_bytes: Some(32 << 30),
            },
            sensors: self.sensor_infos(),
            data: Some(DataInfo {
                unverified: false,
                sha256: self.data_sha256.to_owned(),
                text_sha256: None,
                tokenizer_sha256: "tokenizer-1".to_owned(),
                train_tokens: 10_240,
                val_tokens: 1_024,
                floor: self.entropy.map(|nats| LossFloor { nats_per_token: nats, bits_per_byte: nats / 2.0 }),
                steps: Vec::new(),
            }),
            model: Some(ModelInfo { family: "gpt2".to_owned(), parameters: 139_584 }),
            segments: self.segments().into_iter().map(|(id, (start, _))| segment(id, start)).collect(),
        }
    }

    fn sensor(&self) -> SensorInfo {
        let mut info = serde_json::to_value(gpu_info()).unwrap();
        info["method"] = json!(self.method);
        info["systematic_id"] = json!(self.systematic.0);
        info["systematic_fraction"] = json!(self.systematic.1);
        if let Some(watts) = self.power_limit_w {
            info["limits"] = json!({"enforced_w": watts, "min_w": 200.0, "max_w": 700.0});
        }
        serde_json::from_value(info).unwrap()
    }

    fn sensor_infos(&self) -> Vec<SensorInfo> {
        let board = (!self.has_host_alone).then(|| self.sensor());
        let has_host = self.has_host_alone || self.host_share > 0.0;
        board.into_iter().chain(has_host.then(host_info)).collect()
    }

    fn config(&self) -> String {
        format!(
            "[run]\nname = \"{}\"\nseed = {}\n\n[model]\nfamily = \"gpt2\"\nd_model = 64\n\n[optimizer]\nlearning_rate = {}\n",
            self.name, self.seed, self.learning_rate
        )
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (segment, (from, to)) in self.segments() {
            for step in from + 1..=to {
                let mut add = |ms_after: u64, body| {
                    let ms = self.setup_ms + (step - from) * STEP_MS + ms_after;
                    events.push(Event::new(segment, MonotonicNs(ms * 1_000_000), body));
                };
                let until_read =
                    if self.is_read_late { (step.next_multiple_of(10) - step) * STEP_MS } else { 0 };
                add(until_read, EventBody::Step(self.step(step)));
                if step % 10 == 0 {
                    add(0, EventBody::Evaluate(self.evaluate(step)));
                }
                if step % STEPS_PER_EPOCH == 0 {
                    let epoch = step / STEPS_PER_EPOCH;
                    add(0, EventBody::Epoch { epoch, step, complete: true });
                    let path = format!("checkpoints/step-{step:08}");
                    add(0, EventBody::Checkpoint { step, path, best: true });
                }
                if let Some(reason) = self.stop.filter(|_| step == self.n_epochs * STEPS_PER_EPOCH) {
                    add(0, EventBody::Stop { step, reason });
                }
            }
        }
        events
    }

    fn loss(&self, step: u64) -> f64 {
        // The seed moves the loss a little, as seeds do.
        self.floor + 4.0 * (-(step as f64) / 20.0).exp() + self.seed as f64 * 1e-3
    }

    fn step(&self, step: u64) -> StepEvent {
        StepEvent {
            step,
            epoch: (step - 1) / STEPS_PER_EPOCH + 1,
            tokens: step * TOKENS_PER_STEP,
            loss: self.loss(step) as f32,
            learning_rate: self.learning_rate,
            grad_norm: 0.5,
            tokens_per_s: 5120.0,
            accuracy: 0.01 * step as f32,
        }
    }

    fn evaluate(&self, step: u64) -> EvaluateEvent {
        let loss = self.loss(step);
        EvaluateEvent {
            step,
            split: "val".to_owned(),
            loss,
            perplexity: loss.exp(),
            bits_per_byte: loss / 2.0,
            accuracy: 0.01 * step as f64,
            tokens: 1_024,
            sources: Vec::new(),
        }
    }

    fn records(&self) -> Vec<Record> {
        let mut books = Books::default();
        let mut records = Vec::new();
        if self.is_resumed {
            records.push(self.record(&mut books, RecordKind::Epoch, 0, (0, 20), 0));
            records.push(self.record(&mut books, RecordKind::Interrupted, 0, (20, 25), 0));
            records.push(self.record(&mut books, RecordKind::Epoch, 1, (20, 40), 20));
        } else {
            for epoch in 0..self.n_epochs {
                let steps = (epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH);
                records.push(self.record(&mut books, RecordKind::Epoch, 0, steps, 0));
            }
        }
        if self.stop == Some(StopReason::Done) {
            records.push(self.whole(&books));
        }
        records
    }

    fn record(
        &self,
        books: &mut Books,
        kind: RecordKind,
        segment: u32,
        (from, to): (u64, u64),
        first: u64,
    ) -> Record {
        let seconds = ((to - from) * STEP_MS) as f64 / 1e3;
        // A whole epoch draws one and a half times the lower power; the tail of a killed one lies in its first half.
        let mean = if kind == RecordKind::Epoch { 1.5 * self.watts } else { self.watts };
        let energy = 1.01 * mean * seconds;
        let is_waste = kind == RecordKind::Interrupted;
        let tokens = if is_waste { 0 } else { (to - from) * TOKENS_PER_STEP };
        books.add(energy, seconds, tokens, is_waste);
        let mut record = self.json(energy, seconds, tokens, books);
        record["kind"] = serde_json::to_value(kind).unwrap();
        record["segment"] = json!(segment);
        record["epoch"] = json!(from / STEPS_PER_EPOCH + 1);
        record["complete"] = json!(!is_waste);
        record["step_start"] = json!(from);
        record["step_end"] = json!(to);
        record["start_ns"] = json!((from - first) * STEP_MS * 1_000_000);
        record["end_ns"] = json!((to - first) * STEP_MS * 1_000_000);
        serde_json::from_value(record).unwrap()
    }

    fn whole(&self, books: &Books) -> Record {
        let mut record = self.json(books.energy, books.seconds, books.tokens, books);
        record["kind"] = json!("final");
        record["segment"] = json!(self.segments().len() - 1);
        record["complete"] = json!(true);
        record["step_end"] = json!(self.n_epochs * STEPS_PER_EPOCH);
        serde_json::from_value(record).unwrap()
    }

    fn json(&self, energy: f64, seconds: f64, tokens: u64, books: &Books) -> serde_json::Value {
        let is_measured = self.method != "estimated" && !self.has_host_alone;
        let host = if self.has_host_alone { energy } else { energy * self.host_share };
        let measured = if is_measured { 1.0 - host / energy } else { 0.0 };
        let half_width = is_measured.then_some(self.half_width);
        let sensors: Vec<_> = (!self.has_host_alone)
            .then(|| self.board(energy - host, seconds))
            .into_iter()
            .chain((host > 0.0).then(|| host_sensor(host, seconds)))
            .collect();
        let phases = json!({
            "setup": 0.0, "data": energy * 0.01, "forward_backward": energy * 0.9, "optimizer": energy * 0.05,
            "evaluate": energy * 0.03, "checkpoint": 0.0, "other": energy * 0.01,
        });
        let carbon = json!({
            "intensity_g_per_kwh": 400.0, "region": "FRA", "source": "a <table>", "year": 2023,
            "basis": "lifecycle",
        });
        let priced = |energy: f64| energy / 3.6e6 * 1.2;
        let cumulative = json!({
            "energy_j": books.energy, "emissions_g": priced(books.energy) * 400.0,
            "cost": priced(books.energy) * 0.25, "tokens": books.tokens, "wasted_j": books.wasted,
        });
        let overhead = json!({
            "sampler_cpu_s": books.seconds * 0.001, "samples": 100, "missed_deadlines": 1,
            "read_p50_us": 12.0, "read_p99_us": 128.0,
        });
        json!({
            "schema": "wattle.emissions/1", "run_id": format!("{}-20261123-150000-1a2b", self.name),
            "segment": 0, "kind": "epoch", "epoch": null, "complete": true, "step_start": 0, "step_end": 0,
            "tokens": tokens, "started_at": "2026-11-23T15:00:00.000Z", "start_ns": null, "end_ns": null,
            "duration_s": seconds, "energy_j": energy, "energy_uncertainty_j": half_width,
            "energy_kwh": energy / 3.6e6, "facility_kwh": priced(energy), "pue": 1.2,
            "emissions_g": priced(energy) * 400.0,
            "cost": {"value": priced(energy) * 0.25, "currency": "EUR", "tariff_per_kwh": 0.25},
            "carbon": carbon,
            "joules_per_token": if tokens > 0 { Some(energy / tokens as f64) } else { None },
            "sci": null, "measured_fraction": measured, "sensors": sensors, "phases": phases,
            "unmetered_devices": self.unmetered.as_slice(),
            "phases_method": "time_share", "cumulative": cumulative,
            "resources": {"device_hours": 0.001, "peak_memory_bytes": 150_000_000, "bytes_read": 4096},
            "overhead": overhead,
        })
    }
}

impl SyntheticRun {
    fn board(&self, energy: f64, seconds: f64) -> serde_json::Value {
        let flag = if self.method == "estimated" { "estimated" } else { "agree" };
        let half_width = (self.method != "estimated").then_some(self.half_width);
        let flags = if self.is_contended { vec![flag, "contended"] } else { vec![flag] };
        json!({
            "id": "gpu:0", "kind": "gpu", "method": self.method, "energy_j": energy,
            "uncertainty_j": half_width, "systematic_fraction": self.systematic.1,
            "systematic_id": self.systematic.0, "counter_j": energy, "integral_j": energy * 0.99,
            "process_share_j": null, "samples": (seconds * 100.0) as u64, "max_gap_ms": 10.0,
            "mean_w": energy / seconds, "max_w": 2.0 * self.watts, "throttle": self.throttle, "flags": flags,
        })
    }
}

fn host_sensor(energy: f64, seconds: f64) -> serde_json::Value {
    json!({
        "id": "cpu:estimate", "kind": "cpu", "method": "estimated", "energy_j": energy, "uncertainty_j": null,
        "systematic_fraction": 0.5, "systematic_id": "estimate:cpu", "counter_j": null, "integral_j": null,
        "process_share_j": null, "samples": (seconds * 100.0) as u64, "max_gap_ms": 10.0,
        "mean_w": energy / seconds, "max_w": null, "flags": ["estimated"],
    })
}

fn host_info() -> SensorInfo {
    serde_json::from_value(json!({
        "id": "cpu:estimate", "kind": "cpu", "method": "estimated", "description": "a model of the processor",
        "systematic_fraction": 0.5, "systematic_id": "estimate:cpu",
    }))
    .unwrap()
}

/// Running totals.
#[derive(Default)]
struct Books {
    energy: f64,
    seconds: f64,
    tokens: u64,
    wasted: f64,
}

impl Books {
    fn add(&mut self, energy: f64, seconds: f64, tokens: u64, is_waste: bool) {
        self.energy += energy;
        self.seconds += seconds;
        self.tokens += tokens;
        if is_waste {
            self.wasted += energy;
        }
    }
}

/// A board whose power can be read.
pub(crate) fn gpu_info() -> SensorInfo {
    serde_json::from_value(json!({
        "id": "gpu:0", "kind": "gpu", "method": "counter", "description": "NVIDIA H200",
        "systematic_fraction": 0.05, "systematic_id": "nvml:energy-counter",
    }))
    .unwrap()
}

/// Appends a segment with the power of [`gpu_info`], milliseconds and watts, and its temperature, which rises by
/// a degree a second from `degrees`.
pub(crate) fn write_trace(path: &Path, id: u32, readings: &[(u64, f64)], degrees: Option<f64>) {
    let power = Some(PowerSource::Instant);
    let channels = Channels { power, temperature: degrees.is_some(), ..Channels::default() };
    let header = SegmentHeader::new("run-1", segment(id, 0), 10.0, [(&gpu_info(), channels)]);
    let mut trace = TraceWriter::open(path).unwrap();
    trace.begin_segment(&header).unwrap();
    for (ms, watts) in readings {
        let value = SampleValue::Measured((watts * 1e3) as u64);
        let t = MonotonicNs(ms * 1_000_000);
        trace.append(Sample { channel: 0, t, value }).unwrap();
        if let Some(degrees) = degrees.filter(|_| ms % 1_000 == 0) {
            let value = SampleValue::Measured((degrees * 1e3) as u64 + ms);
            trace.append(Sample { channel: 1, t, value }).unwrap();
        }
    }
    trace.sync().unwrap();
}

fn segment(id: u32, step_start: u64) -> Segment {
    Segment {
        id,
        host: "bench".to_owned(),
        boot_id: "boot-1".to_owned(),
        wall_anchor: format!("2026-11-23T15:0{id}:00Z"),
        monotonic_anchor: MonotonicNs(0),
        step_start,
        prices: None,
        ranks: None,
    }
}
