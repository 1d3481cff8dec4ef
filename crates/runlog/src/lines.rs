//! Append-only files of lines that survive a crash at any moment.
//!
//! A line is written whole by one `write`, newline last. After a crash the file ends in at most one torn line;
//! opening it for append cuts that line off and says so. Lines before it are never rewritten.

use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use crate::error::RunlogError;
use crate::held::{HeldFile, Tampered};

/// Bytes of what is wrong with a line that a message shows.
const LONGEST_REASON: usize = 240;

/// A file of lines, open for append.
#[derive(Debug)]
pub struct LineFile {
    file: HeldFile,
}

/// What opening a file of lines found in it.
#[derive(Debug, Default)]
pub struct Recovered<T> {
    /// Every whole entry, in order.
    pub entries: Vec<T>,
    /// Bytes of a torn last line that were cut off.
    pub cut_bytes: u64,
}

impl LineFile {
    /// Opens or creates `path`, hands every line to `parse`, and cuts off a torn last line.
    ///
    /// # Errors
    /// If a line other than the last does not parse: that is damage, not a crash, and nothing is changed.
    pub fn open<T>(
        path: &Path,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(Self, Recovered<T>), RunlogError> {
        let mut file = HeldFile::open(path)?;
        let (recovered, whole_bytes) = scan(file.file(), path, parse)?;
        if recovered.cut_bytes > 0 {
            file.cut(whole_bytes)?;
        }
        Ok((Self { file }, recovered))
    }

    /// Reads every whole line of `path` without changing it.
    ///
    /// # Errors
    /// As [`LineFile::open`], and if the file does not exist.
    pub fn read<T>(
        path: &Path,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Recovered<T>, RunlogError> {
        let file = wattle_files::open(path).map_err(RunlogError::io("open", path))?;
        Ok(scan(&file, path, parse)?.0)
    }

    /// Appends one line. `line` holds no newline.
    pub fn append(&mut self, line: &str) -> Result<(), RunlogError> {
        debug_assert!(!line.contains('\n'), "a line within a line");
        let mut bytes = Vec::with_capacity(line.len() + 1);
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.file.append(&bytes)
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), RunlogError> {
        self.file.sync()
    }

    /// Looks whether the file is still there and whole. If it was removed or replaced, it is written again; if it was
    /// cut, the lines after the cut are lost. Returns what happened, for a person.
    ///
    /// # Errors
    /// If it cannot be looked at or written.
    pub fn keep(&mut self) -> Result<Option<String>, RunlogError> {
        Ok(match self.file.keep()? {
            None => None,
            Some(Tampered::Restored { what }) => Some(format!("{what}; it has been written again")),
            Some(Tampered::Cut { .. }) => {
                // A line that was cut in two must not stand before the next.
                let mut whole_bytes = 0;
                let mut reader = BufReader::new(self.file.file());
                reader.rewind().map_err(RunlogError::io("read", self.file.path()))?;
                for line in reader.split(b'\n') {
                    let len = line.map_err(RunlogError::io("read", self.file.path()))?.len() as u64 + 1;
                    whole_bytes += if whole_bytes + len <= self.file.len_bytes() { len } else { 0 };
                }
                self.file.cut(whole_bytes)?;
                let path = self.file.path().display();
                Some(format!(
                    "{path} was cut to {whole_bytes} bytes by another program; the lines after them are lost"
                ))
            }
        })
    }
}

/// Reads every whole line. A line that has no end yet is the last one, even if more was written since that was seen: a
/// running run's file grows while it is read.
fn scan<T>(
    file: impl Read,
    path: &Path,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(Recovered<T>, u64), RunlogError> {
    let mut reader = BufReader::new(file);
    let mut entries = Vec::new();
    let (mut whole_bytes, mut total_bytes) = (0u64, 0u64);
    let mut torn: Option<(usize, String)> = None;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let len = reader.read_until(b'\n', &mut line).map_err(RunlogError::io("read", path))?;
        if len == 0 {
            break;
        }
        if let Some((torn_number, reason)) = torn {
            return Err(RunlogError::corrupt(
                path,
                format!("line {torn_number} is damaged ({reason}) though lines follow it: restore the file"),
            ));
        }
        total_bytes += len as u64;
        match parse_line(&line, &parse) {
            Ok(entry) => {
                entries.push(entry);
                whole_bytes = total_bytes;
            }
            Err(reason) => torn = Some((number, reason)),
        }
        if !line.ends_with(b"\n") {
            break;
        }
    }
    Ok((Recovered { entries, cut_bytes: total_bytes - whole_bytes }, whole_bytes))
}

fn parse_line<T>(line: &[u8], parse: impl Fn(&str) -> Result<T, String>) -> Result<T, String> {
    let line = line.strip_suffix(b"\n").ok_or("no newline at its end")?;
    parse(std::str::from_utf8(line).map_err(|e| e.to_string())?).map_err(|reason| shortened(&reason))
}

/// A reason that quotes what it found, without most of that.
fn shortened(reason: &str) -> String {
    if reason.len() <= LONGEST_REASON {
        return reason.to_owned();
    }
    let begin = &reason[..reason.floor_char_boundary(LONGEST_REASON / 2)];
    let end = &reason[reason.ceil_char_boundary(reason.len() - LONGEST_REASON / 2)..];
    format!("{begin} … {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(line: &str) -> Result<u32, String> {
        line.parse::<u32>().map_err(|e| e.to_string())
    }

    #[test]
    fn a_long_line_makes_no_long_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        std::fs::write(&path, format!("1\n{}\n2\n", "ä".repeat(100_000))).unwrap();
        let quoting = |line: &str| number(line).map_err(|_| format!("{line:?} is no number"));
        let error = LineFile::read(&path, quoting).unwrap_err().to_string();
        assert!(error.len() < 500 && error.contains("line 2") && error.contains("is no number"), "{error}");
    }

    /// Gives what was written so far, says that this is all, and then has more.
    struct Growing<'a>(std::slice::Iter<'a, &'a str>);

    impl Read for Growing<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let part = self.0.next().map_or(&b""[..], |part| part.as_bytes());
            out[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_not_taken_for_a_damaged_one() {
        let parts = ["12\n34", "", "5\n6789\n"];
        let (read, whole_bytes) = scan(Growing(parts.iter()), Path::new("numbers"), number).unwrap();
        assert_eq!((read.entries, whole_bytes), (vec![12], 3));
    }

    #[test]
    fn a_cut_within_a_line_leaves_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        let (mut file, _) = LineFile::open(&path, number).unwrap();
        ["12", "345", "6789"].iter().for_each(|line| file.append(line).unwrap());
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap();
        let said = file.keep().unwrap().unwrap();
        assert!(said.contains("cut to 3 bytes"), "{said}");
        file.append("7").unwrap();
        assert_eq!(LineFile::read(&path, number).unwrap().entries, [12, 7]);
        assert_eq!(file.keep().unwrap(), None);
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_tore() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        let whole = "12\n345\n6789\n";
        for len in 0..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let (mut file, recovered) = LineFile::open(&path, number).unwrap();
            let kept = whole[..len].rfind('\n').map_or(0, |i| i + 1);
            assert_eq!(recovered.cut_bytes, (len - kept) as u64);
            file.append("7").unwrap();
            file.sync().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}7\n", &whole[..kept]));
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers");
        std::fs::write(&path, "1\nx\n3\n").unwrap();
        let error = LineFile::open(&path, number).unwrap_err().to_string();
        assert!(error.contains("numbers: line 2 is damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\nx\n3\n");
    }
}
