//! Going on from a checkpoint.

use std::path::Path;

use rayon::prelude::*;
use wattle_model::adapter::weight_file;
use wattle_model::check_moments;
use wattle_model::hugging_face::{load_weights, read_safetensors};

use super::{FileSum, TrainState};
use crate::engine::StepEngine;
use crate::error::TrainError;

impl TrainState {
    /// Reads the checkpoint `dir` into an engine and its model.
    ///
    /// # Errors
    /// If a file is missing, cut short or changed, or is of another model or of adapters of other weights; the engine and the model are then as they
    /// were.
    pub fn load(dir: &Path, engine: &mut dyn StepEngine) -> Result<Self, TrainError> {
        let state = Self::read(dir)?;
        // The first that is damaged is told of, however many are.
        let checked: Vec<_> = state.files.par_iter().map(|expected| check(dir, expected)).collect();
        checked.into_iter().collect::<Result<(), _>>()?;
        let (model, path) = (engine.model(), dir.join("optimizer.safetensors"));
        if let Some(adapter) = model.adapter() {
            adapter
                .base
                .check(dir)
                .map_err(|reason| TrainError::Checkpoint { path: dir.to_owned(), reason })?;
        }
        let device = model.device();
        let moments = read_safetensors(&path, &device)?;
        check_moments(model.parameters(), engine.matrices(), &moments)
            .map_err(|reason| TrainError::Checkpoint { path, reason })?;
        load_weights(model, &dir.join(weight_file(model)), &device)?;
        engine.load(&moments)?;
        Ok(state)
    }
}

fn check(dir: &Path, expected: &FileSum) -> Result<(), TrainError> {
    let got = FileSum::of(dir, &expected.name)?;
    if got == *expected {
        return Ok(());
    }
    let reason = if got.bytes == expected.bytes {
        format!("expected crc32c {}, got {}", expected.crc32c, got.crc32c)
    } else {
        format!("expected {} bytes, got {}", expected.bytes, got.bytes)
    };
    Err(TrainError::Checkpoint {
        path: dir.join(&expected.name),
        reason: format!(
            "damaged since it was written ({reason}); remove {} to go on from the checkpoint before it",
            dir.display()
        ),
    })
}
