//! Tensors in and out of safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::View;

use crate::error::ModelError;
use crate::language_model::LanguageModel;

/// Writes tensors to a safetensors file, as PyTorch programs expect it.
///
/// # Errors
/// If the file cannot be written; what was written of it is left for the caller to remove.
pub fn write_safetensors<V>(path: &Path, tensors: &[(String, V)]) -> Result<(), ModelError>
where
    for<'a> &'a V: View,
{
    let tensors: BTreeMap<&str, &V> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    // transformers refuses a file that does not say which framework's tensors it holds.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let unwritable = |reason: String| ModelError::Unwritable { path: path.to_owned(), reason };
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| unwritable(e.to_string()))?;
    // safetensors makes its files for their owner's eyes alone.
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(|e| unwritable(e.to_string()))
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// If it cannot be read or is not whole.
pub fn read_safetensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>, ModelError> {
    candle_core::safetensors::load(path, device)
        .map_err(|e| ModelError::Unreadable { path: path.to_owned(), reason: first_line(&e) })
}

/// Loads a model's weights from a safetensors file.
///
/// # Errors
/// If the file is not whole or its tensors are not the model's: every difference is listed, and the model is
/// left as it was.
pub fn load_weights(model: &dyn LanguageModel, path: &Path, device: &Device) -> Result<(), ModelError> {
    let weights = read_safetensors(path, device)?;
    model.set_weights(&weights)?.map_err(|faults| ModelError::Mismatch { path: path.to_owned(), faults })
}

pub(super) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
