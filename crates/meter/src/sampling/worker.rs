//! The sampling thread itself.
//!
//! It wakes at absolute times, or when it is asked, and sleeps otherwise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::{Baseline, Overhead, SensorKind};
use wattle_runlog::{Celsius, Joules, MonotonicNs, Seconds, Watts};

use crate::error::MeterError;
use crate::readings::history::History;
use crate::readings::ticks::TickValue;
use crate::readings::trace::{SEGMENT_TAG, Sample, SampleValue, SegmentHeader, TraceQuantity};
use crate::readings::trace_writer::TraceWriter;
use crate::sampling::activity::Activity;
use crate::sampling::counter_schedule::CounterSchedule;
use crate::sampling::latency::Latency;
use crate::sampling::live::{Live, LiveSensor};
use crate::sampling::sampler_options::{SamplerOptions, TraceTarget};
use crate::sensors::sensor::{Missing, PowerSample, Quantity, Reading, SURVEY_EVERY, Sensor};
use crate::sensors::workload::thread_cpu_time;
use crate::windows::window::{Edge, WindowEnergy, share};

/// Readings may take this share of the thread's time. Where they take longer, there are fewer of them.
const BUSY_SHARE: f64 = 0.25;

/// No slower than this: a 32-bit RAPL counter must not wrap twice unseen.
const SLOWEST: Duration = Duration::from_secs(10);

/// So many rounds in a row decide on the interval.
const ROUNDS_TO_ADAPT: u32 = 8;

/// Drivers keep their samples for some seconds (2.5 s on an H100).
const SAMPLES_EVERY: Seconds = Seconds(1.0);

/// A window waits no longer for a counter than this.
const LONGEST_WAIT: Seconds = Seconds(0.05);

/// What the thread is asked for.
pub(crate) enum Request {
    /// A round of readings now; the answer is when it was taken.
    Edge { reply: SyncSender<MonotonicNs> },
    /// The energy between two edges.
    Window { start: Edge, end: Edge, reply: SyncSender<WindowEnergy> },
    /// A survey of every sensor now; the answer is the id of the first that measures and is contended.
    Survey { reply: SyncSender<Option<String>> },
    /// What sensors drew idle, by id.
    Baselines(Vec<(String, Baseline)>),
    /// No window will begin before this.
    ForgetBefore(MonotonicNs),
    /// To end.
    Stop { reply: SyncSender<()> },
}

/// What the thread shows without being asked. Floats are kept as their bits, NaN for none.
#[derive(Debug)]
pub(crate) struct Shared {
    sensors: Vec<SharedSensor>,
    cpu_s: AtomicU64,
    rounds: AtomicU64,
    missed_deadlines: AtomicU64,
    read_p50_us: AtomicU64,
    read_p99_us: AtomicU64,
    interval_ms: AtomicU64,
    problem: OnceLock<String>,
}

/// What it shows of one sensor.
#[derive(Debug)]
struct SharedSensor {
    info: SensorInfo,
    power_w: AtomicU64,
    energy_j: AtomicU64,
    temperature_c: AtomicU64,
}

/// A sensor and what it has said.
struct Metered {
    sensor: Box<dyn Sensor>,
    history: History,
    quantities: Vec<TraceQuantity>,
    broken: bool,
    /// When to read its expensive counter.
    counter: Option<CounterSchedule>,
    /// When to ask for its driver's samples.
    samples_due: Option<MonotonicNs>,
}

/// How often is sampled: as asked for, or less often where readings are slow.
struct Pace {
    asked: Duration,
    interval: Duration,
    /// The shortest of the rounds that are being looked at, and how many they are.
    shortest: Seconds,
    rounds: u32,
}

pub(crate) struct Worker {
    metered: Vec<Metered>,
    /// As asked for.
    interval: Duration,
    pace: Pace,
    surveyed: Option<MonotonicNs>,
    trace: Option<TraceWriter>,
    /// The readings of the last round, one a sensor.
    round: Vec<Reading>,
    activity: Option<Activity>,
    /// Moments that windows began or ended at: readings next to them are kept.
    edges: Vec<MonotonicNs>,
    latency: Latency,
    shared: Arc<Shared>,
}

impl Shared {
    pub(crate) fn new<'a>(sensors: impl Iterator<Item = &'a SensorInfo>) -> Self {
        let float = |value: f64| AtomicU64::new(value.to_bits());
        let sensor = |info: &SensorInfo| SharedSensor {
            info: info.clone(),
            power_w: float(f64::NAN),
            energy_j: float(0.0),
            temperature_c: float(f64::NAN),
        };
        Self {
            sensors: sensors.map(sensor).collect(),
            cpu_s: float(0.0),
            rounds: AtomicU64::new(0),
            missed_deadlines: AtomicU64::new(0),
            read_p50_us: float(f64::NAN),
            read_p99_us: float(f64::NAN),
            interval_ms: float(f64::NAN),
            problem: OnceLock::new(),
        }
    }

    pub(crate) fn sensors(&self) -> impl Iterator<Item = LiveSensor<'_>> {
        self.sensors.iter().map(|sensor| LiveSensor {
            info: &sensor.info,
            power: some(load(&sensor.power_w)).map(Watts),
            energy: Joules(load(&sensor.energy_j)),
            temperature: some(load(&sensor.temperature_c)).map(Celsius),
        })
    }

    pub(crate) fn live(&self) -> Live {
        let powers: Vec<Watts> = self.sensors().filter_map(|sensor| sensor.power).collect();
        let measured = self.sensors().filter(|sensor| sensor.info.method.is_measured());
        let measured: Joules = measured.map(|sensor| sensor.energy).sum();
        let energy = self.sensors().map(|sensor| sensor.energy).sum();
        Live {
            power: (!powers.is_empty()).then(|| powers.into_iter().sum()),
            energy,
            measured_fraction: share(measured, energy),
        }
    }

    pub(crate) fn overhead(&self) -> Overhead {
        Overhead {
            sampler_cpu_s: Seconds(load(&self.cpu_s)),
            samples: self.rounds.load(Ordering::Relaxed),
            missed_deadlines: self.missed_deadlines.load(Ordering::Relaxed),
            read_p50_us: some(load(&self.read_p50_us)),
            read_p99_us: some(load(&self.read_p99_us)),
            interval_ms: some(load(&self.interval_ms)),
        }
    }

    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.get().cloned()
    }

    /// Keeps the first problem, and warns of each once: whoever reports one does so no second time.
    fn report(&self, problem: String) {
        tracing::warn!("{problem}");
        let _ = self.problem.set(problem);
    }
}

impl Worker {
    pub(crate) fn new(sensors: Vec<Box<dyn Sensor>>, options: SamplerOptions, shared: Arc<Shared>) -> Self {
        let now = MonotonicNs::now();
        let metered: Vec<_> = sensors
            .into_iter()
            .map(|sensor| Metered {
                history: History::new(sensor.info().clone(), sensor.channels(), options.interval),
                quantities: sensor.channels().quantities().collect(),
                counter: sensor.channels().slow_counter.map(|_| CounterSchedule::new(now, options.interval)),
                samples_due: sensor.channels().samples.then_some(now),
                sensor,
                broken: false,
            })
            .collect();
        let whole_packages = metered.iter().any(|metered| {
            let info = metered.sensor.info();
            info.kind == SensorKind::Cpu && info.method.is_measured()
        });
        let mut worker = Self {
            metered,
            interval: options.interval,
            pace: Pace::new(options.interval),
            surveyed: None,
            trace: None,
            round: Vec::new(),
            activity: whole_packages.then(|| Activity::new(options.workload)),
            edges: Vec::new(),
            latency: Latency::new(),
            shared,
        };
        worker.trace = options.trace.and_then(|target| worker.begin_trace(target));
        worker
    }

    fn begin_trace(&self, mut target: TraceTarget) -> Option<TraceWriter> {
        let sensors = self.metered.iter().map(|m| (m.sensor.info(), m.sensor.channels()));
        let interval_ms = self.interval.as_secs_f64() * 1e3;
        let header = SegmentHeader::new(&target.run_id, target.segment, interval_ms, sensors);
        match target.writer.begin_segment(&header) {
            Ok(()) => Some(target.writer),
            Err(error) => {
                self.shared.report(without_trace(&error));
                None
            }
        }
    }

    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        let mut next = MonotonicNs::now();
        loop {
            // Whoever asks comes first, also where readings take longer than the interval.
            let due = self.metered.iter().filter_map(Metered::due).fold(next, MonotonicNs::min);
            let wait = due.0.saturating_sub(MonotonicNs::now().0);
            match requests.recv_timeout(Duration::from_nanos(wait)) {
                Ok(Request::Stop { reply }) => {
                    self.trace_ticks(true);
                    self.sync_trace();
                    // Whoever asked may have stopped waiting.
                    let _ = reply.send(());
                    return;
                }
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) if MonotonicNs::now() < next => self.read_due(),
                Err(RecvTimeoutError::Timeout) => {
                    self.read();
                    self.read_due();
                    self.write();
                    self.survey();
                    let interval_ns = self.pace.interval.as_nanos().max(1) as u64;
                    let behind = MonotonicNs::now().0.saturating_sub(next.0) / interval_ns;
                    self.shared.missed_deadlines.fetch_add(behind, Ordering::Relaxed);
                    next.0 += (behind + 1) * interval_ns;
                }
                Err(RecvTimeoutError::Disconnected) => return self.sync_trace(),
            }
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Edge { reply } => {
                let t = self.read();
                // The disk may take its time; whoever asked need not wait for it.
                let _ = reply.send(t);
                self.ask_late(t);
                self.read_due();
                self.write();
            }
            Request::Window { start, end, reply } => {
                let window = self.window(start, end);
                let _ = reply.send(window);
            }
            Request::Survey { reply } => {
                self.surveyed = None;
                self.survey();
                let _ = reply.send(self.contended());
            }
            Request::Baselines(baselines) => {
                for (id, baseline) in baselines {
                    let known = self.metered.iter_mut().find(|metered| metered.sensor.info().id == id);
                    if let Some(metered) = known {
                        metered.history.set_baseline(baseline);
                    }
                }
            }
            Request::ForgetBefore(t) => {
                self.edges.retain(|edge| *edge >= t);
                for metered in &mut self.metered {
                    metered.history.forget_before(t);
                }
            }
            Request::Stop { .. } => {}
        }
    }

    fn window(&mut self, start: Edge, end: Edge) -> WindowEnergy {
        // With a reading after its end, a window says the same whenever it is asked for.
        if self.metered.iter().any(|m| m.history.last_asked().is_none_or(|last| last < end.t)) {
            let t = self.read();
            self.ask_late(t);
            self.read_due();
            self.write();
        }
        self.await_late();
        for metered in &mut self.metered {
            metered.history.pin(start.t);
            metered.history.pin(end.t);
        }
        self.edges.extend([start.t, end.t]);
        self.edges.sort_unstable();
        self.edges.dedup();
        let process_share = self.activity.as_ref().and_then(|activity| activity.share(start.t, end.t));
        let histories = self.metered.iter().map(|metered| &metered.history);
        WindowEnergy::of(histories, start.t, end.t, process_share, start.missing || end.missing)
    }

    /// A round: reads every sensor, and returns when the last of them had answered.
    fn read(&mut self) -> MonotonicNs {
        let begun = MonotonicNs::now();
        self.round.clear();
        for metered in &mut self.metered {
            let reading = metered.read(&self.shared);
            metered.history.push(&reading);
            self.round.push(reading);
        }
        let ended = MonotonicNs::now();
        self.latency.add(ended.since(begun));
        self.adapt(ended.since(begun));
        ended
    }

    /// Asks for what is read seldom: somebody wants to know of the time up to `t`.
    fn ask_late(&mut self, t: MonotonicNs) {
        for metered in &mut self.metered {
            if let (Some(schedule), Some(ticks)) = (&mut metered.counter, metered.history.ticks()) {
                schedule.ask(ticks, t);
            }
            metered.samples_due = metered.samples_due.map(|due| due.min(t));
        }
    }

    /// Reads what is read seldom and is due.
    fn read_due(&mut self) {
        let mut sampled = Vec::new();
        for (place, metered) in self.metered.iter_mut().enumerate() {
            metered.read_counter(&self.shared);
            sampled.extend(metered.read_samples(&self.shared).into_iter().map(|sample| (place, sample)));
        }
        for (place, PowerSample { t, power }) in sampled {
            let value = SampleValue::from(&Quantity::Measured(power));
            self.trace_of(place, TraceQuantity::SampleMw, t, value);
        }
    }

    /// Waits for readings of counters that an edge asked for: some milliseconds, and seldom.
    fn await_late(&mut self) {
        for _ in 0..4 {
            let asked = self.metered.iter().filter_map(|m| m.counter.as_ref()).filter(|s| s.is_asked());
            let Some(due) = asked.map(CounterSchedule::due).min() else { return };
            let wait = due.since(MonotonicNs::now());
            if wait > LONGEST_WAIT {
                return;
            }
            thread::sleep(Duration::from_nanos(wait.ns()));
            self.read_due();
        }
    }

    /// Reads less often where a round of readings takes long, and as asked for once it no longer does.
    fn adapt(&mut self, took: Seconds) {
        let Some(interval) = self.pace.note(took) else { return };
        for metered in &mut self.metered {
            metered.history.set_interval(interval);
        }
        let (asked, now) = (self.interval.as_secs_f64() * 1e3, interval.as_secs_f64() * 1e3);
        tracing::warn!(
            "a round of readings takes {:.0} ms: sampling every {now:.0} ms (energy.interval_ms = {asked:.0})",
            took.get() * 1e3
        );
    }

    /// Asks for what changes seldom, from time to time.
    fn survey(&mut self) {
        let now = MonotonicNs::now();
        if self.surveyed.is_some_and(|last| now.since(last) < SURVEY_EVERY) {
            return;
        }
        self.surveyed = Some(now);
        let mut temperatures = Vec::new();
        let mut first_channel = 0;
        for (metered, shown) in self.metered.iter_mut().zip(&self.shared.sensors) {
            let of_temperature = metered.quantities.iter().position(|q| *q == TraceQuantity::TemperatureMc);
            let channel = of_temperature.map(|place| first_channel + place);
            first_channel += metered.quantities.len();
            if metered.broken {
                continue;
            }
            match catch_unwind(AssertUnwindSafe(|| metered.sensor.survey())) {
                Ok(survey) => {
                    temperatures.extend(channel.zip(survey.temperature));
                    store(&shown.temperature_c, survey.temperature.map_or(f64::NAN, Celsius::get));
                    metered.history.note(now, survey);
                }
                Err(_) => metered.give_up(&self.shared),
            }
        }
        self.trace_temperatures(now, &temperatures);
    }

    /// Writes temperatures to the trace, each to its channel.
    fn trace_temperatures(&mut self, t: MonotonicNs, temperatures: &[(usize, Celsius)]) {
        for (channel, temperature) in temperatures {
            let Some(channel) = u8::try_from(*channel).ok().filter(|channel| *channel < SEGMENT_TAG) else {
                return;
            };
            let value = SampleValue::Measured((temperature.get().max(0.0) * 1e3).round() as u64);
            self.append_to_trace(Sample { channel, t, value });
        }
    }

    /// The first sensor that measures and whose last survey saw another process on its device.
    fn contended(&self) -> Option<String> {
        let now = MonotonicNs::now();
        let is_contended = |history: &History| history.surveys(now, now).any(|s| s.contended == Some(true));
        let mut measuring = self.metered.iter().filter(|metered| metered.sensor.info().method.is_measured());
        let first = measuring.find(|metered| is_contended(&metered.history))?;
        Some(first.sensor.info().id.clone())
    }

    /// Writes a sample of one sensor, unless the trace has no channel for it.
    fn trace_of(&mut self, place: usize, quantity: TraceQuantity, t: MonotonicNs, value: SampleValue) {
        let before: usize = self.metered[..place].iter().map(|metered| metered.quantities.len()).sum();
        let own = self.metered[place].quantities.iter().position(|own| *own == quantity);
        let channel = own.and_then(|own| u8::try_from(before + own).ok()).filter(|c| *c < SEGMENT_TAG);
        if let Some(channel) = channel {
            self.append_to_trace(Sample { channel, t, value });
        }
    }

    /// Writes expensive counters at their ticks; with `all` also those whose time may still become better known.
    fn trace_ticks(&mut self, all: bool) {
        let now = MonotonicNs::now();
        for place in 0..self.metered.len() {
            let metered = &mut self.metered[place];
            let counters = [TraceQuantity::EnergyMj, TraceQuantity::EnergyUj];
            let quantity = counters.into_iter().find(|counter| metered.quantities.contains(counter));
            let values = metered.history.untraced(now, all);
            for (TickValue { t, value, .. }, quantity) in values.into_iter().zip(quantity.into_iter().cycle())
            {
                self.trace_of(place, quantity, t, SampleValue::Measured(value));
            }
        }
    }

    /// What a round leaves to do once its readings are taken.
    fn write(&mut self) {
        self.write_trace();
        self.trace_ticks(false);
        for metered in &mut self.metered {
            metered.history.thin(&self.edges);
        }
        if let Some(activity) = &mut self.activity {
            activity.note();
        }
        self.show();
    }

    /// Writes the round to the trace; channels are numbered as in the segment's header.
    fn write_trace(&mut self) {
        let quantities = self.metered.iter().zip(&self.round).flat_map(|(metered, reading)| {
            let is_slow = metered.history.channels().slow_counter.is_some();
            metered.quantities.iter().map(move |quantity| (*quantity, reading, is_slow))
        });
        let sample = |(channel, (quantity, reading, is_slow)): (u8, (TraceQuantity, &Reading, bool))| {
            let value = match quantity {
                TraceQuantity::EnergyMj | TraceQuantity::EnergyUj if is_slow => return None,
                TraceQuantity::PowerMw => SampleValue::from(&reading.power),
                TraceQuantity::AverageMw => SampleValue::from(&reading.average),
                TraceQuantity::EnergyMj | TraceQuantity::EnergyUj => SampleValue::from(&reading.counter),
                TraceQuantity::TemperatureMc | TraceQuantity::SampleMw => return None,
            };
            Some(Sample { channel, t: reading.t, value })
        };
        let samples: Vec<_> = (0..SEGMENT_TAG).zip(quantities).filter_map(sample).collect();
        samples.into_iter().for_each(|sample| self.append_to_trace(sample));
    }

    /// Appends to the trace. One that cannot be written is given up, and sampling goes on.
    fn append_to_trace(&mut self, sample: Sample) {
        let Some(trace) = &mut self.trace else { return };
        if let Err(error) = trace.append(sample) {
            self.shared.report(without_trace(&error));
            self.trace = None;
        }
    }

    fn sync_trace(&mut self) {
        if let Some(mut trace) = self.trace.take()
            && let Err(error) = trace.sync()
        {
            self.shared.report(without_trace(&error));
        }
    }

    /// Publishes what is live.
    fn show(&self) {
        let shared = &self.shared;
        for (metered, shown) in self.metered.iter().zip(&shared.sensors) {
            store(&shown.power_w, metered.history.recent_power().map_or(f64::NAN, Watts::get));
            store(&shown.energy_j, metered.history.energy().get());
        }
        let of_sensors: Seconds = self.metered.iter().map(|metered| metered.sensor.cpu_time()).sum();
        store(&shared.cpu_s, (thread_cpu_time() + of_sensors).get());
        shared.rounds.fetch_add(1, Ordering::Relaxed);
        store(&shared.interval_ms, self.pace.interval.as_secs_f64() * 1e3);
        store(&shared.read_p50_us, self.latency.quantile_us(0.5).unwrap_or(f64::NAN));
        store(&shared.read_p99_us, self.latency.quantile_us(0.99).unwrap_or(f64::NAN));
    }
}

impl Metered {
    /// When something that is read seldom is due.
    fn due(&self) -> Option<MonotonicNs> {
        let counter = self.counter.as_ref().map(CounterSchedule::due);
        counter.into_iter().chain(self.samples_due).min().filter(|_| !self.broken)
    }

    /// Reads its expensive counter, if that is due.
    fn read_counter(&mut self, shared: &Shared) {
        if self.broken || self.counter.as_ref().is_none_or(|counter| counter.due() > MonotonicNs::now()) {
            return;
        }
        let Ok(reading) = catch_unwind(AssertUnwindSafe(|| self.sensor.read_counter())) else {
            return self.give_up(shared);
        };
        let is_clear = self.history.push_counter(&reading);
        if let (Some(schedule), Some(ticks)) = (&mut self.counter, self.history.ticks()) {
            schedule.read(ticks, MonotonicNs::now(), is_clear);
        }
    }

    /// Reads its driver's samples, if that is due.
    fn read_samples(&mut self, shared: &Shared) -> Vec<PowerSample> {
        let now = MonotonicNs::now();
        if self.broken || self.samples_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.samples_due = Some(now.after(SAMPLES_EVERY));
        match catch_unwind(AssertUnwindSafe(|| self.sensor.read_samples())) {
            Ok(samples) => {
                self.history.push_samples(&samples);
                samples
            }
            Err(_) => {
                self.give_up(shared);
                Vec::new()
            }
        }
    }

    fn give_up(&mut self, shared: &Shared) {
        self.broken = true;
        let id = &self.sensor.info().id;
        shared.report(format!("sensor {id} panicked and is no longer read"));
    }

    /// Reads the sensor. One that panics is never asked again, and counts as lost.
    fn read(&mut self, shared: &Shared) -> Reading {
        if !self.broken {
            match catch_unwind(AssertUnwindSafe(|| self.sensor.read())) {
                Ok(reading) => return reading,
                Err(_) => self.give_up(shared),
            }
        }
        let channels = self.history.channels();
        Reading {
            t: MonotonicNs::now(),
            power: lost(channels.power.is_some()),
            average: lost(channels.average),
            counter: lost(channels.counter.is_some()),
        }
    }
}

impl Pace {
    fn new(asked: Duration) -> Self {
        Self { asked, interval: asked, shortest: Seconds::ZERO, rounds: 0 }
    }

    /// Notes how long a round took; the new interval, if it is another.
    fn note(&mut self, took: Seconds) -> Option<Duration> {
        // The shortest of some rounds: one that was held up says nothing of the rest.
        self.shortest = if self.rounds == 0 || took < self.shortest { took } else { self.shortest };
        self.rounds += 1;
        if self.rounds < ROUNDS_TO_ADAPT {
            return None;
        }
        self.rounds = 0;
        let needed = Duration::from_secs_f64(self.shortest.get() / BUSY_SHARE);
        let interval = needed.clamp(self.asked, SLOWEST.max(self.asked));
        // Within a quarter of what it is, it stays what it is.
        let ratio = interval.as_secs_f64() / self.interval.as_secs_f64();
        let changed = !(0.8..=1.25).contains(&ratio) || interval == self.asked && self.interval != self.asked;
        changed.then(|| {
            self.interval = interval;
            interval
        })
    }
}

fn lost<T>(supported: bool) -> Quantity<T> {
    if supported { Quantity::Missing(Missing::DeviceLost) } else { Quantity::Unsupported }
}

fn without_trace(error: &MeterError) -> String {
    format!("sampling goes on without power.trace: {error}")
}

fn load(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Ordering::Relaxed))
}

fn store(cell: &AtomicU64, value: f64) {
    cell.store(value.to_bits(), Ordering::Relaxed);
}

fn some(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}
