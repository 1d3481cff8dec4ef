//! Where a run's segments do not follow on each other: another host, another boot, a counter that began anew.
//!
//! Each segment is accounted for by itself, so none of these spoils a figure. They are things to know about a run:
//! joules from two boards or two machines have two gain errors, and not one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::error::MeterError;
use crate::readings::trace::{SampleValue, SegmentHeader, TraceQuantity};
use crate::readings::trace_reader::{TraceItem, TraceReader};

/// What changed from one segment to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// The run went on on another machine.
    Host {
        /// The segment that did.
        segment: u32,
        /// From where.
        from: String,
        /// To where.
        to: String,
    },
    /// The machine was started anew in between.
    Boot {
        /// The segment after it.
        segment: u32,
    },
    /// A counter went back within one boot: its driver was reloaded.
    Driver {
        /// The segment after it.
        segment: u32,
        /// The sensor.
        sensor: String,
    },
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { segment, from, to } => {
                write!(f, "segment {segment} ran on {to}, the one before it on {from}")
            }
            Self::Boot { segment } => write!(f, "the machine was restarted before segment {segment}"),
            Self::Driver { segment, sensor } => {
                write!(
                    f,
                    "the counter of {sensor} began anew before segment {segment}: its driver was reloaded"
                )
            }
        }
    }
}

/// Every break in a run, from its trace.
///
/// # Errors
/// If the trace cannot be read, or is no trace.
pub fn breaks(trace: &Path) -> Result<Vec<Break>, MeterError> {
    let mut breaks = Vec::new();
    let mut header: Option<SegmentHeader> = None;
    // The last value of each counter, by sensor.
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen_first: Vec<bool> = Vec::new();
    for item in TraceReader::open(trace)? {
        match item? {
            TraceItem::Segment(next) => {
                if let Some(found) = header.as_ref().and_then(|before| moved(before, &next)) {
                    // Counters of another boot are others.
                    counters.clear();
                    breaks.push(found);
                }
                seen_first = vec![false; next.channels.len()];
                header = Some(*next);
            }
            TraceItem::Sample(sample) => {
                let channel = usize::from(sample.channel);
                let (Some(header), SampleValue::Measured(value)) = (&header, sample.value) else { continue };
                let Some(known) = header.channels.get(channel) else { continue };
                if !matches!(known.quantity, TraceQuantity::EnergyMj) {
                    continue;
                }
                let sensor = &known.sensor.id;
                let is_first = !std::mem::replace(&mut seen_first[channel], true);
                let before = counters.insert(sensor.clone(), value);
                if is_first && before.is_some_and(|before| value < before) && is_board(sensor) {
                    breaks.push(Break::Driver { segment: header.segment.id, sensor: sensor.clone() });
                }
            }
        }
    }
    Ok(breaks)
}

/// A board's counter runs as long as its driver; an estimate's begins with its process.
fn is_board(sensor: &str) -> bool {
    sensor.starts_with("gpu:")
}

fn moved(before: &SegmentHeader, next: &SegmentHeader) -> Option<Break> {
    let (before, next) = (&before.segment, &next.segment);
    if before.host != next.host {
        return Some(Break::Host { segment: next.id, from: before.host.clone(), to: next.host.clone() });
    }
    (before.boot_id != next.boot_id).then_some(Break::Boot { segment: next.id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::trace::Sample;
    use crate::readings::trace_writer::TraceWriter;
    use crate::sensors::sensor::tests::{BOARD, board_info};
    use wattle_runlog::{MonotonicNs, Segment};

    fn segment(path: &Path, id: u32, host: &str, boot: &str, counter_mj: u64) {
        let segment = Segment { host: host.to_owned(), boot_id: boot.to_owned(), ..Segment::now(id, 0) };
        let mut writer = TraceWriter::open(path).unwrap();
        writer.begin_segment(&SegmentHeader::new("run-1", segment, 50.0, [(&board_info(), BOARD)])).unwrap();
        for i in 0..3 {
            let value = SampleValue::Measured(counter_mj + i);
            writer.append(Sample { channel: 1, t: MonotonicNs(i), value }).unwrap();
        }
        writer.sync().unwrap();
    }

    #[test]
    fn hosts_boots_and_drivers_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        segment(&path, 0, "a", "1", 1_000);
        segment(&path, 1, "a", "1", 2_000);
        assert_eq!(breaks(&path).unwrap(), []);
        segment(&path, 2, "a", "1", 500);
        segment(&path, 3, "a", "2", 10);
        segment(&path, 4, "b", "7", 5);
        let found = breaks(&path).unwrap();
        let expected = [
            Break::Driver { segment: 2, sensor: "gpu:x".to_owned() },
            Break::Boot { segment: 3 },
            Break::Host { segment: 4, from: "a".to_owned(), to: "b".to_owned() },
        ];
        assert_eq!(found, expected);
        assert!(found[0].to_string().contains("driver was reloaded"));
    }
}
