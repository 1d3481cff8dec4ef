//! Files that others left: ordinary ones only, and no larger than they should be.
//!
//! A path in a configuration, a checkpoint or a run directory may lead anywhere: to a pipe that nobody writes to, to a
//! device that never ends, to a file that does not fit into memory. Whatever is not an ordinary file is refused before
//! a byte is read, and what is read whole has a limit.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// More than any configuration, description or table of ours takes, in bytes: 64 MiB.
pub const SMALL: u64 = 64 << 20;

/// The folder that this program caches in: `$XDG_CACHE_HOME/wattle`, else `~/.cache/wattle`; `None` without a home.
pub fn cache_dir() -> Option<PathBuf> {
    let from_env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let xdg = from_env("XDG_CACHE_HOME").filter(|path| path.is_absolute());
    xdg.or_else(|| from_env("HOME").map(|home| home.join(".cache"))).map(|cache| cache.join("wattle"))
}

/// Opens the ordinary file at `path` to read it.
///
/// # Errors
/// If it cannot be opened, or is a folder, a pipe or a device; the error says which.
pub fn open(path: &Path) -> io::Result<File> {
    // Without waiting: a pipe is open at once whether or not somebody writes to it.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match special(file.metadata()?.file_type()) {
        Some(what) => {
            Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, expected an ordinary file")))
        }
        None => Ok(file),
    }
}

/// What `path` is, if something is there that is not an ordinary file: "a folder", "a pipe", "a device", "a socket".
pub fn special_at(path: &Path) -> Option<&'static str> {
    special(path.metadata().ok()?.file_type())
}

fn special(kind: FileType) -> Option<&'static str> {
    let kinds = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo(), "a pipe"),
        (kind.is_char_device() || kind.is_block_device(), "a device"),
        (kind.is_socket(), "a socket"),
    ];
    kinds.into_iter().find_map(|(is_so, what)| is_so.then_some(what))
}

/// Reads once, as [`Read::read`], and again where a signal interrupted that.
///
/// # Errors
/// If it cannot be read.
pub fn read_some(mut source: impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Reads the ordinary file at `path`, which may have `limit` bytes.
///
/// # Errors
/// As [`open`], and if it has more.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let len = file.metadata()?.len();
    if len > limit {
        return Err(too_large(limit));
    }
    read_limited(file, limit, len as usize)
}

/// Reads the ordinary file at `path` as UTF-8.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    text(read(path, limit)?)
}

/// Reads whatever is at `path` as UTF-8, up to its end: a pipe too, such as a shell's `<(command)`.
///
/// # Errors
/// If it cannot be read, is a folder, has more than `limit` bytes or is not UTF-8.
pub fn read_stream(path: &Path, limit: u64) -> io::Result<String> {
    text(read_limited(File::open(path)?, limit, 0)?)
}

fn read_limited(file: File, limit: u64, expected: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

fn too_large(limit: u64) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {limit} bytes"))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(ErrorKind::InvalidData, format!("it is not UTF-8: invalid byte at offset {at}"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn only_ordinary_files_are_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, file) = (dir.path().join("pipe"), dir.path().join("file"));
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        fs::write(&file, "text").unwrap();
        let cases =
            [(pipe.as_path(), "a pipe"), (Path::new("/dev/zero"), "a device"), (dir.path(), "a folder")];
        for (path, what) in cases {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
            assert_eq!(special_at(path), Some(what));
        }
        assert_eq!(read_text(&file, 4).unwrap(), "text");
        assert_eq!(special_at(&file), None);
        assert_eq!(special_at(&dir.path().join("absent")), None);
    }

    #[test]
    fn what_has_no_end_or_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "text").unwrap();
        let error = read(&file, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_stream(Path::new("/dev/zero"), 1000).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::write(&file, b"caf\xe9").unwrap();
        assert!(read_stream(&file, 9).unwrap_err().to_string().contains("offset 3"));
    }
}
