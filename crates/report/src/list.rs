//! The runs of a folder, one a line. As JSON this is `wattle.runs/1`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use wattle_runlog::record::Cost;
use wattle_runlog::{GramsCo2e, Joules, Seconds};

use crate::error::ReportError;
use crate::join::nearest::is_run;
use crate::join::report::Report;
use crate::join::run::Run;
use crate::join::status::Status;
use crate::words::bounds;
use crate::words::quantity::{count, joules, loss, money, wall_time};
use crate::words::table::{Table, hang};

/// Name and version of the format of a list.
const SCHEMA: &str = "wattle.runs/1";

/// Folders below the one that is listed in which runs are looked for: those of a sweep lie two below.
const DEPTH: usize = 3;

/// The runs of a folder, the oldest first.
#[derive(Debug, Serialize)]
pub struct RunList {
    schema: &'static str,
    /// Those that could be read.
    pub runs: Vec<ListedRun>,
    /// Those that could not.
    pub damaged: Vec<DamagedRun>,
}

/// What a line of the list says of a run. Figures that a run does not have yet are null.
#[derive(Debug, Serialize)]
pub struct ListedRun {
    /// The run directory.
    pub path: PathBuf,
    /// The run's id.
    pub run_id: String,
    /// `run.name`
    pub name: String,
    /// How it stands.
    pub status: Status,
    /// Its start, RFC 3339 in UTC.
    pub started_at: Option<String>,
    /// Finished updates.
    pub steps: u64,
    /// Lowest validation loss, in nats a token.
    pub val_loss: Option<f64>,
    /// Mean training loss of the last steps, in nats a token.
    pub train_loss: Option<f64>,
    /// Running time.
    pub duration_s: Option<Seconds>,
    /// Energy so far; without devices that no sensor measured.
    pub energy_j: Option<Joules>,
    /// Whether every training device was metered.
    pub is_metered: bool,
    /// Emissions so far.
    pub emissions_g: Option<GramsCo2e>,
    /// Cost so far, with a tariff.
    pub cost: Option<Cost>,
}

/// A run that could not be read.
#[derive(Debug, Serialize)]
pub struct DamagedRun {
    /// The run directory.
    pub path: PathBuf,
    /// Why.
    pub fault: String,
}

impl RunList {
    /// The runs in `dir` and its subfolders.
    ///
    /// # Errors
    /// If `dir` is not a folder.
    pub fn of(dir: &Path) -> Result<Self, ReportError> {
        if !dir.is_dir() {
            return Err(ReportError::no_run(dir));
        }
        let mut list = Self { schema: SCHEMA, runs: Vec::new(), damaged: Vec::new() };
        for path in runs_below(dir, DEPTH) {
            match Run::open(&path).and_then(|run| Report::of(&run, None)) {
                Ok(report) => list.runs.push(ListedRun::of(path, &report)),
                Err(error) => list.damaged.push(DamagedRun { path, fault: error.to_string() }),
            }
        }
        list.runs.sort_by(|a, b| (&a.started_at, &a.path).cmp(&(&b.started_at, &b.path)));
        Ok(list)
    }

    /// The list as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a list is plain data")
    }

    /// The list as text, at most eighty columns wide; runs are named by their path in `dir`.
    pub fn text(&self, dir: &Path) -> String {
        let mut lines = Vec::new();
        if !self.runs.is_empty() {
            let mut table =
                Table::new(["run", "state", "steps", "loss", "energy", "cost", "started (UTC)"], &[0, 1, 6]);
            self.runs.iter().for_each(|run| table.row(run.cells(dir)));
            lines.extend(table.lines());
        }
        for DamagedRun { fault, .. } in &self.damaged {
            lines.extend(hang("! ", fault));
        }
        if lines.is_empty() {
            lines.push(format!("no runs in {}; wattle train --out makes one", dir.display()));
        }
        lines.join("\n") + "\n"
    }
}

impl ListedRun {
    fn of(path: PathBuf, report: &Report) -> Self {
        let totals = report.totals.as_ref();
        Self {
            path,
            run_id: report.run_id.clone(),
            name: report.name.clone(),
            status: report.status,
            started_at: report.started_at.clone(),
            steps: report.steps,
            val_loss: report.learning.best.as_ref().map(|best| best.loss),
            train_loss: report.learning.train_loss,
            duration_s: totals.map(|totals| totals.duration_s),
            energy_j: totals.map(|totals| totals.energy_j),
            is_metered: report.is_metered(),
            emissions_g: totals.map(|totals| totals.emissions_g),
            cost: totals.and_then(|totals| totals.cost.clone()),
        }
    }

    fn cells(&self, dir: &Path) -> [String; 7] {
        let at_least = |figure| bounds::at_least(self.is_metered, figure);
        [
            self.path.strip_prefix(dir).unwrap_or(&self.path).display().to_string(),
            self.status.word().to_owned(),
            count(self.steps),
            self.val_loss.or(self.train_loss).map(loss).unwrap_or_default(),
            self.energy_j.map(|energy| at_least(joules(energy))).unwrap_or_default(),
            self.cost.as_ref().map(|cost| at_least(money(cost.value, &cost.currency))).unwrap_or_default(),
            self.started_at.as_deref().map(wall_time).unwrap_or_default().trim_end_matches(" UTC").to_owned(),
        ]
    }
}

/// Run directories at most `depth` folders below `dir`, or `dir` itself. Links are not followed.
fn runs_below(dir: &Path, depth: usize) -> Vec<PathBuf> {
    if is_run(dir) {
        return vec![dir.to_owned()];
    }
    if depth == 0 {
        return Vec::new();
    }
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().filter(is_folder);
    entries.flat_map(|entry| runs_below(&entry.path(), depth - 1)).collect()
}

#[cfg(test)]
mod tests {
    use wattle_runlog::StopReason;

    use super::*;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn runs_are_listed_with_what_they_came_to_and_damaged_ones_by_their_fault() {
        let dir = tempfile::tempdir().unwrap();
        SyntheticRun::small().write(&dir.path().join("b"));
        SyntheticRun { stop: Some(StopReason::Signal), ..SyntheticRun::small() }
            .write(&dir.path().join("sweep/a/1"));
        SyntheticRun { stop: None, ..SyntheticRun::unmetered() }.write(&dir.path().join("sweep/c/2"));
        fs::create_dir_all(dir.path().join("broken")).unwrap();
        fs::write(dir.path().join("broken/manifest.json"), "{").unwrap();
        fs::create_dir_all(dir.path().join("empty")).unwrap();
        let list = RunList::of(dir.path()).unwrap();
        assert_eq!(
            list.runs.iter().map(|run| run.status).collect::<Vec<_>>(),
            [Status::Done, Status::Signal, Status::Interrupted]
        );
        assert_eq!(list.damaged.len(), 1);
        let text = list.text(dir.path());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("sweep/a/1") && text.contains("stopped") && text.contains("manifest.json"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&list.to_json()).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["runs"][0]["status"], "done");
        assert!(json["runs"][0]["val_loss"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn an_empty_folder_says_how_runs_are_made_and_a_missing_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let list = RunList::of(dir.path()).unwrap();
        assert!(list.text(dir.path()).contains("wattle train --out"));
        assert!(RunList::of(&dir.path().join("nothing")).is_err());
    }
}
