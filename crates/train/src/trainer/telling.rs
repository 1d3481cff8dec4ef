//! What the trainer tells of steps: their losses, and when they were made.

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use wattle_model::engine::board::MAX_PENDING_STEPS;
use wattle_model::{DeviceSpan, FinishedSteps, StepPart, StepResult};
use wattle_runlog::event::StepEvent;
use wattle_runlog::{EventBody, MonotonicNs, Phase, Span, SpanClock};

use super::Trainer;
use crate::error::TrainError;
use crate::observer::{Observer, Progress};

/// The longest time after a step's end in which its loss reaches the host, unless the step itself takes longer.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// A step whose numbers have not come to the host.
pub(super) struct PendingStep {
    pub(super) step: u64,
    pub(super) tokens: u64,
    pub(super) learning_rate: f64,
    /// `None` where the engine has them.
    pub(super) scalars: Option<StepScalars>,
    /// When its work ended on the device, once that is known.
    pub(super) ended: Option<MonotonicNs>,
}

/// What a step said, on the device.
pub(super) struct StepScalars {
    pub(super) loss: Tensor,
    pub(super) grad_norm: Tensor,
    pub(super) accuracy: Tensor,
}

impl StepScalars {
    pub(super) fn read(&self) -> Result<StepResult, TrainError> {
        Ok(StepResult {
            loss: self.loss.to_scalar()?,
            grad_norm: self.grad_norm.to_dtype(DType::F32)?.to_scalar()?,
            accuracy: self.accuracy.to_scalar()?,
        })
    }
}

impl Trainer<'_> {
    /// Brings the losses of finished queued steps to the host, about once a second, and tells of those steps. It comes
    /// right after a step was queued, for which the host waited until the step before the last had ended: so at this
    /// moment a step has just ended, two are in flight, and nothing is waited for.
    pub(super) fn poll(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // If the next chance came only after more than a second, it would be too late for the step that just ended.
        let is_due = self.polled_at.is_none_or(|at| at.elapsed() + self.step_time >= POLL_EVERY);
        if !is_due && self.pending.len() < MAX_PENDING_STEPS / 2 {
            return Ok(());
        }
        let FinishedSteps { spans, results } = self.tier.poll()?;
        if !results.is_empty() {
            self.polled_at = Some(Instant::now());
        }
        self.tell_spans(observer, &spans);
        self.tell_steps(observer, results)
    }

    /// Brings all losses to the host and tells of the steps they belong to.
    pub(super) fn drain(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let mut results = self.tier.drain()?;
        for scalars in self.pending.iter().filter_map(|pending| pending.scalars.as_ref()) {
            results.push(scalars.read()?);
        }
        self.polled_at = Some(Instant::now());
        self.tell_steps(observer, results)
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
        let step = event.step;
        let is_finite = event.loss.is_finite() && event.grad_norm.is_finite();
        let is_last = step >= self.plan.total_steps;
        if step.is_multiple_of(self.options.train.log_every) || is_last || !is_finite {
            observer.event(ended, EventBody::Step(event)).map_err(TrainError::Observer)?;
        }
        if is_finite {
            return Ok(());
        }
        let first = self.first_not_finite_of_queued(step)?;
        Err(self.not_finite(step, "the loss or the gradient", first))
    }

    pub(super) fn step_event(&self, pending: &PendingStep, result: StepResult) -> StepEvent {
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

    /// Waits for the device, and tells of what it did since the last time.
    pub(super) fn synchronize(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let spans = self.tier.synchronize()?;
        self.tell_spans(observer, &spans);
        Ok(self.device.synchronize()?)
    }

    /// Tells of what the device did, and notes when pending steps ended.
    fn tell_spans(&mut self, observer: &mut dyn Observer, spans: &[DeviceSpan]) {
        for span in spans {
            observer.span(self.device_span(*span));
            if span.part == StepPart::Optimizer
                && let Some(pending) = self.pending.iter_mut().find(|pending| pending.step == span.step)
            {
                pending.ended = Some(MonotonicNs(span.end_ns));
            }
        }
    }

    fn device_span(&self, span: DeviceSpan) -> Span {
        let phase = match span.part {
            StepPart::Data => Phase::Data,
            StepPart::ForwardBackward => Phase::ForwardBackward,
            StepPart::Optimizer => Phase::Optimizer,
        };
        Span {
            segment: self.options.segment,
            step: span.step,
            phase,
            start_ns: MonotonicNs(span.start_ns),
            end_ns: MonotonicNs(span.end_ns),
            clock: SpanClock::Device,
            error_ns: span.error_ns,
        }
    }
}
