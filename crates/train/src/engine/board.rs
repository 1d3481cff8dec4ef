//! Steps that are queued on a board.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use wattle_data::Batch;
use wattle_model::engine::LossSum;
use wattle_model::hugging_face::write_safetensors;
use wattle_model::{
    Counts, DeviceEngine, DeviceEngineOptions, DeviceSpan, FinishedSteps, LanguageModel, MatrixUpdate,
    MemoryPlan, StepInputs, StepPart, share_of,
};
use wattle_ops::board::select::Measured;
use wattle_ops::board::{Board, Elem, HostMemory};
use wattle_runlog::{MonotonicNs, Phase, Span, SpanClock};

use super::slowest::Slowest;
use super::snapshot::{Snapshot, SnapshotMoments, TakeMemory};
use super::{Finished, Step, StepEngine, warn_of_zero_gradients};
use crate::error::TrainError;
use crate::gradients::sequences;
use crate::kernels::Kernels;
use crate::options::TrainerOptions;
use crate::ranks::Ranks;
use crate::ranks::step::Worth;

/// All state lies on the board; the model's parameters may lie elsewhere.
pub(super) struct OnBoard<'a> {
    model: &'a dyn LanguageModel,
    engine: Box<dyn DeviceEngine>,
    board: Arc<dyn Board>,
    measured: Vec<Measured>,
    matrices: MatrixUpdate,
    segment: u32,
    ranks: Ranks,
    slowest: Slowest,
    /// Steps that were queued.
    n_queued: u64,
    /// When the last one was.
    queued: Option<Instant>,
    /// The longest time between two steps so far.
    longest: Duration,
    is_exported: bool,
    is_certified: bool,
}

impl<'a> OnBoard<'a> {
    /// `None` if the model's family has no such engine for the type that is asked for.
    pub(super) fn for_model(
        model: &'a dyn LanguageModel,
        board: Arc<dyn Board>,
        options: &TrainerOptions,
    ) -> Result<Option<Box<dyn StepEngine + 'a>>, TrainError> {
        let Some(engine_options) = device_engine_options(options) else { return Ok(None) };
        let ranks = options.ranks.clone();
        if share_of(board.as_ref()) != ranks.share() {
            return Err(TrainError::BoardAlone { world: ranks.share().world });
        }
        if let Some(collectives) = board.collectives() {
            collectives.set_deadline(ranks.between_steps());
        }
        if let Some(kernels) = &options.kernels {
            kernels.apply(board.as_ref());
        }
        let engine = model.device_engine(Arc::clone(&board), engine_options).map_err(TrainError::from);
        let Some(engine) = ranks.all_or_none(engine)? else { return Ok(None) };
        let mut engine = Self {
            model,
            engine,
            board,
            measured: Vec::new(),
            matrices: options.optimizer.matrices(),
            segment: options.segment,
            ranks,
            slowest: Slowest::default(),
            n_queued: 0,
            queued: None,
            longest: Duration::ZERO,
            is_exported: true,
            is_certified: false,
        };
        engine.select(options.select)?;
        Ok(Some(Box::new(engine)))
    }

    /// Chooses kernels, if that `is_wanted`. Of several ranks the leading one does, for all whose boards are like its own.
    fn select(&mut self, is_wanted: bool) -> Result<(), TrainError> {
        let leads = self.ranks.leads();
        let measured = match is_wanted && leads {
            true => self.engine.select().map_err(TrainError::from),
            false => Ok(Vec::new()),
        };
        self.measured = self.ranks.all_or_none(measured)?;
        if !self.ranks.are_several() {
            return Ok(());
        }
        let own =
            if leads { Kernels::of(self.board.as_ref(), &self.measured).to_json() } else { String::new() };
        let of_leader = self.ranks.tell(own.into_bytes(), self.ranks.between_steps())?;
        if leads {
            return Ok(());
        }
        let kernels = Kernels::of_leader(&of_leader)?;
        let differences = kernels.differences(self.board.as_ref());
        if differences.is_empty() {
            kernels.apply(self.board.as_ref());
            return Ok(());
        }
        tracing::warn!(
            "rank {} chooses kernels of its own: its board is not like that of rank 0 ({})",
            self.ranks.share().rank,
            differences.join("; ")
        );
        if is_wanted {
            self.measured = self.engine.select()?;
        }
        Ok(())
    }

    /// What the targets of the whole batch count, of which `batch` is this rank's part.
    fn counts(&self, batch: &Batch) -> Result<Counts, TrainError> {
        let own = Counts::from(sequences(batch));
        if batch.weights.is_none() {
            let world = self.ranks.share().world;
            return Ok(Counts { weight: own.weight * world as f64, n_counted: own.n_counted * world });
        }
        let own = Worth { weight: own.weight, n_counted: own.n_counted, ..Worth::default() };
        let mut all = Worth::default();
        let of_ranks = self.ranks.worths(&[own], self.ranks.within_step(self.longest))?;
        of_ranks.into_iter().for_each(|worth| all += worth);
        Ok(Counts { weight: all.weight, n_counted: all.n_counted })
    }

    /// Waits for others as long as steps suggest from the third on, before which libraries load and steps are recorded.
    fn set_deadline(&mut self, number_in_segment: u64) {
        let Some(collectives) = self.board.collectives() else { return };
        let now = Instant::now();
        if let Some(before) = self.queued.replace(now) {
            self.longest = self.longest.max(now.duration_since(before));
        }
        if number_in_segment > 3 {
            collectives.set_deadline(self.ranks.within_step(self.longest));
        }
    }

    fn spans(&mut self, spans: Vec<DeviceSpan>) -> Result<Vec<Span>, TrainError> {
        let spans = spans.into_iter().map(|span| self.span(span)).collect();
        Ok(self.slowest.told_apart(spans, &self.ranks, self.ranks.between_steps())?)
    }

    fn span(&self, span: DeviceSpan) -> Span {
        Span {
            segment: self.segment,
            step: span.step,
            phase: match span.part {
                StepPart::Data => Phase::Data,
                StepPart::ForwardBackward => Phase::ForwardBackward,
                StepPart::Exchange => Phase::Exchange,
                StepPart::Optimizer => Phase::Optimizer,
            },
            start_ns: MonotonicNs(span.start_ns),
            end_ns: MonotonicNs(span.end_ns),
            clock: SpanClock::Device,
            error_ns: span.error_ns,
            overlaps: false,
        }
    }
}

impl StepEngine for OnBoard<'_> {
    fn step(&mut self, step: &Step<'_>) -> Result<(), TrainError> {
        self.is_exported = false;
        let &Step { number, learning_rate, batch, .. } = step;
        let counts = self.counts(batch)?;
        self.n_queued += 1;
        self.set_deadline(self.n_queued);
        self.engine.step(StepInputs { sequences: sequences(batch), counts, step: number, learning_rate })?;
        if !self.is_certified {
            warn_of_zero_gradients(self.engine.zero_gradient_names());
            self.is_certified = true;
        }
        Ok(())
    }

    fn n_in_flight(&self) -> usize {
        self.engine.n_in_flight()
    }

    fn poll(&mut self) -> Result<Finished, TrainError> {
        let FinishedSteps { spans, results } = self.engine.poll(&host_ns)?;
        Ok(Finished { spans: self.spans(spans)?, results })
    }

    fn drain(&mut self) -> Result<Finished, TrainError> {
        let spans = self.engine.synchronize(&host_ns)?;
        let results = self.engine.drain()?;
        Ok(Finished { spans: self.spans(spans)?, results })
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSum, TrainError> {
        Ok(self.engine.evaluate(sequences(batch))?)
    }

    fn matrices(&self) -> MatrixUpdate {
        self.matrices
    }

    fn load(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        self.engine.take(self.model.parameters())?;
        self.engine.set_moments(moments)?;
        self.is_exported = true;
        Ok(())
    }

    fn export(&mut self) -> Result<(), TrainError> {
        if !self.is_exported {
            self.engine.publish(self.model.parameters())?;
            self.is_exported = true;
        }
        Ok(())
    }

    fn write_moments(&self, path: &Path) -> Result<(), TrainError> {
        Ok(write_safetensors(path, &self.engine.moments()?)?)
    }

    fn snapshot_bytes(&self) -> u64 {
        (self.engine.snapshot_len() * size_of::<f32>()) as u64
    }

    fn snapshot_memory(&self) -> TakeMemory {
        let (board, len) = (Arc::clone(&self.board), self.engine.snapshot_len());
        Box::new(move || board.host_memory(len))
    }

    fn snapshot(&mut self, memory: HostMemory) -> Result<Snapshot, TrainError> {
        let state = self.engine.snapshot(memory)?;
        // They get the snapshot's values before they are written.
        let (weights, unpublished) = (self.model.weights()?, self.model.parameters().to_vec());
        self.is_exported = true;
        Ok(Snapshot { weights, moments: SnapshotMoments::Flat { state, unpublished } })
    }

    fn join_snapshot(&mut self) -> Result<(), TrainError> {
        self.engine.join_snapshot()?;
        // The weights are with the leading rank. The parameters here stay as they were.
        self.is_exported = true;
        Ok(())
    }

    fn gradients(&self) -> Result<Option<Vec<Tensor>>, TrainError> {
        Ok(None)
    }

    fn model(&self) -> &dyn LanguageModel {
        self.model
    }

    fn describe(&self) -> String {
        let ranks = match self.ranks.share().world {
            1 => String::new(),
            world => format!("each of {world} ranks, here "),
        };
        format!("explicit engine on {ranks}{}", self.engine.describe())
    }

    fn kernels(&self) -> Option<Kernels> {
        Some(Kernels::of(self.board.as_ref(), &self.measured))
    }

    fn measured(&self) -> &[Measured] {
        &self.measured
    }

    fn memory(&self) -> Option<MemoryPlan> {
        Some(self.engine.memory())
    }
}

/// Refuses what an engine on `board` would refuse for lack of memory. `model` may be blank: an answer takes no time,
/// where making the model takes long.
///
/// # Errors
/// If there is too little memory, or the board fails.
pub fn refuse_what_cannot_fit(
    model: &dyn LanguageModel,
    board: &dyn Board,
    options: &TrainerOptions,
) -> Result<(), TrainError> {
    match device_engine_options(options) {
        Some(options) => Ok(model.refuse_what_cannot_fit(board, options)?),
        None => Ok(()),
    }
}

/// `None` for a type that no board's engine has.
fn device_engine_options(options: &TrainerOptions) -> Option<DeviceEngineOptions> {
    let elem = Elem::of(options.dtype)?;
    let TrainerOptions { train, optimizer, seed, dropout, .. } = options;
    let batch_size = train.batch_size / options.ranks.share().world;
    Some(DeviceEngineOptions {
        batch_size,
        micro_batch: train.micro_batch().min(batch_size),
        recompute: train.recompute,
        elem,
        fp8: options.fp8,
        gradients: options.gradients,
        moments: options.moments,
        seed: *seed,
        dropout: *dropout,
        clip_norm: train.clip_norm,
        hyperparameters: optimizer.hyperparameters(),
        matrices: optimizer.matrices(),
        masks: options.masks,
        selects: options.select,
    })
}

fn host_ns() -> u64 {
    MonotonicNs::now().0
}
