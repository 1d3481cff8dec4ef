//! What a run was doing when: the phases that events tell, epochs and resumes, behind whatever is drawn over time.
//!
//! Spans of time are not kept in the run directory. But the device is synchronized before and after everything that
//! is no training step, so that the event before an evaluation's or a checkpoint's marks its beginning.

use wattle_runlog::event::StepEvent;
use wattle_runlog::{EventBody, Phase};

use crate::join::step_times::step_ns;
use crate::page::Source;
use crate::page::plot::Plot;

/// Phases that are shaded, with their class and their name.
pub(crate) const SHADED: [(Phase, &str, &str); 4] = [
    (Phase::Setup, "setup", "setup"),
    (Phase::Evaluate, "evaluate", "evaluation"),
    (Phase::Checkpoint, "checkpoint", "checkpoint"),
    (Phase::Paused, "paused", "waiting for cleaner electricity"),
];

/// More shades or strokes would run together, and are left out.
const MANY: usize = 150;

/// What a run was doing when, over running time in seconds.
pub(crate) struct Course {
    phases: Vec<(Phase, f64, f64)>,
    epochs: Vec<f64>,
    resumes: Vec<f64>,
}

impl Course {
    /// The course of a run, from its events.
    pub(crate) fn of(source: &Source<'_>) -> Self {
        let (mut phases, mut epochs) = (Vec::new(), Vec::new());
        let mut before: Option<(u32, f64)> = None;
        let mut last_step = 0;
        let mut paused: Option<(u32, f64)> = None;
        for event in &source.run.events {
            let t = source.timeline.at(event.segment, event.t_ns).get();
            let is_first = before.is_none_or(|(segment, _)| segment != event.segment);
            let from = match before {
                Some((_, before)) if !is_first => before,
                _ => segment_start(source, event.segment),
            };
            match event.body {
                EventBody::Evaluate(_) | EventBody::Tasks { .. } | EventBody::Samples { .. } => {
                    phases.push((Phase::Evaluate, from, t));
                }
                // One that was written while training went on has no time of its own.
                EventBody::Checkpoint { step, .. } if step < last_step => {}
                EventBody::Checkpoint { .. } => phases.push((Phase::Checkpoint, from, t)),
                EventBody::Epoch { .. } => epochs.push(t),
                EventBody::Step(ref step) if is_first => {
                    phases.push((Phase::Setup, from, began(source, event.segment, step, t).max(from)));
                }
                EventBody::Pause { .. } => {
                    if is_first {
                        phases.push((Phase::Setup, from, t));
                    }
                    paused = Some((event.segment, t));
                }
                EventBody::Resume { .. } => {
                    let since = paused.take().filter(|(segment, _)| *segment == event.segment);
                    phases.extend(since.map(|(_, since)| (Phase::Paused, since, t)));
                }
                EventBody::Step(_) | EventBody::Stop { .. } => {}
            }
            if let EventBody::Step(ref step) = event.body {
                last_step = step.step;
            }
            before = Some((event.segment, t));
        }
        let resumes = source.timeline.resumes().into_iter().map(|t| t.get()).collect();
        let mut course = Self { phases, epochs, resumes };
        course.leave_out_many();
        course
    }

    /// Whether this phase is shaded.
    pub(crate) fn has(&self, phase: Phase) -> bool {
        self.phases.iter().any(|(shaded, ..)| *shaded == phase)
    }

    /// Whether ends of epochs are marked.
    pub(crate) fn has_epochs(&self) -> bool {
        !self.epochs.is_empty()
    }

    /// Whether the run was stopped and went on.
    pub(crate) fn has_resumes(&self) -> bool {
        !self.resumes.is_empty()
    }

    /// Draws it behind what is to come.
    pub(crate) fn draw(&self, plot: &mut Plot) {
        for (phase, class, _) in SHADED {
            for (_, from, to) in self.phases.iter().filter(|(shaded, ..)| *shaded == phase) {
                plot.shade(class, *from, *to);
            }
        }
        plot.rug("rug", self.epochs.iter().copied());
        self.resumes.iter().for_each(|t| plot.vertical("resume", *t));
    }

    fn leave_out_many(&mut self) {
        for (phase, ..) in SHADED {
            if self.phases.iter().filter(|(shaded, ..)| *shaded == phase).count() > MANY {
                self.phases.retain(|(shaded, ..)| *shaded != phase);
            }
        }
        if self.epochs.len() > MANY {
            self.epochs.clear();
        }
    }
}

/// When the work on a segment's first logged step began.
fn began(source: &Source<'_>, segment: u32, step: &StepEvent, t: f64) -> f64 {
    let before = source.run.manifest.segments.iter().find(|known| known.id == segment).map(|s| s.step_start);
    let n_steps = step.step.saturating_sub(before.unwrap_or(0));
    t - n_steps as f64 * step_ns(step).unwrap_or(0.0) / 1e9
}

fn segment_start(source: &Source<'_>, segment: u32) -> f64 {
    let start = source.timeline.segment(segment).map(|(start, _)| start);
    start.map_or(0.0, |start| source.timeline.at(segment, start).get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::report::Report;
    use crate::synthetic::SyntheticRun;

    /// Where training begins, and when the first step ends.
    fn starts(synthetic: &SyntheticRun) -> (f64, f64) {
        let dir = tempfile::tempdir().unwrap();
        let run = synthetic.write(dir.path());
        let report = Report::of(&run, None).unwrap();
        let source = Source::of(&report, &run);
        let setup =
            Course::of(&source).phases.into_iter().find(|(phase, ..)| *phase == Phase::Setup).unwrap();
        (setup.2, source.learning.steps[0].0.time_s.get())
    }

    #[test]
    fn setup_ends_where_training_starts_also_where_losses_were_read_late() {
        // Setup takes a second, each step a tenth; the losses of the first ten steps are read at 2 s.
        for is_read_late in [false, true] {
            let slow = SyntheticRun { setup_ms: 1_000, is_read_late, ..SyntheticRun::small() };
            let (began, first) = starts(&slow);
            assert!((began - 1.0).abs() < 1e-6 && (first - 1.1).abs() < 1e-6, "{began} {first}");
        }
    }
}
