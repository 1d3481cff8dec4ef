//! Power over time, from `power.trace`, in a bounded number of buckets.
//!
//! A trace holds twenty readings a second of each sensor; a picture holds a thousand points. Readings go into
//! buckets as they are read, each with its energy and its lowest and highest power, so that a spike stays a spike.
//! When there are too many buckets, neighbours become one.

use std::collections::BTreeMap;
use std::path::Path;

use wattle_meter::readings::trace::{Channel, Sample, SampleValue, SegmentHeader, TraceQuantity};
use wattle_meter::readings::trace_reader::{TraceItem, TraceReader};
use wattle_meter::sensors::sensor::{Advance, CounterSpec, CounterUnit, CounterValue};
use wattle_runlog::clock::WallAnchor;
use wattle_runlog::machine::sensor_of;
use wattle_runlog::manifest::{Segment, SensorInfo};
use wattle_runlog::{Celsius, Joules, MonotonicNs, Seconds, Watts};

use crate::error::ReportError;

/// Buckets of a sensor and segment at most.
const MAX_BUCKETS: usize = 4096;

/// Width of a bucket before any became one with its neighbour.
const FIRST_WIDTH_NS: u64 = 50_000_000;

/// A counter that stands still for longer drew nothing; NVML's move every 10 to 100 ms.
const COUNTER_STANDS: Seconds = Seconds(2.0);

/// What every sensor drew, segment after segment.
#[derive(Clone, Debug, Default)]
pub struct PowerHistory {
    /// One entry a segment and sensor, in the trace's order.
    pub sensors: Vec<SensorPower>,
    /// The same for those that tell their temperature.
    pub temperatures: Vec<SensorTemperature>,
    /// Bytes of the trace that could not be understood, but for a torn end.
    pub damaged_bytes: u64,
    /// What ties each segment's clock to the time of day.
    anchors: BTreeMap<u32, WallAnchor>,
}

/// What one sensor drew in one segment.
#[derive(Clone, Debug)]
pub struct SensorPower {
    /// The run's segment.
    pub segment: u32,
    /// The sensor.
    pub info: SensorInfo,
    /// Whether these are the samples that the driver took by itself.
    is_sampled: bool,
    start: Option<MonotonicNs>,
    end: MonotonicNs,
    width_ns: u64,
    buckets: Vec<Bucket>,
    /// Energy before each bucket, and after the last.
    sums: Vec<Joules>,
}

/// How hot one sensor's device was in one segment.
#[derive(Clone, Debug)]
pub struct SensorTemperature {
    /// The run's segment.
    pub segment: u32,
    /// The sensor's id.
    pub id: String,
    /// Every reading: one in ten seconds.
    pub readings: Vec<(MonotonicNs, Celsius)>,
}

/// Power within a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Energy.
    pub energy: Joules,
    /// For how long something was read.
    pub seconds: Seconds,
    /// Lowest reading.
    pub low: Watts,
    /// Highest reading.
    pub high: Watts,
}

impl PowerHistory {
    /// Reads a trace; no trace is a history without sensors.
    ///
    /// # Errors
    /// If the file is something else than a trace, or cannot be read.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let mut history = Self::default();
        if !path.exists() {
            return Ok(history);
        }
        let mut trace = TraceReader::open(path)?;
        let mut channels: Vec<Option<ChannelState>> = Vec::new();
        for item in trace.by_ref() {
            match item? {
                TraceItem::Segment(header) => {
                    history.anchors.extend(header.segment.anchor().map(|anchor| (header.segment.id, anchor)));
                    channels = history.begin(&header);
                }
                TraceItem::Sample(sample) => {
                    let state = channels.get_mut(usize::from(sample.channel)).and_then(Option::as_mut);
                    match state {
                        Some(ChannelState { sensor, value: ChannelValue::Temperature }) => {
                            history.temperatures[*sensor].take(sample);
                        }
                        Some(state) => state.take(sample, &mut history.sensors[state.sensor]),
                        None => {}
                    }
                }
            }
        }
        history.damaged_bytes = trace.damaged_bytes();
        history.sensors.retain(|sensor| !sensor.buckets.is_empty());
        // The driver's samples see peaks that readings miss.
        let of = |sensor: &SensorPower| (sensor.segment, sensor.info.id.clone());
        let sampled: Vec<_> = history.sensors.iter().filter(|s| s.is_sampled).map(of).collect();
        history.sensors.retain(|sensor| sensor.is_sampled || !sampled.contains(&of(sensor)));
        history.temperatures.retain(|sensor| !sensor.readings.is_empty());
        history.sensors.iter_mut().for_each(SensorPower::sum_up);
        Ok(history)
    }

    /// Adds what the sensors of another machine read, in the time of the run's `segments`. Machines' clocks are taken to tell
    /// the same time of day; segments that cannot be tied to it are left out.
    pub fn add_machine(&mut self, machine: &str, other: Self, segments: &[Segment]) {
        let clocks = |id: u32| {
            let here = segments.iter().find(|segment| segment.id == id)?.anchor()?;
            Some((here, *other.anchors.get(&id)?))
        };
        for sensor in other.sensors {
            let Some((here, there)) = clocks(sensor.segment) else { continue };
            let shifted = |t| here.monotonic_at(there.wall_ns_at(t));
            self.sensors.push(SensorPower {
                info: sensor.info.of_machine(machine),
                start: sensor.start.map(shifted),
                end: shifted(sensor.end),
                ..sensor
            });
        }
        for sensor in other.temperatures {
            let Some((here, there)) = clocks(sensor.segment) else { continue };
            let shifted = |(t, degrees)| (here.monotonic_at(there.wall_ns_at(t)), degrees);
            let readings = sensor.readings.into_iter().map(shifted).collect();
            self.temperatures.push(SensorTemperature {
                id: sensor_of(machine, &sensor.id),
                readings,
                ..sensor
            });
        }
    }

    /// The energy of all sensors of a segment up to a moment. Only differences of it mean something, and records
    /// know better what they come to: see [`crate::join::energy_curve`].
    pub fn energy_at(&self, segment: u32, t: MonotonicNs) -> Joules {
        self.sensors.iter().filter(|sensor| sensor.segment == segment).map(|sensor| sensor.energy_at(t)).sum()
    }

    /// One channel for each sensor is read, its power, else its counter; its driver's samples of power beside it, and
    /// its temperature.
    fn begin(&mut self, header: &SegmentHeader) -> Vec<Option<ChannelState>> {
        let has_power = |id: &str| {
            let is_power = |c: &Channel| c.sensor.id == id && c.quantity == TraceQuantity::PowerMw;
            header.channels.iter().any(is_power)
        };
        header
            .channels
            .iter()
            .map(|channel| {
                let value = match channel.quantity {
                    TraceQuantity::PowerMw | TraceQuantity::SampleMw => ChannelValue::Power(None),
                    TraceQuantity::EnergyMj | TraceQuantity::EnergyUj if has_power(&channel.sensor.id) => {
                        return None;
                    }
                    TraceQuantity::EnergyMj => ChannelValue::counter(channel, CounterUnit::Millijoules),
                    TraceQuantity::EnergyUj => ChannelValue::counter(channel, CounterUnit::Microjoules),
                    // One-second averages stand beside a power of their own.
                    TraceQuantity::AverageMw => return None,
                    TraceQuantity::TemperatureMc => {
                        let (segment, id) = (header.segment.id, channel.sensor.id.clone());
                        self.temperatures.push(SensorTemperature { segment, id, readings: Vec::new() });
                        let sensor = self.temperatures.len() - 1;
                        return Some(ChannelState { sensor, value: ChannelValue::Temperature });
                    }
                };
                let is_sampled = channel.quantity == TraceQuantity::SampleMw;
                let sensor = SensorPower::new(header.segment.id, channel.sensor.clone());
                self.sensors.push(SensorPower { is_sampled, ..sensor });
                Some(ChannelState { sensor: self.sensors.len() - 1, value })
            })
            .collect()
    }
}

/// What is remembered of a channel from one sample to the next.
struct ChannelState {
    /// Its place among the sensors, or among those that tell their temperature.
    sensor: usize,
    value: ChannelValue,
}

enum ChannelValue {
    Power(Option<(MonotonicNs, Watts)>),
    Counter(CounterSpec, Option<(MonotonicNs, CounterValue)>),
    /// Its readings stand for themselves.
    Temperature,
}

impl ChannelValue {
    fn counter(channel: &Channel, unit: CounterUnit) -> Self {
        Self::Counter(CounterSpec { unit, range: channel.counter_range }, None)
    }
}

impl ChannelState {
    fn take(&mut self, sample: Sample, sensor: &mut SensorPower) {
        let SampleValue::Measured(value) = sample.value else { return };
        match &mut self.value {
            ChannelValue::Power(last) => {
                let power = Watts(value as f64 / 1e3);
                if let Some((t, before)) = last.replace((sample.t, power)) {
                    sensor.add(t, sample.t, (before + power) * 0.5);
                }
                sensor.note(sample.t, power);
            }
            ChannelValue::Temperature => {}
            ChannelValue::Counter(spec, last) => {
                let value = CounterValue(value);
                let Some((t, before)) = *last else {
                    *last = Some((sample.t, value));
                    return;
                };
                if value == before && sample.t.since(t) < COUNTER_STANDS {
                    return;
                }
                *last = Some((sample.t, value));
                if let Advance::By(energy) = spec.advance(before, value)
                    && sample.t > t
                {
                    let power = energy / sample.t.since(t);
                    sensor.add(t, sample.t, power);
                    sensor.note(sample.t, power);
                }
            }
        }
    }
}

impl SensorTemperature {
    fn take(&mut self, sample: Sample) {
        if let SampleValue::Measured(millidegrees) = sample.value {
            self.readings.push((sample.t, Celsius(millidegrees as f64 / 1e3)));
        }
    }
}

impl SensorPower {
    fn new(segment: u32, info: SensorInfo) -> Self {
        let (start, end) = (None, MonotonicNs(0));
        Self {
            segment,
            info,
            is_sampled: false,
            start,
            end,
            width_ns: FIRST_WIDTH_NS,
            buckets: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// From the first reading to the last.
    pub fn span(&self) -> Option<[MonotonicNs; 2]> {
        self.start.map(|start| [start, self.end])
    }

    /// Buckets that hold something, each with its middle.
    pub fn buckets(&self) -> impl Iterator<Item = (MonotonicNs, Bucket)> {
        let start = self.start.unwrap_or_default().0;
        let middle = move |i: usize| MonotonicNs(start + self.width_ns * i as u64 + self.width_ns / 2);
        let held = |bucket: &Bucket| bucket.seconds > Seconds::ZERO;
        self.buckets.iter().enumerate().filter(move |(_, b)| held(b)).map(move |(i, b)| (middle(i), *b))
    }

    /// Energy up to a moment; within a bucket it grows evenly over the time that was read.
    pub fn energy_at(&self, t: MonotonicNs) -> Joules {
        let Some(start) = self.start else { return Joules::ZERO };
        let place = t.0.saturating_sub(start.0) as f64 / self.width_ns as f64;
        let whole = (place as usize).min(self.buckets.len());
        let since = Seconds::from_ns(self.width_ns) * (place - whole as f64);
        let held = self.buckets.get(whole).filter(|bucket| bucket.seconds > Seconds::ZERO);
        self.sums[whole] + held.map_or(Joules::ZERO, |b| b.energy * (since / b.seconds).min(1.0))
    }

    fn sum_up(&mut self) {
        let sums = self.buckets.iter().scan(Joules::ZERO, |sum, bucket| {
            *sum += bucket.energy;
            Some(*sum)
        });
        self.sums = std::iter::once(Joules::ZERO).chain(sums).collect();
    }

    /// Adds `power` from one moment to another.
    fn add(&mut self, from: MonotonicNs, to: MonotonicNs, power: Watts) {
        let mut t = from;
        while t < to {
            let index = self.index(t);
            let start = self.start.unwrap_or_default().0;
            let end = MonotonicNs(start + (index as u64 + 1) * self.width_ns).min(to);
            // `index` may have widened the buckets of what is to come, never the one of an earlier moment.
            let time = end.since(t);
            let bucket = &mut self.buckets[index];
            bucket.energy += power * time;
            bucket.seconds += time;
            if bucket.high < bucket.low {
                (bucket.low, bucket.high) = (power, power);
            }
            t = end;
        }
        self.end = self.end.max(to);
    }

    /// Notes a reading of `power`.
    fn note(&mut self, t: MonotonicNs, power: Watts) {
        let index = self.index(t);
        let bucket = &mut self.buckets[index];
        if power < bucket.low {
            bucket.low = power;
        }
        if power > bucket.high {
            bucket.high = power;
        }
        self.end = self.end.max(t);
    }

    /// The bucket of a moment, made if need be.
    fn index(&mut self, t: MonotonicNs) -> usize {
        let start = *self.start.get_or_insert(t);
        loop {
            let index = (t.0.saturating_sub(start.0) / self.width_ns) as usize;
            if index < MAX_BUCKETS {
                if index >= self.buckets.len() {
                    self.buckets.resize(index + 1, Bucket::EMPTY);
                }
                return index;
            }
            self.buckets = self.buckets.chunks(2).map(Bucket::union).collect();
            self.width_ns *= 2;
        }
    }
}

impl Bucket {
    const EMPTY: Self = Self {
        energy: Joules::ZERO,
        seconds: Seconds::ZERO,
        low: Watts(f64::INFINITY),
        high: Watts(f64::NEG_INFINITY),
    };

    /// Mean power.
    pub fn mean(&self) -> Watts {
        self.energy / self.seconds
    }

    /// Neighbours as one.
    pub fn union(buckets: &[Self]) -> Self {
        buckets.iter().fold(Self::EMPTY, |sum, bucket| Self {
            energy: sum.energy + bucket.energy,
            seconds: sum.seconds + bucket.seconds,
            low: Watts(sum.low.get().min(bucket.low.get())),
            high: Watts(sum.high.get().max(bucket.high.get())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{gpu_info, write_trace};

    fn history(readings: &[(u64, f64)]) -> PowerHistory {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        write_trace(&path, 0, readings, None);
        PowerHistory::read(&path).unwrap()
    }

    #[test]
    fn a_trapezoid_has_its_area() {
        // 100 W rising to 300 W within two seconds: 400 J.
        let history = history(&[(0, 100.0), (1_000, 200.0), (2_000, 300.0)]);
        let energy = history.energy_at(0, MonotonicNs(2_000_000_000));
        assert!((energy.get() - 400.0).abs() < 1e-9, "{energy:?}");
        let half = history.energy_at(0, MonotonicNs(1_000_000_000));
        assert!((half.get() - 150.0).abs() < 1e-9, "{half:?}");
    }

    #[test]
    fn a_long_run_fits_and_its_spike_stays() {
        let readings: Vec<_> =
            (0..30_000).map(|i| (i * 20, if i == 14_000 { 700.0 } else { 100.0 })).collect();
        let history = history(&readings);
        let sensor = &history.sensors[0];
        assert!(sensor.buckets.len() <= MAX_BUCKETS);
        assert_eq!(sensor.buckets().map(|(_, b)| b.high.get()).fold(0.0, f64::max), 700.0);
        let energy = sensor.energy_at(MonotonicNs(29_999 * 20_000_000)).get();
        assert!((energy - (29_999.0 * 2.0 + 12.0)).abs() < 1e-6, "{energy}");
    }

    #[test]
    fn temperatures_stand_beside_power_and_are_no_energy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        write_trace(&path, 0, &[(0, 100.0), (1_000, 100.0), (2_000, 100.0)], Some(41.5));
        let history = PowerHistory::read(&path).unwrap();
        let degrees: Vec<_> = history.temperatures[0].readings.iter().map(|(_, c)| c.get()).collect();
        assert_eq!(degrees, [41.5, 42.5, 43.5]);
        assert_eq!((history.sensors.len(), history.temperatures[0].id.as_str()), (1, "gpu:0"));
        assert!((history.energy_at(0, MonotonicNs(2_000_000_000)).get() - 200.0).abs() < 1e-9);
    }

    #[test]
    fn another_machines_clock_is_brought_to_that_of_the_first() {
        let mut all = history(&[(0, 100.0), (1_000, 100.0), (2_000, 100.0)]);
        let other = history(&[(0, 50.0), (1_000, 50.0), (2_000, 50.0)]);
        // Booted 100 s earlier than the other, so that its clock is that much ahead.
        let anchor = other.anchors[&0];
        let ahead = WallAnchor { monotonic: MonotonicNs(anchor.monotonic.0 + 100_000_000_000), ..anchor };
        let segment =
            Segment { wall_anchor: ahead.rfc3339(), monotonic_anchor: ahead.monotonic, ..Segment::now(0, 0) };
        all.add_machine("node1", other, &[segment]);
        assert_eq!(all.sensors[1].info.id, "node1/gpu:0");
        let between = |from: u64, to: u64| {
            let at = |s| all.energy_at(0, MonotonicNs(s * 1_000_000_000));
            (at(to) - at(from)).get()
        };
        assert!((between(0, 2) - 200.0).abs() < 1e-9 && (between(99, 103) - 100.0).abs() < 1e-6);
    }

    #[test]
    fn a_trace_that_is_being_written_is_read_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        write_trace(&path, 0, &[(0, 100.0), (1_000, 100.0), (2_000, 100.0)], None);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let history = PowerHistory::read(&path).unwrap();
        assert_eq!(history.sensors[0].info, gpu_info());
        assert!((history.energy_at(0, MonotonicNs(9_000_000_000)).get() - 100.0).abs() < 1e-9);
        assert!(PowerHistory::read(&dir.path().join("none")).unwrap().sensors.is_empty());
    }
}
