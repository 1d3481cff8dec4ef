//! Folders that appear whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::DataError;

/// After so long a temporary folder is taken to be left over: no preparation takes longer.
const STALE: Duration = Duration::from_secs(7 * 24 * 3600);

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
        sweep(destination);
        let dir = temporary_name(destination);
        if dir.exists() {
            // Of a process that had this one's number before it and was killed.
            fs::remove_dir_all(&dir).map_err(DataError::write(&dir))?;
        }
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
            Ok(()) => match sync_parent(&self.destination) {
                Ok(()) => Ok(true),
                // A folder that is reported as failed must not be in the way of the next attempt.
                Err(error) => discard(&self.destination).and(Err(error)),
            },
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

/// Removes what killed processes left beside `destination`. What cannot be looked at or removed stays.
fn sweep(destination: &Path) {
    let Some(entries) = destination.parent().and_then(|parent| fs::read_dir(parent).ok()) else { return };
    let prefix = temporary_prefix(destination);
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_stale = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE));
        if name.starts_with(&prefix) && name.ends_with(".tmp") && is_stale {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn temporary_prefix(destination: &Path) -> String {
    format!(".{}.", destination.file_name().unwrap_or_default().to_string_lossy())
}

fn temporary_name(destination: &Path) -> PathBuf {
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let prefix = temporary_prefix(destination);
    destination.with_file_name(format!("{prefix}{}-{unique}.tmp", std::process::id()))
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
    fn what_killed_processes_left_is_in_nobodys_way() {
        let root = tempfile::tempdir().unwrap();
        let destination = root.path().join("data");
        // Every name that this process could take next, as if one with its number had been killed before.
        let next = NEXT.load(Ordering::Relaxed);
        let names: Vec<String> =
            (next..next + 100).map(|i| format!(".data.{}-{i}.tmp", std::process::id())).collect();
        names.iter().for_each(|name| fs::create_dir(root.path().join(name)).unwrap());
        let stale = root.path().join(".data.1-0.tmp");
        fs::create_dir(&stale).unwrap();
        let long_ago = std::time::SystemTime::now() - 2 * STALE;
        fs::File::open(&stale).unwrap().set_modified(long_ago).unwrap();
        let staging = Staging::beside(&destination).unwrap();
        assert!(!stale.exists());
        assert!(staging.commit().unwrap());
    }

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
