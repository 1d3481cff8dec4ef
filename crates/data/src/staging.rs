//! Folders that appear whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::DataError;

/// Keeps the temporary names of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A temporary folder beside its destination; removed unless it is committed.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    destination: PathBuf,
}

impl Staging {
    /// A new folder beside `destination`, whose parents are made where they are missing.
    pub(crate) fn beside(destination: &Path) -> Result<Self, DataError> {
        if let Some(parent) = destination.parent() {
            fs::create_dir_all(parent).map_err(DataError::write(parent))?;
        }
        let dir = temporary_name(destination);
        fs::create_dir(&dir).map_err(DataError::write(&dir))?;
        Ok(Self { dir, destination: destination.to_owned() })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves the folder to its destination. `false` if something is there already, which then stays.
    pub(crate) fn commit(self) -> Result<bool, DataError> {
        sync_files(&self.dir)?;
        match fs::rename(&self.dir, &self.destination) {
            Ok(()) => sync_parent(&self.destination).map(|()| true),
            Err(_) if self.destination.exists() => Ok(false),
            Err(error) => Err(DataError::write(&self.destination)(error)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Already gone after a commit; a folder that cannot be removed is not worth failing for.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Moves `dir` out of the way and removes it, so that nobody sees it half removed.
pub(crate) fn discard(dir: &Path) -> Result<(), DataError> {
    let aside = temporary_name(dir);
    match fs::rename(dir, &aside) {
        Ok(()) => fs::remove_dir_all(&aside).map_err(DataError::write(&aside)),
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DataError::write(dir)(error)),
    }
}

fn temporary_name(destination: &Path) -> PathBuf {
    let name = destination.file_name().unwrap_or_default().to_string_lossy();
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    destination.with_file_name(format!(".{name}.{}-{unique}.tmp", std::process::id()))
}

fn sync_files(dir: &Path) -> Result<(), DataError> {
    for entry in fs::read_dir(dir).map_err(DataError::read(dir))? {
        let path = entry.map_err(DataError::read(dir))?.path();
        fs::File::open(&path).and_then(|file| file.sync_all()).map_err(DataError::write(&path))?;
    }
    Ok(())
}

/// Makes a rename last through a loss of power; a folder that cannot be opened for that is left to the system.
fn sync_parent(path: &Path) -> Result<(), DataError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(DataError::write(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_commit_wins_and_nothing_is_left_over() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("deep/er/data");
        let stage = |content: &str| {
            let staging = Staging::beside(&destination).unwrap();
            fs::write(staging.dir().join("file"), content).unwrap();
            staging
        };
        let (first, second, dropped) = (stage("first"), stage("second"), stage("dropped"));
        assert!(first.commit().unwrap());
        assert!(!second.commit().unwrap());
        drop(dropped);
        assert_eq!(fs::read_to_string(destination.join("file")).unwrap(), "first");
        assert_eq!(fs::read_dir(root.path().join("deep/er")).unwrap().count(), 1);
        discard(&destination).unwrap();
        discard(&destination).unwrap();
        assert_eq!(fs::read_dir(root.path().join("deep/er")).unwrap().count(), 0);
    }
}
