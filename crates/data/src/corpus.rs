//! Text of any length, read in blocks of bounded size.
//!
//! A corpus is one or more UTF-8 files, read one after another as one text. It is read twice: a [`Census`]
//! counts, hashes and validates, so that the split is known before the first token is written; then the blocks
//! are tokenized. Memory is one block, whatever the size of the files.
//!
//! Where a block ends: just before a line end that follows a visible character. There GPT-2's pre-tokenizer
//! always ends a word and none of its pieces looks back, so the tokens of a file's blocks, one after another, are
//! those of the whole file. A stretch without such a place is cut at the block's size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::digest::to_hex;
use crate::error::DataError;
use crate::manifest::Split;

/// Bytes of a block unless told otherwise.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Fewest bytes of a block: it must hold the longest UTF-8 character.
const MIN_BLOCK_BYTES: usize = 4;

/// One or more files, read as one text.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<PathBuf>,
    block_bytes: usize,
}

/// What one input file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCensus {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its size in characters.
    pub chars: u64,
    /// SHA-256 of its content, in hexadecimal.
    pub sha256: String,
}

/// What a whole corpus holds.
#[derive(Clone, Debug)]
pub struct Census {
    /// Its files in order.
    pub files: Vec<FileCensus>,
    /// Every character that occurs, in ascending order.
    pub alphabet: Vec<char>,
}

impl Census {
    /// Characters of all files.
    pub fn chars(&self) -> u64 {
        self.files.iter().map(|file| file.chars).sum()
    }

    /// The file that holds the character at `position` of the corpus, and the character's place in it.
    pub fn locate(&self, position: u64) -> Option<(&Path, u64)> {
        let mut rest = position;
        for file in &self.files {
            if rest < file.chars {
                return Some((&file.path, rest));
            }
            rest -= file.chars;
        }
        None
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Characters of the training split out of `chars`: the first `⌊chars · (1 − val_fraction)⌋`, as nanoGPT's
/// `int(n * 0.9)`.
pub fn train_chars(chars: u64, val_fraction: f64) -> u64 {
    (chars as f64 * (1.0 - val_fraction)) as u64
}

impl Corpus {
    /// The corpus of `files`, in this order.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, block_bytes: BLOCK_BYTES }
    }

    /// The same corpus read in blocks of at most `block_bytes`, at least 4.
    pub fn with_block_bytes(self, block_bytes: usize) -> Self {
        Self { block_bytes: block_bytes.max(MIN_BLOCK_BYTES), ..self }
    }

    /// Size of all files on disk in bytes, for progress.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn len_bytes(&self) -> Result<u64, DataError> {
        self.files.iter().map(|path| Ok(path.metadata().map_err(DataError::read(path))?.len())).sum()
    }

    /// Counts, hashes and validates every file. `on_block` hears the bytes read so far.
    ///
    /// # Errors
    /// If a file cannot be read, is empty or is not UTF-8.
    pub fn census(&self, on_block: &mut dyn FnMut(u64)) -> Result<Census, DataError> {
        let mut alphabet = Alphabet::new();
        let mut files: Vec<FileCensus> = Vec::with_capacity(self.files.len());
        for path in &self.files {
            let before: u64 = files.iter().map(|file| file.bytes).sum();
            let mut file = FileCensus { path: path.clone(), bytes: 0, chars: 0, sha256: String::new() };
            let mut hasher = Sha256::new();
            let mut blocks = Blocks::open(path, self.block_bytes)?;
            while let Some(text) = blocks.next_block()? {
                hasher.update(text);
                file.bytes += text.len() as u64;
                file.chars += alphabet.add(text);
                on_block(before + file.bytes);
            }
            if file.bytes == 0 {
                return Err(DataError::Empty { path: path.clone() });
            }
            file.sha256 = to_hex(&hasher.finalize());
            files.push(file);
        }
        Ok(Census { files, alphabet: alphabet.chars() })
    }

    /// Calls `on_text` with the text in order, block by block, the first `train_chars` characters as training
    /// and the rest as validation; a block that holds the boundary is cut there. Returns the characters read.
    ///
    /// # Errors
    /// If a file cannot be read or is not UTF-8, or whatever `on_text` returns.
    pub fn read(
        &self,
        train_chars: u64,
        on_text: &mut dyn FnMut(Split, &str) -> Result<(), DataError>,
    ) -> Result<u64, DataError> {
        let mut seen = 0;
        for path in &self.files {
            let mut blocks = Blocks::open(path, self.block_bytes)?;
            while let Some(text) = blocks.next_block()? {
                let (train, val) = split_at_char(text, train_chars.saturating_sub(seen));
                seen += text.chars().count() as u64;
                for (split, part) in [(Split::Train, train), (Split::Val, val)] {
                    if !part.is_empty() {
                        on_text(split, part)?;
                    }
                }
            }
        }
        Ok(seen)
    }
}

/// The first `n_chars` characters of `text`, and the rest.
fn split_at_char(text: &str, n_chars: u64) -> (&str, &str) {
    if n_chars >= text.len() as u64 {
        return (text, "");
    }
    let end = text.char_indices().nth(n_chars as usize).map_or(text.len(), |(at, _)| at);
    text.split_at(end)
}

/// The last place in `text` before which a block may end without changing its tokens: a line end after a
/// visible character.
pub(crate) fn last_soft_cut(text: &str) -> Option<usize> {
    let is_cut = |at: usize| text[..at].chars().next_back().is_some_and(|before| !before.is_whitespace());
    text.rmatch_indices('\n').map(|(at, _)| at).find(|&at| is_cut(at))
}

/// The blocks of one file.
struct Blocks {
    path: PathBuf,
    file: File,
    /// Bytes read and not yet given out; the first `given` of them were.
    buffer: Vec<u8>,
    given: usize,
    /// Offset in the file of the buffer's first byte.
    offset: u64,
    block_bytes: usize,
    at_end: bool,
}

impl Blocks {
    fn open(path: &Path, block_bytes: usize) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let buffer = Vec::with_capacity(block_bytes);
        Ok(Self { path: path.to_owned(), file, buffer, given: 0, offset: 0, block_bytes, at_end: false })
    }

    /// The next block; `None` at the end of the file.
    fn next_block(&mut self) -> Result<Option<&str>, DataError> {
        self.buffer.drain(..self.given);
        self.offset += self.given as u64;
        self.given = 0;
        self.fill()?;
        let valid = self.valid_len()?;
        let text = str::from_utf8(&self.buffer[..valid]).expect("this many bytes were found valid");
        self.given = if self.at_end { valid } else { last_soft_cut(text).unwrap_or(valid) };
        Ok((self.given > 0).then(|| &text[..self.given]))
    }

    /// Reads until the buffer holds a block or the file ends.
    fn fill(&mut self) -> Result<(), DataError> {
        let wanted = (self.block_bytes - self.buffer.len()) as u64;
        let got =
            (&self.file).take(wanted).read_to_end(&mut self.buffer).map_err(DataError::read(&self.path))?;
        self.at_end = (got as u64) < wanted;
        Ok(())
    }

    /// Bytes at the buffer's beginning that are whole characters.
    fn valid_len(&self) -> Result<usize, DataError> {
        match str::from_utf8(&self.buffer) {
            Ok(text) => Ok(text.len()),
            Err(error) if error.error_len().is_none() && !self.at_end => Ok(error.valid_up_to()),
            Err(error) => Err(DataError::NotUtf8 {
                path: self.path.clone(),
                offset: self.offset + error.valid_up_to() as u64,
            }),
        }
    }
}

/// A set of characters: one bit for each.
struct Alphabet(Vec<u64>);

impl Alphabet {
    fn new() -> Self {
        Self(vec![0; (char::MAX as usize + 1).div_ceil(64)])
    }

    /// Adds the characters of `text`; returns how many it has.
    fn add(&mut self, text: &str) -> u64 {
        let mut n_chars = 0;
        for c in text.chars() {
            self.0[c as usize / 64] |= 1 << (c as usize % 64);
            n_chars += 1;
        }
        n_chars
    }

    fn chars(&self) -> Vec<char> {
        ('\0'..=char::MAX).filter(|&c| self.0[c as usize / 64] >> (c as usize % 64) & 1 == 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(texts: &[&[u8]]) -> (tempfile::TempDir, Corpus) {
        let dir = tempfile::tempdir().unwrap();
        let write = |(i, text): (usize, &&[u8])| {
            let path = dir.path().join(format!("{i}.txt"));
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = texts.iter().enumerate().map(write).collect();
        (dir, Corpus::new(files))
    }

    fn read_split(corpus: &Corpus, train_chars: u64) -> (String, String) {
        let (mut train, mut val) = (String::new(), String::new());
        let mut on_text = |split, text: &str| {
            if split == Split::Train {
                train.push_str(text);
            } else {
                val.push_str(text);
            }
            Ok(())
        };
        corpus.read(train_chars, &mut on_text).unwrap();
        (train, val)
    }

    #[test]
    fn the_split_is_nanogpts() {
        assert_eq!(train_chars(1_115_394, 0.1), 1_003_854);
        assert_eq!(train_chars(10, 0.0), 10);
        assert_eq!(train_chars(7, 0.5), 3);
    }

    #[test]
    fn any_block_size_gives_the_same_text_and_split() {
        let first = "Où est  le chat ?\r\n\r\n  日本語のテキスト\n\n\nend 🙂";
        let second = "no line end at all here, aber schöne Wörter\n";
        let whole: Vec<char> = first.chars().chain(second.chars()).collect();
        let (_dir, corpus) = corpus(&[first.as_bytes(), second.as_bytes()]);
        for block_bytes in [4, 5, 7, 16, 33, 1 << 16] {
            let corpus = corpus.clone().with_block_bytes(block_bytes);
            let census = corpus.census(&mut |_| {}).unwrap();
            assert_eq!(census.chars(), whole.len() as u64);
            assert_eq!(census.bytes(), (first.len() + second.len()) as u64);
            for cut in [0, 1, 17, 30, 45, whole.len()] {
                let (train, val) = read_split(&corpus, cut as u64);
                assert_eq!(train, whole[..cut].iter().collect::<String>(), "block {block_bytes}");
                assert_eq!(val, whole[cut..].iter().collect::<String>(), "block {block_bytes}");
            }
        }
    }

    #[test]
    fn the_census_knows_files_hashes_and_letters() {
        let (_dir, corpus) = corpus(&[b"abc", "bé".as_bytes()]);
        let census = corpus.census(&mut |_| {}).unwrap();
        assert_eq!(census.files[0].sha256, crate::digest::sha256_hex(b"abc"));
        assert_eq!((census.files[1].chars, census.files[1].bytes), (2, 3));
        assert_eq!(census.alphabet, ['a', 'b', 'c', 'é']);
    }

    #[test]
    fn an_invalid_byte_is_named_by_file_and_offset() {
        let mut bytes = "ä".repeat(50).into_bytes();
        bytes.extend([b'x', 0xFF, b'y']);
        for (bytes, expected) in [(bytes.as_slice(), 101), (&"ä".as_bytes()[..1], 0)] {
            for block_bytes in [4, 9, 1 << 16] {
                let (_dir, corpus) = corpus(&[b"fine", bytes]);
                let error = corpus.with_block_bytes(block_bytes).census(&mut |_| {}).unwrap_err();
                let DataError::NotUtf8 { path, offset } = error else { panic!("{error}") };
                assert_eq!(offset, expected);
                assert!(path.ends_with("1.txt"));
            }
        }
    }

    #[test]
    fn missing_and_empty_files_are_named() {
        let (_dir, empty) = corpus(&[b""]);
        assert!(matches!(empty.census(&mut |_| {}), Err(DataError::Empty { .. })));
        let missing = Corpus::new(vec!["/no/such/file".into()]);
        assert!(missing.census(&mut |_| {}).unwrap_err().to_string().contains("/no/such/file"));
    }

    #[test]
    fn blocks_end_before_line_ends_that_follow_a_visible_character() {
        assert_eq!(last_soft_cut("ab\ncd\n\n ef"), Some(5));
        assert_eq!(last_soft_cut("ab \n"), None);
        assert_eq!(last_soft_cut("\nab"), None);
    }
}
