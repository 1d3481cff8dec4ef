//! What can go wrong with a model.

use std::path::PathBuf;

/// A fault in building a model or in reading or writing its weights.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// What computes on a device failed.
    #[error(transparent)]
    Device(Box<dyn std::error::Error + Send + Sync>),
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
    /// A GGUF file cannot be read.
    #[error(
        "{}: not a whole GGUF file ({reason}); it may have been cut short: write it again by wattle export",
        path.display()
    )]
    UnreadableGguf {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A model is not one that llama.cpp can run.
    #[error("{}: cannot be exported to GGUF: {}", dir.display(), faults.join("; "))]
    Export {
        /// The checkpoint.
        dir: PathBuf,
        /// Everything that stands against it, each with what can be done.
        faults: Vec<String>,
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
    /// A `config.json` is not of a model that there is.
    #[error("{}: {}", path.display(), faults.join("; "))]
    Config {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it, each with the key.
        faults: Vec<String>,
    },
    /// A directory of weights is not whole, or not of a kind that can be read.
    #[error("{}: {reason}", path.display())]
    Directory {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What was expected, what came, and what to do.
        reason: String,
    },
    /// Text cannot be generated as asked.
    #[error("{}", faults.join("; "))]
    Generate {
        /// Everything that is wrong, each with the flag.
        faults: Vec<String>,
    },
    /// A prediction is not a finite number.
    #[error(
        "the logit of token {token} is {logit}: the weights are damaged, or too large for this precision; \
         try f32 or another checkpoint"
    )]
    NotFinite {
        /// The token.
        token: usize,
        /// Its logit.
        logit: f32,
    },
}
