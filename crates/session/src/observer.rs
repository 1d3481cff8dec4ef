//! The trainer's observer: writes events, reads the meter, enforces the budget and tells the listener.

use std::time::{Duration, Instant};

use wattle_data::{EntropyFloor, SplitManifest};
use wattle_report::words::describe::describe_energy;
use wattle_report::words::quantity::{duration, joules};
use wattle_runlog::beside::Projected;
use wattle_runlog::event::EvaluateEvent;
use wattle_runlog::{
    Event, EventBody, Joules, LineFile, MonotonicNs, Phase, Record, RunDir, RunlogError, Sample, Span,
    SpanClock, StopReason, TaskScores, Watts,
};
use wattle_train::error::ObserverError;
use wattle_train::{Directive, Draft, Edge, ExtraFile, KERNELS_FILE, Observer, Plan, Progress};

use crate::budget::Budget;
use crate::ending::Ending;
use crate::grid::{GridBeside, Pause, RunNow};
use crate::listener::{EnergyView, Listener};
use crate::metering::Metering;
use crate::model_card::ModelCard;
use crate::pace::{Pace, Point};

/// The longest time for which a power failure can take events away. A killed process loses none.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// Characters of a sample that the log shows; `events.jsonl` has all of it.
const MAX_SAMPLE: usize = 200;

/// Listens to one run.
pub struct RunObserver<'a> {
    /// The run's directory.
    pub dir: &'a RunDir,
    /// The run's segment.
    pub segment: u32,
    /// `events.jsonl`
    pub events: LineFile,
    /// The meter.
    pub metering: Metering,
    /// The grid, if it is asked.
    pub grid: Option<GridBeside>,
    /// Who follows the session.
    pub listener: &'a mut dyn Listener,
    /// Whether the run is asked to stop.
    pub is_asked_to_stop: &'a dyn Fn() -> bool,
    /// The `budget` section.
    pub budget: Budget,
    /// What the run's end will take.
    pub ending: Ending,
    /// Speed and power.
    pub pace: Pace,
    /// When this process began to meter.
    pub started: MonotonicNs,
    /// What is written into a checkpoint's README.md besides figures.
    pub card: ModelCard,
    /// `kernels.json` of the run, which its checkpoints keep.
    pub kernels: Option<String>,
    /// What is known of the validation split.
    pub validation: Validation,
    /// What has been learnt of the run so far.
    pub seen: Seen,
}

/// What is known of the validation split.
pub struct Validation {
    /// Its size, if there is one.
    pub split: Option<SplitManifest>,
    /// Its entropy, if it was generated.
    pub floor: Option<EntropyFloor>,
    /// The steps ahead.
    pub plan: Plan,
    /// `evaluate.every_steps`
    pub every_steps: u64,
    /// Whether the model is scored on tasks, or goes on from prompts.
    pub examines: bool,
}

impl Validation {
    /// Whether there is an evaluation right after this step.
    fn is_due_after(&self, step: u64) -> bool {
        (self.split.is_some() || self.examines) && self.plan.evaluates_after(step, self.every_steps)
    }
}

/// What has been learnt of the run so far.
#[derive(Default)]
pub struct Seen {
    /// The latest evaluation.
    pub evaluation: Option<EvaluateEvent>,
    /// The latest scores on tasks.
    pub tasks: Vec<TaskScores>,
    /// The latest training loss.
    pub train_loss: Option<f32>,
    /// Updates that were handed to the device.
    queued_step: u64,
    /// Those of them that are not known to have ended.
    in_flight: u64,
    /// The record of the epoch that just ended, for its checkpoint.
    record: Option<Record>,
    /// The record of the whole run.
    pub whole: Option<Record>,
    /// What went wrong with a file that an edge writes; told at the next event.
    failure: Option<RunlogError>,
    synced: Option<Instant>,
}

impl Seen {
    /// Nothing yet, of a run that goes on after `step` finished updates.
    pub fn from_step(step: u64) -> Self {
        Self { queued_step: step, ..Self::default() }
    }
}

impl RunObserver<'_> {
    /// What there is to say if the budget does not allow another step.
    fn over_budget(&mut self) -> Option<String> {
        if !self.budget.is_set() {
            return None;
        }
        let next = self.seen.queued_step + 1;
        let ahead =
            self.ending.after_one_more(&self.pace, self.seen.in_flight, self.validation.is_due_after(next));
        self.budget.end(&self.metering.used(), ahead)
    }

    /// All steps up to `step`, which ended at `t`, have been told.
    fn told(&mut self, step: u64, t: MonotonicNs) {
        let live = self.metering.live();
        let used = self.metering.used_by(live);
        self.pace.note(Point { t, step, energy: live.map(|live| live.energy) });
        self.budget.note(step, &used);
        let energy = live.map(|live| EnergyView { is_estimated: live.measured_fraction < 0.5, used });
        self.listener.told(&self.pace, energy);
    }

    /// Steps go on after an evaluation or a checkpoint.
    fn resumed(&mut self) {
        let energy = self.metering.live().map(|live| live.energy);
        self.pace.resume(MonotonicNs::now(), energy);
    }

    /// Notes at an edge what is needed to know what the run's end will take.
    fn note_edge(&mut self, edge: Edge) {
        let Some(used) = self.metering.live().map(|live| live.energy) else { return };
        match edge {
            Edge::Start => {
                let t = MonotonicNs::now();
                self.ending.start(used, t.since(self.started));
                self.pace.start(Point { t, step: self.seen.queued_step, energy: Some(used) });
            }
            Edge::EvaluateStart => self.ending.before_evaluation(used),
            Edge::EvaluateEnd => self.ending.after_evaluation(used),
            Edge::Epoch { .. } | Edge::Checkpoint { .. } => self.ending.before_checkpoint(used),
            Edge::Stop { .. } => {}
        }
    }

    /// Says, if so, that the run will not fit into its budget.
    fn warn_of_budget(&mut self, step: u64) {
        if !self.budget.is_set() {
            return;
        }
        let ending = self.after_last_step();
        if let Some(warning) = self.budget.warning(step, &self.metering.used(), ending) {
            tracing::warn!("{warning}");
        }
    }

    /// What the whole run is expected to use, for a record that ends after `step`; `None` without a meter.
    fn projected(&mut self, step: u64) -> Option<Projected> {
        self.metering.live()?;
        let (used, ending) = (self.metering.used(), self.after_last_step());
        self.budget.projected(step, &used, ending)
    }

    /// What comes after the run's last step.
    fn after_last_step(&self) -> Joules {
        let last = self.validation.plan.total_steps;
        self.ending.after_last(&self.pace, self.validation.is_due_after(last))
    }

    /// Notes what is new of the grid.
    fn learn_of_grid(&mut self) {
        let Some(grid) = &mut self.grid else { return };
        match grid.learn() {
            Ok(true) => self.metering.set_grid(grid.known()),
            Ok(false) => {}
            Err(failure) => self.seen.failure = Some(failure),
        }
    }

    /// Whether training waits now. A pause begins once no step is in flight, so at the second time of asking.
    fn waits(&mut self) -> bool {
        let Some(grid) = &mut self.grid else { return false };
        let (pace, metering) = (&self.pace, &self.metering);
        let steps_left = self.validation.plan.total_steps.saturating_sub(self.seen.queued_step);
        let run = || RunNow {
            left: pace.steady().map(|rate| (rate.time_of(steps_left), rate.power().unwrap_or(Watts(1.0)))),
            used: metering.live().map(|live| live.energy),
        };
        let wait = grid.decide(&run);
        match (wait, grid.pause_mut()) {
            (None, _) => {
                self.end_pause();
                false
            }
            (Some(wait), pause @ None) => {
                *pause = Some(Pause { wait, begun: None });
                true
            }
            (Some(wait), Some(pause)) => {
                let is_new = pause.begun.is_none() || pause.wait.until != wait.until;
                let is_other = pause.wait.why != wait.why;
                pause.wait = wait;
                if is_new || is_other {
                    self.say_pause(is_new);
                }
                // Each joule of the pause is priced at its moment.
                self.metering.used();
                true
            }
        }
    }

    /// A pause begins, or there is something else to say of it than before; `is_logged` if it waits for another time.
    fn say_pause(&mut self, is_logged: bool) {
        let Some(pause) = self.grid.as_mut().and_then(|grid| grid.pause_mut().as_mut()) else { return };
        let (wait, is_new) = (pause.wait.clone(), pause.begun.is_none());
        if is_logged {
            tracing::info!("{}", wait.why);
        }
        self.listener.paused(&wait.why);
        if is_new {
            self.metering.edge();
            let t = MonotonicNs::now();
            pause.begun = Some((t, self.metering.live().map(|live| live.energy)));
            let (step, reason, g_per_kwh) = (self.seen.queued_step, wait.reason, wait.intensity);
            self.write_between(t, EventBody::Pause { step, reason, g_per_kwh });
        }
    }

    /// Training goes on, or ends, after a pause, if there was one.
    fn end_pause(&mut self) {
        let pause = self.grid.as_mut().and_then(|grid| grid.pause_mut().take());
        let Some((from, before)) = pause.and_then(|pause| pause.begun) else { return };
        self.metering.edge();
        let to = MonotonicNs::now();
        let used = self.metering.live().map(|live| live.energy);
        let energy = used.zip(before).map_or(Joules::ZERO, |(used, before)| used - before);
        let step = self.seen.queued_step;
        self.metering.span(Span {
            segment: self.segment,
            step: step + 1,
            phase: Phase::Paused,
            start_ns: from,
            end_ns: to,
            clock: SpanClock::Host,
            error_ns: 0,
            overlaps: false,
        });
        self.pace.pause(to.since(from), energy);
        self.budget.pause(energy);
        self.write_between(to, EventBody::Resume { step });
        self.listener.unpaused();
        tracing::info!(
            "after a pause of {}, in which {} were used",
            duration(to.since(from)),
            joules(energy)
        );
    }

    /// Writes an event where the trainer asks for no result; what goes wrong is told at the next event.
    fn write_between(&mut self, t: MonotonicNs, body: EventBody) {
        let written = self.events.append(&Event::new(self.segment, t, body).to_json());
        if let Err(failure) = written.and_then(|()| self.events.sync()) {
            self.seen.failure = Some(failure);
        }
    }

    fn write(&mut self, t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        if let Some(failure) = self.seen.failure.take() {
            return Err(Box::new(failure));
        }
        let is_step = matches!(body, EventBody::Step(_));
        self.events.append(&Event::new(self.segment, t, body).to_json())?;
        if !is_step || self.seen.synced.is_none_or(|synced| synced.elapsed() >= SYNC_EVERY) {
            self.events.sync()?;
            self.seen.synced = Some(Instant::now());
        }
        Ok(())
    }

    /// Looks whether the run's files are still those that are written and locked. What was removed is put back and said.
    fn keep_files(&mut self) -> Result<(), RunlogError> {
        if self.dir.keep_lock()? {
            let lock = self.dir.path().join("run.lock");
            tracing::warn!("{} was removed or replaced; it is there again and locked", lock.display());
        }
        let grid = self.grid.as_mut().map_or(Ok(None), GridBeside::keep_log)?;
        for said in [self.events.keep()?, self.metering.keep_records()?, grid].into_iter().flatten() {
            tracing::warn!("{said}");
        }
        Ok(())
    }

    fn end_epoch(&mut self, epoch: u64, complete: bool, step: u64, tokens: u64) {
        self.warn_of_budget(step);
        let projection = self.projected(step);
        match self.metering.end_epoch(epoch, complete, step, tokens, projection) {
            Ok(record) => {
                self.say_epoch(epoch, complete, record.as_ref());
                self.seen.record = record;
            }
            Err(failure) => self.seen.failure = Some(failure),
        }
    }

    /// One line that a person can read.
    fn say_epoch(&self, epoch: u64, complete: bool, record: Option<&Record>) {
        let mut parts = vec![format!("epoch {epoch}{}", if complete { "" } else { " (partial)" })];
        match &self.seen.evaluation {
            Some(evaluation) => parts.extend(self.describe_loss(evaluation)),
            None => parts.extend(self.seen.train_loss.map(|loss| format!("training loss {loss:.3}"))),
        }
        parts.extend(self.seen.tasks.iter().filter_map(describe_task));
        match record {
            Some(record) => parts.extend(describe_energy(record)),
            None => parts.push("energy not known".to_owned()),
        }
        tracing::info!("{}", parts.join(" · "));
    }

    fn describe_loss(&self, evaluation: &EvaluateEvent) -> Vec<String> {
        let Validation { split, floor, .. } = &self.validation;
        let beside = |floor: Option<f64>| floor.map_or(String::new(), |floor| format!(" (floor {floor:.3})"));
        let mut parts = vec![format!(
            "loss {:.3}{}",
            evaluation.loss,
            beside(floor.as_ref().map(EntropyFloor::nats_per_token))
        )];
        if let Some(split) = split.as_ref().filter(|_| evaluation.bits_per_byte.is_finite()) {
            let bits_per_char = evaluation.bits_per_byte * split.bytes as f64 / split.chars as f64;
            let floor = floor.as_ref().map(EntropyFloor::bits_per_char);
            parts.push(format!("{bits_per_char:.3} bits/char{}", beside(floor)));
        }
        parts.push(format!("{:.1} % right", evaluation.accuracy * 100.0));
        parts.extend(evaluation.sources.iter().map(|source| format!("{} {:.3}", source.name, source.loss)));
        parts
    }
}

/// `pets acc 57.3 %`
fn describe_task(task: &TaskScores) -> Option<String> {
    let score = task.score(None)?;
    Some(format!("{} {} {:.1} %", task.task, score.metric, score.value * 100.0))
}

fn say_sample(Sample { prompt, text }: &Sample) {
    let shown: String = text.chars().take(MAX_SAMPLE).collect();
    let more = if shown.len() < text.len() { " …" } else { "" };
    tracing::info!("{prompt:?} → {shown:?}{more}");
}

impl Observer for RunObserver<'_> {
    fn event(&mut self, t: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        match &body {
            EventBody::Step(step) => {
                self.seen.train_loss = Some(step.loss);
                self.listener.step(step, self.metering.used());
            }
            EventBody::Evaluate(evaluation) => {
                self.seen.evaluation = Some(evaluation.clone());
                self.listener.evaluated(evaluation, self.metering.used());
            }
            EventBody::Tasks { tasks, .. } => self.seen.tasks.clone_from(tasks),
            EventBody::Samples { samples, .. } => samples.iter().for_each(say_sample),
            EventBody::Checkpoint { path, best, .. } => {
                tracing::debug!("{path} is complete{}", if *best { ", the best so far" } else { "" });
                if let Some(live) = self.metering.live() {
                    self.ending.after_checkpoint(live.energy);
                }
                self.keep_files()?;
            }
            EventBody::Epoch { .. }
            | EventBody::Pause { .. }
            | EventBody::Resume { .. }
            | EventBody::Stop { .. } => {}
        }
        self.write(t, body)
    }

    fn span(&mut self, span: Span) {
        if span.phase == Phase::Checkpoint {
            self.ending.wrote(span.end_ns.since(span.start_ns), span.overlaps);
            if !span.overlaps {
                self.resumed();
            }
        }
        self.metering.span(span);
    }

    fn edge(&mut self, edge: Edge) {
        self.learn_of_grid();
        match edge {
            Edge::Epoch { epoch, complete, step, tokens } => self.end_epoch(epoch, complete, step, tokens),
            Edge::Checkpoint { epoch, step, tokens } => {
                let projection = self.projected(step);
                self.seen.record = self.metering.at_checkpoint(epoch, step, tokens, projection);
            }
            Edge::Stop { step, tokens, reason } => {
                self.listener.ended();
                let is_over = matches!(reason, StopReason::Done | StopReason::EarlyStop | StopReason::Budget);
                match self.metering.finish(is_over, step, tokens) {
                    Ok(whole) => self.seen.whole = whole,
                    Err(failure) => self.seen.failure = Some(failure),
                }
            }
            // A reading at the boundary makes the figures of what lies between two of them good.
            Edge::Start | Edge::EvaluateStart | Edge::EvaluateEnd => {
                self.metering.edge();
            }
        }
        self.note_edge(edge);
        if edge == Edge::EvaluateEnd {
            self.resumed();
        }
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Step { step, in_flight } => {
                (self.seen.queued_step, self.seen.in_flight) = (step, in_flight);
                self.listener.at_step(step - in_flight);
            }
            Progress::Told { step, t } => self.told(step, t),
            Progress::Evaluate { done, total } => self.listener.evaluating(done, total),
        }
    }

    fn directive(&mut self) -> Directive {
        self.learn_of_grid();
        if (self.is_asked_to_stop)() {
            self.end_pause();
            self.listener.stopping();
            return Directive::Stop(StopReason::Signal);
        }
        if let Some(why) = self.over_budget() {
            self.end_pause();
            tracing::info!("{why}");
            return Directive::Stop(StopReason::Budget);
        }
        if self.waits() { Directive::Pause } else { Directive::Continue }
    }

    fn before_commit(&mut self, draft: &Draft) -> Vec<ExtraFile> {
        let record = self.seen.record.as_ref();
        let emissions = self.metering.emissions_json(record);
        let card = self.card.to_markdown(draft, self.seen.evaluation.as_ref(), record);
        let mut files = vec![("emissions.json", emissions), ("README.md", card)];
        files.extend(self.kernels.clone().map(|kernels| (KERNELS_FILE, kernels)));
        let file =
            |(name, text): (&str, String)| ExtraFile { name: name.to_owned(), bytes: text.into_bytes() };
        files.into_iter().map(file).collect()
    }
}
