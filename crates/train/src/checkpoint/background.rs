//! A checkpoint that is written while training goes on.

use std::path::PathBuf;
use std::thread::JoinHandle;

use wattle_ops::board::{BoardError, HostMemory};
use wattle_runlog::MonotonicNs;

use super::{CheckpointContent, Checkpoints};
use crate::engine::snapshot::{Snapshot, TakeMemory};
use crate::error::TrainError;

/// Writes checkpoints on a thread of its own, one at a time. While there is no memory for a snapshot, there are none.
#[derive(Default)]
pub(crate) struct Background {
    memory: Option<Memory>,
    writing: Option<Writing>,
}

/// The memory for a snapshot while nothing is written from it.
enum Memory {
    Taking(JoinHandle<Result<HostMemory, BoardError>>),
    There(HostMemory),
}

struct Writing {
    thread: JoinHandle<(Result<PathBuf, TrainError>, HostMemory, MonotonicNs)>,
    step: u64,
    is_best: bool,
}

/// A checkpoint whose writing has ended.
pub(crate) struct Written {
    /// Where it is, or why it is not.
    pub(crate) path: Result<PathBuf, TrainError>,
    /// Finished updates.
    pub(crate) step: u64,
    /// Whether it is the best by validation loss.
    pub(crate) is_best: bool,
    /// When writing ended.
    pub(crate) at: MonotonicNs,
}

impl Background {
    /// Takes memory for snapshots on a thread of its own, unless it is there.
    pub(crate) fn prepare(&mut self, take: TakeMemory) {
        if self.memory.is_some() || self.writing.is_some() {
            return;
        }
        match std::thread::Builder::new().name("snapshot memory".to_owned()).spawn(take) {
            Ok(thread) => self.memory = Some(Memory::Taking(thread)),
            Err(error) => say_foreground(&error.to_string()),
        }
    }

    /// The memory for a snapshot; `None` if checkpoints are written while training waits. If `may_wait`, it waits for
    /// memory that is being taken.
    pub(crate) fn memory(&mut self, may_wait: bool) -> Option<HostMemory> {
        match self.memory.take()? {
            Memory::There(memory) => Some(memory),
            Memory::Taking(thread) if !may_wait && !thread.is_finished() => {
                self.memory = Some(Memory::Taking(thread));
                None
            }
            Memory::Taking(thread) => joined(thread).map_err(|error| say_foreground(&error.to_string())).ok(),
        }
    }

    /// Begins to write a checkpoint. None may be under way.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub(crate) fn write(
        &mut self,
        checkpoints: Checkpoints,
        snapshot: Snapshot,
        content: CheckpointContent,
    ) -> Result<(), TrainError> {
        assert!(self.writing.is_none(), "a checkpoint waits for the one before");
        let (step, is_best) = (content.state.step, content.is_best);
        let dir = checkpoints.path(step);
        let write = move || {
            let path = snapshot.publish().and_then(|()| checkpoints.save(&snapshot, content, |_| Vec::new()));
            (path, snapshot.into_memory(), MonotonicNs::now())
        };
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(write)
            .map_err(TrainError::io("start a thread for", &dir))?;
        self.writing = Some(Writing { thread, step, is_best });
        Ok(())
    }

    /// Whether a checkpoint is under way, or has ended and was not asked for.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether a checkpoint's writing has ended, and was not asked for.
    pub(crate) fn has_ended(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.thread.is_finished())
    }

    /// Waits for the checkpoint under way; `None` if there is none.
    pub(crate) fn wait(&mut self) -> Option<Written> {
        let Writing { thread, step, is_best } = self.writing.take()?;
        let (path, memory, at) = joined(thread);
        self.memory = Some(Memory::There(memory));
        Some(Written { path, step, is_best, at })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A process that ends in the midst of a driver's call may crash.
        if let Some(Memory::Taking(thread)) = self.memory.take() {
            let _ = thread.join();
        }
    }
}

fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn say_foreground(why: &str) {
    tracing::warn!("no memory for a copy of weights and moments ({why}): training waits for checkpoints");
}
