//! What each measured sensor of a run said, as energy over the wall clock.

use std::path::Path;

use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::{MonotonicNs, Seconds, WallAnchor};

use crate::books::interrupted::Segment;
use crate::error::MeterError;
use crate::readings::trace_reader::{TraceItem, TraceReader};

/// Time between two moments of a curve.
const STEP: Seconds = Seconds(0.1);
/// By so much the moments that are taken stay behind the readings: what comes late has come by then.
const BEHIND: Seconds = Seconds(30.0);
/// Readings between two looks at them.
const CHUNK: usize = 4_096;
/// After so many time constants a smoothing has forgotten.
const SETTLED: f64 = 6.0;
/// A run that lasts longer is not read: its curves would fill the memory.
const LONGEST: Seconds = Seconds(7.0 * 86_400.0);
/// No sensor draws more within a step; what seems to has a counter that started again.
const HIGHEST_W: f64 = 1e5;

/// The energy of one sensor at moments that lie evenly apart, in the run's seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Of the first moment.
    pub start_s: f64,
    /// Between two of them.
    pub step_s: f64,
    /// Joules up to each.
    pub energy: Vec<f64>,
}

/// The curves of a part of a run that one process made.
#[derive(Clone, Debug)]
pub struct RunCurves {
    /// The run's id.
    pub run_id: String,
    /// The segment.
    pub segment: u32,
    /// How many segments there are.
    pub n_segments: usize,
    /// The wall clock, in nanoseconds since 1970 UTC, where the run's seconds begin.
    pub origin_ns: i64,
    /// Each measured sensor as it is without a calibration, and its curve.
    pub sensors: Vec<(SensorInfo, Curve)>,
}

impl Curve {
    /// Whether all of a stretch lies within it.
    pub fn covers(&self, from: f64, to: f64) -> bool {
        from >= self.start_s && to <= self.end_s()
    }

    /// Its last moment.
    pub fn end_s(&self) -> f64 {
        self.start_s + self.step_s * self.energy.len().saturating_sub(1) as f64
    }

    /// Mean power over a stretch, in watts.
    pub fn mean(&self, from: f64, to: f64) -> f64 {
        (self.at(to) - self.at(from)) / (to - from)
    }

    /// The curve as something shows it that smooths power with a time constant. Its first moments are cut, which what came
    /// before would have shaped.
    pub fn smoothed(&self, constant_s: f64) -> Self {
        let keeps = (-self.step_s / constant_s).exp();
        let mut powers = self.energy.windows(2).map(|pair| (pair[1] - pair[0]) / self.step_s);
        let mut smooth = powers.next().unwrap_or(0.0);
        let mut sum = 0.0;
        let energy = std::iter::once(0.0).chain(powers.map(|power| {
            let before = smooth;
            smooth = power + (smooth - power) * keeps;
            sum += f64::midpoint(before, smooth) * self.step_s;
            sum
        }));
        let energy: Vec<f64> = energy.collect();
        let cut = ((SETTLED * constant_s / self.step_s) as usize).min(energy.len().saturating_sub(2));
        // Half a step of the mean above, and half of the power that it smooths.
        let start_s = self.start_s + self.step_s * (cut as f64 + 0.5);
        Self { start_s, step_s: self.step_s, energy: energy[cut..].to_vec() }
    }

    fn at(&self, t: f64) -> f64 {
        let place = ((t - self.start_s) / self.step_s).max(0.0);
        let i = place as usize;
        match self.energy.get(i..i + 2) {
            Some([at, next]) => at + (next - at) * (place - i as f64),
            _ => self.energy.last().copied().unwrap_or(0.0),
        }
    }
}

impl RunCurves {
    /// Reads the trace at `path`, and of its segments the longest.
    ///
    /// # Errors
    /// If it cannot be read, or nothing in it was measured.
    pub fn read(path: &Path) -> Result<Self, MeterError> {
        let mut longest: Option<(f64, Self)> = None;
        let mut n_segments = 0;
        let mut current: Option<Reader> = None;
        let fault = |reason: &str| MeterError::NotATrace { path: path.to_owned(), reason: reason.to_owned() };
        let mut take = |reader: Option<Reader>| -> Result<(), MeterError> {
            let Some(reader) = reader else { return Ok(()) };
            let too_long = "a segment of it lasts longer than a week; calibrate by a shorter run";
            let Some((seconds, curves)) = reader.finish().map_err(|TooLong| fault(too_long))? else {
                return Ok(());
            };
            if longest.as_ref().is_none_or(|(most, _)| seconds > *most) {
                longest = Some((seconds, curves));
            }
            Ok(())
        };
        for item in TraceReader::open(path)? {
            match item? {
                TraceItem::Segment(header) => {
                    take(current.take())?;
                    n_segments += 1;
                    current = Some(Reader::new(Segment::new(*header, path)?));
                }
                TraceItem::Sample(sample) => {
                    if let Some(reader) = &mut current {
                        reader.segment.add(sample, &[]);
                        reader.n += 1;
                        if reader.n.is_multiple_of(CHUNK) {
                            reader.advance(BEHIND);
                        }
                    }
                }
            }
        }
        take(current)?;
        let (_, curves) = longest.ok_or_else(|| fault("it holds no readings"))?;
        if curves.sensors.is_empty() {
            return Err(fault(
                "no sensor in it measures, so there is nothing to calibrate; estimates have no gain",
            ));
        }
        for (info, curve) in &curves.sensors {
            let jumps = |pair: &[f64]| {
                let watts = (pair[1] - pair[0]) / curve.step_s;
                !(-1.0..HIGHEST_W).contains(&watts)
            };
            if curve.energy.windows(2).any(jumps) {
                return Err(fault(&format!(
                    "the counter of {} started again within the run; calibrate by another run",
                    info.id
                )));
            }
        }
        Ok(Self { n_segments, ..curves })
    }
}

/// A segment lasts longer than [`LONGEST`], or its times say so.
struct TooLong;

/// A segment while it is read.
struct Reader {
    segment: Segment,
    n: usize,
    next: Option<MonotonicNs>,
    start: Option<MonotonicNs>,
    energies: Vec<Vec<f64>>,
    is_too_long: bool,
}

impl Reader {
    fn new(segment: Segment) -> Self {
        let energies = vec![Vec::new(); segment.histories().len()];
        Self { segment, n: 0, next: None, start: None, energies, is_too_long: false }
    }

    /// Takes the energies at the moments that lie so far behind the last reading, and forgets what is before them.
    fn advance(&mut self, behind: Seconds) {
        self.segment.flush(&[]);
        let (Some(first), Some(last)) = self.segment.span() else { return };
        if last.since(first) > LONGEST {
            self.is_too_long = true;
            return;
        }
        let mut next = self.next.unwrap_or(first);
        self.start.get_or_insert(next);
        while next.after(behind) <= last {
            for (energies, history) in self.energies.iter_mut().zip(self.segment.histories()) {
                energies.push(history.energy_at(next).get());
            }
            next = next.after(STEP);
        }
        self.next = Some(next);
        self.segment.forget_before(next.before(BEHIND));
    }

    /// Its length in seconds, and its curves.
    fn finish(mut self) -> Result<Option<(f64, RunCurves)>, TooLong> {
        self.advance(Seconds::ZERO);
        if self.is_too_long {
            return Err(TooLong);
        }
        let Some(start) = self.start else { return Ok(None) };
        let (_, end) = self.segment.span();
        let anchor: WallAnchor = self.segment.anchor;
        let sensors = self.segment.histories().iter().zip(self.energies).filter_map(|(history, energy)| {
            let info = history.info();
            let applied = info.calibration.as_ref();
            let gain = applied.map_or(1.0, |applied| applied.gain);
            let info = SensorInfo {
                systematic_id: applied
                    .map_or_else(|| info.systematic_id.clone(), |a| a.systematic_id.clone()),
                calibration: None,
                ..info.clone()
            };
            let energy: Vec<f64> = energy.into_iter().map(|joules| joules / gain).collect();
            let curve = Curve { start_s: 0.0, step_s: STEP.get(), energy };
            (info.method.is_measured() && curve.energy.len() > 1).then_some((info, curve))
        });
        let curves = RunCurves {
            run_id: self.segment.header.run_id.clone(),
            segment: self.segment.header.segment.id,
            n_segments: 1,
            origin_ns: anchor.wall_ns_at(start),
            sensors: sensors.collect(),
        };
        Ok(end.map(|end| (end.since(start).get(), curves)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::trace::{Sample, SampleValue, SegmentHeader};
    use crate::readings::trace_writer::TraceWriter;
    use crate::sensors::calibrations::tests::calibration;
    use crate::sensors::sensor::tests::{BOARD, board_info, info};
    use wattle_runlog::manifest::Segment as RunSegment;
    use wattle_runlog::record::{Method, SensorKind};

    /// 100 W, and 300 W in every second ten seconds, as a sensor says it whose readings are multiplied by a gain.
    fn write(path: &Path, id: u32, sensor: &SensorInfo, gain: f64, seconds: u64) {
        let mut writer = TraceWriter::open(path).unwrap();
        let mut segment = RunSegment::now(id, 0);
        segment.wall_anchor = "2026-09-21T14:13:20Z".to_owned();
        segment.monotonic_anchor = MonotonicNs(1_000_000_000);
        writer.begin_segment(&SegmentHeader::new("run-1", segment, 50.0, [(sensor, BOARD)])).unwrap();
        let mut counter_mj = 5_000.0;
        for i in 0..seconds * 20 {
            let watts = if i / 200 % 2 == 1 { 300.0 } else { 100.0 };
            let t = MonotonicNs(3_000_000_000 + i * 50_000_000);
            let value = |value: f64| SampleValue::Measured((value * gain).round() as u64);
            writer.append(Sample { channel: 0, t, value: value(watts * 1e3) }).unwrap();
            writer.append(Sample { channel: 1, t, value: value(counter_mj) }).unwrap();
            counter_mj += watts * 50.0;
        }
        writer.sync().unwrap();
    }

    #[test]
    fn the_longest_segment_is_read_with_the_gain_of_its_calibration_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        write(&path, 0, &board_info(), 1.0, 20);
        let calibrated = calibration(1.25).applied_to(&board_info(), Path::new("calibrations.json"));
        write(&path, 1, &calibrated, 1.25, 400);
        let run = RunCurves::read(&path).unwrap();
        assert_eq!((run.run_id.as_str(), run.segment, run.n_segments), ("run-1", 1, 2));
        assert_eq!(run.origin_ns, 1_790_000_002_000_000_000, "two seconds after the anchor");
        let [(info, curve)] = &run.sensors[..] else { panic!("{:?}", run.sensors) };
        assert_eq!((info.systematic_id.as_str(), info.calibration.clone()), ("gain/gpu:x", None));
        assert!(curve.covers(0.0, 399.8) && !curve.covers(0.0, 401.0));
        for (from, to, watts) in
            [(1.0, 9.0, 100.0), (11.0, 19.0, 300.0), (371.0, 379.0, 300.0), (0.0, 400.0, 200.0)]
        {
            assert!((curve.mean(from, to) - watts).abs() < 0.3, "{from} to {to}: {}", curve.mean(from, to));
        }
    }

    #[test]
    fn a_time_that_damage_put_years_ahead_does_not_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        write(&path, 0, &board_info(), 1.0, 5);
        let mut writer = TraceWriter::open(&path).unwrap();
        let sample = Sample { channel: 0, t: MonotonicNs(1 << 55), value: SampleValue::Measured(5) };
        writer.append(sample).unwrap();
        writer.sync().unwrap();
        let error = RunCurves::read(&path).unwrap_err().to_string();
        assert!(error.contains("power.trace") && error.contains("longer than a week"), "{error}");
    }

    #[test]
    fn a_trace_of_estimates_has_nothing_to_calibrate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        write(&path, 0, &info("cpu:estimate", SensorKind::Cpu, Method::Estimated), 1.0, 5);
        let error = RunCurves::read(&path).unwrap_err().to_string();
        assert!(error.contains("power.trace") && error.contains("estimates have no gain"), "{error}");
    }

    #[test]
    fn a_smoothed_step_rises_as_an_exponential_does_and_loses_no_energy() {
        let watts = |i: usize| if i < 300 { 100.0 } else { 200.0 };
        let energy = (0..=1_000).map(|i| (0..i).map(watts).sum::<f64>() * 0.1).collect();
        let smooth = Curve { start_s: 0.0, step_s: 0.1, energy }.smoothed(2.0);
        assert!(!smooth.covers(11.0, 20.0) && smooth.covers(12.2, 90.0), "what came before 0 s is not known");
        for (after_s, share) in [(1.0f64, 0.393), (2.0, 0.632), (6.0, 0.950)] {
            let shown = smooth.mean(29.95 + after_s, 30.05 + after_s);
            assert!((shown - 100.0 - 100.0 * share).abs() < 3.0, "{after_s} s: {shown}");
        }
        assert!((smooth.mean(60.0, 90.0) - 200.0).abs() < 1e-3);
    }
}
