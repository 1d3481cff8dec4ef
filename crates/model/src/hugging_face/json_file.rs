//! Reading JSON files that other programs wrote.

use std::path::Path;

use super::stand_in::refuse_stand_in;
use crate::error::ModelError;

/// The text of a JSON file, without a byte order mark. `expected` says what the file should be.
///
/// # Errors
/// If it cannot be read, is not UTF-8, or is something that a server or Git LFS left in its place.
pub(crate) fn read_json_text(path: &Path, expected: &str) -> Result<String, ModelError> {
    let fault = |reason: String| ModelError::Directory { path: path.to_owned(), reason };
    let bytes = wattle_files::read(path, wattle_files::SMALL)
        .map_err(|e| fault(format!("cannot be read ({e}); expected {expected}")))?;
    refuse_stand_in(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| fault("is not UTF-8: save it as UTF-8, or download it again".to_owned()))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}
