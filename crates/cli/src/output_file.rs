//! A file that a command leaves at its end, opened at its start.

use std::fs::{File, Permissions};
#[cfg(feature = "train")]
use std::io::BufWriter;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempPath;

use crate::terminal::StdoutError;

/// A file that is there whole or not at all. That it can be written is known before the work begins.
pub struct OutputFile {
    path: PathBuf,
    /// What is renamed to `path` in the end, removed if it never is; `None` where `path` is a pipe or a device, which is
    /// written to directly.
    partial: Option<TempPath>,
    file: File,
}

impl OutputFile {
    /// Opens `path`, where `-` means stdout. Errors name `flag`. An existing file is unchanged until
    /// [`OutputFile::finish`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(path: &Path, flag: &str) -> anyhow::Result<Self> {
        Self::try_open(path)
            .with_context(|| format!("{flag} {}: cannot be written; choose another path", path.display()))
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        if is_stdout(path) {
            let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return Ok(Self { path: path.to_owned(), partial: None, file });
        }
        let is_special = path.metadata().is_ok_and(|metadata| !metadata.is_file());
        if is_special {
            let file = File::options().write(true).open(path)?;
            return Ok(Self { path: path.to_owned(), partial: None, file });
        }
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".partial-");
        // A random name, created exclusively: whoever can write to the folder cannot lead this file elsewhere.
        let (file, partial) = tempfile::Builder::new()
            .prefix(&name)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")),
            )?
            .into_parts();
        Ok(Self { path: path.to_owned(), partial: Some(partial), file })
    }

    /// Writes the content.
    ///
    /// # Errors
    /// If it cannot be written; an existing file is then as it was.
    pub fn finish(mut self, content: &str) -> anyhow::Result<()> {
        match self.write(content) {
            Err(error) if is_stdout(&self.path) => Err(StdoutError::from(error).into()),
            written => written.with_context(|| format!("cannot write {}", self.path.display())),
        }
    }

    /// Has the content written by `write`, for what is better not held in memory.
    ///
    /// # Errors
    /// If it cannot be written; an existing file is then as it was.
    #[cfg(feature = "train")]
    pub fn finish_with<E: Into<anyhow::Error>>(
        mut self,
        write: impl FnOnce(&mut BufWriter<&File>) -> Result<(), E>,
    ) -> anyhow::Result<()> {
        let unwritable = || format!("cannot write {}", self.path.display());
        let mut buffered = BufWriter::new(&self.file);
        write(&mut buffered).map_err(Into::into).with_context(unwritable)?;
        buffered.flush().with_context(unwritable)?;
        drop(buffered);
        self.make_final().with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn write(&mut self, content: &str) -> io::Result<()> {
        self.file.write_all(content.as_bytes())?;
        self.make_final()
    }

    fn make_final(&mut self) -> io::Result<()> {
        let Some(partial) = self.partial.take() else { return Ok(()) };
        self.file.sync_all()?;
        partial.persist(&self.path).map_err(|failure| failure.error)
    }
}

/// Whether a path means stdout; nothing else may be printed there then.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_link_under_a_likely_temporary_name_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("record.json"), dir.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        let likely = format!("record.json.partial-{}", std::process::id());
        std::os::unix::fs::symlink(&victim, dir.path().join(likely)).unwrap();
        OutputFile::open(&path, "--json").unwrap().finish("new").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        fs::write(&path, "old").unwrap();
        drop(OutputFile::open(&path, "--json").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        OutputFile::open(&path, "--json").unwrap().finish("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named_with_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let Err(error) = OutputFile::open(&dir.path().join("no/such/dir/x.json"), "--json") else {
            panic!("it was opened");
        };
        let error = format!("{error:#}");
        assert!(error.contains("--json") && error.contains("x.json"), "{error}");
        assert!(OutputFile::open(dir.path(), "--json").is_err());
    }
}
