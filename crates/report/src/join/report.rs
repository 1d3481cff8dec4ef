//! A run, joined: what it was, what it learnt, what it cost. As JSON this is `wattle.report/1`.
//!
//! Units are in the names, as in records: `_j` joules, `_s` seconds, `_g` grams of CO₂-equivalent, `_w` watts.
//! Shares lie between 0 and 1. What a run does not hold is null or an empty list, never zero.

use serde::Serialize;
use wattle_meter::{IntensityTable, Ledger, LedgerOptions, Tariff};
use wattle_runlog::beside::{Embodied, MachineIdle, Projected};
use wattle_runlog::manifest::LossFloor;
use wattle_runlog::masked::Masked;
use wattle_runlog::record::{Carbon, Cost, PhasesMethod, RecordKind, Sci, SensorRecord};
use wattle_runlog::{Celsius, GramsCo2e, Joules, Phase, Record, Seconds, WallAnchor};

use crate::error::ReportError;
use crate::join::energy_curve::{EnergyCurve, final_record};
use crate::join::epochs::{self, EpochRow};
use crate::join::learning::{Evaluation, Learning, TaskEvaluation};
use crate::join::provenance::Provenance;
use crate::join::reprice::{self, Repriced};
use crate::join::run::Run;
use crate::join::status::Status;
use crate::join::timeline::Timeline;
use crate::join::waiting::Waiting;
use crate::join::{doubts, unmetered};
use crate::words::bounds::at_least;
use crate::words::flags::{self, FlagNote};
use crate::words::sensor_name::SensorNames;

/// Name and version of the format of a report.
pub const REPORT_SCHEMA: &str = "wattle.report/1";

/// A run, joined.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: &'static str,
    /// The run's id.
    pub run_id: String,
    /// `run.name`
    pub name: String,
    /// The run directory, as it was given.
    pub path: String,
    /// How it stands.
    pub status: Status,
    /// Training devices that no sensor measured. The figures exclude them.
    pub unmetered_devices: Vec<String>,
    /// Its start, RFC 3339 in UTC; null before the first segment.
    pub started_at: Option<String>,
    /// Finished updates.
    pub steps: u64,
    /// Where it came from.
    pub provenance: Provenance,
    /// Its configuration as it was resolved.
    pub config: toml::Table,
    /// Losses and accuracies.
    pub learning: Learnt,
    /// What it cost so far; null before the first record.
    pub totals: Option<Totals>,
    /// One row an epoch, an interrupted tail, and what came after the last of them. The rows add up to the totals.
    pub epochs: Vec<EpochRow>,
    /// Where the joules went.
    pub phases: Vec<PhaseRow>,
    /// How they were divided; null without spans.
    pub phases_method: Option<PhasesMethod>,
    /// What each sensor saw over the whole run.
    pub sensors: Vec<SensorRecord>,
    /// How hot the hottest board was at the start; null where none tells.
    pub start_temperature_c: Option<Celsius>,
    /// Flags of those figures, in words.
    pub flags: Vec<FlagNote>,
    /// Warnings about the figures, one sentence each, with numbers.
    pub doubts: Vec<String>,
    /// What metering itself took.
    pub overhead: Option<OverheadRow>,
    /// What pauses for cleaner electricity saved and cost; null without any.
    pub waiting: Option<Waiting>,
    /// The emissions priced again by another table; null unless that was asked for.
    pub repriced: Option<Repriced>,
    /// What was not as it should be, each a sentence.
    pub notes: Vec<String>,
}

/// Losses and accuracies.
#[derive(Clone, Debug, Serialize)]
pub struct Learnt {
    /// Mean training loss of the last logged steps, one in twenty of them.
    pub train_loss: Option<f64>,
    /// Every evaluation of the validation split, with its time and energy.
    pub evaluations: Vec<Evaluation>,
    /// The one with the lowest loss.
    pub best: Option<Evaluation>,
    /// The last one.
    pub last: Option<Evaluation>,
    /// Every time that the model was scored on tasks, in training or by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskEvaluation>,
}

/// What a run cost.
#[derive(Clone, Debug, Serialize)]
pub struct Totals {
    /// Running time.
    pub duration_s: Seconds,
    /// Tokens trained on, those of repeated steps counted once.
    pub tokens: u64,
    /// Energy of all sensors together, estimates included.
    pub energy_j: Joules,
    /// 95 % half-width of its random error; null where nothing was measured.
    pub energy_uncertainty_j: Option<Joules>,
    /// Bound on its systematic error: the sensors' bounds, each weighted by its energy.
    pub systematic_fraction: f64,
    /// Share of it that was measured.
    pub measured_fraction: f64,
    /// The same times the building's power usage effectiveness, in kilowatt-hours.
    pub facility_kwh: f64,
    /// Power usage effectiveness.
    pub pue: f64,
    /// Emissions.
    pub emissions_g: GramsCo2e,
    /// By which intensity.
    pub carbon: Carbon,
    /// Cost; null without a tariff.
    pub cost: Option<Cost>,
    /// Energy over tokens.
    pub joules_per_token: Option<f64>,
    /// Tokens that went through the model and were not learnt; absent where all were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked: Option<Masked>,
    /// Tokens that fill windows up beside packed documents; absent where none do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub padding: Option<Masked>,
    /// Software carbon intensity; null without tokens.
    pub sci: Option<Sci>,
    /// Share of the emissions of making the machine, not in `emissions_g`; null where they were not given.
    pub embodied: Option<Embodied>,
    /// What the whole machine would have drawn idle, not in `energy_j`; null where no constant is stated.
    pub machine_idle: Option<MachineIdle>,
    /// What a run that has not ended was expected to use, by its last record; null where that does not tell.
    pub projection: Option<Projected>,
    /// Energy that went into steps that had to be done again.
    pub wasted_j: Joules,
    /// Energy that the trace saw after the last record of a run that has not ended; not in `energy_j`.
    pub unrecorded_j: Joules,
    /// Most memory that the process held; null where it is not known.
    pub peak_memory_bytes: Option<u64>,
    /// Processor time of all segments together; null where it is not known of one.
    pub cpu_s: Option<Seconds>,
}

/// The joules of one phase.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseRow {
    /// The phase.
    pub phase: Phase,
    /// Its energy.
    pub energy_j: Joules,
    /// 95 % half-width of its error; null where it is unknown.
    pub energy_uncertainty_j: Option<Joules>,
    /// Its share of all.
    pub share: f64,
    /// The method behind its energy; null if records state none by phase.
    pub method: Option<PhasesMethod>,
}

/// What metering took.
#[derive(Clone, Debug, Serialize)]
pub struct OverheadRow {
    /// Processor time of the sampling thread.
    pub sampler_cpu_s: Seconds,
    /// The same over the running time: the share of one processor.
    pub share_of_a_cpu: f64,
    /// Rounds of readings.
    pub samples: u64,
    /// Rounds that came late.
    pub missed_deadlines: u64,
    /// Median time of a round.
    pub read_p50_us: Option<f64>,
    /// 99th percentile of the same.
    pub read_p99_us: Option<f64>,
}

impl Report {
    /// Joins a run's files; with a table of intensities, prices its emissions again.
    ///
    /// # Errors
    /// If the table does not cover the run, or the trace of a run that paused cannot be read.
    pub fn of(run: &Run, table: Option<&IntensityTable>) -> Result<Self, ReportError> {
        let timeline = Timeline::of(run);
        let curve = EnergyCurve::of(run, &timeline);
        let learning = Learning::of(run, &timeline, &curve);
        let whole = whole_run(run);
        let repriced = table.map(|table| reprice::by_table(run, table)).transpose()?;
        let manifest = &run.manifest;
        let epochs = epochs::rows(run, &learning, whole.as_ref());
        let names = SensorNames::of(&manifest.sensors, &manifest.devices);
        Ok(Self {
            schema: REPORT_SCHEMA,
            run_id: manifest.run_id.clone(),
            name: manifest.name.clone(),
            path: run.path.display().to_string(),
            status: Status::of(run),
            unmetered_devices: unmetered::devices(run),
            started_at: manifest.segments.first().map(|segment| segment.wall_anchor.clone()),
            steps: learning.steps.last().map_or(0, |(at, _)| at.step),
            provenance: Provenance::of(run),
            config: run.config.clone(),
            learning: Learnt::of(&learning),
            totals: whole.as_ref().map(|whole| Totals {
                cpu_s: cpu_time(run),
                projection: projection(run),
                ..Totals::of(whole, &curve)
            }),
            doubts: doubts::of(run, whole.as_ref(), &epochs, &names),
            epochs,
            phases: whole.as_ref().map_or_else(Vec::new, phase_rows),
            phases_method: whole.as_ref().and_then(|whole| whole.phases_method),
            sensors: whole.as_ref().map_or_else(Vec::new, |whole| whole.sensors.clone()),
            start_temperature_c: start_temperature(run),
            flags: flags::explain(&run.records),
            overhead: overhead(run, timeline.total()),
            waiting: Waiting::of(run)?,
            repriced,
            notes: notes(run, &learning),
        })
    }

    /// The entropy of the validation split, where it is known.
    pub fn floor(&self) -> Option<LossFloor> {
        self.provenance.data.as_ref()?.floor
    }

    /// The display names of its sensors.
    pub(crate) fn sensor_names(&self) -> SensorNames {
        SensorNames::of(&self.provenance.sensors, &self.provenance.devices)
    }

    /// A sentence naming the unmetered training devices; `None` if everything was metered.
    pub fn unmetered_words(&self) -> Option<String> {
        let devices = self.unmetered_devices.join(", ");
        let (are, it) = if self.unmetered_devices.len() > 1 { ("were", "them") } else { ("was", "it") };
        (!devices.is_empty()).then(|| {
            format!(
                "{devices} trained this run and {are} not metered: energy, emissions and cost are lower bounds that \
                 exclude {it}; set energy.gpus=\"used\" to meter {it}"
            )
        })
    }

    /// Whether every training device was metered, so that figures are whole.
    pub fn is_metered(&self) -> bool {
        self.unmetered_devices.is_empty()
    }

    /// Formats a figure of energy, emissions or cost, marked as a lower bound if a device was unmetered.
    pub(crate) fn at_least(&self, figure: String) -> String {
        at_least(self.is_metered(), figure)
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report is plain data")
    }
}

impl Learnt {
    fn of(learning: &Learning) -> Self {
        let last = learning.steps.last().map_or(0, |(at, _)| at.step);
        Self {
            train_loss: learning.mean_loss(last - last.div_ceil(20), last),
            evaluations: learning.evaluations.clone(),
            best: learning.best().cloned(),
            last: learning.evaluations.last().cloned(),
            tasks: learning.tasks.clone(),
        }
    }
}

impl Totals {
    fn of(whole: &Record, curve: &EnergyCurve<'_>) -> Self {
        let systematic: f64 = whole.sensors.iter().map(|s| s.energy_j.get() * s.systematic_fraction).sum();
        Self {
            duration_s: whole.duration_s,
            tokens: whole.tokens,
            energy_j: whole.energy_j,
            energy_uncertainty_j: whole.energy_uncertainty_j,
            systematic_fraction: systematic / whole.energy_j.get().max(f64::MIN_POSITIVE),
            measured_fraction: whole.measured_fraction,
            facility_kwh: whole.facility_kwh,
            pue: whole.pue,
            emissions_g: whole.emissions_g,
            carbon: whole.carbon.clone(),
            cost: whole.cost.clone(),
            joules_per_token: whole.joules_per_token,
            masked: whole.masked,
            padding: whole.padding,
            sci: whole.sci.clone(),
            embodied: whole.embodied,
            machine_idle: whole.machine_idle,
            projection: None,
            wasted_j: whole.cumulative.wasted_j,
            unrecorded_j: curve.unrecorded().energy,
            peak_memory_bytes: whole.resources.peak_memory_bytes,
            cpu_s: whole.resources.cpu_s,
        }
    }
}

/// The run so far as one record: its own last word, or its records added up by the books that wrote them.
fn whole_run(run: &Run) -> Option<Record> {
    if let Some(whole) = final_record(run) {
        return Some(whole.clone());
    }
    let last = run.records.iter().rfind(|record| record.kind.is_additive())?;
    let options = LedgerOptions {
        run_id: last.run_id.clone(),
        segment: last.segment,
        anchor: WallAnchor { wall_ns: 0, monotonic: last.start_ns.unwrap_or_default() },
        pue: last.pue,
        carbon: last.carbon.clone(),
        tariff: last.cost.as_ref().map(Tariff::of),
        devices: run.manifest.devices.len().max(1) as u32,
        trained_on: Vec::new(),
    };
    Some(Ledger::resume(options, &run.records).whole_run(false, last.resources, last.overhead))
}

/// What a run that has not ended was expected to use.
fn projection(run: &Run) -> Option<Projected> {
    let last = run.records.iter().rfind(|record| record.kind.is_additive())?;
    last.projection.filter(|_| final_record(run).is_none())
}

fn phase_rows(whole: &Record) -> Vec<PhaseRow> {
    let (mut phases, mut half_widths) = (whole.phases, whole.phases_uncertainty_j);
    let total = phases.total();
    let mut row = |phase: Phase| {
        let energy_j = *phases.get_mut(phase);
        // A phase that took energy cannot have an error of zero: it was not stated.
        let half_width = half_widths.as_mut().map(|widths| *widths.get_mut(phase));
        (energy_j > Joules::ZERO).then(|| PhaseRow {
            phase,
            energy_j,
            energy_uncertainty_j: half_width.filter(|half_width| *half_width > Joules::ZERO),
            share: energy_j / total,
            method: whole.phases_methods.get(&phase).copied(),
        })
    };
    let mut rows: Vec<_> = Phase::ALL.into_iter().filter_map(&mut row).collect();
    rows.sort_by(|a, b| b.energy_j.get().total_cmp(&a.energy_j.get()));
    rows
}

/// The last word of each segment: a segment counts from its own start.
fn last_words(run: &Run) -> impl Iterator<Item = Option<&Record>> {
    let ids = run.manifest.segments.iter().map(|segment| segment.id);
    ids.map(|id| run.records.iter().rfind(|r| r.segment == id && r.kind != RecordKind::Interrupted))
}

/// Processor time of all segments; a sum of which a part is not known is not known.
fn cpu_time(run: &Run) -> Option<Seconds> {
    let times: Option<Vec<Seconds>> = last_words(run).map(|record| record?.resources.cpu_s).collect();
    times.filter(|times| !times.is_empty()).map(|times| times.into_iter().sum())
}

/// The first temperature of the hottest board.
fn start_temperature(run: &Run) -> Option<Celsius> {
    let first = run.manifest.segments.first()?.id;
    let boards = run.power.temperatures.iter().filter(|sensor| sensor.segment == first);
    let starts = boards.filter_map(|sensor| sensor.readings.first().map(|(_, degrees)| *degrees));
    starts.reduce(|a, b| if b > a { b } else { a })
}

fn overhead(run: &Run, running: Seconds) -> Option<OverheadRow> {
    let last = run.records.last()?;
    let segments: Vec<_> = last_words(run).flatten().map(|record| record.overhead).collect();
    let sampler_cpu_s: Seconds = segments.iter().map(|overhead| overhead.sampler_cpu_s).sum();
    Some(OverheadRow {
        sampler_cpu_s,
        share_of_a_cpu: sampler_cpu_s.get() / running.get().max(f64::MIN_POSITIVE),
        samples: segments.iter().map(|overhead| overhead.samples).sum(),
        missed_deadlines: segments.iter().map(|overhead| overhead.missed_deadlines).sum(),
        read_p50_us: last.overhead.read_p50_us,
        read_p99_us: last.overhead.read_p99_us,
    })
}

fn notes(run: &Run, learning: &Learning) -> Vec<String> {
    let mut notes = run.notes.clone();
    let broken = learning.broken_steps();
    if broken > 0 {
        notes.push(format!("{broken} logged steps have a loss that is not a number"));
    }
    if learning.evaluations.is_empty() && !learning.steps.is_empty() {
        notes.push(
            "there is no evaluation: data.val_fraction is 0, or the run has not come to one".to_owned(),
        );
    }
    if run.power.sensors.is_empty() {
        notes.push("there is no power.trace: curves rise evenly between records".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::epochs::RowKind;
    use crate::synthetic::SyntheticRun;
    use wattle_runlog::StopReason;

    fn report(synthetic: &SyntheticRun) -> (Run, Report) {
        let dir = tempfile::tempdir().unwrap();
        let run = synthetic.write(dir.path());
        let report = Report::of(&run, None).unwrap();
        (run, report)
    }

    #[test]
    fn rows_add_up_to_the_totals() {
        for synthetic in [SyntheticRun::small(), SyntheticRun::resumed()] {
            let (_, report) = report(&synthetic);
            let totals = report.totals.unwrap();
            let rows: Joules = report.epochs.iter().map(|row| row.energy_j).sum();
            assert!((rows - totals.energy_j).get().abs() < 1e-9);
            let phases: Joules = report.phases.iter().map(|row| row.energy_j).sum();
            assert!((phases - totals.energy_j).get().abs() < 1e-6);
            assert_eq!(totals.tokens, 40 * 512);
        }
    }

    #[test]
    fn an_interrupted_tail_is_a_row_and_wasted() {
        let (_, report) = report(&SyntheticRun::resumed());
        assert_eq!(report.epochs[1].kind, RowKind::Interrupted);
        assert_eq!(report.epochs[1].loss, None);
        assert_eq!(report.totals.unwrap().wasted_j, report.epochs[1].energy_j);
    }

    #[test]
    fn a_run_without_its_last_word_is_added_up() {
        let whole = report(&SyntheticRun::small()).1.totals.unwrap();
        let (_, cut) = report(&SyntheticRun { stop: None, ..SyntheticRun::small() });
        assert_eq!(cut.status, Status::Interrupted);
        let totals = cut.totals.unwrap();
        assert!((totals.energy_j - whole.energy_j).get().abs() < 1e-9);
        assert_eq!(totals.tokens, whole.tokens);
        assert!((totals.emissions_g.get() - whole.emissions_g.get()).abs() < 1e-12);
    }

    /// Adds an idle segment and the record that opening it made for the previous one.
    fn resume_in_vain(dir: &std::path::Path) {
        let manifest = dir.join("manifest.json");
        let mut json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&manifest).unwrap()).unwrap();
        let mut idle = json["segments"][0].clone();
        idle["id"] = 1.into();
        idle["step_start"] = 40.into();
        json["segments"].as_array_mut().unwrap().push(idle);
        std::fs::write(&manifest, json.to_string()).unwrap();
        let path = dir.join("emissions.jsonl");
        let (mut records, read) = wattle_runlog::LineFile::open(&path, Record::from_json).unwrap();
        let kind = RecordKind::Interrupted;
        let tail = Record { kind, step_start: 40, complete: false, ..read.entries[1].clone() };
        records.append(&tail.to_json()).unwrap();
    }

    #[test]
    fn a_run_that_was_opened_again_in_vain_stays_what_it_was() {
        for stop in [StopReason::Done, StopReason::Signal, StopReason::Budget] {
            let dir = tempfile::tempdir().unwrap();
            let run = SyntheticRun { stop: Some(stop), ..SyntheticRun::small() }.write(dir.path());
            let before = Report::of(&run, None).unwrap();
            resume_in_vain(dir.path());
            let after = Report::of(&Run::open(dir.path()).unwrap(), None).unwrap();
            assert_eq!((after.status, after.provenance.segments.len()), (before.status, 1), "{stop:?}");
            if stop == StopReason::Done {
                assert_eq!(after.totals.unwrap().energy_j, before.totals.unwrap().energy_j);
                assert_eq!(after.epochs.len(), before.epochs.len());
            }
            assert!(
                after.notes.iter().any(|note| note.contains("without making a step")),
                "{:?}",
                after.notes
            );
        }
        let dir = tempfile::tempdir().unwrap();
        SyntheticRun { stop: None, ..SyntheticRun::small() }.write(dir.path());
        resume_in_vain(dir.path());
        let killed = Report::of(&Run::open(dir.path()).unwrap(), None).unwrap();
        assert_eq!((killed.status, killed.provenance.segments.len()), (Status::Interrupted, 2));
    }

    #[test]
    fn what_a_segment_drew_after_its_last_step_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun::resumed().write(dir.path());
        // Stopped after the checkpoint of step 20: the tail holds no step.
        run.records[1].step_end = 20;
        let report = Report::of(&run, None).unwrap();
        assert_eq!(report.epochs[1].kind, RowKind::Stop);
        assert!(crate::text::text(&report, crate::text::Bars::Blocks).contains("2 (stop)"));
    }

    #[test]
    fn a_run_that_goes_on_is_read_without_touching_it() {
        let dir = tempfile::tempdir().unwrap();
        SyntheticRun { stop: None, ..SyntheticRun::small() }.write(dir.path());
        let holder = wattle_runlog::RunDir::open(dir.path()).unwrap();
        let torn = dir.path().join("events.jsonl");
        let mut text = std::fs::read_to_string(&torn).unwrap();
        text.push_str(r#"{"schema":"wattle.eve"#);
        std::fs::write(&torn, &text).unwrap();
        let run = Run::open(dir.path()).unwrap();
        let report = Report::of(&run, None).unwrap();
        assert_eq!(report.status, Status::Running);
        assert_eq!(report.steps, 40);
        assert!(report.notes.is_empty(), "{:?}", report.notes);
        assert_eq!(std::fs::read_to_string(&torn).unwrap(), text);
        drop(holder);
        assert_eq!(Run::open(dir.path()).unwrap().notes.len(), 1);
    }

    #[test]
    fn a_run_that_has_just_begun_has_no_totals() {
        let dir = tempfile::tempdir().unwrap();
        SyntheticRun::small().write(dir.path());
        for file in ["events.jsonl", "emissions.jsonl", "power.trace"] {
            std::fs::remove_file(dir.path().join(file)).unwrap();
        }
        let report = Report::of(&Run::open(dir.path()).unwrap(), None).unwrap();
        assert!(report.totals.is_none() && report.epochs.is_empty() && report.steps == 0);
        serde_json::from_str::<serde_json::Value>(&report.to_json()).unwrap();
    }

    #[test]
    fn what_is_no_run_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = Run::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.json") && error.contains("--out"), "{error}");
    }
}
