//! A run's emissions by another table of carbon intensities. Its joules, and its files, stay what they are.

use serde::Serialize;
use wattle_meter::IntensityTable;
use wattle_meter::books::reprice::{RepricedPart, reprice};
use wattle_runlog::record::RecordKind;
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules};

use crate::error::ReportError;
use crate::join::run::Run;

/// A run's emissions by another table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repriced {
    /// The table.
    pub table: String,
    /// Energy, as recorded.
    pub energy_j: Joules,
    /// Emissions as recorded.
    pub recorded_g: GramsCo2e,
    /// Emissions by the table.
    pub emissions_g: GramsCo2e,
    /// One row for each record that is a part of the run.
    pub parts: Vec<Part>,
}

/// One record by another table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What the record covers; `final` for what came after the last of the others.
    pub kind: RecordKind,
    /// Its segment.
    pub segment: u32,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// Its energy, as recorded.
    pub energy_j: Joules,
    /// Its emissions as recorded.
    pub recorded_g: GramsCo2e,
    /// Its emissions by the table.
    pub emissions_g: GramsCo2e,
    /// The mean intensity that they come to.
    pub intensity_g_per_kwh: GramsPerKwh,
    /// Whether the trace told when its energy was used, or it was spread evenly.
    pub from_trace: bool,
}

/// Prices a run by a table, each joule at the moment of its use.
///
/// # Errors
/// If the table does not cover the run, or the trace cannot be read.
pub(crate) fn by_table(run: &Run, table: &IntensityTable) -> Result<Repriced, ReportError> {
    let trace = run.path.join("power.trace");
    let repriced = reprice(&run.records, &run.manifest.segments, Some(&trace), table)?;
    Ok(Repriced {
        table: table.path().display().to_string(),
        energy_j: repriced.energy,
        recorded_g: repriced.before,
        emissions_g: repriced.after,
        parts: repriced.parts.into_iter().map(Part::from).collect(),
    })
}

impl From<RepricedPart> for Part {
    fn from(part: RepricedPart) -> Self {
        Self {
            kind: part.kind,
            segment: part.segment,
            epoch: part.epoch,
            energy_j: part.energy,
            recorded_g: part.before,
            emissions_g: part.after,
            intensity_g_per_kwh: part.intensity,
            from_trace: part.from_trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::report::Report;
    use crate::synthetic::SyntheticRun;

    fn table(dir: &std::path::Path, rows: &str) -> IntensityTable {
        let path = dir.join("table.csv");
        std::fs::write(&path, format!("timestamp,g_per_kwh\n{rows}")).unwrap();
        IntensityTable::open(&path).unwrap()
    }

    #[test]
    fn grams_change_with_the_hour_and_joules_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(&dir.path().join("run"));
        // The run starts at 15:00:00; an epoch is two seconds, and the second second of each draws twice the first.
        let rows = "2026-11-23T15:00:00Z,0\n2026-11-23T15:00:01Z,300\n2026-11-23T15:00:02Z,100\n2026-11-23T15:00:03Z,100\n2026-11-23T15:00:04Z,100\n";
        let repriced = Report::of(&run, Some(&table(dir.path(), rows))).unwrap().repriced.unwrap();
        let recorded = run.records.last().unwrap();
        assert!((repriced.energy_j - recorded.energy_j).get().abs() < 1e-9);
        let kwh = run.records[0].energy_j.kwh() * 1.2;
        let first = repriced.parts[0].emissions_g.get() / (kwh * 200.0);
        assert!((first - 1.0).abs() < 0.02, "two thirds of 300 g: {first}");
        let second = repriced.parts[1].emissions_g.get() / (kwh * 100.0);
        assert!((second - 1.0).abs() < 1e-6, "{second}");
        assert!(repriced.parts.iter().all(|part| part.from_trace));
    }

    #[test]
    fn a_table_of_another_day_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(&dir.path().join("run"));
        let rows = "2025-01-01T00:00:00Z,100\n2025-01-01T01:00:00Z,100\n";
        let error = Report::of(&run, Some(&table(dir.path(), rows))).unwrap_err().to_string();
        assert!(error.contains("2026-11-23"), "{error}");
    }
}
