//! Going on from a checkpoint.

use std::path::Path;

use candle_core::Device;
use wattle_model::LanguageModel;
use wattle_model::hugging_face::{load_weights, read_safetensors};

use super::{FileSum, TrainState};
use crate::error::TrainError;
use crate::optimizer_state::OptimizerState;

impl TrainState {
    /// Reads the checkpoint `dir` into a model and its optimizer.
    ///
    /// # Errors
    /// If a file is missing, cut short or changed, or the weights are of another model; the model and the
    /// optimizer are then as they were.
    pub fn load(
        dir: &Path,
        model: &dyn LanguageModel,
        optimizer: &mut dyn OptimizerState,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let state = Self::read(dir)?;
        for expected in &state.files {
            check(dir, expected)?;
        }
        let path = dir.join("optimizer.safetensors");
        let moments = read_safetensors(&path, device)?;
        load_weights(model, &dir.join("model.safetensors"), device)?;
        optimizer.set_state(model.parameters(), &moments)?.map_err(|faults| TrainError::Checkpoint {
            path,
            reason: format!("these moments do not fit the model: {}", faults.join("; ")),
        })?;
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
