//! What the trainer tells of steps: their losses, and when they were made.

use std::time::{Duration, Instant};

use wattle_model::StepResult;
use wattle_model::engine::board::MAX_PENDING_STEPS;
use wattle_runlog::event::StepEvent;
use wattle_runlog::{EventBody, MonotonicNs};

use super::Trainer;
use crate::engine::Finished;
use crate::error::TrainError;
use crate::observer::{Observer, Progress};

/// The longest time after a step's end in which its loss reaches the host, unless the step itself takes longer.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// A step whose numbers have not come to the host.
pub(super) struct PendingStep {
    pub(super) step: u64,
    pub(super) tokens: u64,
    pub(super) learning_rate: f64,
    /// When its work ended, once that is known.
    pub(super) ended: Option<MonotonicNs>,
}

impl Trainer<'_> {
    /// Tells of the steps that have ended: of all where the engine has none in flight, else about once a second. It comes
    /// right after a step was queued, for which the host waited until the step before the last had ended: so at this
    /// moment a step has just ended, two are in flight, and nothing is waited for. Several ranks ask after each step: so all
    /// learn of a loss that is not finite at the same step, and none makes another that the others do not.
    pub(super) fn poll(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // If the next chance came only after more than a second, it would be too late for the step that just ended.
        let is_due = self.polled_at.is_none_or(|at| at.elapsed() + self.step_time >= POLL_EVERY);
        let are_several = self.options.ranks.are_several();
        let is_written = self.writing.has_ended();
        let is_late = self.pending.len() >= MAX_PENDING_STEPS / 2;
        if self.engine.n_in_flight() > 0 && !is_due && !is_late && !is_written && !are_several {
            return Ok(());
        }
        let finished = self.engine.poll()?;
        self.tell_finished(observer, finished)?;
        if is_written { self.finish_writing(observer) } else { Ok(()) }
    }

    /// Waits for the engine, and tells of all steps.
    pub(super) fn drain(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let finished = self.engine.drain()?;
        self.tell_finished(observer, finished)?;
        if self.writing.has_ended() { self.finish_writing(observer) } else { Ok(()) }
    }

    fn tell_finished(&mut self, observer: &mut dyn Observer, finished: Finished) -> Result<(), TrainError> {
        if !finished.results.is_empty() {
            self.polled_at = Some(Instant::now());
        }
        for span in finished.spans {
            // A step that made no update ended with its gradients.
            if let Some(pending) = self.pending.iter_mut().find(|pending| pending.step == span.step) {
                pending.ended = Some(span.end_ns);
            }
            observer.span(span);
        }
        self.tell_steps(observer, finished.results)
    }

    /// Tells of the oldest pending steps, to which `results` belong.
    fn tell_steps(
        &mut self,
        observer: &mut dyn Observer,
        results: Vec<StepResult>,
    ) -> Result<(), TrainError> {
        let mut last = None;
        for result in results {
            let pending = self.pending.pop_front().expect("results are of steps that are pending");
            // Two marks may round to one nanosecond; times of steps are distinct all the same.
            let ended =
                pending.ended.unwrap_or_else(MonotonicNs::now).max(MonotonicNs(self.told_until.0 + 1));
            let duration = ended.since(self.told_until);
            self.told_until = ended;
            self.step_time = Duration::from_secs_f64(duration.get());
            let tokens_per_s = self.plan.tokens_per_step as f64 / duration.get();
            self.tell_step(observer, ended, StepEvent { tokens_per_s, ..self.step_event(&pending, result) })?;
            last = Some(Progress::Told { step: pending.step, t: ended });
        }
        if let Some(told) = last {
            observer.progress(told);
        }
        Ok(())
    }

    /// Tells of a step, unless it is one that is not logged.
    fn tell_step(
        &mut self,
        observer: &mut dyn Observer,
        ended: MonotonicNs,
        event: StepEvent,
    ) -> Result<(), TrainError> {
        let StepEvent { step, tokens, loss, .. } = event;
        let is_finite = event.loss.is_finite() && event.grad_norm.is_finite();
        let is_last = step >= self.plan.total_steps;
        if step.is_multiple_of(self.options.train.log_every) || is_last || !is_finite {
            observer
                .event(ended.max(self.not_before), EventBody::Step(event))
                .map_err(TrainError::Observer)?;
        }
        if is_finite {
            return Ok(());
        }
        // The step made no update.
        (self.state.step, self.state.tokens) = (step - 1, tokens - self.plan.tokens_per_step);
        Err(self.not_finite(observer, step, if loss.is_finite() { "the gradient" } else { "the loss" })?)
    }

    fn step_event(&self, pending: &PendingStep, result: StepResult) -> StepEvent {
        StepEvent {
            step: pending.step,
            epoch: self.plan.epoch_after(pending.step - 1),
            tokens: pending.tokens,
            loss: result.loss,
            learning_rate: pending.learning_rate,
            grad_norm: result.grad_norm,
            tokens_per_s: 0.0,
            accuracy: result.accuracy,
        }
    }
}
