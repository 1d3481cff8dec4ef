//! `power.trace`: every reading of every sensor, in a file that a crash cannot spoil.
//!
//! # Format (`wattle.trace/1`)
//!
//! The file is a row of records of 16 bytes, little-endian, only ever appended to. Each checks itself:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | tag: a channel's number 0–254, or 255 |
//! | 1–7 | time, `CLOCK_MONOTONIC` in nanoseconds, 56 bits |
//! | 8–13 | value, 48 bits, in the channel's unit; 2⁴⁸−1: missing; 2⁴⁸−2: missing, the device stopped answering |
//! | 14–15 | CRC-16/IBM-3740 of bytes 0–13 |
//!
//! A record of 16 zero bytes, as file systems leave behind after a crash, is invalid: its CRC would be 0xA96A.
//!
//! Tag 255 begins a segment, one for each process of the run:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | 255 |
//! | 1–4 | "WTRC" |
//! | 5 | version, 1 |
//! | 6–9 | length of the JSON that follows |
//! | 10–13 | CRC-32C of that JSON |
//! | 14–15 | CRC-16/IBM-3740 of bytes 0–13 |
//!
//! then the JSON, a [`SegmentHeader`], padded with newlines to a multiple of 16 bytes. Samples belong to the
//! segment before them, mostly in the order of their times: the driver's samples (`sample_mw`) and a counter that is read
//! at its ticks come some seconds late. Such a counter's time is that of its tick, the moment that its value stands for.
//! The times of the driver's samples are the driver's, moved to the monotonic clock. The header names run, boot, clock and channels, so that energy can be computed again
//! from this file alone.

use serde::{Deserialize, Serialize};
use wattle_runlog::manifest::{Segment, SensorInfo};
use wattle_runlog::{MonotonicNs, Watts};

use crate::sensors::sensor::{Channels, CounterSpec, CounterUnit, CounterValue, PowerSource, Quantity};

/// Name and version of the format.
pub const TRACE_SCHEMA: &str = "wattle.trace/1";

pub(crate) const RECORD_BYTES: usize = 16;
pub(crate) const SEGMENT_TAG: u8 = 255;
pub(crate) const MAGIC: [u8; 4] = *b"WTRC";
pub(crate) const VERSION: u8 = 1;

const MISSING: u64 = (1 << 48) - 1;
const LOST: u64 = (1 << 48) - 2;

/// What a segment's samples mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// [`TRACE_SCHEMA`].
    pub schema: String,
    /// The run's id.
    pub run_id: String,
    /// The segment's id and the anchor of its clock.
    #[serde(flatten)]
    pub segment: Segment,
    /// Time between two rounds of readings.
    pub interval_ms: f64,
    /// Every channel, in the order of its number.
    pub channels: Vec<Channel>,
}

/// One quantity of one sensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// The tag of its samples.
    pub channel: u8,
    /// What a sample's value is, and its unit.
    pub quantity: TraceQuantity,
    /// Power: what a reading stands for.
    pub power_source: Option<PowerSource>,
    /// Energy: the value after which the counter starts from zero again.
    pub counter_range: Option<u64>,
    /// Energy: whether the counter is read seldom, and a sample's time is that of the counter's tick before the reading.
    #[serde(default, skip_serializing_if = "is_false")]
    pub at_ticks: bool,
    /// The sensor.
    pub sensor: SensorInfo,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What a sample's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceQuantity {
    /// Power in milliwatts.
    PowerMw,
    /// Averaged power beside it, in milliwatts.
    AverageMw,
    /// An energy counter in millijoules.
    EnergyMj,
    /// An energy counter in microjoules.
    EnergyUj,
    /// Temperature in thousandths of a degree Celsius. It is read every ten seconds, not with the others.
    TemperatureMc,
    /// Power in milliwatts that the driver sampled by itself. Its samples are read about once a second.
    SampleMw,
}

/// One reading of one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The channel's number.
    pub channel: u8,
    /// When.
    pub t: MonotonicNs,
    /// What was read, in the channel's unit.
    pub value: SampleValue,
}

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleValue {
    /// A value.
    Measured(u64),
    /// Nothing this time.
    Missing,
    /// Nothing, and the device stopped answering.
    Lost,
}

impl SegmentHeader {
    /// The header of a segment that samples these sensors; channels are numbered in their order, a sensor's
    /// power before its counter, then its temperature and the driver's samples. There are no more than 255; what would come after is not traced.
    pub fn new<'a>(
        run_id: &str,
        segment: Segment,
        interval_ms: f64,
        sensors: impl IntoIterator<Item = (&'a SensorInfo, Channels)>,
    ) -> Self {
        let quantities = sensors.into_iter().flat_map(|(sensor, supported)| {
            supported.quantities().map(move |quantity| (sensor, supported, quantity))
        });
        let channels = (0..SEGMENT_TAG)
            .zip(quantities)
            .map(|(channel, (sensor, supported, quantity))| {
                let is_power = quantity == TraceQuantity::PowerMw;
                let counter = supported.counter.or(supported.slow_counter);
                let is_counter = matches!(quantity, TraceQuantity::EnergyMj | TraceQuantity::EnergyUj);
                Channel {
                    channel,
                    quantity,
                    power_source: supported.power.filter(|_| is_power),
                    counter_range: counter.and_then(|spec| spec.range).filter(|_| is_counter),
                    at_ticks: supported.slow_counter.is_some() && is_counter,
                    sensor: sensor.clone(),
                }
            })
            .collect();
        Self { schema: TRACE_SCHEMA.to_owned(), run_id: run_id.to_owned(), segment, interval_ms, channels }
    }
}

impl Channels {
    /// The quantities in the order in which a trace numbers them.
    pub(crate) fn quantities(self) -> impl Iterator<Item = TraceQuantity> {
        let power = self.power.map(|_| TraceQuantity::PowerMw);
        let average = self.average.then_some(TraceQuantity::AverageMw);
        let counter = self.counter.or(self.slow_counter).map(|spec| match spec.unit {
            CounterUnit::Millijoules => TraceQuantity::EnergyMj,
            CounterUnit::Microjoules => TraceQuantity::EnergyUj,
        });
        let temperature = self.temperature.then_some(TraceQuantity::TemperatureMc);
        let samples = self.samples.then_some(TraceQuantity::SampleMw);
        power.into_iter().chain(average).chain(counter).chain(temperature).chain(samples)
    }
}

impl Channel {
    /// What the sensor supports, as far as this channel tells.
    pub(crate) fn supports(&self) -> Channels {
        let none = Channels::default();
        let counter = |unit| {
            let spec = Some(CounterSpec { unit, range: self.counter_range });
            if self.at_ticks {
                Channels { slow_counter: spec, ..none }
            } else {
                Channels { counter: spec, ..none }
            }
        };
        match self.quantity {
            TraceQuantity::PowerMw => Channels { power: self.power_source, ..none },
            TraceQuantity::AverageMw => Channels { average: true, ..none },
            TraceQuantity::EnergyMj => counter(CounterUnit::Millijoules),
            TraceQuantity::EnergyUj => counter(CounterUnit::Microjoules),
            TraceQuantity::TemperatureMc => Channels { temperature: true, ..none },
            TraceQuantity::SampleMw => Channels { samples: true, ..none },
        }
    }
}

impl Sample {
    pub(crate) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let value = match self.value {
            SampleValue::Measured(value) => value.min(LOST - 1),
            SampleValue::Missing => MISSING,
            SampleValue::Lost => LOST,
        };
        let mut body = [0; 14];
        body[0] = self.channel;
        body[1..8].copy_from_slice(&self.t.0.to_le_bytes()[..7]);
        body[8..14].copy_from_slice(&value.to_le_bytes()[..6]);
        checked(body)
    }

    /// The sample in a record that [`is_valid`] and is no segment's.
    pub(crate) fn from_bytes(record: &[u8; RECORD_BYTES]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let value = match number(&record[8..14]) {
            MISSING => SampleValue::Missing,
            LOST => SampleValue::Lost,
            value => SampleValue::Measured(value),
        };
        Self { channel: record[0], t: MonotonicNs(number(&record[1..8])), value }
    }
}

impl From<&Quantity<Watts>> for SampleValue {
    fn from(power: &Quantity<Watts>) -> Self {
        match power {
            Quantity::Measured(watts) => Self::Measured((watts.get() * 1e3).round() as u64),
            other if other.is_lost() => Self::Lost,
            _ => Self::Missing,
        }
    }
}

impl From<&Quantity<CounterValue>> for SampleValue {
    fn from(counter: &Quantity<CounterValue>) -> Self {
        match counter {
            Quantity::Measured(value) => Self::Measured(value.0),
            other if other.is_lost() => Self::Lost,
            _ => Self::Missing,
        }
    }
}

/// Whether a record's CRC is right.
pub(crate) fn is_valid(record: &[u8; RECORD_BYTES]) -> bool {
    crc16(&record[..14]).to_le_bytes() == record[14..]
}

/// A record with its CRC.
pub(crate) fn checked(body: [u8; 14]) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..14].copy_from_slice(&body);
    record[14..].copy_from_slice(&crc16(&body).to_le_bytes());
    record
}

/// CRC-16/IBM-3740: polynomial 0x1021, starting from 0xFFFF, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_named_one_and_no_record_is_all_zeros() {
        assert_eq!(crc16(b"123456789"), 0x29B1, "the catalogue's check value");
        assert_eq!(crc16(&[0; 14]), 0xA96A);
        assert!(!is_valid(&[0; RECORD_BYTES]));
    }

    #[test]
    fn a_sample_reads_back_from_its_bytes() {
        let t = MonotonicNs((1 << 56) - 1);
        for value in [
            SampleValue::Measured(0),
            SampleValue::Measured(LOST - 1),
            SampleValue::Missing,
            SampleValue::Lost,
        ] {
            let sample = Sample { channel: 7, t, value };
            let bytes = sample.to_bytes();
            assert!(is_valid(&bytes));
            assert_eq!(Sample::from_bytes(&bytes), sample);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_found() {
        let record =
            Sample { channel: 1, t: MonotonicNs(123_456_789), value: SampleValue::Measured(300_000) };
        for bit in 0..128 {
            let mut bytes = record.to_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_valid(&bytes), "bit {bit}");
        }
    }
}
