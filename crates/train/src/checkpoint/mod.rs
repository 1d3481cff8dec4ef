//! Checkpoints: complete or absent, never half.
//!
//! A checkpoint is a directory in Hugging Face's layout with the optimizer's moments and the trainer's state
//! beside the weights. It is written under a temporary name, every file made durable, and renamed; whatever
//! happens before the rename leaves nothing but a temporary directory, which the next start removes.
//!
//! - `save`, `load`: writing one and going on from it
//! - `background`: writing one while training goes on
//! - `state`: what the trainer remembers beside weights and moments

mod background;
mod load;
mod save;
mod state;

use std::fs;
use std::path::{Path, PathBuf};

use wattle_runlog::run_dir::sync_dir;

use crate::error::TrainError;

pub(crate) use background::{Background, Written};
pub use save::CheckpointContent;
pub use state::{FileSum, STATE_SCHEMA, TrainState};

/// The `checkpoints` directory of a run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    /// How many of the newest stay; 0 keeps all.
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints under `dir`. What an interrupted save left is removed.
    ///
    /// # Errors
    /// If the directory cannot be read or written.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, TrainError> {
        fs::create_dir_all(dir).map_err(TrainError::io("create", dir))?;
        for path in entries(dir)? {
            if file_name(&path).ends_with(TEMPORARY) {
                remove(&path)?;
            }
        }
        let checkpoints = Self { dir: dir.to_owned(), keep };
        checkpoints.mend_links()?;
        Ok(checkpoints)
    }

    /// The checkpoints under `dir` that another process writes.
    pub fn of_another(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), keep: 0 }
    }

    /// Points the links at the newest checkpoint if its save was interrupted just before it did.
    fn mend_links(&self) -> Result<(), TrainError> {
        let Some(step) = self.steps()?.pop() else { return Ok(()) };
        if fs::read_link(self.dir.join("latest")).is_ok_and(|link| link == Path::new(&dir_name(step))) {
            return Ok(());
        }
        let is_best =
            TrainState::read(&self.path(step))?.early_stop.best.is_some_and(|best| best.step == step);
        self.publish(step, is_best)
    }

    /// The newest complete checkpoint.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn latest(&self) -> Result<Option<PathBuf>, TrainError> {
        Ok(self.steps()?.pop().map(|step| self.path(step)))
    }

    /// Where the checkpoint after `step` updates is or would be.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(dir_name(step))
    }

    /// Where its files are until it is complete.
    pub(crate) fn temporary_path(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{}{TEMPORARY}", dir_name(step)))
    }

    /// The steps that there are checkpoints of, in order.
    fn steps(&self) -> Result<Vec<u64>, TrainError> {
        let mut steps: Vec<u64> = entries(&self.dir)?
            .iter()
            .filter_map(|path| file_name(path).strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Points the links `latest` and, if `is_best`, `best` at the checkpoint of `step`, and removes what the
    /// policy does not keep.
    fn publish(&self, step: u64, is_best: bool) -> Result<(), TrainError> {
        self.link("latest", step)?;
        if is_best {
            self.link("best", step)?;
        }
        let best = fs::read_link(self.dir.join("best")).ok();
        let steps = self.steps()?;
        let surplus = if self.keep == 0 { 0 } else { steps.len().saturating_sub(self.keep) };
        for &old in &steps[..surplus] {
            if best.as_deref() != Some(Path::new(&dir_name(old))) {
                self.discard(&self.path(old))?;
            }
        }
        Ok(())
    }

    /// Removes a checkpoint. It loses its name first, so an interruption leaves no half checkpoint, only a temporary
    /// directory that the next start removes.
    fn discard(&self, checkpoint: &Path) -> Result<(), TrainError> {
        let aside = self.dir.join(format!("{}.old{TEMPORARY}", file_name(checkpoint)));
        if aside.symlink_metadata().is_ok() {
            remove(&aside)?;
        }
        fs::rename(checkpoint, &aside).map_err(TrainError::io("remove", checkpoint))?;
        remove(&aside)
    }

    fn link(&self, name: &str, step: u64) -> Result<(), TrainError> {
        let (link, temporary) = (self.dir.join(name), self.dir.join(format!("{name}{TEMPORARY}")));
        std::os::unix::fs::symlink(dir_name(step), &temporary)
            .and_then(|()| fs::rename(&temporary, &link))
            .map_err(TrainError::io("link", &link))?;
        Ok(sync_dir(&self.dir)?)
    }
}

/// Ends the name of what is not complete.
const TEMPORARY: &str = ".tmp";

fn dir_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(TrainError::io("list", dir))
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn remove(path: &Path) -> Result<(), TrainError> {
    let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        .map_err(TrainError::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_loses_its_name_before_its_files() {
        let root = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints { dir: root.path().to_owned(), keep: 1 };
        let half_removed = root.path().join("step-00000001.old.tmp");
        for path in [&half_removed, &checkpoints.path(1)] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("model.safetensors"), "weights").unwrap();
        }
        // The leftover of a removal that was interrupted is no checkpoint and in nobody's way.
        assert_eq!(checkpoints.steps().unwrap(), [1]);
        checkpoints.discard(&checkpoints.path(1)).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

        fs::create_dir(&half_removed).unwrap();
        assert!(Checkpoints::open(root.path(), 1).unwrap().latest().unwrap().is_none());
        assert!(!half_removed.exists());
    }
}
