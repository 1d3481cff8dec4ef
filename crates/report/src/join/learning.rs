//! What was learnt, and by when: steps and evaluations, each with its time and what the run had cost by then.
//!
//! Steps that a resume did again count once, as they were done the last time; what they cost the first time stays
//! in the joules, as a jump.

use serde::Serialize;
use wattle_runlog::event::{EvaluateEvent, SourceEvaluation, StepEvent};
use wattle_runlog::{EventBody, GramsCo2e, Joules, Sample, Seconds, TaskScores};

use crate::join::energy_curve::EnergyCurve;
use crate::join::run::Run;
use crate::join::timeline::Timeline;

/// Steps and evaluations of a run, in order.
#[derive(Clone, Debug, Default)]
pub struct Learning {
    /// Every logged step that counts.
    pub steps: Vec<(Moment, StepEvent)>,
    /// Every evaluation that counts, of the validation split.
    pub evaluations: Vec<Evaluation>,
    /// Every time that the model was scored on tasks, in training or by itself.
    pub tasks: Vec<TaskEvaluation>,
    /// Every time that the model went on from prompts.
    pub samples: Vec<(Moment, Vec<Sample>)>,
}

/// Scores on tasks, and when the model had them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskEvaluation {
    /// When.
    #[serde(flatten)]
    pub at: Moment,
    /// The scores of each task.
    pub tasks: Vec<TaskScores>,
}

/// A moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Moment {
    /// Finished updates.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Running time.
    pub time_s: Seconds,
    /// Energy spent.
    pub energy_j: Joules,
    /// Emissions.
    pub emissions_g: GramsCo2e,
}

/// An evaluation, and when it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// When.
    #[serde(flatten)]
    pub at: Moment,
    /// Mean cross-entropy in nats a token.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// Bits for each byte of the text.
    pub bits_per_byte: f64,
    /// Share of next tokens that were the model's first choice.
    pub accuracy: f64,
    /// Of a mixture: each source by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceEvaluation>,
}

impl Learning {
    /// What a run learnt.
    pub fn of(run: &Run, timeline: &Timeline, curve: &EnergyCurve<'_>) -> Self {
        let mut learning = Self::default();
        for event in &run.events {
            let step = match &event.body {
                EventBody::Step(step) => step.step,
                EventBody::Evaluate(evaluate) => evaluate.step,
                EventBody::Tasks { step, .. } | EventBody::Samples { step, .. } => *step,
                _ => continue,
            };
            if is_done_again(run, event.segment, step) {
                continue;
            }
            let spent = curve.at(event.segment, event.t_ns);
            let at = Moment {
                step,
                tokens: learning.steps.last().map_or(0, |(at, _)| at.tokens),
                time_s: timeline.at(event.segment, event.t_ns),
                energy_j: spent.energy,
                emissions_g: spent.emissions,
            };
            match &event.body {
                EventBody::Step(step) => {
                    learning.steps.push((Moment { tokens: step.tokens, ..at }, step.clone()));
                }
                EventBody::Evaluate(evaluate) if evaluate.split == "val" => {
                    learning.evaluations.push(Evaluation::new(at, evaluate));
                }
                EventBody::Tasks { tasks, .. } => {
                    learning.tasks.push(TaskEvaluation { at, tasks: tasks.clone() });
                }
                EventBody::Samples { samples, .. } => learning.samples.push((at, samples.clone())),
                _ => {}
            }
        }
        learning.add_results(run, timeline, curve);
        learning
    }

    /// Adds the scores of checkpoints that were evaluated by themselves, at the moment of the checkpoint.
    fn add_results(&mut self, run: &Run, timeline: &Timeline, curve: &EnergyCurve<'_>) {
        for result in &run.task_results {
            if is_done_again(run, result.segment, result.step) {
                continue;
            }
            let spent = curve.at(result.segment, result.t_ns);
            let seen = self.steps.partition_point(|(at, _)| at.step <= result.step);
            let at = Moment {
                step: result.step,
                tokens: seen.checked_sub(1).map_or(0, |last| self.steps[last].0.tokens),
                time_s: timeline.at(result.segment, result.t_ns),
                energy_j: spent.energy,
                emissions_g: spent.emissions,
            };
            self.tasks.push(TaskEvaluation { at, tasks: result.tasks.clone() });
        }
        self.tasks.sort_by_key(|evaluation| evaluation.at.step);
    }

    /// The evaluation with the lowest loss.
    pub fn best(&self) -> Option<&Evaluation> {
        let finite = self.evaluations.iter().filter(|evaluation| evaluation.loss.is_finite());
        finite.min_by(|a, b| a.loss.total_cmp(&b.loss))
    }

    /// Logged steps whose loss was not a number.
    pub fn broken_steps(&self) -> usize {
        self.steps.iter().filter(|(_, step)| !step.loss.is_finite()).count()
    }

    /// Mean training loss of the steps after `from` up to `to`; `None` without such steps.
    pub fn mean_loss(&self, from: u64, to: u64) -> Option<f64> {
        let first = self.steps.partition_point(|(at, _)| at.step <= from);
        let end = self.steps.partition_point(|(at, _)| at.step <= to);
        let losses = || self.steps[first..end.max(first)].iter().map(|(_, step)| f64::from(step.loss));
        let (n, sum) =
            losses().filter(|loss| loss.is_finite()).fold((0.0, 0.0), |(n, s), x| (n + 1.0, s + x));
        (n > 0.0).then(|| sum / n)
    }

    /// The last evaluation after step `from` up to step `to`.
    pub fn evaluation_within(&self, from: u64, to: u64) -> Option<&Evaluation> {
        self.evaluations.iter().rfind(|evaluation| (from + 1..=to).contains(&evaluation.at.step))
    }
}

impl Evaluation {
    fn new(at: Moment, event: &EvaluateEvent) -> Self {
        Self {
            at,
            loss: event.loss,
            perplexity: event.perplexity,
            bits_per_byte: event.bits_per_byte,
            accuracy: event.accuracy,
            sources: event.sources.clone(),
        }
    }
}

/// Whether a later segment began before this step and so did it again.
fn is_done_again(run: &Run, segment: u32, step: u64) -> bool {
    run.manifest.segments.iter().any(|later| later.id > segment && step > later.step_start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;

    fn learning(run: &Run) -> Learning {
        let timeline = Timeline::of(run);
        Learning::of(run, &timeline, &EnergyCurve::of(run, &timeline))
    }

    #[test]
    fn a_step_done_again_counts_once_and_its_joules_stay() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::resumed().write(dir.path());
        let learning = learning(&run);
        let steps: Vec<_> = learning.steps.iter().map(|(at, _)| at.step).collect();
        assert_eq!(steps, (1..=40).collect::<Vec<_>>());
        let rises = |pair: &[(Moment, StepEvent)]| pair[0].0.energy_j <= pair[1].0.energy_j;
        assert!(learning.steps.windows(2).all(rises));
        // Steps 21 to 25 were lost with the first segment, at the power of step 6.
        let jump = |i: usize| (learning.steps[i].0.energy_j - learning.steps[i - 1].0.energy_j).get();
        assert!((jump(20) / jump(5) - 6.0).abs() < 0.3, "{} {}", jump(20), jump(5));
    }

    #[test]
    fn steps_whose_losses_were_read_together_have_times_and_joules_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let of =
            |synthetic: &SyntheticRun, name: &str| learning(&synthetic.write(&dir.path().join(name))).steps;
        let own = of(&SyntheticRun::small(), "own");
        let late = of(&SyntheticRun { is_read_late: true, ..SyntheticRun::small() }, "late");
        for ((own, _), (late, _)) in own.iter().zip(&late) {
            assert!((own.time_s.get() - late.time_s.get()).abs() < 1e-6, "{own:?} {late:?}");
            assert!((own.energy_j.get() - late.energy_j.get()).abs() < 1e-3, "{own:?} {late:?}");
        }
    }

    #[test]
    fn evaluations_know_their_tokens_and_joules() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(dir.path());
        let learning = learning(&run);
        let best = learning.best().unwrap();
        assert_eq!((best.at.step, best.at.tokens), (40, 40 * 512));
        assert!(best.at.energy_j > learning.evaluations[0].at.energy_j);
        let mean = learning.mean_loss(0, 2).unwrap();
        let losses: f32 = learning.steps[..2].iter().map(|(_, step)| step.loss).sum();
        assert!((mean - f64::from(losses) / 2.0).abs() < 1e-6);
    }
}
