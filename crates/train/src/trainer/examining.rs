//! What an evaluation finds besides the loss: scores on tasks, and texts after prompts.

use std::sync::Arc;

use candle_core::DType;
use wattle_data::Tokenizer;
use wattle_model::{LanguageModel, Sampling};
use wattle_ops::board::Board;
use wattle_runlog::{EventBody, Sample, TaskScores};

use super::Trainer;
use crate::config::EvaluateConfig;
use crate::error::TrainError;
use crate::observer::{Observer, Progress};
use crate::options::TrainerOptions;
use crate::tasks::answer::answers_of_ranks;
use crate::tasks::{Exam, SampleOptions, decoder, samples, scores};

/// Texts at once on a board, whose memory training has for the most part.
const N_SLOTS: usize = 8;

/// Tasks and prompts of a run.
pub(super) struct Examining {
    exam: Exam,
    prompts: Vec<String>,
    options: SampleOptions,
    /// What predicts, where steps are made on a board.
    board: Option<Arc<dyn Board>>,
    dtype: DType,
}

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    tasks: Vec<TaskScores>,
    samples: Vec<Sample>,
}

impl Examining {
    /// Reads tasks and prompts.
    ///
    /// # Errors
    /// If a file cannot be read, or holds what the model cannot be asked.
    pub(super) fn new(
        options: &TrainerOptions,
        tokenizer: &Tokenizer,
        context: usize,
        board: Option<Arc<dyn Board>>,
    ) -> Result<Self, TrainError> {
        let EvaluateConfig { tasks, prompts, prompt_tokens, prompt_temperature, .. } = &options.evaluate;
        let sampling =
            Sampling { temperature: *prompt_temperature, seed: options.seed, ..Sampling::greedy() };
        // On a CPU, a run with products in eight bits has all else in f32.
        let dtype = if options.fp8.is_some() && board.is_none() { DType::F32 } else { options.dtype };
        Ok(Self {
            exam: Exam::read(tasks, tokenizer, context)?,
            prompts: prompts.read()?,
            options: SampleOptions { sampling, max_tokens: *prompt_tokens },
            board,
            dtype,
        })
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.exam.tasks.is_empty() && self.prompts.is_empty()
    }

    /// About the tokens that go through the model in one evaluation.
    pub(super) fn n_tokens(&self) -> u64 {
        self.exam.n_tokens() + (self.prompts.len() * self.options.max_tokens) as u64
    }

    /// Room for the text of any item, or of any prompt.
    fn room(&self) -> usize {
        if self.prompts.is_empty() { self.exam.room() } else { self.exam.context }
    }

    fn n_slots(&self) -> usize {
        self.exam.n_items().max(self.prompts.len()).min(N_SLOTS)
    }

    /// Takes what is needed on a board and gives it back: a lack of memory is told before the first step.
    pub(super) fn rehearse(&self, model: &dyn LanguageModel) -> Result<(), TrainError> {
        if self.is_nothing() || self.board.is_none() {
            return Ok(());
        }
        let made = decoder(model, self.board.as_ref(), self.dtype, self.n_slots(), self.room());
        made.map(drop).map_err(|fault| TrainError::NoRoomForTasks { fault: Box::new(fault) })
    }
}

impl Trainer<'_> {
    /// About the tokens that go through the model in an evaluation for tasks and prompts.
    pub fn examined_tokens(&self) -> u64 {
        self.examining.n_tokens()
    }

    /// Scores the model as it is on tasks, and lets it go on from prompts. No checkpoint is being written.
    pub(super) fn examine(&mut self, observer: &mut dyn Observer) -> Result<Found, TrainError> {
        if self.examining.is_nothing() {
            return Ok(Found::default());
        }
        self.engine.export()?;
        let Examining { exam, prompts, options, board, dtype } = &self.examining;
        let (ranks, tokenizer) = (&self.options.ranks, &self.dataset.tokenizer);
        let (n_slots, room) = (self.examining.n_slots(), self.examining.room());
        let model = self.engine.model();
        let mut decoder = decoder(model, board.as_ref(), *dtype, n_slots, room)?;
        let total = exam.n_items() as u64;
        let progress = &mut |done| observer.progress(Progress::Evaluate { done: done as u64, total });
        let answers = answers_of_ranks(exam, decoder.as_mut(), tokenizer, ranks, progress)?;
        let tasks = exam.tasks.iter().zip(&answers).map(|(task, answers)| scores(task, answers)).collect();
        // The others have nobody to tell.
        let samples = match ranks.leads() {
            true => samples(prompts, options, decoder.as_mut(), tokenizer)?,
            false => Vec::new(),
        };
        Ok(Found { tasks, samples })
    }

    pub(super) fn tell_found(&mut self, observer: &mut dyn Observer, found: Found) -> Result<(), TrainError> {
        let (step, Found { tasks, samples }) = (self.state.step, found);
        if !tasks.is_empty() {
            self.tell(observer, EventBody::Tasks { step, tasks })?;
        }
        if !samples.is_empty() {
            self.tell(observer, EventBody::Samples { step, samples })?;
        }
        Ok(())
    }
}
