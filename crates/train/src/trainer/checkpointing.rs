//! When the trainer leaves checkpoints, and how: while training waits, or while it goes on.

use std::path::Path;

use wattle_model::EngineError;
use wattle_ops::board::HostMemory;
use wattle_runlog::{EventBody, MonotonicNs, Phase, Span};

use super::Trainer;
use crate::checkpoint::{Background, CheckpointContent, TrainState, Written};
use crate::engine::StepEngine;
use crate::error::TrainError;
use crate::observer::{Draft, Edge, Observer};

/// Checkpoints that are written while training goes on, and how far that has been told.
#[derive(Default)]
pub(super) struct Writing {
    background: Background,
    /// Up to when the writing of the one under way has been told in spans.
    told_until: MonotonicNs,
}

impl Writing {
    /// Whether a checkpoint's writing has ended and has not been told.
    pub(super) fn has_ended(&self) -> bool {
        self.background.has_ended()
    }
}

impl Trainer<'_> {
    /// Bytes of host memory for the copy that checkpoints are written from while training goes on; 0 if training waits
    /// for them.
    pub fn snapshot_bytes(&self) -> u64 {
        if self.writes_from_snapshots() { self.engine.snapshot_bytes() } else { 0 }
    }

    /// Whether training goes on after a checkpoint that falls due by the plan, and is not to wait for it.
    fn takes_snapshots(&self) -> bool {
        let (every_epochs, every_steps) =
            (self.options.checkpoint_every_epochs, self.options.checkpoint_every_steps);
        self.options.checkpoint_in_background
            && self.plan.has_checkpoint_before_end(every_epochs, every_steps)
    }

    /// Whether checkpoints are written from snapshots: where training goes on meanwhile, and by the leading one of several
    /// ranks, into whose snapshot the others send their moments.
    fn writes_from_snapshots(&self) -> bool {
        let ranks = &self.options.ranks;
        ranks.leads() && (self.takes_snapshots() || ranks.are_several())
    }

    /// Begins to take the memory for snapshots, if there will be any.
    pub(super) fn prepare_snapshots(&mut self) {
        if self.writes_from_snapshots() {
            self.writing.background.prepare(self.engine.snapshot_memory());
        }
    }

    /// Takes the memory for snapshots, and keeps it until this is dropped.
    pub(super) fn rehearse_snapshots(&mut self) -> Option<HostMemory> {
        self.prepare_snapshots();
        self.writing.background.memory(true)
    }

    /// Leaves a checkpoint wherever training is, unless there is one.
    pub(super) fn leave_checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if self.epoch_open {
            self.end_epoch(observer)?;
        }
        if self.checkpointed != Some(self.state.step) {
            self.checkpoint(observer, true)?;
        }
        Ok(())
    }

    /// Leaves a checkpoint. Training goes on while it is written, unless it `is_last`.
    pub(super) fn checkpoint(
        &mut self,
        observer: &mut dyn Observer,
        is_last: bool,
    ) -> Result<(), TrainError> {
        self.drain(observer)?;
        // One at a time: they share the memory, and the disk.
        self.finish_writing(observer)?;
        let (step, tokens) = (self.state.step, self.state.tokens);
        let epoch = if step == 0 { 1 } else { self.plan.epoch_after(step - 1) };
        if self.epoch_open {
            observer.edge(Edge::Checkpoint { epoch, step, tokens });
        }
        if !self.options.ranks.leads() {
            return self.join_checkpoint(observer);
        }
        let start = MonotonicNs::now();
        let best = self.state.early_stop.best.is_some_and(|best| best.step == step);
        let val_loss = self.evaluated.filter(|(at, _)| *at == step).map(|(_, loss)| loss);
        let state = TrainState { segment: self.options.segment, t_ns: start, ..self.state.clone() };
        let content = CheckpointContent::new(state, best, self.engine.model(), &self.dataset.tokenizer)
            .with_chat(self.dataset.chat.as_ref(), &self.dataset.tokenizer);
        let draft = |dir: &Path| Draft {
            step,
            epoch,
            ends_epoch: !self.epoch_open,
            tokens,
            val_loss,
            dir: dir.to_owned(),
        };
        let is_over_ranks = self.options.ranks.are_several();
        let waits = is_last || !self.takes_snapshots();
        let memory = match self.writing.background.memory(is_over_ranks || !is_last) {
            // Moments of other ranks have no other way into a file.
            None if is_over_ranks => Some(self.engine.snapshot_memory()().map_err(EngineError::Board)?),
            memory => memory,
        };
        match memory {
            Some(memory) => {
                let extra = observer.before_commit(&draft(&self.checkpoints.temporary_path(step)));
                self.write_in_background(memory, content.with(extra))?;
                self.checkpointed = Some(step);
                self.end_of_stall(observer, start);
                if waits { self.finish_writing(observer) } else { Ok(()) }
            }
            None => {
                self.engine.export()?;
                let engine: &dyn StepEngine = self.engine.as_ref();
                let path =
                    self.checkpoints.save(&engine, content, |dir| observer.before_commit(&draft(dir)))?;
                self.checkpointed = Some(step);
                self.end_of_stall(observer, start);
                self.tell_checkpoint(observer, &path, step, best)
            }
        }
    }

    /// Gives the leading rank what it needs for a checkpoint.
    fn join_checkpoint(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let start = MonotonicNs::now();
        self.engine.join_snapshot()?;
        self.checkpointed = Some(self.state.step);
        self.end_of_stall(observer, start);
        Ok(())
    }

    fn write_in_background(
        &mut self,
        memory: HostMemory,
        content: CheckpointContent,
    ) -> Result<(), TrainError> {
        let snapshot = self.engine.snapshot(memory)?;
        self.writing.background.write(self.checkpoints.clone(), snapshot, content)?;
        self.writing.told_until = MonotonicNs::now();
        Ok(())
    }

    /// Steps can go on.
    fn end_of_stall(&mut self, observer: &mut dyn Observer, start: MonotonicNs) {
        self.span(observer, Phase::Checkpoint, start);
        self.told_until = MonotonicNs::now();
    }

    /// Waits for the checkpoint that is being written, if one is, and tells of it.
    pub(super) fn finish_writing(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let Some(Written { path, step, is_best, at }) = self.writing.background.wait() else {
            return Ok(());
        };
        self.tell_writing(observer, at);
        self.tell_checkpoint(observer, &path?, step, is_best)
    }

    /// Tells, at an edge, of the writing up to now.
    pub(super) fn tell_writing_so_far(&mut self, observer: &mut dyn Observer) {
        if self.writing.background.is_writing() {
            self.tell_writing(observer, MonotonicNs::now());
        }
    }

    fn tell_writing(&mut self, observer: &mut dyn Observer, until: MonotonicNs) {
        let start = self.writing.told_until;
        // Writing may have ended before the last edge.
        if until > start {
            observer.span(Span { overlaps: true, ..self.host_span(Phase::Checkpoint, start, until) });
            self.writing.told_until = until;
        }
    }

    fn tell_checkpoint(
        &mut self,
        observer: &mut dyn Observer,
        path: &Path,
        step: u64,
        best: bool,
    ) -> Result<(), TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.tell(observer, EventBody::Checkpoint { step, path: format!("checkpoints/{name}"), best })
    }
}
