//! A file that is written for hours and must still be there in the end, whatever others do to its name.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::RunlogError;
use crate::run_dir::{sync_dir, temporary_beside};

/// A file held open for append, with the length that it should have.
#[derive(Debug)]
pub struct HeldFile {
    file: File,
    path: PathBuf,
    len: u64,
}

/// What others did to a held file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tampered {
    /// Its name was gone or another file's; it has been written anew from what was held open.
    Restored {
        /// What happened, for a person.
        what: String,
    },
    /// It was cut to so many bytes; what came after them is lost.
    Cut {
        /// Bytes that are left.
        bytes: u64,
    },
}

impl HeldFile {
    /// Opens or creates `path` to read it and append to it.
    ///
    /// # Errors
    /// If it cannot be opened, or is no ordinary file.
    pub fn open(path: &Path) -> Result<Self, RunlogError> {
        refuse_special(path)?;
        let file = OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = file.map_err(RunlogError::io("open", path))?;
        let len = file.metadata().map_err(RunlogError::io("open", path))?.len();
        Ok(Self { file, path: path.to_owned(), len })
    }

    /// Takes an open file for an empty one, whatever its kind: a disk that refuses everything, in tests.
    pub fn on(file: File, path: &Path) -> Self {
        Self { file, path: path.to_owned(), len: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself, to read from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that were written and not cut off.
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Appends all of `bytes`, or nothing where the disk allows that.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), RunlogError> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part at the end is cut again by whoever opens the file, if this cannot.
            let _ = self.file.set_len(self.len);
            return Err(RunlogError::io("append to", &self.path)(error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what is after `len` bytes.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn cut(&mut self, len: u64) -> Result<(), RunlogError> {
        self.file.set_len(len).map_err(RunlogError::io("cut the torn end of", &self.path))?;
        self.len = len;
        Ok(())
    }

    /// Makes everything appended so far durable.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&self) -> Result<(), RunlogError> {
        self.file.sync_data().map_err(RunlogError::io("sync", &self.path))
    }

    /// Looks whether the file is still the one of its name and as long as it was. One that was removed or replaced is
    /// written again, and what stands in its place is moved aside.
    ///
    /// # Errors
    /// If it cannot be looked at or written.
    pub fn keep(&mut self) -> Result<Option<Tampered>, RunlogError> {
        let held = self.file.metadata().map_err(RunlogError::io("look at", &self.path))?;
        if held.len() < self.len {
            self.len = held.len();
            return Ok(Some(Tampered::Cut { bytes: held.len() }));
        }
        let what = match named(&self.path)? {
            Some(there) if is_same(&there, &held) => return Ok(None),
            Some(_) => {
                let aside = self.path.with_added_extension("other");
                fs::rename(&self.path, &aside).map_err(RunlogError::io("move aside", &self.path))?;
                format!("was replaced by another file, which is {} now", aside.display())
            }
            None => "was removed".to_owned(),
        };
        self.restore().map_err(RunlogError::io("write again", &self.path))?;
        sync_dir(self.path.parent().unwrap_or(Path::new(".")))?;
        Ok(Some(Tampered::Restored { what: format!("{} {what}", self.path.display()) }))
    }

    fn restore(&mut self) -> io::Result<()> {
        let temporary = temporary_beside(&self.path)?;
        let mut copy = OpenOptions::new().create_new(true).read(true).append(true).open(&temporary)?;
        self.file.seek(SeekFrom::Start(0))?;
        io::copy(&mut Read::by_ref(&mut self.file).take(self.len), &mut copy)?;
        copy.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        self.file = copy;
        Ok(())
    }
}

/// That nothing but an ordinary file is at `path`.
pub(crate) fn refuse_special(path: &Path) -> Result<(), RunlogError> {
    match wattle_files::special_at(path) {
        Some(what) => Err(RunlogError::corrupt(path, format!("it is {what}: remove it"))),
        None => Ok(()),
    }
}

/// What is at `path`, if anything is.
pub(crate) fn named(path: &Path) -> Result<Option<Metadata>, RunlogError> {
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RunlogError::io("look at", path)(error)),
    }
}

/// Whether two names are one file's.
pub(crate) fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> (tempfile::TempDir, HeldFile) {
        let dir = tempfile::tempdir().unwrap();
        let mut file = HeldFile::open(&dir.path().join("events.jsonl")).unwrap();
        file.append(b"one\ntwo\n").unwrap();
        assert_eq!(file.keep().unwrap(), None);
        (dir, file)
    }

    #[test]
    fn what_was_removed_is_written_again_and_appended_to() {
        let (dir, mut file) = held();
        fs::remove_file(file.path()).unwrap();
        file.append(b"three\n").unwrap();
        assert!(
            matches!(file.keep().unwrap(), Some(Tampered::Restored { what }) if what.ends_with("was removed"))
        );
        file.append(b"four\n").unwrap();
        assert_eq!(file.keep().unwrap(), None);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "one\ntwo\nthree\nfour\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_took_its_place_is_moved_aside() {
        let (_dir, mut file) = held();
        // As an editor saves a file.
        let edited = file.path().with_extension("new");
        fs::write(&edited, "edited").unwrap();
        fs::rename(&edited, file.path()).unwrap();
        assert!(matches!(file.keep().unwrap(), Some(Tampered::Restored { .. })));
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(file.path().with_added_extension("other")).unwrap(), "edited");
    }

    #[test]
    fn what_was_cut_is_said_and_leaves_no_hole() {
        let (_dir, mut file) = held();
        fs::write(file.path(), "on").unwrap();
        assert_eq!(file.keep().unwrap(), Some(Tampered::Cut { bytes: 2 }));
        file.append(b"e\n").unwrap();
        assert_eq!(file.keep().unwrap(), None);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "one\n");
    }

    #[test]
    fn a_device_in_its_place_is_not_opened() {
        assert!(HeldFile::open(Path::new("/dev/zero")).unwrap_err().to_string().contains("a device"));
    }
}
