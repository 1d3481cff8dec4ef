//! Text of any length, read in blocks of bounded size.
//!
//! A corpus is one or more UTF-8 files: text, read one after another as one text, or documents. It is read more
//! than once: a [`Census`] counts, hashes and validates, so that the split is known before the first token is
//! written; then the blocks are tokenized. Blocks are the same at every reading.
//!
//! Where a block of text ends: just before a line end that follows a visible character. There GPT-2's
//! pre-tokenizer always ends a word and none of its pieces looks back, so the tokens of a file's blocks, one
//! after another, are those of the whole file. A stretch without such a place is cut at the block's size. A block
//! of documents ends where a document ends.
//!
//! # Units
//! A corpus is split by units: characters of a text, documents that have a character.

use std::path::{Path, PathBuf};

use crate::document::{Document, json_documents, separated_documents};
use crate::error::DataError;
use crate::input::{Format, Input};
use crate::manifest::Split;
use crate::records::{RecordBlock, Records};

pub use crate::census::{Census, FileCensus};

/// Bytes of a block unless told otherwise.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Fewest bytes of a block: it must hold the longest UTF-8 character.
const MIN_BLOCK_BYTES: usize = 4;

/// One or more files of one format.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<PathBuf>,
    format: Format,
    text_field: String,
    block_bytes: usize,
}

/// Units of the training split out of `units`: the first `⌊units · (1 − val_fraction)⌋`, as nanoGPT's
/// `int(n * 0.9)`.
pub fn train_units(units: u64, val_fraction: f64) -> u64 {
    (units as f64 * (1.0 - val_fraction)) as u64
}

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its place among the blocks of the corpus, from 0.
    pub index: usize,
    /// Its file's place among the files of the corpus.
    pub file_idx: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Text(String),
    Documents(RecordBlock),
}

impl Block {
    /// Bytes of the block, of documents with all that stands around their text.
    pub(crate) fn len_bytes(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.len() as u64,
            Content::Documents(records) => records.lines.len() as u64,
        }
    }
}

impl Corpus {
    /// The text of `files`, in this order.
    pub fn new(files: Vec<PathBuf>) -> Self {
        Self { files, format: Format::Text, text_field: String::new(), block_bytes: BLOCK_BYTES }
    }

    /// The documents or text of `files`, in this order; of JSONL, the text is in `text_field`.
    pub fn of_format(files: Vec<PathBuf>, format: Format, text_field: &str) -> Self {
        Self { format, text_field: text_field.to_owned(), ..Self::new(files) }
    }

    /// The same corpus read in blocks of at most `block_bytes`, at least 4; a longer document is a block.
    pub fn with_block_bytes(self, block_bytes: usize) -> Self {
        Self { block_bytes: block_bytes.max(MIN_BLOCK_BYTES), ..self }
    }

    /// Its files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// What the files hold.
    pub fn format(&self) -> &Format {
        &self.format
    }

    /// Size of all files on disk in bytes, for progress.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn len_bytes(&self) -> Result<u64, DataError> {
        self.files.iter().map(|path| Ok(path.metadata().map_err(DataError::read(path))?.len())).sum()
    }

    /// Counts, hashes and validates every file. `on_done` hears the bytes read so far.
    ///
    /// # Errors
    /// If a file cannot be read, is empty, is not UTF-8, or has no documents where it should.
    pub fn census(&self, on_done: &mut dyn FnMut(u64)) -> Result<Census, DataError> {
        Census::of(self, on_done)
    }

    /// Calls `on_block` with every block in order and the bytes read from disk so far, until it returns `false`.
    /// Returns the hash of each file that was read to its end, if `hashed`.
    pub(crate) fn read_blocks(
        &self,
        hashed: bool,
        on_block: &mut dyn FnMut(u64, Block) -> bool,
    ) -> Result<Vec<String>, DataError> {
        let (mut index, mut before) = (0, 0);
        let mut hashes = Vec::with_capacity(self.files.len());
        for (file_idx, path) in self.files.iter().enumerate() {
            let mut blocks = FileBlocks::open(self, path, hashed)?;
            while let Some(content) = blocks.next()? {
                if !on_block(before + blocks.input().read_bytes(), Block { index, file_idx, content }) {
                    return Ok(hashes);
                }
                index += 1;
            }
            before += blocks.input().read_bytes();
            hashes.push(blocks.into_input().sha256());
        }
        Ok(hashes)
    }

    /// Calls `on_text` with the texts of `block`, whose first unit is number `first_unit` of the corpus: the first
    /// `train_units` of the corpus as training, the rest as validation. A text is cut where the split is; documents
    /// without a character are left out.
    pub(crate) fn for_each_text(
        &self,
        block: &Block,
        first_unit: u64,
        train_units: u64,
        on_text: &mut dyn FnMut(Split, &str) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let train_units = train_units.saturating_sub(first_unit);
        let Content::Text(text) = &block.content else {
            let mut unit = 0;
            return self.for_each_document(block, &mut |document| {
                if document.text.is_empty() {
                    return Ok(());
                }
                let split = if unit < train_units { Split::Train } else { Split::Val };
                unit += 1;
                let path = &self.files[block.file_idx];
                on_text(split, &document.text).map_err(|error| error.in_document(path, document.line))
            });
        };
        let (train, val) = split_at_char(text, train_units);
        for (split, part) in [(Split::Train, train), (Split::Val, val)] {
            if !part.is_empty() {
                on_text(split, part)?;
            }
        }
        Ok(())
    }

    /// Calls `on_document` with every document of a block; a block of text is one.
    pub(crate) fn for_each_document(
        &self,
        block: &Block,
        on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let path = &self.files[block.file_idx];
        match (&block.content, &self.format) {
            (Content::Text(text), _) => on_document(Document { text: text.into(), line: 1 }),
            (Content::Documents(RecordBlock { lines, first_line }), Format::Separated { line }) => {
                separated_documents(path, lines, *first_line, line, on_document)
            }
            (Content::Documents(RecordBlock { lines, first_line }), _) => {
                json_documents(path, lines, *first_line, &self.text_field, on_document)
            }
        }
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
enum FileBlocks {
    Text(TextBlocks),
    Documents(Records),
}

impl FileBlocks {
    fn open(corpus: &Corpus, path: &Path, hashed: bool) -> Result<Self, DataError> {
        let input = Input::open(path, hashed)?;
        Ok(match &corpus.format {
            Format::Text => Self::Text(TextBlocks::new(input, corpus.block_bytes)),
            format => Self::Documents(Records::new(input, format.clone(), corpus.block_bytes)),
        })
    }

    fn next(&mut self) -> Result<Option<Content>, DataError> {
        match self {
            Self::Text(blocks) => Ok(blocks.next_block()?.map(|text| Content::Text(text.to_owned()))),
            Self::Documents(records) => Ok(records.next_block()?.map(Content::Documents)),
        }
    }

    fn input(&self) -> &Input {
        match self {
            Self::Text(blocks) => &blocks.input,
            Self::Documents(records) => records.input(),
        }
    }

    fn into_input(self) -> Input {
        match self {
            Self::Text(blocks) => blocks.input,
            Self::Documents(records) => records.into_input(),
        }
    }
}

/// The blocks of one file of text.
struct TextBlocks {
    input: Input,
    /// Bytes read and not yet given out; the first `given` of them were.
    buffer: Vec<u8>,
    given: usize,
    /// Offset in the file of the buffer's first byte.
    offset: u64,
    block_bytes: usize,
    at_end: bool,
}

impl TextBlocks {
    fn new(input: Input, block_bytes: usize) -> Self {
        let buffer = Vec::with_capacity(block_bytes);
        Self { input, buffer, given: 0, offset: 0, block_bytes, at_end: false }
    }

    /// The next block; `None` at the end of the file.
    fn next_block(&mut self) -> Result<Option<&str>, DataError> {
        self.buffer.drain(..self.given);
        self.offset += self.given as u64;
        self.given = 0;
        let wanted = self.block_bytes - self.buffer.len();
        self.at_end = !self.input.append(&mut self.buffer, wanted)?;
        let valid = self.valid_len()?;
        let text = str::from_utf8(&self.buffer[..valid]).expect("this many bytes were found valid");
        self.given = if self.at_end { valid } else { last_soft_cut(text).unwrap_or(valid) };
        Ok((self.given > 0).then(|| &text[..self.given]))
    }

    /// Bytes at the buffer's beginning that are whole characters.
    fn valid_len(&self) -> Result<usize, DataError> {
        match str::from_utf8(&self.buffer) {
            Ok(text) => Ok(text.len()),
            Err(error) if error.error_len().is_none() && !self.at_end => Ok(error.valid_up_to()),
            Err(error) => Err(DataError::NotUtf8 {
                path: self.input.path().to_owned(),
                offset: self.offset + error.valid_up_to() as u64,
            }),
        }
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

    fn read_split(corpus: &Corpus, census: &Census, train_units: u64) -> (String, String) {
        let (mut train, mut val) = (String::new(), String::new());
        let mut on_text = |split, text: &str| {
            if split == Split::Train {
                train.push_str(text);
            } else {
                val.push_str(text);
            }
            Ok(())
        };
        let mut on_block = |_, block: Block| {
            let first_unit = census.first_unit(block.index).unwrap();
            corpus.for_each_text(&block, first_unit, train_units, &mut on_text).unwrap();
            true
        };
        corpus.read_blocks(false, &mut on_block).unwrap();
        (train, val)
    }

    #[test]
    fn the_split_is_nanogpts() {
        assert_eq!(train_units(1_115_394, 0.1), 1_003_854);
        assert_eq!(train_units(10, 0.0), 10);
        assert_eq!(train_units(7, 0.5), 3);
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
                let (train, val) = read_split(&corpus, &census, cut as u64);
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
    fn documents_are_counted_and_split_whole_whatever_the_block_size() {
        let texts = ["one", "", "zwei ü", "three\nlines\n", "", "4"];
        let lines = texts.map(|text| serde_json::json!({"id": 1, "body": text}).to_string() + "\n");
        let (_dir, corpus) = corpus(&[lines[..3].concat().as_bytes(), lines[3..].concat().as_bytes()]);
        for block_bytes in [4, 20, 33, 1 << 16] {
            let corpus =
                Corpus::of_format(corpus.files.clone(), Format::Jsonl, "body").with_block_bytes(block_bytes);
            let census = corpus.census(&mut |_| {}).unwrap();
            assert_eq!((census.units(), census.empty_documents), (4, 2));
            assert_eq!((census.bytes(), census.chars()), (23, 22));
            assert_eq!(census.files[0].sha256, crate::digest::sha256_hex(lines[..3].concat().as_bytes()));
            for cut in 0..=4 {
                let all = ["one", "zwei ü", "three\nlines\n", "4"];
                let expected = (all[..cut].concat(), all[cut..].concat());
                assert_eq!(read_split(&corpus, &census, cut as u64), expected, "block {block_bytes}");
            }
        }
    }

    #[test]
    fn files_without_documents_are_named() {
        let of = |content: &[u8]| {
            let (dir, corpus) = corpus(&[b"{\"text\": \"a\"}", content]);
            let corpus = Corpus::of_format(corpus.files.clone(), Format::Jsonl, "text");
            (dir, corpus.census(&mut |_| {}))
        };
        for content in [&b""[..], b"\n \n"] {
            let (_dir, census) = of(content);
            let error = census.unwrap_err();
            assert!(matches!(error, DataError::NoDocuments { .. }), "{error}");
            assert!(error.to_string().contains("1.txt"), "{error}");
        }
        of(b"{\"text\": \"\"}").1.unwrap();
        let (_dir, only_empty) = corpus(&[b"{\"text\": \"\"}"]);
        let only_empty = Corpus::of_format(only_empty.files, Format::Jsonl, "text");
        assert!(matches!(only_empty.census(&mut |_| {}), Err(DataError::NoDocuments { .. })));
    }

    #[test]
    fn blocks_end_before_line_ends_that_follow_a_visible_character() {
        assert_eq!(last_soft_cut("ab\ncd\n\n ef"), Some(5));
        assert_eq!(last_soft_cut("ab \n"), None);
        assert_eq!(last_soft_cut("\nab"), None);
    }
}
