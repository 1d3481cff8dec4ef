//! The loop.

mod telling;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use wattle_data::{Batch, Dataset, Loader};
use wattle_model::{LanguageModel, MemoryPlan, TrainingPass, abridged};
use wattle_ops::board::Board;
use wattle_runlog::event::EvaluateEvent;
use wattle_runlog::{EventBody, MonotonicNs, Phase, Span, SpanClock, StopReason};

use crate::certificate::certify;
use crate::checkpoint::{CheckpointContent, Checkpoints, TrainState};
use crate::config::{
    EarlyStopConfig, EngineChoice, EvaluateConfig, OptimizerConfig, ScheduleConfig, TrainConfig,
};
use crate::device::open_board;
use crate::diagnose::first_not_finite;
use crate::error::TrainError;
use crate::evaluate::EvaluateOptions;
use crate::gradients::{BatchOptions, batch_gradients};
use crate::observer::{Directive, Draft, Edge, Observer, Progress};
use crate::plan::Plan;
use crate::schedule::learning_rate;
use crate::tier::{Tier, device_engine_options};
use crate::trainer::telling::{PendingStep, StepScalars};

/// How long a paused run waits before it asks again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a run needs to know.
#[derive(Clone, Debug)]
pub struct TrainerOptions {
    /// The run's seed.
    pub seed: u64,
    /// The run's segment.
    pub segment: u32,
    /// Share of elements that the model drops in training.
    pub dropout: f32,
    /// Type of activations.
    pub dtype: DType,
    /// The `optimizer` section.
    pub optimizer: OptimizerConfig,
    /// The `schedule` section.
    pub schedule: ScheduleConfig,
    /// The `train` section.
    pub train: TrainConfig,
    /// The `evaluate` section.
    pub evaluate: EvaluateConfig,
    /// The `early_stop` section.
    pub early_stop: EarlyStopConfig,
    /// Epochs between checkpoints; 0 for never.
    pub checkpoint_every_epochs: u64,
    /// Steps between checkpoints; 0 for never.
    pub checkpoint_every_steps: u64,
}

/// Trains one model on one dataset.
pub struct Trainer<'a> {
    model: &'a dyn LanguageModel,
    dataset: &'a Dataset,
    device: Device,
    options: TrainerOptions,
    loader: Loader,
    plan: Plan,
    tier: Tier,
    checkpoints: Checkpoints,
    state: TrainState,
    /// Steps made whose losses have not come to the host.
    pending: VecDeque<PendingStep>,
    /// When finished steps were last asked for.
    polled_at: Option<Instant>,
    /// When the step that was told last ended, or the evaluation or checkpoint after it.
    told_until: MonotonicNs,
    /// Duration of the step that was told last.
    step_time: Duration,
    certified: bool,
    /// Whether steps were made since the last epoch's end or this segment's start.
    epoch_open: bool,
    /// Finished updates at the newest checkpoint.
    checkpointed: Option<u64>,
    /// The latest validation loss, and the finished updates it belongs to.
    evaluated: Option<(u64, f64)>,
}

impl<'a> Trainer<'a> {
    /// A trainer at step 0.
    ///
    /// # Errors
    /// If the data do not fill one step, there is no engine as asked for, or it does not fit the device's memory.
    pub fn new(
        model: &'a dyn LanguageModel,
        dataset: &'a Dataset,
        device: &Device,
        options: TrainerOptions,
        checkpoints: Checkpoints,
    ) -> Result<Self, TrainError> {
        let board = match options.train.engine {
            EngineChoice::Autograd => None,
            EngineChoice::Auto | EngineChoice::Explicit => open_board(device)?,
        };
        Self::on_board(model, dataset, device, board, options, checkpoints)
    }

    /// [`Trainer::new`] with a board from the caller: where there is one, and the model's family has an engine for
    /// boards, steps are made there. The model's tensors stay on `device`.
    ///
    /// # Errors
    /// As for [`Trainer::new`].
    pub fn on_board(
        model: &'a dyn LanguageModel,
        dataset: &'a Dataset,
        device: &Device,
        board: Option<Arc<dyn Board>>,
        options: TrainerOptions,
        checkpoints: Checkpoints,
    ) -> Result<Self, TrainError> {
        let loader = Loader::new(&dataset.train, model.context(), options.train.batch_size, options.seed)?;
        Ok(Self {
            plan: Plan::new(&options.train, loader.steps_per_epoch(), model.context()),
            tier: Tier::choose(model, device, board, &options)?,
            state: TrainState::start(options.seed),
            model,
            dataset,
            device: device.clone(),
            options,
            loader,
            checkpoints,
            pending: VecDeque::new(),
            polled_at: None,
            told_until: MonotonicNs::now(),
            step_time: Duration::ZERO,
            certified: false,
            epoch_open: false,
            checkpointed: None,
            evaluated: None,
        })
    }

    /// Refuses what [`Trainer::on_board`] would refuse for lack of the board's memory, if `taken` bytes of it are to be
    /// something else's. `model` may be blank: an answer takes no time, where making the model takes long.
    ///
    /// # Errors
    /// If there is too little memory, or the board fails.
    pub fn refuse_what_cannot_fit(
        model: &dyn LanguageModel,
        board: &dyn Board,
        options: &TrainerOptions,
        taken: u64,
    ) -> Result<(), TrainError> {
        match device_engine_options(options) {
            Some(options) => Ok(model.refuse_what_cannot_fit(board, options, taken)?),
            None => Ok(()),
        }
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// If it is damaged or of another model; the trainer is then as it was.
    pub fn resume(&mut self, checkpoint: &Path) -> Result<(), TrainError> {
        self.state = self.tier.load(checkpoint, self.model, &self.device)?;
        self.checkpointed = Some(self.state.step);
        Ok(())
    }

    /// The steps ahead.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// What the explicit engine takes of memory; `None` where candle's autograd trains.
    pub fn memory(&self) -> Option<MemoryPlan> {
        self.tier.memory()
    }

    /// What trains, for a person.
    pub fn engine(&self) -> String {
        self.tier.describe()
    }

    /// Whether the explicit engine of the CPU trains.
    pub fn is_on_cpu_engine(&self) -> bool {
        self.tier.memory().is_some() && !self.tier.is_queued()
    }

    /// Takes all memory of [`Trainer::memory`] now, and goes through the first micro-batch without an update, so
    /// that what threads take for their work is there too. Nothing is done where another tier trains.
    ///
    /// # Errors
    /// As a first step's: if the data cannot be read, or a parameter gets no gradient.
    pub fn rehearse(&mut self) -> Result<(), TrainError> {
        if !self.is_on_cpu_engine() {
            return Ok(());
        }
        self.tier.touch();
        let Batch { inputs, targets, batch_size, context } = self.loader.batch(0, 0)?;
        let batch_size = batch_size.min(self.options.train.micro_batch());
        let of_micro_batch = |mut tokens: Vec<u32>| {
            tokens.truncate(batch_size * context);
            tokens
        };
        let (inputs, targets) = (of_micro_batch(inputs), of_micro_batch(targets));
        let batch = Batch { inputs, targets, batch_size, context };
        self.tier.compute_gradients(self.model, &batch, self.batch_options(1), &self.device)?;
        Ok(())
    }

    /// Takes all memory of [`Trainer::memory`] now.
    pub fn touch(&mut self) {
        self.tier.touch();
    }

    /// What is remembered.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.state.stopped_early || self.state.step >= self.plan.total_steps
    }

    /// Trains to the end, or until an observer or early stopping ends it. Whatever ends it but an error leaves
    /// a checkpoint.
    ///
    /// # Errors
    /// If a loss is not finite, a file cannot be written, or a tensor operation fails. Older checkpoints stand.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<StopReason, TrainError> {
        let outcome = self.run_steps(observer);
        let outcome = self.tier.publish(self.model).and(outcome);
        let reason = *outcome.as_ref().unwrap_or(&StopReason::Error);
        let step = self.state.step;
        observer.edge(Edge::Stop { step, tokens: self.state.tokens, reason });
        let told = self.tell(observer, EventBody::Stop { step, reason });
        outcome.and_then(|reason| told.map(|()| reason))
    }

    fn run_steps(&mut self, observer: &mut dyn Observer) -> Result<StopReason, TrainError> {
        self.synchronize(observer)?;
        observer.edge(Edge::Start);
        self.told_until = MonotonicNs::now();
        while !self.is_finished() {
            match observer.directive() {
                Directive::Continue => {
                    self.step(observer)?;
                    self.after_step(observer)?;
                }
                Directive::Pause => {
                    self.synchronize(observer)?;
                    self.drain(observer)?;
                    std::thread::sleep(PAUSE);
                    self.told_until = MonotonicNs::now();
                }
                Directive::Stop(reason) => {
                    self.leave_checkpoint(observer)?;
                    return Ok(reason);
                }
            }
        }
        Ok(if self.state.stopped_early { StopReason::EarlyStop } else { StopReason::Done })
    }

    /// One optimizer update.
    fn step(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let finished = self.state.step;
        let step = finished + 1;

        let start = MonotonicNs::now();
        let (epoch, step_in_epoch) =
            (finished / self.plan.steps_per_epoch, finished % self.plan.steps_per_epoch);
        let batch = self.loader.batch(epoch, step_in_epoch)?;
        let start = self.step_span(observer, Phase::Data, start);

        let learning_rate =
            learning_rate(&self.options.schedule, &self.options.optimizer, finished, self.plan.total_steps);
        let tokens = self.state.tokens + batch.tokens();
        let pending = PendingStep { step, tokens, learning_rate, scalars: None, ended: None };
        if self.tier.is_queued() {
            self.queue_step(pending, &batch)?;
        } else {
            self.make_step(observer, pending, &batch, start)?;
        }

        self.state.step = step;
        self.state.tokens += batch.tokens();
        self.epoch_open = true;
        observer.progress(Progress::Step { step, in_flight: self.tier.n_in_flight() as u64 });
        if self.tier.is_queued() {
            return self.poll(observer);
        }
        // candle's tensors on a GPU have no marks: reading the loss waits for the step, and its end is now. The host,
        // which launches each operation by itself, is what limits such a step anyway.
        self.drain(observer)
    }

    /// Leaves a whole step to the engine.
    fn queue_step(&mut self, pending: PendingStep, batch: &Batch) -> Result<(), TrainError> {
        self.tier.queue_step(batch, pending.step, pending.learning_rate)?;
        self.pending.push_back(pending);
        if !self.certified {
            self.warn_of_zero_gradients()?;
        }
        Ok(())
    }

    /// Makes a step piece by piece. Its batch was there at `start`.
    fn make_step(
        &mut self,
        observer: &mut dyn Observer,
        pending: PendingStep,
        batch: &Batch,
        start: MonotonicNs,
    ) -> Result<(), TrainError> {
        let PendingStep { step, learning_rate, .. } = pending;
        let options = self.batch_options(step);
        let result = self.tier.compute_gradients(self.model, batch, options, &self.device)?;
        if !self.certified {
            self.warn_of_zero_gradients()?;
        }
        let start = self.step_span(observer, Phase::ForwardBackward, start);

        let grad_norm = self.tier.grad_norm()?;
        let scalars =
            StepScalars { loss: result.loss, grad_norm: grad_norm.clone(), accuracy: result.accuracy };
        self.pending.push_back(PendingStep { scalars: Some(scalars), ..pending });
        self.refuse_not_finite(observer, batch, options)?;
        let clip_norm = self.options.train.clip_norm;
        self.tier.update(self.model, &grad_norm, clip_norm, step, learning_rate)?;
        self.step_span(observer, Phase::Optimizer, start);
        Ok(())
    }

    /// What falls due after a step: evaluation, the end of an epoch, a checkpoint.
    fn after_step(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.state.step;
        let is_due = |every: u64, n: u64| every > 0 && n.is_multiple_of(every);
        let ends_epoch = self.plan.ends_epoch(step);
        let is_last = step >= self.plan.total_steps;
        if self.plan.evaluates_after(step, self.options.evaluate.every_steps) {
            self.evaluate(observer)?;
            self.state.stopped_early = self.state.early_stop.stops(&self.options.early_stop);
        }
        let is_over = is_last || self.state.stopped_early;
        if ends_epoch || is_over {
            self.end_epoch(observer)?;
        }
        let epochs_done = step / self.plan.steps_per_epoch;
        if is_over
            || is_due(self.options.checkpoint_every_steps, step)
            || (ends_epoch && is_due(self.options.checkpoint_every_epochs, epochs_done))
        {
            self.checkpoint(observer)?;
        }
        Ok(())
    }

    /// Leaves a checkpoint wherever training is, unless there is one.
    fn leave_checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if self.epoch_open {
            self.end_epoch(observer)?;
        }
        if self.checkpointed != Some(self.state.step) {
            self.checkpoint(observer)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let Some(store) = &self.dataset.val else { return Ok(()) };
        self.synchronize(observer)?;
        self.drain(observer)?;
        observer.edge(Edge::EvaluateStart);
        let start = MonotonicNs::now();
        let options = EvaluateOptions {
            batch_size: self.options.train.micro_batch(),
            max_batches: self.options.evaluate.batches,
            dtype: self.options.dtype,
        };
        let progress = &mut |done, total| observer.progress(Progress::Evaluate { done, total });
        let evaluation = self.tier.evaluate(self.model, store, options, &self.device, progress)?;
        self.span(observer, Phase::Evaluate, start);
        observer.edge(Edge::EvaluateEnd);
        self.told_until = MonotonicNs::now();
        let step = self.state.step;
        self.state.early_stop.see(step, evaluation.loss);
        self.evaluated = Some((step, evaluation.loss));
        let split = self.dataset.manifest.split.val.as_ref();
        self.tell(
            observer,
            EventBody::Evaluate(EvaluateEvent {
                step,
                split: store.split().name().to_owned(),
                loss: evaluation.loss,
                perplexity: evaluation.perplexity(),
                bits_per_byte: split.and_then(|split| evaluation.bits_per_byte(split)).unwrap_or(f64::NAN),
                accuracy: evaluation.accuracy,
                tokens: evaluation.tokens,
            }),
        )
    }

    /// Ends the epoch, or the part of it made in this segment.
    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.synchronize(observer)?;
        self.drain(observer)?;
        let (step, tokens) = (self.state.step, self.state.tokens);
        let complete = self.plan.ends_epoch(step);
        let epoch = self.plan.epoch_after(step - 1);
        self.epoch_open = false;
        observer.edge(Edge::Epoch { epoch, complete, step, tokens });
        self.tell(observer, EventBody::Epoch { epoch, step, complete })
    }

    fn checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.synchronize(observer)?;
        self.drain(observer)?;
        let (step, tokens) = (self.state.step, self.state.tokens);
        let epoch = if step == 0 { 1 } else { self.plan.epoch_after(step - 1) };
        if self.epoch_open {
            observer.edge(Edge::Checkpoint { epoch, step, tokens });
        }
        let start = MonotonicNs::now();
        self.tier.publish(self.model)?;
        let best = self.state.early_stop.best.is_some_and(|best| best.step == step);
        let val_loss = self.evaluated.filter(|(at, _)| *at == step).map(|(_, loss)| loss);
        let tokenizer = &self.dataset.tokenizer;
        let content = CheckpointContent {
            model: self.model,
            optimizer: self.tier.optimizer_state(),
            state: TrainState { segment: self.options.segment, t_ns: start, ..self.state.clone() },
            tokenizer_json: tokenizer.to_json(),
            tokenizer_config_json: &tokenizer.tokenizer_config_json(self.model.context()),
            end_of_text: tokenizer.end_of_text(),
        };
        let ends_epoch = !self.epoch_open;
        let path = self.checkpoints.save(&content, best, |dir| {
            observer.before_commit(&Draft { step, epoch, ends_epoch, tokens, val_loss, dir: dir.to_owned() })
        })?;
        self.checkpointed = Some(step);
        self.span(observer, Phase::Checkpoint, start);
        self.told_until = MonotonicNs::now();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.tell(observer, EventBody::Checkpoint { step, path: format!("checkpoints/{name}"), best })
    }

    /// Where looking costs nothing, refuses to update from a loss or gradient that is not finite, and finds the
    /// tensor that went first.
    fn refuse_not_finite(
        &mut self,
        observer: &mut dyn Observer,
        batch: &Batch,
        options: BatchOptions,
    ) -> Result<(), TrainError> {
        if self.is_asynchronous() {
            return Ok(());
        }
        let Some(pending) = self.pending.back() else { return Ok(()) };
        let Some(scalars) = &pending.scalars else { return Ok(()) };
        let event = self.step_event(pending, scalars.read()?);
        if event.loss.is_finite() && event.grad_norm.is_finite() {
            return Ok(());
        }
        let what = if event.loss.is_finite() { "the gradient" } else { "the loss" };
        self.tier.publish(self.model)?;
        let gradients = self.tier.gradients()?;
        let first = first_not_finite(self.model, batch, options, &gradients, &self.device)?;
        let step = event.step;
        self.tell(observer, EventBody::Step(event))?;
        Err(self.not_finite(step, what, first))
    }

    /// Finds the tensor that went first in a step long past. Where steps are queued, nothing was updated since, so
    /// the step can be made again, by candle's autograd.
    fn first_not_finite_of_queued(&mut self, step: u64) -> Result<String, TrainError> {
        if !self.tier.is_halted()? {
            return Ok(
                "not known, since later steps went over it on the GPU: --device cpu will tell".to_owned()
            );
        }
        self.tier.publish(self.model)?;
        let (epoch, step_in_epoch) =
            ((step - 1) / self.plan.steps_per_epoch, (step - 1) % self.plan.steps_per_epoch);
        let batch = self.loader.batch(epoch, step_in_epoch)?;
        let options = self.batch_options(step);
        let again = batch_gradients(self.model, &batch, options, &self.device)
            .map_err(TrainError::from)
            .and_then(|result| certify(self.model.parameters(), result.gradients))
            .and_then(|gradients| {
                Ok(first_not_finite(self.model, &batch, options, &gradients, &self.device)?)
            });
        Ok(again.unwrap_or_else(|error| format!("not known: looking for it failed ({error})")))
    }

    fn not_finite(&self, step: u64, what: &'static str, first: String) -> TrainError {
        let last_good = self.checkpoints.latest().ok().flatten();
        TrainError::NotFinite { step, what, first, last_good }
    }

    fn warn_of_zero_gradients(&mut self) -> Result<(), TrainError> {
        let names = self.tier.zero_gradient_names(self.model)?;
        if !names.is_empty() {
            tracing::warn!("the first gradient of {} is zero throughout", abridged(&names));
        }
        self.certified = true;
        Ok(())
    }

    fn batch_options(&self, step: u64) -> BatchOptions {
        BatchOptions {
            micro_batch: self.options.train.micro_batch(),
            dtype: self.options.dtype,
            pass: TrainingPass {
                seed: self.options.seed,
                step,
                first_sequence: 0,
                dropout: self.options.dropout,
            },
        }
    }

    /// Whether the host runs ahead of the device. Then reading a number would make it wait, and host times say
    /// nothing about what the device was doing.
    fn is_asynchronous(&self) -> bool {
        !self.device.is_cpu() || self.tier.is_queued()
    }

    fn tell(&self, observer: &mut dyn Observer, body: EventBody) -> Result<(), TrainError> {
        observer.event(MonotonicNs::now(), body).map_err(TrainError::Observer)
    }

    /// A phase within a step, from `start` until now; returns now.
    fn step_span(&self, observer: &mut dyn Observer, phase: Phase, start: MonotonicNs) -> MonotonicNs {
        if self.is_asynchronous() { MonotonicNs::now() } else { self.span(observer, phase, start) }
    }

    fn span(&self, observer: &mut dyn Observer, phase: Phase, start: MonotonicNs) -> MonotonicNs {
        let end = MonotonicNs::now();
        let step = self.state.step + 1;
        observer.span(Span {
            segment: self.options.segment,
            step,
            phase,
            start_ns: start,
            end_ns: end,
            clock: SpanClock::Host,
            error_ns: 0,
        });
        end
    }
}
