//! A finished run at other intensities: what its energy would come to by a table, hour by hour.
//!
//! Joules stay what they are. When each was used is taken from `power.trace`; without it, a record's energy is
//! spread evenly over its time. A moment that the table does not cover is an error that names it.

use std::path::Path;

use wattle_runlog::manifest::Segment as SegmentEntry;
use wattle_runlog::record::RecordKind;
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules, MonotonicNs, Record, Seconds, WallAnchor};

use crate::books::intensity_table::IntensityTable;
use crate::books::interrupted::{Segment, segments_of};
use crate::books::pricing::Rates;
use crate::error::MeterError;
use crate::readings::trace::SegmentHeader;

/// A run by another table.
#[derive(Clone, Debug, PartialEq)]
pub struct Repriced {
    /// One entry for each record that is part of the run's total, in their order, and one of kind `final` for what
    /// came after the last of them, if anything did.
    pub parts: Vec<RepricedPart>,
    /// Energy of all of them.
    pub energy: Joules,
    /// Emissions as recorded.
    pub before: GramsCo2e,
    /// Emissions by the table.
    pub after: GramsCo2e,
}

/// A record by another table.
#[derive(Clone, Debug, PartialEq)]
pub struct RepricedPart {
    /// What the record covers.
    pub kind: RecordKind,
    /// Its segment.
    pub segment: u32,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// Its energy, as recorded.
    pub energy: Joules,
    /// Its emissions as recorded.
    pub before: GramsCo2e,
    /// Its emissions by the table.
    pub after: GramsCo2e,
    /// The mean intensity that they come to.
    pub intensity: GramsPerKwh,
    /// Whether the trace told when its energy was used, or it was spread evenly.
    pub from_trace: bool,
}

/// What is priced: a stretch of one segment.
struct Stretch {
    kind: RecordKind,
    segment: u32,
    epoch: Option<u64>,
    start: MonotonicNs,
    end: MonotonicNs,
    energy: Joules,
    before: GramsCo2e,
    pue: f64,
}

/// Prices the run of `records` by `table`. `segments` are the manifest's; `trace` is the run's `power.trace`, if it
/// is there.
///
/// # Errors
/// If the trace cannot be read, or the table does not cover the run.
pub fn reprice(
    records: &[Record],
    segments: &[SegmentEntry],
    trace: Option<&Path>,
    table: &IntensityTable,
) -> Result<Repriced, MeterError> {
    let stretches = stretches(records);
    let edges = |header: &SegmentHeader| {
        let own = stretches.iter().filter(|stretch| stretch.segment == header.segment.id);
        own.flat_map(|stretch| [stretch.start, stretch.end]).collect()
    };
    let traced = trace.filter(|path| path.exists()).map(|path| segments_of(path, edges)).transpose()?;
    let mut parts = Vec::new();
    for stretch in &stretches {
        let anchor = segments.iter().find(|entry| entry.id == stretch.segment).and_then(SegmentEntry::anchor);
        let traced = traced.iter().flatten().find(|segment| segment.header.segment.id == stretch.segment);
        let anchor = anchor.or(traced.map(|segment| segment.anchor));
        let anchor = anchor.ok_or(MeterError::NoAnchor { segment: stretch.segment })?;
        parts.push(stretch.price(anchor, traced, table)?);
    }
    Ok(Repriced {
        energy: parts.iter().map(|part| part.energy).sum(),
        before: parts.iter().map(|part| part.before).sum(),
        after: parts.iter().map(|part| part.after).sum(),
        parts,
    })
}

/// What the run's total is made of.
fn stretches(records: &[Record]) -> Vec<Stretch> {
    let booked = || records.iter().filter(|record| record.kind.is_additive());
    let stretch = |record: &Record| {
        Some(Stretch {
            kind: record.kind,
            segment: record.segment,
            epoch: record.epoch,
            start: record.start_ns?,
            end: record.end_ns?,
            energy: record.energy_j,
            before: record.emissions_g,
            pue: record.pue,
        })
    };
    let mut stretches: Vec<_> = booked().filter_map(stretch).collect();
    stretches.extend(
        records
            .iter()
            .rfind(|record| record.kind == RecordKind::Final)
            .and_then(|whole| tail(whole, records)),
    );
    stretches
}

/// What the record of the whole run holds beyond the others: its last moments.
fn tail(whole: &Record, records: &[Record]) -> Option<Stretch> {
    let booked = || records.iter().filter(|record| record.kind.is_additive());
    let energy = whole.energy_j - booked().map(|record| record.energy_j).sum();
    let seconds = whole.duration_s - booked().map(|record| record.duration_s).sum();
    let start = booked().rfind(|record| record.segment == whole.segment)?.end_ns?;
    // The tail has its segment's factor; the whole run has it too unless it changed.
    let pue = match booked().all(|record| record.pue == whole.pue) {
        true => whole.pue,
        false => {
            (whole.facility_kwh - booked().map(|record| record.facility_kwh).sum::<f64>()) / energy.kwh()
        }
    };
    (energy > Joules::ZERO && seconds > Seconds::ZERO).then(|| Stretch {
        kind: RecordKind::Final,
        segment: whole.segment,
        epoch: None,
        start,
        end: start.after(seconds),
        energy,
        before: whole.emissions_g - booked().map(|record| record.emissions_g).sum(),
        pue,
    })
}

impl Stretch {
    fn price(
        &self,
        anchor: WallAnchor,
        traced: Option<&Segment>,
        table: &IntensityTable,
    ) -> Result<RepricedPart, MeterError> {
        let window = traced.map(|segment| segment.window(self.start, self.end));
        let window = window.filter(|window| window.energy > Joules::ZERO);
        let duration = self.end.since(self.start);
        let between = |from: MonotonicNs, to: MonotonicNs| match &window {
            Some(window) => self.energy * (window.between(from, to) / window.energy),
            None if duration > Seconds::ZERO => self.energy * (to.since(from) / duration),
            None => Joules::ZERO,
        };
        // A hole is an error, so no mean is needed.
        let rates = Rates { pue: self.pue, intensity: GramsPerKwh::ZERO, table: Some(table), grid: None };
        let emissions = rates.emissions(anchor, (self.start, self.end), self.energy, &between);
        if let Some(hole) = emissions.hole {
            return Err(table.outside(hole));
        }
        let kwh = self.energy.kwh();
        Ok(RepricedPart {
            kind: self.kind,
            segment: self.segment,
            epoch: self.epoch,
            energy: self.energy,
            before: self.before,
            after: emissions.grams,
            intensity: GramsPerKwh(if kwh > 0.0 { emissions.by_table.get() / kwh } else { 0.0 }),
            from_trace: window.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::intensity_table::tests::table;
    use crate::books::interrupted::tests::{epoch, sampled_at, segment_entry};
    use crate::books::ledger::Ledger;
    use crate::books::ledger::tests::options;

    /// The anchor of the tests is 14:13:20 at monotonic zero: 14:13:40 is 20 s.
    const TABLE: &str = "timestamp,g_per_kwh\n2026-09-21T14:13:20Z,100\n2026-09-21T14:13:40Z,500\n";

    #[test]
    fn joules_are_priced_at_the_moment_of_their_use_and_stay_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        // 100 W in the first half, 300 W in the second.
        sampled_at(&path, 0, 0.0, 40.0, |t| if t < 20.0 { 100.0 } else { 300.0 });
        let mut ledger = Ledger::new(options(0));
        let mut record = epoch(&mut ledger, 0.0, 40.0, (0, 10));
        record.energy_j = Joules(8_000.0);
        let (records, entry) = ([record], [segment_entry(0)]);
        let table = table(TABLE).unwrap();
        let traced = reprice(&records, &entry, Some(&path), &table).unwrap();
        assert_eq!((traced.energy, traced.parts.len()), (Joules(8_000.0), 1));
        assert!(traced.parts[0].from_trace);
        let expected = (2_000.0 * 100.0 + 6_000.0 * 500.0) / 3.6e6 * 1.5;
        assert!((traced.after.get() - expected).abs() < 0.02, "{traced:?}, expected {expected}");
        assert_eq!(traced.before, records[0].emissions_g);
        // Without a trace: evenly, and said so.
        let even = reprice(&records, &entry, Some(&dir.path().join("gone")), &table).unwrap();
        assert!(!even.parts[0].from_trace);
        assert!((even.after.get() - 8_000.0 * 300.0 / 3.6e6 * 1.5).abs() < 1e-9, "{even:?}");
    }

    #[test]
    fn what_a_run_drew_after_its_last_epoch_is_priced_too() {
        let mut ledger = Ledger::new(options(0));
        let first = epoch(&mut ledger, 0.0, 10.0, (0, 10));
        let mut whole = ledger.whole_run(true, first.resources, first.overhead);
        whole.energy_j += Joules(500.0);
        whole.duration_s += Seconds(2.0);
        let energy = whole.energy_j;
        let table = table(TABLE).unwrap();
        let repriced = reprice(&[first, whole], &[segment_entry(0)], None, &table).unwrap();
        assert_eq!((repriced.energy, repriced.parts[1].kind), (energy, RecordKind::Final));
        assert_eq!(repriced.parts[1].energy, Joules(500.0));
    }

    #[test]
    fn a_table_that_ends_before_the_run_is_refused_and_the_span_is_named() {
        let mut ledger = Ledger::new(options(0));
        let record = epoch(&mut ledger, 30.0, 50.0, (0, 10));
        let entry = segment_entry(0);
        let error = reprice(&[record], &[entry], None, &table(TABLE).unwrap()).unwrap_err().to_string();
        assert!(error.contains("from 2026-09-21T14:14:00Z to 2026-09-21T14:14:10Z"), "{error}");
    }
}
