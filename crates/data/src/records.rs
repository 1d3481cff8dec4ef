//! Files of documents, cut into blocks of whole documents without looking into them.

use std::path::Path;

use crate::error::DataError;
use crate::format::Format;
use crate::input::Input;
use crate::json_scan::{Ends, Scanner};

/// Longest line of JSON and longest separated document, in bytes: what memory must hold at a time.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// The blocks of one file of documents.
pub(crate) struct Records {
    input: Input,
    format: Format,
    /// Bytes read and not yet given out.
    buffer: Vec<u8>,
    block_bytes: usize,
    max_bytes: usize,
    /// The line or record that is next, from 1.
    next: u64,
    /// Of JSON that is not in lines.
    ends: Ends,
    at_end: bool,
}

/// Whole documents of a file: whole lines, or values of JSON with what is between them.
#[derive(Debug)]
pub(crate) struct RecordBlock {
    pub bytes: Vec<u8>,
    /// Its first line or record in the file, from 1.
    pub first: u64,
    /// Of JSON that is not in lines: where the block begins.
    pub scanner: Scanner,
}

impl Records {
    pub(crate) fn new(input: Input, format: Format, block_bytes: usize) -> Self {
        let max_bytes = MAX_DOCUMENT_BYTES.max(block_bytes);
        Self {
            input,
            format,
            buffer: Vec::new(),
            block_bytes,
            max_bytes,
            next: 1,
            ends: Ends::default(),
            at_end: false,
        }
    }

    pub(crate) fn input(&self) -> &Input {
        &self.input
    }

    pub(crate) fn into_input(self) -> Input {
        self.input
    }

    /// The next block; `None` at the end of the file.
    pub(crate) fn next_block(&mut self) -> Result<Option<RecordBlock>, DataError> {
        let mut searched = 0;
        let end = loop {
            if let Some(end) = self.last_end(searched) {
                break end;
            }
            if self.at_end {
                break self.buffer.len();
            }
            if self.buffer.len() > self.max_bytes {
                return Err(self.too_long());
            }
            searched = self.buffer.len();
            self.at_end = !self.input.append(&mut self.buffer, self.block_bytes)?;
        };
        if end == 0 {
            return Ok(None);
        }
        let rest = self.buffer.split_off(end);
        let bytes = std::mem::replace(&mut self.buffer, rest);
        let first = self.next;
        let (n_values, scanner) = self.ends.take();
        self.next += match self.format {
            Format::Json => n_values,
            _ => memchr::memchr_iter(b'\n', &bytes).count() as u64,
        };
        Ok(Some(RecordBlock { bytes, first, scanner }))
    }

    /// Where the last document that is whole in the buffer ends. None ends before `searched`.
    fn last_end(&mut self, searched: usize) -> Option<usize> {
        match &self.format {
            Format::Json => self.ends.last_in(&self.buffer, self.at_end),
            Format::Text | Format::Jsonl | Format::Parquet => {
                memchr::memrchr(b'\n', &self.buffer[searched..]).map(|at| searched + at + 1)
            }
            Format::Separated { line } => self.last_separator(searched, line),
        }
    }

    /// The end of the last whole line that is the separator; it begins at most one such line before `searched`.
    fn last_separator(&self, searched: usize, separator: &str) -> Option<usize> {
        let from = searched.saturating_sub(separator.len() + "\r\n".len());
        let mut end = memchr::memrchr(b'\n', &self.buffer)?;
        loop {
            let start = memchr::memrchr(b'\n', &self.buffer[..end]).map_or(0, |at| at + 1);
            if is_separator(&self.buffer[start..=end], separator) {
                return Some(end + 1);
            }
            if start <= from {
                return None;
            }
            end = start - 1;
        }
    }

    fn too_long(&self) -> DataError {
        let reason = format!(
            "begins a document of more than {} MiB, the longest that is read; split it, or check that the file \
             is what its name says",
            self.max_bytes >> 20
        );
        let (path, unit) = (self.path().to_owned(), self.format.unit());
        DataError::Document { path, unit, place: self.next, reason }
    }

    fn path(&self) -> &Path {
        self.input.path()
    }
}

/// Whether a line, with or without its end, is the separator.
pub(crate) fn is_separator(line: &[u8], separator: &str) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line) == separator.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(dir: &Path, content: &[u8], format: Format, block_bytes: usize) -> Records {
        let path = dir.join("documents");
        std::fs::write(&path, content).unwrap();
        Records::new(Input::open(&path, false).unwrap(), format, block_bytes)
    }

    fn blocks(mut records: Records) -> Vec<(Vec<u8>, u64)> {
        std::iter::from_fn(|| records.next_block().unwrap()).map(|block| (block.bytes, block.first)).collect()
    }

    #[test]
    fn blocks_of_any_size_are_whole_documents_and_the_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let jsonl = b"{1}\n{22}\r\n\n{333333333333333}\n{4}".as_slice();
        let text = b"a\nb\n<end>\n<end>\r\nc <end>\n\n\nlonger than any block\n<end>\nlast".as_slice();
        let separated = Format::Separated { line: "<end>".to_owned() };
        for block_bytes in [1, 2, 3, 5, 8, 13, 100] {
            for (content, format) in [(jsonl, Format::Jsonl), (text, separated.clone())] {
                let blocks = blocks(records(dir.path(), content, format.clone(), block_bytes));
                assert_eq!(blocks.iter().flat_map(|(lines, _)| lines).copied().collect::<Vec<_>>(), content);
                let mut line = 1;
                for (i, (lines, first_line)) in blocks.iter().enumerate() {
                    assert_eq!(*first_line, line);
                    line += lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
                    let is_last = i + 1 == blocks.len();
                    let is_whole = match &format {
                        Format::Separated { .. } => {
                            lines.ends_with(b"<end>\n") || lines.ends_with(b"<end>\r\n")
                        }
                        _ => lines.ends_with(b"\n"),
                    };
                    assert!(is_whole || is_last, "{lines:?}");
                }
                assert!(blocks.len() > 1 || block_bytes == 100);
            }
        }
    }

    #[test]
    fn a_document_beyond_the_limit_is_named_by_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let content = [b"{}\n{}\n".as_slice(), &[b'x'; 5000]].concat();
        for (format, line) in
            [(Format::Jsonl, "line 3"), (Format::Separated { line: "<end>".to_owned() }, "line 1")]
        {
            let mut records = records(dir.path(), &content, format, 10);
            records.max_bytes = 1000;
            let error =
                std::iter::from_fn(|| records.next_block().transpose()).find_map(Result::err).unwrap();
            assert!(error.to_string().contains(line) && error.to_string().contains("MiB"), "{error}");
        }
    }
}
