//! The sampling thread, as the rest of the program sees it.
//!
//! A [`Sampler`] shares no lock with the thread that it is asked from: what is live is read from atomics, and
//! the rest is asked for over a channel, with a time after which the asker goes on without an answer. Whatever
//! goes wrong with sampling shows in [`Sampler::health`] and in flags, and nowhere else.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wattle_runlog::record::{Baseline, Overhead};
use wattle_runlog::{MonotonicNs, Seconds};

use crate::error::MeterError;
use crate::sampling::live::{Live, LiveSensor};
use crate::sampling::sampler_options::SamplerOptions;
use crate::sampling::worker::{Request, Shared, Worker};
use crate::sensors::sensor::Sensor;
use crate::windows::window::{Edge, WindowEnergy};

/// The name of the sampling thread.
pub const THREAD_NAME: &str = "wattle-sampler";

/// How long training waits for a reading at an edge.
pub const EDGE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long is waited for a window, and for the thread to end: only a driver that hangs takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Live figures of every sensor, for another thread to look at. When sampling ends, they stand still.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
}

/// A running sampling thread. It ends, and its trace is made durable, when this is dropped.
pub struct Sampler {
    requests: Sender<Request>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Sampler {
    /// Starts sampling.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(sensors: Vec<Box<dyn Sensor>>, options: SamplerOptions) -> Result<Self, MeterError> {
        let shared = Arc::new(Shared::new(sensors.iter().map(|sensor| sensor.info())));
        let (requests, receiver) = channel();
        let worker = Worker::new(sensors, options, Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(|source| MeterError::Thread { source })?;
        Ok(Self { requests, shared, thread })
    }

    /// Takes a reading of every sensor now, and waits for it no longer than `timeout` ([`EDGE_TIMEOUT`] in
    /// training). Without an answer the edge is the present moment, and missing.
    pub fn edge(&self, timeout: Duration) -> Edge {
        let (reply, answer) = sync_channel(1);
        let asked = self.requests.send(Request::Edge { reply });
        match asked.ok().and_then(|()| answer.recv_timeout(timeout).ok()) {
            Some(t) => Edge { t, missing: false },
            None => Edge { t: MonotonicNs::now(), missing: true },
        }
    }

    /// What is drawn now. Never waits.
    pub fn live(&self) -> Live {
        self.shared.live()
    }

    /// What every sensor says now, for another thread.
    pub fn watch(&self) -> Watch {
        Watch { shared: Arc::clone(&self.shared) }
    }

    /// The energy between two edges, however long ago.
    ///
    /// # Errors
    /// If the thread does not answer.
    pub fn window(&self, start: &Edge, end: &Edge) -> Result<WindowEnergy, MeterError> {
        let (reply, answer) = sync_channel(1);
        let request = Request::Window { start: *start, end: *end, reply };
        let silent = MeterError::Silent { waited_ms: ANSWER_TIMEOUT.as_millis() as u64 };
        if self.requests.send(request).is_err() {
            return Err(silent);
        }
        answer.recv_timeout(ANSWER_TIMEOUT).map_err(|_| silent)
    }

    /// Measures what each sensor draws idle, for `duration`, and states it beside every window from now on. Call it
    /// before the run's load begins; it waits. Estimates have no baseline. A processor package has that of the
    /// whole machine, whoever else uses it.
    ///
    /// # Errors
    /// If another process computes on a board, before or after, or the thread does not answer.
    pub fn baseline(&self, duration: Duration) -> Result<Vec<(String, Baseline)>, MeterError> {
        self.refuse_contended()?;
        let start = self.edge(ANSWER_TIMEOUT);
        thread::sleep(duration);
        let end = self.edge(ANSWER_TIMEOUT);
        self.refuse_contended()?;
        let window = self.window(&start, &end)?;
        let seconds = window.duration();
        let measured = window.sensors.iter().filter(|sensor| sensor.method.is_measured());
        let baselines: Vec<_> = measured
            .filter(|_| seconds > Seconds::ZERO)
            .map(|sensor| {
                let power_w = sensor.energy_j / seconds;
                let uncertainty_w = sensor.uncertainty_j.unwrap_or_default() / seconds;
                (sensor.id.clone(), Baseline { power_w, uncertainty_w, seconds })
            })
            .collect();
        // A thread that has ended states nothing.
        let _ = self.requests.send(Request::Baselines(baselines.clone()));
        Ok(baselines)
    }

    fn refuse_contended(&self) -> Result<(), MeterError> {
        let (reply, answer) = sync_channel(1);
        let silent = MeterError::Silent { waited_ms: ANSWER_TIMEOUT.as_millis() as u64 };
        if self.requests.send(Request::Survey { reply }).is_err() {
            return Err(silent);
        }
        match answer.recv_timeout(ANSWER_TIMEOUT).map_err(|_| silent)? {
            Some(sensor) => Err(MeterError::NotIdle { sensor }),
            None => Ok(()),
        }
    }

    /// Tells the thread that no window will begin before `edge`.
    pub fn forget_before(&self, edge: &Edge) {
        // A thread that has ended has nothing left to forget.
        let _ = self.requests.send(Request::ForgetBefore(edge.t));
    }

    /// What sampling itself has used so far. Never waits.
    pub fn overhead(&self) -> Overhead {
        self.shared.overhead()
    }

    /// The first thing that went wrong, if anything did. Never waits.
    pub fn health(&self) -> Option<String> {
        let ended = || self.thread.is_finished().then(|| "the sampling thread ended early".to_owned());
        self.shared.problem().or_else(ended)
    }

    /// Ends sampling, makes the trace durable, and says what sampling used.
    pub fn stop(self) -> Overhead {
        self.end();
        self.shared.overhead()
    }

    /// Waits for the thread to end, unless a reading hangs in it: then it is left behind.
    fn end(&self) {
        let (reply, answer) = sync_channel(1);
        if self.requests.send(Request::Stop { reply }).is_ok()
            && answer.recv_timeout(ANSWER_TIMEOUT).is_err()
            && !self.thread.is_finished()
        {
            tracing::warn!(
                "the sampling thread is left behind: a reading does not end, or other programs take all processor time"
            );
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

impl Watch {
    /// What every sensor says now. Never waits.
    pub fn sensors(&self) -> impl Iterator<Item = LiveSensor<'_>> {
        self.shared.sensors()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::trace_reader::{TraceItem, TraceReader};
    use crate::readings::trace_writer::TraceWriter;
    use crate::sampling::sampler_options::TraceTarget;
    use crate::sensors::sensor::tests::{BOARD, board_info, reading};
    use crate::sensors::sensor::{Channels, Reading};
    use wattle_runlog::manifest::{Segment, SensorInfo};
    use wattle_runlog::record::Flag;
    use wattle_runlog::{Joules, Watts};

    /// 200 W, exactly, by the clock. What it does on its way may be changed.
    struct Steady<F> {
        info: SensorInfo,
        on_read: F,
    }

    fn steady(mut on_read: impl FnMut(u64) + Send + 'static) -> Vec<Box<dyn Sensor>> {
        let mut reads = 0;
        vec![Box::new(Steady {
            info: board_info(),
            on_read: move || {
                on_read(reads);
                reads += 1;
            },
        })]
    }

    impl<F: FnMut() + Send> Sensor for Steady<F> {
        fn info(&self) -> &SensorInfo {
            &self.info
        }
        fn channels(&self) -> Channels {
            BOARD
        }
        fn read(&mut self) -> Reading {
            (self.on_read)();
            let t = MonotonicNs::now();
            reading(t, Some(Watts(200.0)), Some(t.0 / 5_000))
        }
    }

    fn fast() -> SamplerOptions {
        SamplerOptions { interval: Duration::from_millis(10), ..SamplerOptions::default() }
    }

    #[test]
    fn a_window_is_power_times_time_also_when_it_is_past() {
        let sampler = Sampler::start(steady(|_| {}), fast()).unwrap();
        let edges: Vec<_> = (0..4)
            .map(|_| {
                thread::sleep(Duration::from_millis(60));
                sampler.edge(Duration::from_secs(10))
            })
            .collect();
        assert!(edges.iter().all(|edge| !edge.missing));
        let parts: Vec<_> = edges.windows(2).map(|e| sampler.window(&e[0], &e[1]).unwrap()).collect();
        let whole = sampler.window(&edges[0], &edges[3]).unwrap();
        let seconds = edges[3].since(&edges[0]);
        // The counter's own step is 1 mJ, twice.
        assert!((whole.energy - Watts(200.0) * seconds).get().abs() < 0.003, "{whole:?}");
        let sum: Joules = parts.iter().map(|part| part.energy).sum();
        assert!((sum - whole.energy).get().abs() < 1e-3);
        assert_eq!(whole.measured_fraction, 1.0);
        sampler.forget_before(&edges[2]);
        let last = sampler.window(&edges[2], &edges[3]).unwrap();
        assert!((last.energy - parts[2].energy).get().abs() < 1e-9);
        assert_eq!(sampler.health(), None);
        let overhead = sampler.stop();
        assert!(overhead.samples >= 4 && overhead.read_p50_us.is_some(), "{overhead:?}");
        assert!(overhead.sampler_cpu_s > Seconds::ZERO);
    }

    #[test]
    fn idle_power_stands_beside_the_total_and_is_not_taken_from_it() {
        let sampler = Sampler::start(steady(|_| {}), fast()).unwrap();
        let baselines = sampler.baseline(Duration::from_millis(200)).unwrap();
        let [(id, idle)] = &baselines[..] else { panic!("{baselines:?}") };
        assert_eq!(id, "gpu:x");
        assert!((idle.power_w.get() - 200.0).abs() <= idle.uncertainty_w.get() + 1.0, "{idle:?}");
        let start = sampler.edge(Duration::from_secs(10));
        thread::sleep(Duration::from_millis(100));
        let end = sampler.edge(Duration::from_secs(10));
        let window = sampler.window(&start, &end).unwrap();
        assert_eq!(window.sensors[0].baseline, Some(*idle));
        let above = window.above_idle().unwrap();
        assert!((window.energy - above - idle.power_w * window.duration()).get().abs() < 1e-9);
        assert!(window.energy.get() > 100.0 * window.duration().get(), "{window:?}");
    }

    #[test]
    fn slow_readings_make_for_fewer_of_them_and_that_is_said() {
        let sampler = Sampler::start(steady(|_| thread::sleep(Duration::from_millis(20))), fast()).unwrap();
        while sampler.overhead().interval_ms.is_none_or(|interval_ms| interval_ms < 79.0) {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(sampler.overhead().samples >= 8);
    }

    #[test]
    fn live_values_follow() {
        let sampler = Sampler::start(steady(|_| {}), fast()).unwrap();
        let first = sampler.edge(Duration::from_secs(10));
        while sampler.live().energy <= Joules(1.0) {
            thread::sleep(Duration::from_millis(1));
        }
        let live = sampler.live();
        assert_eq!((live.power, live.measured_fraction), (Some(Watts(200.0)), 1.0));
        let window = sampler.window(&first, &sampler.edge(Duration::from_secs(10))).unwrap();
        assert!(window.energy >= Joules(0.9), "{window:?}");
    }

    #[test]
    fn a_driver_that_hangs_costs_an_edge_and_nothing_else() {
        let (release, released) = channel();
        let hang = move |read| {
            if read == 1 {
                released.recv().unwrap();
            }
        };
        let sampler = Sampler::start(steady(hang), fast()).unwrap();
        while sampler.overhead().samples == 0 {
            thread::yield_now();
        }
        let start = sampler.edge(Duration::from_millis(50));
        assert!(start.missing);
        release.send(()).unwrap();
        let end = sampler.edge(Duration::from_secs(10));
        let window = sampler.window(&start, &end).unwrap();
        assert!(!end.missing && window.sensors[0].flags.contains(&Flag::EdgeMissing));
        // Two steps of the counter, of a millijoule.
        assert!((window.energy - Watts(200.0) * end.since(&start)).get().abs() < 0.003, "{window:?}");
        // Five intervals were missed; the next round that is due says so.
        while sampler.overhead().missed_deadlines < 4 {
            thread::yield_now();
        }
    }

    #[test]
    fn who_asks_is_answered_also_where_readings_take_longer_than_the_interval() {
        let slow = |_| thread::sleep(Duration::from_millis(30));
        let sampler = Sampler::start(steady(slow), fast()).unwrap();
        for _ in 0..5 {
            assert!(!sampler.edge(Duration::from_secs(10)).missing);
        }
    }

    #[test]
    fn a_sensor_that_panics_is_left_out_and_the_others_go_on() {
        let mut sensors = steady(|read| assert!(read < 2, "the driver broke"));
        sensors.extend(steady(|_| {}));
        let sampler = Sampler::start(sensors, fast()).unwrap();
        let start = sampler.edge(Duration::from_secs(10));
        thread::sleep(Duration::from_millis(80));
        let end = sampler.edge(Duration::from_secs(10));
        let window = sampler.window(&start, &end).unwrap();
        assert!(window.sensors[0].flags.contains(&Flag::DeviceLost), "{window:?}");
        assert!((window.sensors[1].energy_j - Watts(200.0) * end.since(&start)).get().abs() < 0.003);
        assert!(sampler.health().unwrap().contains("gpu:x"));
    }

    #[test]
    fn every_round_is_in_the_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        let writer = TraceWriter::open(&path).unwrap();
        let target = TraceTarget { writer, run_id: "run-1".to_owned(), segment: Segment::now(3, 70) };
        let sampler =
            Sampler::start(steady(|_| {}), SamplerOptions { trace: Some(target), ..fast() }).unwrap();
        for _ in 0..5 {
            sampler.edge(Duration::from_secs(10));
        }
        let rounds = sampler.stop().samples;
        let items: Vec<_> = TraceReader::open(&path).unwrap().map(Result::unwrap).collect();
        let TraceItem::Segment(header) = &items[0] else { panic!("{items:?}") };
        assert_eq!((header.run_id.as_str(), header.segment.id, header.channels.len()), ("run-1", 3, 2));
        assert!(rounds >= 5);
        assert_eq!(items.len() as u64, 1 + 2 * rounds);
    }

    #[test]
    fn a_trace_that_cannot_be_written_is_reported_once_and_sampling_goes_on() {
        let full = std::path::Path::new("/dev/full");
        let file = std::fs::File::options().read(true).write(true).open(full).unwrap();
        let writer = TraceWriter::on(file, full);
        let target = TraceTarget { writer, run_id: "run-1".to_owned(), segment: Segment::now(0, 0) };
        let sampler =
            Sampler::start(steady(|_| {}), SamplerOptions { trace: Some(target), ..fast() }).unwrap();
        let start = sampler.edge(Duration::from_secs(10));
        let end = sampler.edge(Duration::from_secs(10));
        assert!(sampler.window(&start, &end).unwrap().energy >= Joules::ZERO);
        let health = sampler.health().unwrap();
        assert!(health.contains("/dev/full") && health.contains("No space left"), "{health}");
    }
}
