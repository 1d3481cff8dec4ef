//! What a person sees while a run goes on: bars on a terminal, lines elsewhere.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use wattle_data::{FetchProgress, Stage};
use wattle_report::words::describe::per_ktoken;
use wattle_report::words::quantity::{duration, grams, joules, si, watts};
use wattle_report::words::table::wrap;
use wattle_runlog::Joules;
use wattle_runlog::event::StepEvent;
use wattle_session::listener::EnergyView;
use wattle_session::pace::{Pace, Rate};
use wattle_train::Plan;

/// Without a terminal, the time between two lines about steps.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// On a terminal, the time between two texts: more often nobody can read them.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What begins a line below a bar, under its first column.
const NEXT_LINE: &str = "\n             ";
/// How wide such a line may be on a terminal of 80 columns.
const MESSAGE_WIDTH: usize = 67;

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
    /// The newest step whose loss is known.
    latest: Option<StepEvent>,
    last_line: Instant,
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
        let template = "{prefix:12} {bar:20} {percent:>3} %  step {human_pos}/{human_len}  {msg}";
        let bar = self.add_bar(plan.total_steps, template);
        bar.set_position(step);
        bar.reset_eta();
        self.training = Some(Training { bar, plan, latest: None, last_line: Instant::now() });
    }

    /// So many updates have been made.
    pub fn at_step(&mut self, step: u64) {
        if let Some(training) = &self.training {
            training.bar.set_position(step);
        }
    }

    /// A step's loss is known.
    pub fn step(&mut self, event: &StepEvent) {
        if let Some(training) = &mut self.training {
            training.latest = Some(event.clone());
        }
    }

    /// All steps that have ended are known. Shows where training is, now and then.
    pub fn told(&mut self, pace: &Pace, energy: Option<EnergyView>) {
        let Some(training) = &mut self.training else { return };
        let every = if self.is_terminal { DRAW_EVERY } else { LINE_EVERY };
        let is_first = self.is_terminal && training.bar.prefix().is_empty();
        if training.last_line.elapsed() < every && !is_first {
            return;
        }
        let Some(event) = &training.latest else { return };
        training.last_line = Instant::now();
        let lines = training.describe(event, pace, energy);
        if self.is_terminal {
            training.bar.set_prefix(format!("epoch {}/{}", event.epoch, training.plan.n_epochs()));
            training.bar.set_message(lines.join(NEXT_LINE).trim_end().to_owned());
        } else {
            let share = 100 * event.step / training.plan.total_steps;
            let line = lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" · ");
            tracing::info!("step {}/{} ({share} %) · {line}", event.step, training.plan.total_steps);
        }
    }

    /// Training waits. Without a terminal the log says so.
    pub fn pause(&mut self, why: &str) {
        let Some(training) = &self.training else { return };
        training.bar.set_prefix("paused");
        let lines = std::iter::once(String::new()).chain(wrap(why, MESSAGE_WIDTH));
        training.bar.set_message(lines.collect::<Vec<_>>().join(NEXT_LINE));
    }

    /// Training goes on.
    pub fn unpause(&mut self) {
        let Some(training) = &self.training else { return };
        training.bar.set_prefix("");
        training.bar.set_message("");
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
    /// Time left; loss and what the run has used; speed and energy of one window.
    fn describe(&self, event: &StepEvent, pace: &Pace, energy: Option<EnergyView>) -> [String; 3] {
        let steps_left = self.plan.total_steps.saturating_sub(event.step);
        let (recent, steady) = (pace.recent(), pace.steady());
        let time_left = steady.map(|rate| format!("{} left", duration(rate.time_of(steps_left))));
        [
            time_left.unwrap_or_default(),
            learnt_and_used(event, energy.as_ref()),
            speed_and_energy(
                // Those that are learnt: on average where steps differ.
                event.tokens / event.step.max(1),
                recent.as_ref(),
                steady.and_then(|rate| Some(rate.energy_per_step()? * steps_left as f64)),
                energy.is_some_and(|energy| energy.is_estimated),
            ),
        ]
    }
}

/// `loss 4.123 · 31 % right · so far 1.23 kJ, 123 mgCO2e`, the last two of the whole run.
fn learnt_and_used(event: &StepEvent, energy: Option<&EnergyView>) -> String {
    let mut line = format!("loss {:.3} · {:.0} % right", event.loss, event.accuracy * 100.0);
    if let Some(EnergyView { used, .. }) = energy {
        line += &format!(" · so far {}, {}", joules(used.energy), grams(used.emissions));
    }
    line
}

/// `12.3 ktokens/s · 85.0 W est. · 6.91 J/ktoken · 1.50 kJ left`.
fn speed_and_energy(
    tokens_per_step: u64,
    recent: Option<&Rate>,
    energy_left: Option<Joules>,
    is_estimated: bool,
) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = recent {
        parts.push(si(rate.steps_per_s() * tokens_per_step as f64, "tokens/s"));
        let estimated = if is_estimated { " est." } else { "" };
        parts.extend(rate.power().map(|power| format!("{}{estimated}", watts(power))));
        parts.extend(rate.energy_per_step().map(|energy| per_ktoken(energy, tokens_per_step)));
    }
    parts.extend(energy_left.map(|energy| format!("{} left", joules(energy))));
    parts.join(" · ")
}

fn stage_label(stage: Stage) -> &'static str {
    match stage {
        Stage::Generating => "writing tales",
        Stage::Counting => "reading text",
        Stage::TrainingTokenizer => "training tokenizer",
        Stage::Tokenizing => "tokenizing",
        Stage::Verifying => "verifying tokens",
    }
}

#[cfg(test)]
mod tests {
    use wattle_runlog::{GramsCo2e, MonotonicNs, Seconds};

    use super::*;
    use wattle_meter::Used;
    use wattle_session::pace::Point;

    /// A run of 1,000 steps of 4,096 tokens that goes on from step 500, which earlier processes took 50 kJ for.
    fn resumed() -> (Training, Pace) {
        let plan = Plan { steps_per_epoch: 1000, total_steps: 1000, tokens_per_step: 4096 };
        let mut pace = Pace::default();
        for batch in 0..=20u32 {
            let seconds = f64::from(batch);
            pace.note(Point {
                t: MonotonicNs::default().after(Seconds(100.0 + seconds)),
                step: 501 + u64::from(batch) * 10,
                energy: Some(Joules(2000.0 + 700.0 * seconds)),
            });
        }
        (Training { bar: ProgressBar::hidden(), plan, latest: None, last_line: Instant::now() }, pace)
    }

    fn event(step: u64) -> StepEvent {
        StepEvent {
            step,
            epoch: 1,
            tokens: step * 4096,
            loss: 3.25,
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens_per_s: 1.0,
            accuracy: 0.314,
        }
    }

    fn view(is_estimated: bool) -> EnergyView {
        let used = Used {
            energy: Joules(66_000.0),
            facility_kwh: 66_000.0 / 3.6e6,
            emissions: GramsCo2e(8.14),
            cost: None,
            priced: Joules(66_000.0),
        };
        EnergyView { is_estimated, used }
    }

    #[test]
    fn totals_are_the_runs_and_rates_the_processs_and_one_window_has_them_all() {
        let (training, pace) = resumed();
        let lines = training.describe(&event(701), &pace, Some(view(false)));
        // 10 steps a second and 70 J a step; 299 steps are left.
        assert_eq!(
            lines,
            [
                "29.9 s left",
                "loss 3.250 · 31 % right · so far 66.0 kJ, 8.14 gCO2e",
                "41.0 ktokens/s · 700 W · 17.1 J/ktoken · 20.9 kJ left",
            ]
        );
    }

    #[test]
    fn lines_fit_a_terminal_of_80_columns() {
        let (training, pace) = resumed();
        for line in training.describe(&event(701), &pace, Some(view(true))) {
            assert!(13 + line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_pause_is_shown_with_its_reason_and_goes_away_again() {
        let (training, _) = resumed();
        let mut display = Display::new(MultiProgress::new(), true);
        display.training = Some(training);
        let shown = |display: &Display| {
            let bar = &display.training.as_ref().unwrap().bar;
            (bar.prefix(), bar.message())
        };
        display.pause("paused at 500 g/kWh, above grid.pause_above_g = 200; 90 are forecast for 06:49 UTC");
        let (prefix, message) = shown(&display);
        assert_eq!(prefix, "paused");
        assert!(
            message
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains("90 are forecast for 06:49 UTC")
        );
        assert!(message.lines().all(|line| line.chars().count() <= 80), "{message}");
        display.unpause();
        assert_eq!(shown(&display), (String::new(), String::new()));
    }

    #[test]
    fn nothing_is_forecast_from_one_step_or_without_a_meter() {
        let (training, _) = resumed();
        let mut pace = Pace::default();
        pace.note(Point { t: MonotonicNs::default(), step: 501, energy: None });
        let lines = training.describe(&event(501), &pace, None);
        assert_eq!(lines, ["", "loss 3.250 · 31 % right", ""]);
    }
}
