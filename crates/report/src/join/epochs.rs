//! The table of epochs: what each learnt and what it cost, in rows that add up to the run.

use serde::Serialize;
use wattle_runlog::record::RecordKind;
use wattle_runlog::{GramsCo2e, Joules, Record, Seconds};

use crate::join::learning::Learning;
use crate::join::run::Run;

/// One stretch of a run.
#[derive(Clone, Debug, Serialize)]
pub struct EpochRow {
    /// The epoch, counted from 1; null for what came after the last.
    pub epoch: Option<u64>,
    /// The segment.
    pub segment: u32,
    /// What the stretch was: an epoch, an interrupted tail, or the rest.
    pub kind: RowKind,
    /// Whether the epoch ran to its end.
    pub complete: bool,
    /// Updates made within it.
    pub steps: u64,
    /// Mean training loss of its steps.
    pub loss: Option<f64>,
    /// Validation loss at its end, or the last within it.
    pub val_loss: Option<f64>,
    /// Tokens trained on.
    pub tokens: u64,
    /// Its length.
    pub duration_s: Seconds,
    /// Energy.
    pub energy_j: Joules,
    /// 95 % half-width of its random error; null where nothing was measured, and for the rest, whose error no record
    /// states.
    pub energy_uncertainty_j: Option<Joules>,
    /// Share that was measured; null for the rest.
    pub measured_fraction: Option<f64>,
    /// Emissions.
    pub emissions_g: GramsCo2e,
    /// Cost; null without a tariff.
    pub cost: Option<f64>,
}

/// What a row of the table of epochs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// An epoch, or the part of it that lies in one segment.
    Epoch,
    /// The tail of a segment that was killed: its steps were done again.
    Interrupted,
    /// What a segment drew after its last step and record: its final checkpoint and shutdown.
    Stop,
    /// The same after the last epoch of the run.
    Rest,
}

impl EpochRow {
    /// Its name: `3`, `3 (part)`, `3 (lost)`, `3 (stop)`, `after`.
    pub(crate) fn name(&self) -> String {
        let epoch = self.epoch.map_or(String::new(), |epoch| epoch.to_string());
        match self.kind {
            RowKind::Epoch if self.complete => epoch,
            RowKind::Epoch => format!("{epoch} (part)"),
            RowKind::Interrupted => format!("{epoch} (lost)"),
            RowKind::Stop => format!("{epoch} (stop)"),
            RowKind::Rest => "after".to_owned(),
        }
    }
}

/// A row for each part of a run, and one for the rest.
pub(crate) fn rows(run: &Run, learning: &Learning, whole: Option<&Record>) -> Vec<EpochRow> {
    let parts = run.records.iter().filter(|record| record.kind.is_additive());
    let mut rows: Vec<_> = parts.map(|record| epoch_row(run, record, learning)).collect();
    let rest = whole.and_then(|whole| rest_row(whole, &rows));
    rows.extend(rest);
    rows
}

fn epoch_row(run: &Run, record: &Record, learning: &Learning) -> EpochRow {
    let (from, to) = (record.step_start, record.step_end);
    let kind = kind_of(run, record);
    let is_lost = kind == RowKind::Interrupted;
    EpochRow {
        epoch: record.epoch,
        segment: record.segment,
        kind,
        complete: record.complete,
        steps: to.saturating_sub(from),
        // The steps of a lost tail were done again, and their losses stand in that row.
        loss: learning.mean_loss(from, to).filter(|_| !is_lost),
        val_loss: learning.evaluation_within(from, to).filter(|_| !is_lost).map(|e| e.loss),
        tokens: record.tokens,
        duration_s: record.duration_s,
        energy_j: record.energy_j,
        energy_uncertainty_j: record.energy_uncertainty_j,
        measured_fraction: Some(record.measured_fraction),
        emissions_g: record.emissions_g,
        cost: record.cost.as_ref().map(|cost| cost.value),
    }
}

fn kind_of(run: &Run, record: &Record) -> RowKind {
    let (from, to) = (record.step_start, record.step_end);
    let is_done_again = run.manifest.segments.iter().any(|s| s.id > record.segment && s.step_start < to);
    match record.kind {
        RecordKind::Interrupted if to <= from => RowKind::Stop,
        RecordKind::Interrupted if is_done_again => RowKind::Interrupted,
        _ => RowKind::Epoch,
    }
}

/// What the whole run had beyond its rows; none if that is nothing.
fn rest_row(whole: &Record, rows: &[EpochRow]) -> Option<EpochRow> {
    let energy_j = whole.energy_j - rows.iter().map(|row| row.energy_j).sum();
    let seen: f64 = rows.iter().filter_map(|row| row.cost).sum();
    let tokens: u64 = rows.iter().map(|row| row.tokens).sum();
    let rest = EpochRow {
        epoch: None,
        segment: whole.segment,
        kind: RowKind::Rest,
        complete: whole.complete,
        steps: 0,
        loss: None,
        val_loss: None,
        tokens: whole.tokens.saturating_sub(tokens),
        duration_s: whole.duration_s - rows.iter().map(|row| row.duration_s).sum(),
        energy_j,
        energy_uncertainty_j: None,
        measured_fraction: None,
        emissions_g: whole.emissions_g - rows.iter().map(|row| row.emissions_g).sum(),
        cost: whole.cost.as_ref().map(|cost| cost.value - seen),
    };
    (energy_j.get() > 1e-9 * whole.energy_j.get()).then_some(rest)
}
