//! The run directory: its layout, its lock, and files that are whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};

use crate::error::RunlogError;
use crate::held::{is_same, named, refuse_special};
use crate::manifest::Manifest;

/// A run's directory, locked for writing by this process.
///
/// The lock is the kernel's (`flock` on `run.lock`): it goes with the process, however that ends.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: Mutex<File>,
}

impl RunDir {
    /// Makes a new run directory.
    ///
    /// # Errors
    /// If anything but an empty directory is there already; nothing is changed then.
    pub fn create(path: &Path) -> Result<Self, RunlogError> {
        fs::create_dir_all(path).map_err(RunlogError::io("create", path))?;
        let mut entries = fs::read_dir(path).map_err(RunlogError::io("list", path))?;
        if entries.next().is_some() {
            return Err(RunlogError::Exists { path: path.to_owned() });
        }
        let run = Self { lock: Mutex::new(lock(path)?), path: path.to_owned() };
        let checkpoints = run.checkpoints();
        fs::create_dir(&checkpoints).map_err(RunlogError::io("create", &checkpoints))?;
        Ok(run)
    }

    /// Opens a run directory to go on with it.
    ///
    /// # Errors
    /// If another process writes to it, or it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, RunlogError> {
        Ok(Self { lock: Mutex::new(lock(path)?), path: path.to_owned() })
    }

    /// Looks whether `run.lock` is still the file that is locked. If it was removed or replaced, the one of that name is
    /// locked instead.
    ///
    /// Returns whether that was so.
    ///
    /// # Errors
    /// If another process has locked it since: it may be writing to the run.
    pub fn keep_lock(&self) -> Result<bool, RunlogError> {
        let path = self.path.join("run.lock");
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let locked = held.metadata().map_err(RunlogError::io("look at", &path))?;
        if named(&path)?.is_some_and(|there| is_same(&there, &locked)) {
            return Ok(false);
        }
        *held = lock(&self.path)?;
        Ok(true)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `manifest.json`
    pub fn manifest(&self) -> PathBuf {
        self.path.join("manifest.json")
    }

    /// `config.toml`, resolved.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `events.jsonl`
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// `emissions.jsonl`
    pub fn emissions(&self) -> PathBuf {
        self.path.join("emissions.jsonl")
    }

    /// `emissions.csv`, in CodeCarbon's columns.
    pub fn emissions_csv(&self) -> PathBuf {
        self.path.join("emissions.csv")
    }

    /// `power.trace`
    pub fn power_trace(&self) -> PathBuf {
        self.path.join("power.trace")
    }

    /// `grid.jsonl`
    pub fn grid(&self) -> PathBuf {
        self.path.join("grid.jsonl")
    }

    /// `tasks.jsonl`
    pub fn tasks(&self) -> PathBuf {
        self.path.join("tasks.jsonl")
    }

    /// `train.log`
    pub fn train_log(&self) -> PathBuf {
        self.path.join("train.log")
    }

    /// `checkpoints/`
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `report.html`
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Writes the manifest, whole or not at all.
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), RunlogError> {
        let mut json = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        json.push(b'\n');
        write_atomic(&self.manifest(), &json)
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// If it is missing, is not a manifest, or is of another version.
    pub fn read_manifest(&self) -> Result<Manifest, RunlogError> {
        Manifest::read(&self.manifest())
    }
}

fn lock(run: &Path) -> Result<File, RunlogError> {
    let path = run.join("run.lock");
    refuse_special(&path)?;
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(RunlogError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // What cannot be read is only missing from the message.
            let _ = file.read_to_string(&mut holder);
            return Err(RunlogError::Locked { path, holder: holder.trim().to_owned() });
        }
        Err(errno) => return Err(RunlogError::io("lock", &path)(errno.into())),
    }
    let holder = format!("process {}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(holder.as_bytes()))
        .map_err(RunlogError::io("write", &path))?;
    Ok(file)
}

/// Replaces `path` by `bytes`, whole or not at all: temporary file, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), RunlogError> {
    let temporary = temporary_beside(path).map_err(RunlogError::io("replace", path))?;
    let written = write_synced(&temporary, bytes).map_err(RunlogError::io("write", path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    fs::rename(&temporary, path).map_err(RunlogError::io("replace", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// A name beside `path` that nothing has.
pub(crate) fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let temporary = path.with_added_extension("tmp");
    // Left by a killed process, or a link that somebody put there.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(temporary),
    }
}

/// Creates `path`, which must not exist, with `bytes` and makes it durable. The directory's entry is not yet.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> Result<(), RunlogError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|dir| dir.sync_all()).map_err(RunlogError::io("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exists_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        let error = RunDir::create(dir.path()).unwrap_err().to_string();
        assert!(error.contains("--resume") && error.contains("--out"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_writer_is_refused_and_told_who_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunDir::create(&path).unwrap();
        let error = RunDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(run);
        RunDir::open(&path).unwrap();
    }

    #[test]
    fn an_atomic_write_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomic(&path, b"one").unwrap();
        let victim = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(victim.path(), dir.path().join("file.tmp")).unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(victim.path()).unwrap(), b"");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
