//! A file of weights into a model that is there.

use std::path::Path;

use candle_core::Device;

use super::safetensors::read_safetensors;
use crate::error::ModelError;
use crate::language_model::LanguageModel;

/// Loads a model's weights from a safetensors file.
///
/// # Errors
/// If the file is not whole or its tensors are not the model's: every difference is listed, and the model is
/// left as it was.
pub fn load_weights(model: &dyn LanguageModel, path: &Path, device: &Device) -> Result<(), ModelError> {
    let weights = read_safetensors(path, device)?;
    model.set_weights(&weights)?.map_err(|faults| ModelError::Mismatch { path: path.to_owned(), faults })
}
