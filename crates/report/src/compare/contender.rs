//! One of the runs that are compared.

use std::collections::BTreeMap;

use serde::Serialize;
use wattle_runlog::{GramsCo2e, Joules, Seconds};

use crate::compare::measure::Measure;
use crate::compare::target::{Reached, Target};
use crate::join::report::Report;
use crate::join::run::Run;
use crate::join::status::Status;
use crate::words::bounds::at_least;

/// A run's figures for a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contender {
    /// What it is called here: its directory's name, or its whole path where names are the same.
    pub label: String,
    /// The run's id.
    pub run_id: String,
    /// `run.seed`
    pub seed: u64,
    /// How it stands.
    pub status: Status,
    /// Training devices that no sensor measured. If there are any, energy and emissions are lower bounds.
    pub unmetered_devices: Vec<String>,
    /// Finished updates.
    pub steps: u64,
    /// Validation loss at the last evaluation.
    pub final_loss: Option<f64>,
    /// The lowest validation loss.
    pub best_loss: Option<f64>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Running time.
    pub duration_s: Seconds,
    /// Energy.
    pub energy_j: Joules,
    /// 95 % half-width of its random error; null where nothing was measured.
    pub energy_uncertainty_j: Option<Joules>,
    /// Share of it that was measured.
    pub measured_fraction: f64,
    /// Processor time, where no sensor measured; null otherwise, or where it is not known.
    pub cpu_s: Option<Seconds>,
    /// Energy over tokens.
    pub joules_per_token: Option<f64>,
    /// Emissions.
    pub emissions_g: GramsCo2e,
    /// When it reached the target; null if it did not. Energy and emissions in it are null for an unmetered run.
    pub to_target: Option<Reached>,
}

impl Contender {
    /// A run's figures, on the way to `target`.
    pub fn of(label: String, report: &Report, target: Option<&Target>, measure: Measure) -> Self {
        let totals = report.totals.as_ref();
        let evaluations = &report.learning.evaluations;
        Self {
            label,
            run_id: report.run_id.clone(),
            seed: report.provenance.seed,
            status: report.status,
            unmetered_devices: report.unmetered_devices.clone(),
            steps: report.steps,
            final_loss: report.learning.last.as_ref().map(|last| measure.loss(last)),
            best_loss: report.learning.best.as_ref().map(|best| measure.loss(best)),
            tokens: totals.map_or(0, |totals| totals.tokens),
            duration_s: totals.map_or(Seconds::ZERO, |totals| totals.duration_s),
            energy_j: totals.map_or(Joules::ZERO, |totals| totals.energy_j),
            energy_uncertainty_j: totals.and_then(|totals| totals.energy_uncertainty_j),
            measured_fraction: totals.map_or(0.0, |totals| totals.measured_fraction),
            cpu_s: totals.filter(|totals| totals.measured_fraction < 0.005).and_then(|totals| totals.cpu_s),
            joules_per_token: totals.and_then(|totals| totals.joules_per_token),
            emissions_g: totals.map_or(GramsCo2e::ZERO, |totals| totals.emissions_g),
            to_target: target
                .and_then(|target| Reached::of(evaluations, target.loss, measure))
                .map(|reached| if report.is_metered() { reached } else { reached.unmetered() }),
        }
    }
}

impl Contender {
    /// Whether its whole energy is known, so that it can be compared.
    pub fn is_metered(&self) -> bool {
        self.unmetered_devices.is_empty()
    }

    /// Formats a figure of energy or emissions, marked as a lower bound for an unmetered run.
    pub(crate) fn at_least(&self, figure: String) -> String {
        at_least(self.is_metered(), figure)
    }
}

/// What each run is called: its directory's name where that is its alone.
pub(crate) fn labels(runs: &[Run]) -> Vec<String> {
    let name = |run: &Run| match run.path.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => run.path.display().to_string(),
    };
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    runs.iter().for_each(|run| *uses.entry(name(run)).or_default() += 1);
    let label = |run: &Run| if uses[&name(run)] > 1 { run.path.display().to_string() } else { name(run) };
    runs.iter().map(label).collect()
}
