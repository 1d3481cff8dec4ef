//! A run directory that goes away again if the run cannot start.

use std::path::Path;

use wattle_runlog::{RunDir, RunlogError};

/// A new run directory that is removed again unless it is kept: a run that cannot start leaves nothing.
pub struct NewRun {
    run: Option<RunDir>,
    existed: bool,
}

impl NewRun {
    /// Makes the directory.
    ///
    /// # Errors
    /// If something is there already, or it cannot be made.
    pub fn create(path: &Path) -> Result<Self, RunlogError> {
        let existed = path.exists();
        Ok(Self { run: Some(RunDir::create(path)?), existed })
    }

    /// The directory.
    pub fn dir(&self) -> &RunDir {
        self.run.as_ref().expect("it is taken out only by keep and drop")
    }

    /// Leaves the directory for good.
    pub fn keep(mut self) -> RunDir {
        self.run.take().expect("it is taken out only by keep and drop")
    }
}

impl Drop for NewRun {
    fn drop(&mut self) {
        let Some(run) = self.run.take() else { return };
        let path = run.path().to_owned();
        // The error that kept the run from starting is the one to report.
        let _ = match self.existed {
            true => remove_content(&path),
            false => std::fs::remove_dir_all(&path),
        };
    }
}

fn remove_content(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    Ok(())
}
