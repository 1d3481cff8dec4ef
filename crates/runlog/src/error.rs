//! What can go wrong with a run's files.

use std::io;
use std::path::{Path, PathBuf};

/// A fault in reading or writing what a run leaves on disk.
#[derive(Debug, thiserror::Error)]
pub enum RunlogError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new run would land on something that is already there.
    #[error(
        "{} already exists: go on with that run by --resume, or choose another --out (nothing was changed)",
        path.display()
    )]
    Exists {
        /// The directory in the way.
        path: PathBuf,
    },
    /// Another process is writing to the run.
    #[error("{} is being written by another process ({holder}): wait for it or stop it", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the lock file says of its holder.
        holder: String,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        reason: String,
    },
}

impl RunlogError {
    /// Adds a path and an action to what the operating system said.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}

/// What mends an operating-system error, as the end of a sentence; empty where there is nothing to add.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another place (--out); what was complete before is untouched"
        }
        io::ErrorKind::FileTooLarge => {
            "; raise the file size limit (ulimit -f); what was complete before is untouched"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a place that you may write to (--out)"
        }
        _ => "",
    }
}
