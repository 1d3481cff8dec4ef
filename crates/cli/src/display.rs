//! What a person sees while a run goes on: bars on a terminal, lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use wattle_data::{FetchProgress, Stage};
use wattle_meter::Live;
use wattle_runlog::event::StepEvent;
use wattle_runlog::{GramsCo2e, Seconds};
use wattle_train::Plan;

use crate::humanize::{duration, grams, joules, si, watts};

/// Without a terminal, the time between two lines about steps.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bars or lines for one run.
pub struct Display {
    bars: MultiProgress,
    is_terminal: bool,
    /// The stage of preparation shown, and its bar.
    preparing: Option<(Stage, ProgressBar)>,
    /// The file that is fetched, and its bar.
    fetching: Option<(String, ProgressBar)>,
    training: Option<Training>,
    evaluating: Option<ProgressBar>,
}

struct Training {
    bar: ProgressBar,
    plan: Plan,
    first_step: u64,
    started: Instant,
    last_line: Instant,
    /// Time of a step, averaged over the last few dozen.
    step_seconds: Option<f64>,
}

/// What a line about steps says of energy.
#[derive(Clone, Copy, Debug)]
pub struct EnergyView {
    /// The meter's present figures.
    pub live: Live,
    /// Emissions since the start of this segment.
    pub emissions: GramsCo2e,
}

impl Display {
    /// A display that draws on `bars`, if that is a terminal and bars are wanted.
    pub fn new(bars: MultiProgress, is_terminal: bool) -> Self {
        Self { bars, is_terminal, preparing: None, fetching: None, training: None, evaluating: None }
    }

    /// Data preparation moved on.
    pub fn prepare(&mut self, progress: wattle_data::Progress) {
        if self.preparing.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            self.end_preparation();
            let label = stage_label(progress.stage);
            let bar = self.add_bar(progress.total, "{prefix:20} {bar:30} {percent:>3} %  {msg}");
            bar.set_prefix(label);
            if !self.is_terminal {
                tracing::info!("{label}");
            }
            self.preparing = Some((progress.stage, bar));
        }
        if let Some((_, bar)) = &self.preparing {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(si(progress.total as f64, progress.unit));
        }
    }

    /// A download moved on.
    pub fn fetch(&mut self, progress: &FetchProgress<'_>) {
        if self.fetching.as_ref().is_none_or(|(file, _)| *file != progress.file) {
            self.end_preparation();
            let template = match progress.total {
                Some(_) => {
                    "{prefix:20} {bar:30} {percent:>3} %  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
                }
                None => "{prefix:20} {spinner} {bytes}  {bytes_per_sec}",
            };
            let bar = self.add_bar(0, template);
            bar.set_prefix("fetching");
            if !self.is_terminal {
                tracing::info!("fetching {}", progress.file);
            }
            self.fetching = Some((progress.file.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.fetching {
            bar.set_length(progress.total.unwrap_or(progress.done));
            bar.set_position(progress.done);
        }
    }

    /// Data preparation is over.
    pub fn end_preparation(&mut self) {
        let bars = self.preparing.take().map(|(_, bar)| bar);
        bars.into_iter()
            .chain(self.fetching.take().map(|(_, bar)| bar))
            .for_each(|bar| bar.finish_and_clear());
    }

    /// Training begins after `step` finished updates.
    pub fn start_training(&mut self, plan: Plan, step: u64) {
        let template = "{prefix:12} {bar:30} {percent:>3} %  step {human_pos}/{human_len}  {msg}";
        let bar = self.add_bar(plan.total_steps, template);
        bar.set_position(step);
        bar.reset_eta();
        let now = Instant::now();
        self.training =
            Some(Training { bar, plan, first_step: step, started: now, last_line: now, step_seconds: None });
    }

    /// A step was handed to the device.
    pub fn at_step(&mut self, step: u64) {
        if let Some(training) = &self.training {
            training.bar.set_position(step);
        }
    }

    /// A step's loss is known.
    pub fn step(&mut self, event: &StepEvent, energy: Option<EnergyView>) {
        let Some(training) = &mut self.training else { return };
        training.average(event);
        let is_due = training.last_line.elapsed() >= LINE_EVERY;
        if !self.is_terminal && !is_due {
            return;
        }
        let line = training.describe(event, energy);
        training.bar.set_prefix(format!("epoch {}/{}", event.epoch, training.plan.n_epochs()));
        training.bar.set_message(line.replace('\n', "\n             "));
        if !self.is_terminal {
            training.last_line = Instant::now();
            let share = 100 * event.step / training.plan.total_steps;
            let line = line.replace('\n', " · ");
            tracing::info!("step {}/{} ({share} %) · {line}", event.step, training.plan.total_steps);
        }
    }

    /// An evaluation moved on.
    pub fn evaluate(&mut self, done: u64, total: u64) {
        if done == total {
            if let Some(bar) = self.evaluating.take() {
                bar.finish_and_clear();
            }
            return;
        }
        if self.evaluating.is_none() {
            let bar = self.add_bar(total, "{prefix:12} {bar:30} {percent:>3} %");
            bar.set_prefix("evaluating");
            self.evaluating = Some(bar);
        }
        if let Some(bar) = &self.evaluating {
            bar.set_position(done);
        }
    }

    /// Nothing more will be shown.
    pub fn finish(&mut self) {
        self.end_preparation();
        for bar in self.evaluating.take().into_iter().chain(self.training.take().map(|t| t.bar)) {
            bar.finish_and_clear();
        }
    }

    fn add_bar(&self, len: u64, template: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(template).expect("a template of our own");
        let bar = if self.is_terminal { ProgressBar::new(len) } else { ProgressBar::hidden() };
        self.bars.add(bar.with_style(style.progress_chars("━╸─")))
    }
}

impl Training {
    /// Takes a step into the moving average of their times. A single step is too short to tell a speed by.
    fn average(&mut self, event: &StepEvent) {
        const WEIGHT: f64 = 0.05;
        let seconds = self.plan.tokens_per_step as f64 / event.tokens_per_s;
        let average = self.step_seconds.map_or(seconds, |average| average + WEIGHT * (seconds - average));
        self.step_seconds = Some(average);
    }

    /// Time left, a line with loss and speed, and one with energy.
    fn describe(&self, event: &StepEvent, energy: Option<EnergyView>) -> String {
        let steps_left = self.plan.total_steps - event.step;
        let steps_done = (event.step - self.first_step).max(1);
        let seconds_left = self.started.elapsed().as_secs_f64() * steps_left as f64 / steps_done as f64;
        let tokens_per_s = self.step_seconds.map_or(f64::NAN, |s| self.plan.tokens_per_step as f64 / s);
        let mut line = format!(
            "{} left\nloss {:.3} · {:.0} % right · {}",
            duration(Seconds(seconds_left)),
            event.loss,
            event.accuracy * 100.0,
            si(tokens_per_s, "tokens/s"),
        );
        if let Some(EnergyView { live, emissions }) = energy {
            let tokens = (steps_done * self.plan.tokens_per_step) as f64;
            let energy_left = live.energy * (steps_left as f64 / steps_done as f64);
            let estimated = if live.measured_fraction < 0.5 { " (estimated)" } else { "" };
            let mut parts: Vec<String> =
                live.power.map(|power| format!("{}{estimated}", watts(power))).into_iter().collect();
            parts.push(si(live.energy.get() / tokens, "J/token"));
            parts.push(grams(emissions));
            parts.push(format!("{} left", joules(energy_left)));
            line += &format!("\n{}", parts.join(" · "));
        }
        line
    }
}

fn stage_label(stage: Stage) -> &'static str {
    match stage {
        Stage::Generating => "writing tales",
        Stage::Counting => "reading text",
        Stage::TrainingTokenizer => "training tokenizer",
        Stage::Tokenizing => "tokenizing",
    }
}
