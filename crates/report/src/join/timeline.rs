//! Running time: the clocks of a run's segments, put end to end.
//!
//! A segment's clock is monotonic and means nothing in the next. What lies between two segments, an hour or a
//! month, is left out: a run that was stopped for the night did not run for it.

use std::collections::BTreeMap;

use wattle_runlog::{MonotonicNs, Seconds};

use crate::join::run::Run;

/// Running time of a run.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    segments: BTreeMap<u32, SegmentTime>,
}

#[derive(Clone, Copy, Debug)]
struct SegmentTime {
    start: MonotonicNs,
    end: MonotonicNs,
    /// Running time before it.
    before: Seconds,
}

impl Timeline {
    /// The running time of a run, from everything in it that carries a time.
    pub fn of(run: &Run) -> Self {
        let mut segments: BTreeMap<u32, SegmentTime> = BTreeMap::new();
        let mut see = |segment: u32, t: MonotonicNs| {
            let seen =
                segments.entry(segment).or_insert(SegmentTime { start: t, end: t, before: Seconds::ZERO });
            seen.start = seen.start.min(t);
            seen.end = seen.end.max(t);
        };
        for segment in &run.manifest.segments {
            see(segment.id, segment.monotonic_anchor);
        }
        run.events.iter().for_each(|event| see(event.segment, event.t_ns));
        for record in &run.records {
            record.start_ns.into_iter().chain(record.end_ns).for_each(|t| see(record.segment, t));
        }
        for sensor in &run.power.sensors {
            sensor.span().into_iter().flatten().for_each(|t| see(sensor.segment, t));
        }
        let mut before = Seconds::ZERO;
        for segment in segments.values_mut() {
            segment.before = before;
            before += segment.end.since(segment.start);
        }
        Self { segments }
    }

    /// The running time at a moment of a segment.
    pub fn at(&self, segment: u32, t: MonotonicNs) -> Seconds {
        self.segments.get(&segment).map_or(Seconds::ZERO, |time| time.before + t.since(time.start))
    }

    /// When a segment began and ended on its own clock; `None` for one that is not known.
    pub fn segment(&self, segment: u32) -> Option<(MonotonicNs, MonotonicNs)> {
        self.segments.get(&segment).map(|time| (time.start, time.end))
    }

    /// Every segment's id.
    pub fn segments(&self) -> impl Iterator<Item = u32> {
        self.segments.keys().copied()
    }

    /// The running time at which each resumed segment began.
    pub fn resumes(&self) -> Vec<Seconds> {
        self.segments.values().skip(1).map(|segment| segment.before).collect()
    }

    /// All of it.
    pub fn total(&self) -> Seconds {
        self.segments
            .values()
            .next_back()
            .map_or(Seconds::ZERO, |last| last.before + last.end.since(last.start))
    }
}
