//! Phases in words: their names, their energies, and the method behind each.

use wattle_runlog::record::PhasesMethod;

use crate::join::report::{PhaseRow, Report};
use crate::words::bounds::energy_of;
use crate::words::quantity::{joules, percent};

/// A phase in words.
pub(crate) fn phase_name(phase: wattle_runlog::Phase) -> String {
    use wattle_runlog::Phase;
    let name = match phase {
        Phase::Setup => "setup",
        Phase::Data => "data",
        Phase::ForwardBackward => "forward and backward",
        Phase::Optimizer => "optimizer",
        Phase::Wait => "waiting for ranks",
        Phase::Exchange => "between ranks",
        Phase::Evaluate => "evaluation",
        Phase::Checkpoint => "checkpoint",
        Phase::Paused => "paused",
        Phase::Other => "other",
    };
    name.to_owned()
}

/// How energy was divided among phases. With several methods, the share of each; also whether errors are known.
pub(crate) fn phases_method(report: &Report) -> String {
    const METHODS: [PhasesMethod; 3] =
        [PhasesMethod::Measured, PhasesMethod::Regression, PhasesMethod::TimeShare];
    let share = |method| -> f64 {
        report.phases.iter().filter(|row| method_of(report, row) == Some(method)).map(|row| row.share).sum()
    };
    let used: Vec<_> = METHODS.into_iter().map(|m| (m, share(m))).filter(|(_, share)| *share > 0.0).collect();
    let words = |(method, share): &(PhasesMethod, f64)| match used.len() {
        1 => in_words(*method).to_owned(),
        _ => format!("{} {}", percent(*share), in_words(*method)),
    };
    let mut parts: Vec<String> = used.iter().map(words).collect();
    if !has_phase_errors(report) {
        parts.push("errors unknown".to_owned());
    }
    parts.join(", ")
}

fn has_phase_errors(report: &Report) -> bool {
    report.phases.iter().any(|row| row.energy_uncertainty_j.is_some())
}

/// A phase's energy, with its half-width if any phase has one.
pub(crate) fn phase_energy(report: &Report, row: &PhaseRow) -> String {
    match has_phase_errors(report) {
        true => energy_of(row.energy_j, row.energy_uncertainty_j),
        false => joules(row.energy_j),
    }
}

/// The method behind one phase's energy, if phases differ in it.
pub(crate) fn phase_method(report: &Report, row: &PhaseRow) -> Option<&'static str> {
    let first = report.phases.first().and_then(|first| method_of(report, first));
    let is_mixed = report.phases.iter().any(|row| method_of(report, row) != first);
    method_of(report, row).filter(|_| is_mixed).map(|method| match method {
        PhasesMethod::Measured => "readings",
        PhasesMethod::Regression => "fit",
        PhasesMethod::TimeShare => "time",
    })
}

/// A phase's own method, or the record's if it has none by phase.
fn method_of(report: &Report, row: &PhaseRow) -> Option<PhasesMethod> {
    row.method.or(report.phases_method)
}

fn in_words(method: PhasesMethod) -> &'static str {
    match method {
        PhasesMethod::Measured => "by each phase's own readings",
        PhasesMethod::Regression => "by a fit over many steps",
        PhasesMethod::TimeShare => "in proportion to time",
    }
}
