//! What a run was doing when: the phases that events tell, epochs and resumes, behind whatever is drawn over time.
//!
//! Spans of time are not kept in the run directory. But the device is synchronized before and after everything that
//! is no training step, so that the event before an evaluation's or a checkpoint's marks its beginning.

use wattle_runlog::{EventBody, Phase};

use crate::page::Source;
use crate::page::plot::Plot;

/// Phases that are shaded, with their class and their name.
pub(crate) const SHADED: [(Phase, &str, &str); 3] = [
    (Phase::Setup, "setup", "setup"),
    (Phase::Evaluate, "evaluate", "evaluation"),
    (Phase::Checkpoint, "checkpoint", "checkpoint"),
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
        for event in &source.run.events {
            let t = source.timeline.at(event.segment, event.t_ns).get();
            let is_first = before.is_none_or(|(segment, _)| segment != event.segment);
            let from = match before {
                Some((_, before)) if !is_first => before,
                _ => segment_start(source, event.segment),
            };
            match event.body {
                EventBody::Evaluate(_) => phases.push((Phase::Evaluate, from, t)),
                EventBody::Checkpoint { .. } => phases.push((Phase::Checkpoint, from, t)),
                EventBody::Epoch { .. } => epochs.push(t),
                // The first step is in it, where the run is one of few and long steps.
                EventBody::Step(_) if is_first => phases.push((Phase::Setup, from, t)),
                EventBody::Step(_) | EventBody::Stop { .. } => {}
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

fn segment_start(source: &Source<'_>, segment: u32) -> f64 {
    let start = source.timeline.segment(segment).map(|(start, _)| start);
    start.map_or(0.0, |start| source.timeline.at(segment, start).get())
}
