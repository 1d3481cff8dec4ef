//! A copy of weights and moments from which a checkpoint is written while training goes on.

use std::path::Path;

use candle_core::Tensor;
use wattle_model::engine::FlatSnapshot;
use wattle_model::hugging_face::write_safetensors;
use wattle_model::{ModelError, Parameter};
use wattle_ops::board::{BoardError, HostMemory};

use super::StepEngine;
use crate::error::TrainError;

/// Takes memory for a snapshot. It may take seconds, and any thread may do it.
pub type TakeMemory = Box<dyn FnOnce() -> Result<HostMemory, BoardError> + Send>;

/// What a checkpoint's files of tensors are written from.
pub trait CheckpointTensors {
    /// Writes the weights to a safetensors file.
    ///
    /// # Errors
    /// If the file cannot be written; what was written of it is left for the caller to remove.
    fn write_weights(&self, path: &Path) -> Result<(), TrainError>;

    /// Writes the moments to a safetensors file.
    ///
    /// # Errors
    /// As for [`CheckpointTensors::write_weights`].
    fn write_moments(&self, path: &Path) -> Result<(), TrainError>;
}

/// An engine that has exported its weights, and waits.
impl CheckpointTensors for &(dyn StepEngine + '_) {
    fn write_weights(&self, path: &Path) -> Result<(), TrainError> {
        Ok(write_safetensors(path, &self.model().weights()?)?)
    }

    fn write_moments(&self, path: &Path) -> Result<(), TrainError> {
        StepEngine::write_moments(*self, path)
    }
}

/// Weights and moments as they were between two steps.
pub struct Snapshot {
    /// The tensors of `model.safetensors`. An engine with weights of its own leaves the model's parameters as they are
    /// until the snapshot is written, so these may be the parameters themselves.
    pub(super) weights: Vec<(String, Tensor)>,
    pub(super) moments: SnapshotMoments,
}

/// The moments of a snapshot.
pub(super) enum SnapshotMoments {
    /// Of an explicit engine.
    Flat {
        /// The moments and, from a board, the weights.
        state: FlatSnapshot,
        /// The parameters that get the weights before they are written.
        unpublished: Vec<Parameter>,
    },
    /// Of autograd: tensors that no step changes.
    Tensors {
        /// By name.
        moments: Vec<(String, Tensor)>,
        /// What the snapshot was to be copied to, and was not.
        memory: HostMemory,
    },
}

impl Snapshot {
    /// Makes the model's parameters those of the snapshot, as far as they are not.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn publish(&self) -> Result<(), TrainError> {
        match &self.moments {
            SnapshotMoments::Flat { state, unpublished } => Ok(state.publish(unpublished)?),
            SnapshotMoments::Tensors { .. } => Ok(()),
        }
    }

    /// The memory, for the next one.
    pub fn into_memory(self) -> HostMemory {
        match self.moments {
            SnapshotMoments::Flat { state, .. } => state.into_memory(),
            SnapshotMoments::Tensors { memory, .. } => memory,
        }
    }
}

impl CheckpointTensors for Snapshot {
    fn write_weights(&self, path: &Path) -> Result<(), TrainError> {
        Ok(write_safetensors(path, &self.weights)?)
    }

    fn write_moments(&self, path: &Path) -> Result<(), TrainError> {
        let written: Result<(), ModelError> = match &self.moments {
            SnapshotMoments::Flat { state, .. } => state.write_moments(path),
            SnapshotMoments::Tensors { moments, .. } => write_safetensors(path, moments),
        };
        Ok(written?)
    }
}

/// Ordinary memory for `len` numbers.
pub(super) fn ordinary(len: usize) -> TakeMemory {
    Box::new(move || {
        HostMemory::ordinary(len).map_err(|error| BoardError::HostMemory {
            asked: (len * size_of::<f32>()) as u64,
            why: error.to_string(),
        })
    })
}
