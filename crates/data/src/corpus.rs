//! Text of any length, read in blocks of bounded size.
//!
//! A corpus is one or more UTF-8 files: text, read one after another as one text, or documents. It is read more
//! than once: a [`Census`](crate::census::Census) counts, hashes and validates, so that the split is known before the first token is
//! written; then the blocks are tokenized. Blocks are the same at every reading.
//!
//! Where a block of text ends: just before a line end that follows a visible character. There GPT-2's
//! pre-tokenizer always ends a word and none of its pieces looks back, so the tokens of a file's blocks, one
//! after another, are those of the whole file. A stretch without such a place is cut at the block's size. For other
//! tokenizers a block comes with some of the text around it, see `passage.rs`. A block of documents ends where
//! a document ends.
//!
//! # Units
//! A corpus is split by units: characters of a text, documents that have a character.

use std::path::{Path, PathBuf};

use crate::conversation::Conversations;
use crate::document::{
    BadRecord, Document, json_conversations, json_documents, row_documents, separated_documents,
};
use crate::error::DataError;
use crate::foreign::remedy_of_not_utf8;
use crate::format::{BadRecords, Format};
use crate::input::Input;
use crate::parquet_file::{RowBlock, Rows};
use crate::parquet_rows::JsonRows;
use crate::passage::{CONTEXT_BYTES, Passage};
use crate::records::{RecordBlock, Records};
use crate::split::Split;
use crate::steps::Steps;
use crate::words::last_soft_cut;

/// Bytes of a block unless told otherwise.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Fewest bytes of a block: it must hold the longest UTF-8 character.
const MIN_BLOCK_BYTES: usize = 4;

/// One or more files, all of text or all of documents.
#[derive(Clone, Debug)]
pub struct Corpus {
    files: Vec<PathBuf>,
    /// What each file holds.
    formats: Vec<Format>,
    /// Field or column with the text of each file.
    text_fields: Vec<String>,
    bad_records: BadRecords,
    /// How records become conversations, if they are.
    conversations: Option<Conversations>,
    block_bytes: usize,
    steps: Steps,
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
    Text(TextBlock),
    Documents(RecordBlock),
    Rows(RowBlock),
}

/// A part of a text, with what stands before and after it in the file.
#[derive(Debug)]
struct TextBlock {
    before: String,
    text: String,
    after: String,
}

impl Block {
    /// Bytes of the block, of documents with all that stands around their text.
    pub(crate) fn len_bytes(&self) -> u64 {
        match &self.content {
            Content::Text(block) => block.text.len() as u64,
            Content::Documents(records) => records.bytes.len() as u64,
            Content::Rows(rows) => rows.len_bytes(),
        }
    }
}

impl Corpus {
    /// The text of `files`, in this order.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let formats = vec![Format::Text; files.len()];
        Self::of_formats(files, formats)
    }

    /// The documents or text of `files`, in this order; `formats` says what each holds.
    pub fn of_formats(files: Vec<PathBuf>, formats: Vec<Format>) -> Self {
        let (text_fields, bad_records) = (vec!["text".to_owned(); files.len()], BadRecords::default());
        let (conversations, steps) = (None, Steps::default());
        Self { files, formats, text_fields, bad_records, conversations, block_bytes: BLOCK_BYTES, steps }
    }

    /// The same corpus with its texts in the field `text_field` of JSON objects, and those that have none treated
    /// as `bad_records` says.
    pub fn with_records(self, text_field: &str, bad_records: BadRecords) -> Self {
        Self { text_fields: vec![text_field.to_owned(); self.files.len()], bad_records, ..self }
    }

    /// The same corpus with the texts of each file in a field of its own.
    pub(crate) fn with_text_fields(self, text_fields: Vec<String>) -> Self {
        Self { text_fields, ..self }
    }

    /// The same corpus, its documents changed and left out as `steps` say.
    pub(crate) fn with_steps(self, steps: Steps) -> Self {
        Self { steps, ..self }
    }

    /// What is done with documents.
    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The same corpus with its records read as conversations, if `conversations` says how.
    pub(crate) fn with_conversations(self, conversations: Option<Conversations>) -> Self {
        Self { conversations, ..self }
    }

    /// How its records become conversations, if they are.
    pub(crate) fn conversations(&self) -> Option<&Conversations> {
        self.conversations.as_ref()
    }

    /// The same corpus read in blocks of at most `block_bytes`, at least 4; a longer document is a block.
    pub fn with_block_bytes(self, block_bytes: usize) -> Self {
        Self { block_bytes: block_bytes.max(MIN_BLOCK_BYTES), ..self }
    }

    /// Its files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether the files hold documents.
    pub fn is_documents(&self) -> bool {
        self.formats.iter().any(Format::is_documents)
    }

    /// What the file of this number holds.
    pub(crate) fn format_of(&self, file_idx: usize) -> &Format {
        &self.formats[file_idx]
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Size of all files on disk in bytes, for progress.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn len_bytes(&self) -> Result<u64, DataError> {
        self.files.iter().map(|path| Ok(path.metadata().map_err(DataError::read(path))?.len())).sum()
    }

    /// Calls `on_block` with every block in order and the bytes read from disk so far, until it returns `false`.
    /// Returns of each file that was read to its end the hash, if `hashed`, and the size on disk, if it is packed.
    pub(crate) fn read_blocks(
        &self,
        hashed: bool,
        on_block: &mut dyn FnMut(u64, Block) -> bool,
    ) -> Result<Vec<(String, Option<u64>)>, DataError> {
        let (mut index, mut before) = (0, 0);
        let mut on_disk = Vec::with_capacity(self.files.len());
        for (file_idx, path) in self.files.iter().enumerate() {
            let mut blocks = FileBlocks::open(self, file_idx, path, hashed)?;
            while let Some(content) = blocks.next()? {
                if !on_block(before + blocks.read_bytes(), Block { index, file_idx, content }) {
                    return Ok(on_disk);
                }
                index += 1;
            }
            before += blocks.read_bytes();
            on_disk.push(blocks.finish()?);
        }
        Ok(on_disk)
    }

    /// Calls `on_text` with the texts of `block`, whose first unit is number `first_unit` of the corpus: the first
    /// `train_units` of the corpus as training, the rest as validation. `kept` says of each document whether it stays. A text is cut where the split is, and no part
    /// of it has the other as its context; documents without a character are left out.
    pub(crate) fn for_each_text(
        &self,
        block: &Block,
        first_unit: u64,
        train_units: u64,
        mut kept: impl Iterator<Item = bool>,
        on_text: &mut dyn FnMut(Split, Passage<'_>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let Content::Text(text) = &block.content else {
            let train_units = train_units.saturating_sub(first_unit);
            let format = self.format_of(block.file_idx);
            let mut unit = 0;
            let mut on_document = |document: Document<'_>| {
                if document.text.is_empty() || kept.next() == Some(false) {
                    return Ok(());
                }
                let text = self.steps.rewritten(&document.text);
                let split = if unit < train_units { Split::Train } else { Split::Val };
                unit += 1;
                let path = &self.files[block.file_idx];
                on_text(split, Passage { conversation: document.conversation, ..Passage::whole(&text) })
                    .map_err(|error| error.in_document(path, format.unit(), document.place))
            };
            return self.for_each_document(block, &mut on_document, &mut |_| ());
        };
        for (split, part) in text.parts(first_unit, train_units) {
            if !part.text.is_empty() {
                on_text(split, part)?;
            }
        }
        Ok(())
    }

    /// Calls `on_document` with every document of a block, of which a block of text is one, and `on_bad` with the
    /// records that have none, unless these are errors.
    pub(crate) fn for_each_document(
        &self,
        block: &Block,
        on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
        on_bad: &mut dyn FnMut(BadRecord),
    ) -> Result<(), DataError> {
        let (path, format) = (&self.files[block.file_idx], self.format_of(block.file_idx));
        let field = &self.text_fields[block.file_idx];
        let mut on_bad = |bad: BadRecord| match self.bad_records {
            BadRecords::Refuse => Err(bad.told(path, format)),
            BadRecords::Skip => {
                on_bad(bad);
                Ok(())
            }
        };
        match (&block.content, format) {
            (Content::Text(block), _) => {
                on_document(Document { text: block.text.as_str().into(), place: 1, conversation: None })
            }
            (Content::Documents(RecordBlock { bytes, first, .. }), Format::Separated { line }) => {
                separated_documents(path, bytes, *first, line, on_document)
            }
            (Content::Documents(records), _) => match &self.conversations {
                Some(how) => json_conversations(path, records, format, how, on_document, &mut on_bad),
                None => json_documents(records, format, field, on_document, &mut on_bad),
            },
            (Content::Rows(rows), _) => row_documents(rows, field, on_document, &mut on_bad),
        }
    }
}

impl TextBlock {
    /// The parts on either side of the split, each with its context on its own side.
    fn parts(&self, first_unit: u64, train_units: u64) -> [(Split, Passage<'_>); 2] {
        let Self { before, text, after } = self;
        let Some(train_here) = train_units.checked_sub(first_unit) else {
            let before = last_chars(before, first_unit - train_units);
            return [
                (Split::Train, Passage::default()),
                (Split::Val, Passage { before, text, after, conversation: None }),
            ];
        };
        let (train, val) = split_at_char(text, train_here);
        if !val.is_empty() {
            let before = if train.is_empty() { "" } else { before };
            let train = Passage { before, text: train, ..Passage::default() };
            return [(Split::Train, train), (Split::Val, Passage { text: val, after, ..Passage::default() })];
        }
        let surely = (text.len() + after.len()) as u64;
        let after_here = match train_here >= surely {
            true => after,
            false => split_at_char(after, train_here - text.chars().count() as u64).0,
        };
        [
            (Split::Train, Passage { before, text, after: after_here, conversation: None }),
            (Split::Val, Passage::default()),
        ]
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

/// The last `n_chars` characters of `text`.
fn last_chars(text: &str, n_chars: u64) -> &str {
    if n_chars >= text.len() as u64 {
        return text;
    }
    let last = (n_chars as usize).checked_sub(1).and_then(|n| text.char_indices().rev().nth(n));
    &text[last.map_or(text.len(), |(at, _)| at)..]
}

/// The blocks of one file.
enum FileBlocks {
    Text(TextBlocks),
    Documents(Records),
    Rows(Box<Rows>),
    /// Rows of more than a text.
    JsonRows(Box<JsonRows>),
}

impl FileBlocks {
    fn open(corpus: &Corpus, file_idx: usize, path: &Path, hashed: bool) -> Result<Self, DataError> {
        let format = corpus.format_of(file_idx);
        if *format == Format::Parquet && corpus.conversations.is_some() {
            return Ok(Self::JsonRows(Box::new(JsonRows::open(path, corpus.block_bytes, hashed)?)));
        }
        if *format == Format::Parquet {
            return Ok(Self::Rows(Box::new(Rows::open(
                path,
                &corpus.text_fields[file_idx],
                corpus.block_bytes,
                hashed,
            )?)));
        }
        let input = Input::open(path, hashed)?;
        Ok(match format {
            Format::Text => Self::Text(TextBlocks::new(input, corpus.block_bytes)),
            format => Self::Documents(Records::new(input, format.clone(), corpus.block_bytes)),
        })
    }

    fn next(&mut self) -> Result<Option<Content>, DataError> {
        match self {
            Self::Text(blocks) => Ok(blocks.next_block()?.map(Content::Text)),
            Self::Documents(records) => Ok(records.next_block()?.map(Content::Documents)),
            Self::Rows(rows) => Ok(rows.next_block()?.map(Content::Rows)),
            Self::JsonRows(rows) => Ok(rows.next_block()?.map(Content::Documents)),
        }
    }

    /// Bytes read from the disk.
    fn read_bytes(&self) -> u64 {
        match self {
            Self::Text(blocks) => blocks.input.read_bytes(),
            Self::Documents(records) => records.input().read_bytes(),
            Self::Rows(rows) => rows.extent().read_bytes(),
            Self::JsonRows(rows) => rows.extent().read_bytes(),
        }
    }

    /// Of a file that was read to its end: its hash, if that was asked for, and its size on disk, if it is packed.
    fn finish(self) -> Result<(String, Option<u64>), DataError> {
        let input = match self {
            Self::Text(blocks) => blocks.input,
            Self::Documents(records) => records.into_input(),
            Self::Rows(rows) => return rows.extent().finish(),
            Self::JsonRows(rows) => return rows.extent().finish(),
        };
        let packed_bytes = input.packed_bytes();
        Ok((input.sha256(), packed_bytes))
    }
}

/// The blocks of one file of text.
struct TextBlocks {
    input: Input,
    /// What was read and is still needed: the context of the next block, the block, and what follows it.
    buffer: Vec<u8>,
    /// Where in the buffer the next block begins.
    start: usize,
    /// Offset in the file of the buffer's first byte.
    offset: u64,
    block_bytes: usize,
    at_end: bool,
}

/// Most spaces that are left out at the beginning of a context: most decoders take one away there.
const MAX_SPACES: usize = 64;

impl TextBlocks {
    fn new(input: Input, block_bytes: usize) -> Self {
        let offset = input.skipped();
        Self { input, buffer: Vec::new(), start: 0, offset, block_bytes, at_end: false }
    }

    /// The next block; `None` at the end of the file.
    fn next_block(&mut self) -> Result<Option<TextBlock>, DataError> {
        self.forget();
        let wanted = self.start + self.block_bytes + CONTEXT_BYTES - self.buffer.len();
        self.at_end = self.at_end || !self.input.append(&mut self.buffer, wanted)?;
        let valid = self.valid_len()?;
        let text = |range| str::from_utf8(&self.buffer[range]).expect("this many bytes were found valid");
        let (before, ahead) = (text(0..self.start), text(self.start..valid));
        let is_last = self.at_end && ahead.len() <= self.block_bytes;
        let window = &ahead[..ahead.floor_char_boundary(self.block_bytes)];
        let end = if is_last { ahead.len() } else { last_soft_cut(window).unwrap_or(window.len()) };
        if end == 0 {
            return Ok(None);
        }
        let (text, after) = ahead.split_at(end);
        let after = &after[..after.floor_char_boundary(CONTEXT_BYTES)];
        let block = TextBlock { before: before.to_owned(), text: text.to_owned(), after: after.to_owned() };
        self.start += end;
        Ok(Some(block))
    }

    /// Lets go of what lies further back than the context of the next block.
    fn forget(&mut self) {
        let Some(mut first) = self.start.checked_sub(CONTEXT_BYTES).filter(|&first| first > 0) else {
            return;
        };
        let is_inside = |byte: &u8| byte & 0xc0 == 0x80;
        first += self.buffer[first..self.start].iter().take_while(|byte| is_inside(byte)).count();
        let spaces = self.buffer[first..self.start].iter().take_while(|&&byte| byte == b' ').count();
        first += spaces.min(MAX_SPACES);
        self.buffer.drain(..first);
        self.start -= first;
        self.offset += first as u64;
    }

    /// Bytes at the buffer's beginning that are whole characters.
    fn valid_len(&self) -> Result<usize, DataError> {
        // What is before the block was found valid with the block before.
        match str::from_utf8(&self.buffer[self.start..]) {
            Ok(_) => Ok(self.buffer.len()),
            Err(error) if error.error_len().is_none() && !self.at_end => Ok(self.start + error.valid_up_to()),
            Err(error) => Err(self.not_utf8(self.start + error.valid_up_to(), error.error_len().is_none())),
        }
    }

    /// That byte `at` of the buffer is not UTF-8; `is_cut` if the file ends within a character.
    fn not_utf8(&self, at: usize, is_cut: bool) -> DataError {
        let near = &self.buffer[at.saturating_sub(2048)..(at + 2048).min(self.buffer.len())];
        let path = self.input.path();
        let remedy = remedy_of_not_utf8(path, near, is_cut);
        DataError::NotUtf8 { path: path.to_owned(), offset: self.offset + at as u64, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::Census;

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

    fn of_jsonl(corpus: &Corpus, field: &str) -> Corpus {
        let formats = vec![Format::Jsonl; corpus.files.len()];
        Corpus::of_formats(corpus.files.clone(), formats).with_records(field, BadRecords::Skip)
    }

    fn read_split(corpus: &Corpus, census: &Census, train_units: u64) -> (String, String) {
        let (mut train, mut val) = (String::new(), String::new());
        let mut on_text = |split, passage: Passage<'_>| {
            if split == Split::Train {
                train.push_str(passage.text);
            } else {
                val.push_str(passage.text);
            }
            Ok(())
        };
        let mut on_block = |_, block: Block| {
            let first_unit = census.first_unit(block.index).unwrap();
            corpus.for_each_text(&block, first_unit, train_units, std::iter::empty(), &mut on_text).unwrap();
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
                let DataError::NotUtf8 { path, offset, .. } = error else { panic!("{error}") };
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
            let corpus = of_jsonl(&corpus, "body").with_block_bytes(block_bytes);
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
            (dir, of_jsonl(&corpus, "text").census(&mut |_| {}))
        };
        for content in [&b""[..], b"\n \n"] {
            let (_dir, census) = of(content);
            let error = census.unwrap_err();
            assert!(matches!(error, DataError::NoDocuments { .. }), "{error}");
            assert!(error.to_string().contains("1.txt"), "{error}");
        }
        of(b"{\"text\": \"\"}").1.unwrap();
        let (_dir, only_empty) = corpus(&[b"{\"text\": \"\"}"]);
        let only_empty = of_jsonl(&only_empty, "text");
        assert!(matches!(only_empty.census(&mut |_| {}), Err(DataError::NoDocuments { .. })));
    }

    #[test]
    fn a_block_comes_with_the_text_around_it_on_its_side_of_the_split() {
        let text: String = (0..4000).map(|i| format!("Line {i} of this text, né à Nîmes.\n")).collect();
        let (_dir, corpus) = corpus(&[text.as_bytes(), b"another file"]);
        let corpus = corpus.with_block_bytes(3000);
        let census = corpus.census(&mut |_| {}).unwrap();
        let n_chars = text.chars().count() as u64;
        for train_units in [0, 777, 50_000, n_chars - 3, n_chars + 2, census.units()] {
            let (train, val): (String, String) = (
                text.chars().take(train_units as usize).collect(),
                text.chars().skip(train_units as usize).collect(),
            );
            let (mut at, mut n_blocks) = ([0, 0], 0);
            let mut on_text = |split: Split, passage: Passage<'_>| {
                if passage.text == "another file"
                    || passage.text.len() < 12 && "another file".contains(passage.text)
                {
                    assert!(passage.before.len() < 12 && passage.after.len() < 12);
                    return Ok(());
                }
                let (whole, at) =
                    (if split == Split::Train { &train } else { &val }, &mut at[split as usize]);
                assert!(whole[..*at].ends_with(passage.before));
                assert_eq!(passage.before.len() >= CONTEXT_BYTES - 100, *at >= CONTEXT_BYTES - 100);
                assert!(whole[*at..].starts_with(passage.text));
                *at += passage.text.len();
                assert!(whole[*at..].starts_with(passage.after));
                assert_eq!(passage.after.len() >= CONTEXT_BYTES - 4, whole.len() - *at >= CONTEXT_BYTES - 4);
                Ok(())
            };
            let mut on_block = |_, block: Block| {
                let first_unit = census.first_unit(block.index).unwrap();
                corpus
                    .for_each_text(&block, first_unit, train_units, std::iter::empty(), &mut on_text)
                    .unwrap();
                n_blocks += 1;
                true
            };
            corpus.read_blocks(false, &mut on_block).unwrap();
            assert!(n_blocks > 40);
            assert_eq!(at, [train.len(), val.len()], "{train_units}");
        }
    }

    #[test]
    fn bad_records_are_counted_by_kind_with_the_first_place_or_refused() {
        let lines =
            "{\"text\": \"one\"}\n{\"text\": null}\n{\"body\": 1}\n{\"text\": null}\n{\"text\": \"two\"}\n";
        let (_dir, corpus) = corpus(&[lines.as_bytes()]);
        for block_bytes in [4, 30, 1 << 16] {
            let skipping = of_jsonl(&corpus, "text").with_block_bytes(block_bytes);
            let census = skipping.census(&mut |_| {}).unwrap();
            assert_eq!(census.units(), 2);
            let bad = census.bad.as_ref().unwrap();
            assert_eq!(
                bad.skipped.clone().into_iter().collect::<Vec<_>>(),
                [("field missing".to_owned(), 1), ("null instead of a text".to_owned(), 2)]
            );
            assert!(bad.first.contains("0.txt") && bad.first.contains("line 2"), "{}", bad.first);
            assert_eq!(read_split(&skipping, &census, 1), ("one".to_owned(), "two".to_owned()));
            let refusing = skipping.with_records("text", BadRecords::Refuse);
            let said = refusing.census(&mut |_| {}).unwrap_err().to_string();
            assert!(said.contains("line 2") && said.contains("null"), "{said}");
        }
        let error = of_jsonl(&corpus, "title").census(&mut |_| {}).unwrap_err();
        assert!(matches!(error, DataError::NoRecords { count: 5, .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains("0.txt") && said.contains("line 1") && said.contains("data.text_field"),
            "{said}"
        );
    }
}
