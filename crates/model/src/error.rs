//! What can go wrong with a model.

use std::path::PathBuf;

/// A fault in building a model or in reading or writing its weights.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file of weights cannot be read.
    #[error(
        "{}: not a whole safetensors file ({reason}); it may have been cut short: use another checkpoint",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A file of weights cannot be written.
    #[error("cannot write {}: {reason}; free some space or choose another --out", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the writer said.
        reason: String,
    },
    /// Weights are of another model.
    #[error("{}: these weights do not fit the model: {}", path.display(), faults.join("; "))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every tensor that is missing, extra, or of another shape.
        faults: Vec<String>,
    },
}
