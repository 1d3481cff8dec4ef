//! The page that `report` and `compare` write with `--html`.

use std::path::Path;

use crate::exit::BadUsage;
use crate::output_file::{OutputFile, is_stdout};

/// Where a page goes, if one is asked for.
pub struct Page<'a> {
    path: Option<&'a Path>,
}

impl<'a> Page<'a> {
    /// The page that `--html` asks for; `-` means stdout.
    ///
    /// # Errors
    /// If `--json` writes to stdout as well.
    pub fn of(path: Option<&'a Path>, has_json: bool) -> Result<Self, BadUsage> {
        let fault = "--html - and --json both write to stdout: give --html a file, or leave one of them out";
        match path.is_some_and(is_stdout) && has_json {
            true => Err(BadUsage { faults: vec![fault.to_owned()] }),
            false => Ok(Self { path }),
        }
    }

    /// Whether stdout belongs to the page.
    pub fn is_stdout(&self) -> bool {
        self.path.is_some_and(is_stdout)
    }

    /// Writes what `page` makes, if it was asked for.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, page: impl FnOnce() -> String) -> anyhow::Result<()> {
        let Some(path) = self.path else { return Ok(()) };
        OutputFile::open(path, "--html")?.finish(&page())
    }

    /// Logs the page's path.
    pub fn tell(&self) {
        if let Some(path) = self.path.filter(|path| !is_stdout(path)) {
            tracing::info!("{}", path.display());
        }
    }
}
