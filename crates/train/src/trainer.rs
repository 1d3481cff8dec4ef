//! The loop.

mod checkpointing;
mod examining;
mod telling;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use wattle_data::{Batch, Dataset, Loader};
use wattle_model::{LanguageModel, MemoryPlan, Share};
use wattle_ops::board::Board;
use wattle_ops::board::select::Measured;
use wattle_runlog::event::EvaluateEvent;
use wattle_runlog::{EventBody, MonotonicNs, Phase, Span, SpanClock, StopReason};

use crate::certificate::certify;
use crate::checkpoint::{Checkpoints, TrainState};
use crate::config::EngineChoice;
use crate::device::open_board;
use crate::diagnose::first_not_finite;
use crate::engine::{self, Step, StepEngine};
use crate::error::TrainError;
use crate::evaluate::{EvaluateOptions, Evaluation, evaluate_in_training, sources_of};
use crate::gradients::{BatchOptions, batch_gradients};
use crate::kernels::Kernels;
use crate::observer::{Directive, Edge, Observer, Progress};
use crate::options::TrainerOptions;
use crate::plan::Plan;
use crate::schedule::learning_rate;
use crate::trainer::checkpointing::Writing;
use crate::trainer::examining::Examining;
use crate::trainer::telling::PendingStep;

/// How long a paused run waits before it asks again.
const PAUSE: Duration = Duration::from_millis(50);

/// Trains one model on one dataset.
pub struct Trainer<'a> {
    dataset: &'a Dataset,
    options: TrainerOptions,
    /// Of this rank's parts of batches.
    loader: Loader,
    plan: Plan,
    engine: Box<dyn StepEngine + 'a>,
    checkpoints: Checkpoints,
    writing: Writing,
    examining: Examining,
    state: TrainState,
    /// Steps made whose losses have not come to the host.
    pending: VecDeque<PendingStep>,
    /// When finished steps were last asked for.
    polled_at: Option<Instant>,
    /// When the step that was told last ended, or the evaluation or checkpoint after it.
    told_until: MonotonicNs,
    /// Duration of the step that was told last.
    step_time: Duration,
    /// Time of the last event of a checkpoint: no event after it is earlier, though steps may have ended earlier.
    not_before: MonotonicNs,
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
            EngineChoice::Auto | EngineChoice::Explicit => {
                open_board(device, &options.ranks, options.train.deterministic)?
            }
        };
        Self::on_board(model, dataset, board, options, checkpoints)
    }

    /// [`Trainer::new`] with a board from the caller: where there is one, and the model's family has an engine for
    /// boards, steps are made there. See [`home_of_parameters`](crate::engine::home_of_parameters).
    ///
    /// # Errors
    /// As for [`Trainer::new`].
    pub fn on_board(
        model: &'a dyn LanguageModel,
        dataset: &'a Dataset,
        board: Option<Arc<dyn Board>>,
        options: TrainerOptions,
        checkpoints: Checkpoints,
    ) -> Result<Self, TrainError> {
        let Share { rank, world } = options.ranks.share();
        let loader = Loader::of(dataset, model.context(), options.train.batch_size, options.seed)?
            .for_rank(rank, world)?;
        let examining = Examining::new(&options, &dataset.tokenizer, model.context(), board.clone())?;
        Ok(Self {
            examining,
            plan: Plan::new(&options.train, loader.steps_per_epoch(), model.context()),
            engine: engine::choose(model, board, &options)?,
            state: TrainState::start(options.seed),
            dataset,
            options,
            loader,
            checkpoints,
            writing: Writing::default(),
            pending: VecDeque::new(),
            polled_at: None,
            told_until: MonotonicNs::now(),
            step_time: Duration::ZERO,
            not_before: MonotonicNs::default(),
            epoch_open: false,
            checkpointed: None,
            evaluated: None,
        })
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// If it is damaged or of another model; the trainer is then as it was.
    pub fn resume(&mut self, checkpoint: &Path) -> Result<(), TrainError> {
        self.state = TrainState::load(checkpoint, self.engine.as_mut())?;
        self.checkpointed = Some(self.state.step);
        Ok(())
    }

    /// The steps ahead.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// What training takes of memory, where the engine plans it.
    pub fn memory(&self) -> Option<MemoryPlan> {
        self.engine.memory()
    }

    /// What trains, for a person.
    pub fn engine(&self) -> String {
        self.engine.describe()
    }

    /// Which kernels a board's engine takes, where it has a choice.
    pub fn kernels(&self) -> Option<Kernels> {
        self.engine.kernels()
    }

    /// What was chosen by measuring before the first step.
    pub fn measured(&self) -> &[Measured] {
        self.engine.measured()
    }

    /// Takes now all memory of this process that training takes; `with_gradients`, the first micro-batch's gradients
    /// are computed too, for the memory of threads. Returns whether the process then has what training takes.
    ///
    /// # Errors
    /// As a first step's: if the data cannot be read, or a parameter gets no gradient.
    pub fn rehearse(&mut self, with_gradients: bool) -> Result<bool, TrainError> {
        let _snapshot = self.rehearse_snapshots();
        if !with_gradients {
            return self.engine.rehearse(None);
        }
        let micro_batch = self.loader.batch(0, 0)?.first(self.options.train.micro_batch());
        self.engine.rehearse(Some(&micro_batch))
    }

    /// Makes steps until `is_enough`, which is told how many were made, and waits for them. Nothing is evaluated, told or
    /// kept. Returns their tokens.
    ///
    /// # Errors
    /// As a step's; also if a loss is not finite, from which on no engine makes updates.
    pub fn try_steps(&mut self, mut is_enough: impl FnMut(u64) -> bool) -> Result<u64, TrainError> {
        let (mut n_steps, mut tokens) = (0, 0);
        while !is_enough(n_steps) {
            let began = MonotonicNs::now();
            let batch = self.batch_of(self.state.step + 1)?;
            self.queue_step(&batch, began)?;
            n_steps += 1;
            tokens += batch.tokens() * self.options.ranks.share().world as u64;
        }
        let results = self.engine.drain()?.results;
        match results.iter().all(engine::is_finite) {
            true => Ok(tokens),
            false => Err(TrainError::Diverged { step: self.state.step }),
        }
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
        // Whatever ended the steps, a checkpoint that is being written becomes complete.
        let written = self.finish_writing(observer);
        // The first error counts: where the device failed, so does this.
        let exported = if self.is_alone_in(&outcome) { Ok(()) } else { self.engine.export() };
        let outcome = outcome.and_then(|reason| written.and(exported).map(|()| reason));
        let outcome = self.leave_together(outcome);
        let reason = *outcome.as_ref().unwrap_or(&StopReason::Error);
        let step = self.state.step;
        observer.edge(Edge::Stop { step, tokens: self.state.tokens, reason });
        let told = self.tell(observer, EventBody::Stop { step, reason });
        outcome.and_then(|reason| told.map(|()| reason))
    }

    /// Whether other ranks may have ended in another way, and so do not take part in what all do together.
    fn is_alone_in(&self, outcome: &Result<StopReason, TrainError>) -> bool {
        let is_shared = matches!(outcome, Ok(_) | Err(TrainError::NotFinite { .. }));
        self.options.ranks.are_several() && !is_shared
    }

    fn run_steps(&mut self, observer: &mut dyn Observer) -> Result<StopReason, TrainError> {
        self.drain(observer)?;
        self.examining.rehearse(self.engine.model())?;
        self.prepare_snapshots();
        observer.edge(Edge::Start);
        self.told_until = MonotonicNs::now();
        while !self.is_finished() {
            match self.options.ranks.agree(observer.directive())? {
                Directive::Continue => {
                    self.step(observer)?;
                    self.after_step(observer)?;
                }
                Directive::Pause => {
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
        let began = MonotonicNs::now();
        let batch = self.batch_of(self.state.step + 1)?;
        let before = self.state.tokens;
        let step = self.queue_step(&batch, began)?;
        let counted = self.state.tokens - before;
        self.epoch_open = true;
        self.pending.push_back(PendingStep {
            step: step.number,
            tokens: self.state.tokens,
            counted,
            learning_rate: step.learning_rate,
            ended: None,
        });
        let in_flight = self.engine.n_in_flight() as u64;
        observer.progress(Progress::Step { step: step.number, in_flight });
        self.poll(observer)
    }

    /// Gives the engine the next step, of a batch that the host began to read at `began`.
    fn queue_step<'b>(&mut self, batch: &'b Batch, began: MonotonicNs) -> Result<Step<'b>, TrainError> {
        let finished = self.state.step;
        let step = Step {
            number: finished + 1,
            learning_rate: learning_rate(
                &self.options.schedule,
                &self.options.optimizer,
                finished,
                self.plan.total_steps,
            ),
            batch,
            began,
        };
        self.engine.step(&step)?;
        self.state.step = step.number;
        let (epoch, step_in_epoch) = self.place(step.number);
        self.state.tokens += self.loader.counted(epoch, step_in_epoch)?;
        Ok(step)
    }

    /// This rank's part of the batch of `step`.
    fn batch_of(&self, step: u64) -> Result<Batch, TrainError> {
        self.batch_by(&self.loader, step)
    }

    fn batch_by(&self, loader: &Loader, step: u64) -> Result<Batch, TrainError> {
        let (epoch, step_in_epoch) = self.place(step);
        Ok(loader.batch(epoch, step_in_epoch)?)
    }

    /// The epoch of `step` and its place there, both counted from 0.
    fn place(&self, step: u64) -> (u64, u64) {
        ((step - 1) / self.plan.steps_per_epoch, (step - 1) % self.plan.steps_per_epoch)
    }

    /// Waits until all ranks have done what they had to. One that cannot go on tells the others so.
    fn leave_together(&self, outcome: Result<StopReason, TrainError>) -> Result<StopReason, TrainError> {
        let ranks = &self.options.ranks;
        let outcome = outcome.and_then(|reason| {
            ranks.fabric().barrier(ranks.between_steps())?;
            Ok(reason)
        });
        match outcome {
            Err(TrainError::Ranks(cause)) => Err(TrainError::Parted {
                cause,
                rank: ranks.share().rank,
                step: self.state.step,
                last_good: self.checkpoints.latest().ok().flatten(),
            }),
            Err(error) => {
                // Losses are the same on all ranks.
                match &error {
                    TrainError::NotFinite { .. } => ranks.all_know(),
                    own => ranks.part(&own.to_string()),
                }
                Err(error)
            }
            ended => ended,
        }
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
            self.checkpoint(observer, is_over)?;
        }
        Ok(())
    }

    /// Evaluates on the validation split, if there is one, and on tasks.
    fn evaluate(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let examines = !self.examining.is_nothing();
        if self.dataset.val.is_none() && !examines {
            return Ok(());
        }
        self.drain(observer)?;
        if examines {
            // It is written from the weights that are about to be changed.
            self.finish_writing(observer)?;
        }
        observer.edge(Edge::EvaluateStart);
        let start = MonotonicNs::now();
        let evaluations = self.evaluate_split(observer)?;
        let found = self.examine(observer)?;
        self.span(observer, Phase::Evaluate, start);
        observer.edge(Edge::EvaluateEnd);
        self.told_until = MonotonicNs::now();
        self.tell_evaluation(observer, &evaluations)?;
        self.tell_found(observer, found)
    }

    /// What is found of the validation split, of a mixture each source's part.
    fn evaluate_split(&mut self, observer: &mut dyn Observer) -> Result<Vec<Evaluation>, TrainError> {
        let options = EvaluateOptions {
            batch_size: self.options.train.micro_batch(),
            max_batches: self.options.evaluate.batches,
            dtype: self.options.dtype,
        };
        let progress = &mut |done, total| observer.progress(Progress::Evaluate { done, total });
        let ranks = &self.options.ranks;
        let engine = self.engine.as_mut();
        let mut evaluations = Vec::new();
        if self.dataset.val.is_some() {
            for store in self.dataset.val_stores() {
                evaluations.push(evaluate_in_training(engine, store, options, ranks, progress)?);
            }
        }
        Ok(evaluations)
    }

    fn tell_evaluation(
        &mut self,
        observer: &mut dyn Observer,
        evaluations: &[Evaluation],
    ) -> Result<(), TrainError> {
        let Some(whole) = &self.dataset.val else { return Ok(()) };
        let evaluation = Evaluation::of_parts(evaluations);
        let step = self.state.step;
        self.state.early_stop.see(step, evaluation.loss);
        self.evaluated = Some((step, evaluation.loss));
        let split = self.dataset.manifest.split.val.as_ref();
        self.tell(
            observer,
            EventBody::Evaluate(EvaluateEvent {
                step,
                split: whole.split().name().to_owned(),
                loss: evaluation.loss,
                perplexity: evaluation.perplexity(),
                bits_per_byte: split.and_then(|split| evaluation.bits_per_byte(split)).unwrap_or(f64::NAN),
                accuracy: evaluation.accuracy,
                tokens: evaluation.tokens,
                sources: sources_of(&self.dataset.mixture, evaluations),
            }),
        )
    }

    /// Ends the epoch, or the part of it made in this segment.
    fn end_epoch(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.drain(observer)?;
        let (step, tokens) = (self.state.step, self.state.tokens);
        let complete = self.plan.ends_epoch(step);
        let epoch = self.plan.epoch_after(step - 1);
        self.epoch_open = false;
        self.tell_writing_so_far(observer);
        observer.edge(Edge::Epoch { epoch, complete, step, tokens });
        self.tell(observer, EventBody::Epoch { epoch, step, complete })
    }

    /// The error of a step whose loss or gradient was not finite. No update was made from it or after it.
    fn not_finite(
        &mut self,
        observer: &mut dyn Observer,
        step: u64,
        what: &'static str,
    ) -> Result<TrainError, TrainError> {
        if let Err(error) = self.finish_writing(observer) {
            tracing::warn!("the last checkpoint was not written: {error}");
        }
        self.engine.export()?;
        let first = self
            .first_not_finite(step)
            .unwrap_or_else(|error| format!("not known: looking for it failed ({error})"));
        Ok(TrainError::NotFinite { step, what, first, last_good: self.checkpoints.latest().ok().flatten() })
    }

    /// Finds the tensor that went first in a step, by making its forward pass again. Where the engine has other
    /// gradients by now, they are made again too, sequence by sequence, in `f32`.
    fn first_not_finite(&self, step: u64) -> Result<String, TrainError> {
        let model = self.engine.model();
        // Whoever's part of the batch it was in.
        let whole = self.loader.clone().for_rank(0, 1)?;
        let (batch, device) = (self.batch_by(&whole, step)?, model.device());
        let options = BatchOptions::of_step(&self.options, step);
        if let Some(gradients) = self.engine.gradients()? {
            return Ok(first_not_finite(model, &batch, options, &gradients, &device)?);
        }
        let options = BatchOptions { micro_batch: 1, dtype: DType::F32, ..options };
        let again = batch_gradients(model, &batch, options, &device)?;
        let gradients = certify(model.parameters(), again.gradients)?;
        Ok(first_not_finite(model, &batch, options, &gradients, &device)?)
    }

    fn tell(&mut self, observer: &mut dyn Observer, body: EventBody) -> Result<(), TrainError> {
        let t = MonotonicNs::now();
        if matches!(body, EventBody::Checkpoint { .. }) {
            self.not_before = t;
        }
        observer.event(t, body).map_err(TrainError::Observer)
    }

    /// A phase between steps, from `start` until now.
    fn span(&self, observer: &mut dyn Observer, phase: Phase, start: MonotonicNs) {
        observer.span(self.host_span(phase, start, MonotonicNs::now()));
    }

    fn host_span(&self, phase: Phase, start_ns: MonotonicNs, end_ns: MonotonicNs) -> Span {
        Span {
            segment: self.options.segment,
            step: self.state.step + 1,
            phase,
            start_ns,
            end_ns,
            clock: SpanClock::Host,
            error_ns: 0,
            overlaps: false,
        }
    }
}
