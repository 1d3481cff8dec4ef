//! Carbon intensity by the hour, or by whatever interval a table has: each joule at the intensity of its moment.
//!
//! `carbon.table` names a CSV file with the columns `timestamp` (the start of an interval, RFC 3339 in UTC) and
//! `g_per_kwh`, in order of time. An interval lasts as long as the shortest distance between two rows, an hour if
//! there is one row alone. A row that is left out leaves a hole, which no neighbour fills: what was used there is
//! not priced by the table. While a run goes on the run's yearly mean stands for it, and the record tells the
//! share; repricing a finished run is refused.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules, MonotonicNs, WallAnchor};

use crate::error::MeterError;

const HOUR_NS: i64 = 3_600_000_000_000;

/// Intensities of a row of intervals.
#[derive(Clone, Debug, PartialEq)]
pub struct IntensityTable {
    path: PathBuf,
    /// Start of each interval, wall clock, and its intensity.
    rows: Vec<(i64, GramsPerKwh)>,
    interval_ns: i64,
}

/// What energy comes to by a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Priced {
    /// Emissions of what the table covers.
    pub grams: GramsCo2e,
    /// Energy that the table covers.
    pub covered: Joules,
    /// The first stretch of time that it does not cover, wall clock in nanoseconds.
    pub hole: Option<(i64, i64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    timestamp: String,
    g_per_kwh: f64,
}

impl IntensityTable {
    /// Reads the table at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or a row is not what it should be; the message names the row.
    pub fn open(path: &Path) -> Result<Self, MeterError> {
        let fault = |reason: String| MeterError::IntensityTable { path: path.to_owned(), reason };
        let text = wattle_files::read(path, wattle_files::SMALL)
            .map_err(|error| fault(format!("{error}; expected a CSV file with timestamp and g_per_kwh")))?;
        let mut reader = csv::Reader::from_reader(&text[..]);
        let mut rows: Vec<(i64, GramsPerKwh)> = Vec::new();
        for (row, number) in reader.deserialize::<Row>().zip(2..) {
            let Row { timestamp, g_per_kwh } = row.map_err(|error| fault(error.to_string()))?;
            let start = WallAnchor::parse(&timestamp, MonotonicNs(0)).map(|anchor| anchor.wall_ns);
            let start = start.ok_or_else(|| {
                fault(format!(
                    "line {number}: expected a time such as 2026-11-23T15:00:00Z, got {timestamp:?}"
                ))
            })?;
            if !g_per_kwh.is_finite() || g_per_kwh < 0.0 {
                return Err(fault(format!("line {number}: expected at least 0 g/kWh, got {g_per_kwh}")));
            }
            if rows.last().is_some_and(|(last, _)| start <= *last) {
                return Err(fault(format!("line {number}: {timestamp} is not after the row before it")));
            }
            rows.push((start, GramsPerKwh(g_per_kwh)));
        }
        let shortest = rows.windows(2).map(|pair| pair[1].0 - pair[0].0).min();
        if rows.is_empty() {
            return Err(fault("it has no rows".to_owned()));
        }
        Ok(Self { path: path.to_owned(), rows, interval_ns: shortest.unwrap_or(HOUR_NS) })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Prices what was used from one wall time to another; `energy` tells it for each part.
    pub fn price(&self, from: i64, to: i64, energy: impl Fn(i64, i64) -> Joules) -> Priced {
        let mut priced = Priced::default();
        let mut at = from;
        let first = self.rows.partition_point(|(start, _)| start + self.interval_ns <= from);
        for (start, intensity) in self.rows[first..].iter().take_while(|(start, _)| *start < to) {
            priced.miss(at, *start);
            let (begin, end) = (from.max(*start), to.min(start + self.interval_ns));
            let part = energy(begin, end);
            priced.grams += *intensity * part;
            priced.covered += part;
            at = end;
        }
        priced.miss(at, to);
        priced
    }

    /// The error that names a hole.
    pub(crate) fn outside(&self, (from, to): (i64, i64)) -> MeterError {
        let time = |wall_ns: i64| WallAnchor { wall_ns, monotonic: MonotonicNs(0) }.rfc3339();
        MeterError::OutsideTable { path: self.path.clone(), from: time(from), to: time(to) }
    }
}

impl Priced {
    fn miss(&mut self, from: i64, to: i64) {
        if from < to {
            self.hole.get_or_insert((from, to));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn table(text: &str) -> Result<IntensityTable, MeterError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        IntensityTable::open(file.path())
    }

    fn ns(time: &str) -> i64 {
        WallAnchor::parse(time, MonotonicNs(0)).unwrap().wall_ns
    }

    const HOURS: &str =
        "timestamp,g_per_kwh\n2026-11-23T15:00:00Z,100\n2026-11-23T16:00:00Z,300\n2026-11-23T18:00:00Z,50\n";

    /// A kilowatt.
    fn kilowatt(from: i64, to: i64) -> Joules {
        Joules((to - from) as f64 * 1e-6)
    }

    #[test]
    fn each_joule_has_the_intensity_of_its_moment() {
        let table = table(HOURS).unwrap();
        let priced = table.price(ns("2026-11-23T15:30:00Z"), ns("2026-11-23T16:15:00Z"), kilowatt);
        // Half a kilowatt-hour at 100, a quarter at 300.
        assert!((priced.grams.get() - 125.0).abs() < 1e-6, "{priced:?}");
        assert!((priced.covered.kwh() - 0.75).abs() < 1e-9 && priced.hole.is_none());
    }

    #[test]
    fn holes_and_ends_are_not_filled() {
        let table = table(HOURS).unwrap();
        let priced = table.price(ns("2026-11-23T16:30:00Z"), ns("2026-11-23T18:30:00Z"), kilowatt);
        assert!((priced.covered.kwh() - 1.0).abs() < 1e-9, "{priced:?}");
        assert_eq!(priced.hole, Some((ns("2026-11-23T17:00:00Z"), ns("2026-11-23T18:00:00Z"))));
        let error = table.outside(priced.hole.unwrap()).to_string();
        assert!(error.contains("2026-11-23T17:00:00Z") && error.contains("2026-11-23T18:00:00Z"), "{error}");
        let before = table.price(ns("2026-11-23T14:30:00Z"), ns("2026-11-23T15:30:00Z"), kilowatt);
        assert_eq!(before.hole, Some((ns("2026-11-23T14:30:00Z"), ns("2026-11-23T15:00:00Z"))));
        let after = table.price(ns("2026-11-24T14:30:00Z"), ns("2026-11-24T15:30:00Z"), kilowatt);
        assert_eq!((after.covered, after.hole.is_some()), (Joules::ZERO, true));
    }

    #[test]
    fn a_row_that_is_none_is_named() {
        for (text, what) in [
            ("timestamp,g_per_kwh\nyesterday,1\n", "line 2"),
            ("timestamp,g_per_kwh\n2026-11-23T15:00:00Z,-1\n", "line 2"),
            ("timestamp,g_per_kwh\n2026-11-23T15:00:00Z,1\n2026-11-23T15:00:00Z,1\n", "line 3"),
            ("timestamp,g_per_kwh\n", "no rows"),
            ("time,g\n2026-11-23T15:00:00Z,1\n", "timestamp"),
        ] {
            let error = table(text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let error = IntensityTable::open(Path::new("/nonexistent.csv")).unwrap_err().to_string();
        assert!(error.contains("carbon.table") && error.contains("/nonexistent.csv"), "{error}");
    }
}
