//! What a corpus holds: its first reading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::corpus::{Block, Corpus};
use crate::document::{BadRecord, Document};
use crate::error::DataError;
use crate::manifest::{BadRecordsManifest, StepManifest};
use crate::pipeline;
use crate::scratch::Scratch;
use crate::steps::{Kept, Seen, digest};

/// What one input file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCensus {
    /// The file.
    pub path: PathBuf,
    /// Its text in bytes: of documents, what they say, not how it is written down.
    pub bytes: u64,
    /// Its text in characters.
    pub chars: u64,
    /// What it is split by: characters of a text, documents with a character.
    pub units: u64,
    /// SHA-256 of the file as it lies on disk, in hexadecimal.
    pub sha256: String,
    /// Its bytes on disk, if it is packed.
    pub packed_bytes: Option<u64>,
}

/// What a whole corpus holds.
#[derive(Clone, Debug)]
pub struct Census {
    /// Its files in order.
    pub files: Vec<FileCensus>,
    /// Every character that occurs, in ascending order.
    pub alphabet: Vec<char>,
    /// Documents without a character, which are left out.
    pub empty_documents: u64,
    /// Records without a text that can be read, which are left out.
    pub bad: Option<BadRecordsManifest>,
    /// What the steps made of the documents.
    pub(crate) steps: Vec<StepManifest>,
    /// Which documents the steps left, if there are steps.
    kept: Option<Kept>,
    /// Bytes of all blocks.
    pub(crate) block_bytes: u64,
    /// The number of the first unit of each block, and behind them that of all units: 8 bytes for a mebibyte.
    first_units: Vec<u64>,
}

/// What one block holds.
struct Tally {
    file_idx: usize,
    block_bytes: u64,
    bytes: u64,
    chars: u64,
    /// Documents with a character that are left.
    documents: u64,
    /// Documents as they were read, those without a character too.
    n_read: u64,
    empty_documents: u64,
    bad: Bad,
    steps: Vec<StepManifest>,
    /// Of each document with a character, what it is after the steps that look at it alone, unless they dropped it.
    /// Kept where there are steps.
    left: Vec<Option<Left>>,
}

/// A document that passed the steps that look at it alone.
struct Left {
    bytes: u64,
    chars: u64,
    /// Where duplicates are dropped.
    digest: Option<u128>,
}

/// The bad records of a block or file: how many of each kind, and the first.
#[derive(Default)]
struct Bad {
    counts: BTreeMap<&'static str, u64>,
    first: Option<BadRecord>,
}

impl Bad {
    fn add(&mut self, record: BadRecord) {
        *self.counts.entry(record.kind).or_default() += 1;
        self.first.get_or_insert(record);
    }

    fn merge(&mut self, other: Self) {
        other.counts.into_iter().for_each(|(kind, n)| *self.counts.entry(kind).or_default() += n);
        self.first = self.first.take().or(other.first);
    }

    fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

impl Corpus {
    /// Counts, hashes and validates every file. `on_done` hears the bytes read so far.
    ///
    /// # Errors
    /// If a file cannot be read, is empty, is not UTF-8, or has no documents where it should.
    pub fn census(&self, on_done: &mut dyn FnMut(u64)) -> Result<Census, DataError> {
        Census::of(self, on_done)
    }
}

impl Census {
    /// Reads `corpus`, on all threads.
    fn of(corpus: &Corpus, on_done: &mut dyn FnMut(u64)) -> Result<Self, DataError> {
        let empty = |path: &PathBuf| FileCensus {
            path: path.clone(),
            bytes: 0,
            chars: 0,
            units: 0,
            sha256: String::new(),
            packed_bytes: None,
        };
        let mut census = Self {
            files: corpus.files().iter().map(empty).collect(),
            alphabet: Vec::new(),
            empty_documents: 0,
            bad: None,
            steps: corpus.steps().counts(),
            kept: (!corpus.steps().is_empty()).then(Kept::default),
            block_bytes: 0,
            first_units: vec![0],
        };
        let mut n_documents = vec![0; census.files.len()];
        let mut bad: Vec<Bad> = census.files.iter().map(|_| Bad::default()).collect();
        let (mut seen, duplicates) = (Seen::default(), corpus.steps().duplicates());
        let alphabets = Scratch::<Alphabet>::default();
        let is_documents = corpus.is_documents();
        let on_disk = pipeline::ordered(
            |feed| corpus.read_blocks(true, &mut |done, block| feed.give(done, block)),
            |block| alphabets.with(|alphabet| Tally::of(corpus, &block, alphabet)),
            |mut tally| {
                if let Some(kept) = &mut census.kept {
                    tally.sift(&mut seen, duplicates, kept);
                }
                n_documents[tally.file_idx] += tally.n_read;
                census.add(&tally, is_documents);
                bad[tally.file_idx].merge(tally.bad);
                Ok(())
            },
            on_done,
        )?;
        for (file, (sha256, packed_bytes)) in census.files.iter_mut().zip(on_disk) {
            (file.sha256, file.packed_bytes) = (sha256, packed_bytes);
        }
        census.alphabet = Alphabet::chars(&alphabets.into_states());
        match is_documents {
            true => census.check_documents(corpus, &n_documents, &bad)?,
            false => census.check_text()?,
        }
        census.bad = all_bad(corpus, bad);
        Ok(census)
    }

    fn add(&mut self, tally: &Tally, is_documents: bool) {
        let file = &mut self.files[tally.file_idx];
        file.bytes += tally.bytes;
        file.chars += tally.chars;
        self.empty_documents += tally.empty_documents;
        self.block_bytes += tally.block_bytes;
        self.steps.iter_mut().zip(&tally.steps).for_each(|(all, step)| all.merge(step));
        let units = if is_documents { tally.documents } else { tally.chars };
        file.units += units;
        self.first_units.push(self.units() + units);
    }

    fn check_text(&self) -> Result<(), DataError> {
        match self.files.iter().find(|file| file.bytes == 0) {
            None => Ok(()),
            Some(file) => Err(DataError::Empty { path: file.path.clone() }),
        }
    }

    fn check_documents(&self, corpus: &Corpus, n_documents: &[u64], bad: &[Bad]) -> Result<(), DataError> {
        let all_are_bad = |file_idx: &usize| n_documents[*file_idx] == 0 && bad[*file_idx].total() > 0;
        if let Some(file_idx) = (0..bad.len()).find(all_are_bad)
            && let Some(first) = bad[file_idx].first.clone()
        {
            let first = Box::new(first.told(&self.files[file_idx].path, corpus.format_of(file_idx)));
            return Err(DataError::NoRecords { count: bad[file_idx].total(), first });
        }
        let barrier = self.steps.iter().find(|step| step.documents_in > 0 && step.documents_out == 0);
        if let Some(StepManifest { name, rule, documents_in, .. }) = barrier.filter(|_| self.units() == 0) {
            let (step, rule, documents) = (name.clone(), rule.clone(), *documents_in);
            return Err(DataError::NothingLeft { step, rule, documents });
        }
        let mut files = self.files.iter().zip(n_documents);
        let without = files.find(|&(_, &n)| n == 0 || self.units() == 0);
        without.map_or(Ok(()), |(file, _)| Err(DataError::NoDocuments { path: file.path.clone() }))
    }

    /// Units by which the corpus is split: characters of a text, documents with a character.
    pub fn units(&self) -> u64 {
        self.first_units.last().copied().unwrap_or(0)
    }

    /// The number of the first unit of a block; `None` if there was no such block.
    pub(crate) fn first_unit(&self, block_idx: usize) -> Option<u64> {
        let (_, blocks) = self.first_units.split_last()?;
        blocks.get(block_idx).copied()
    }

    /// Of the documents of a block from the first on, which the steps left.
    pub(crate) fn kept_of(&self, block_idx: usize) -> impl Iterator<Item = bool> {
        self.kept.iter().flat_map(move |kept| kept.of_block(block_idx))
    }

    /// Characters of all files.
    pub fn chars(&self) -> u64 {
        self.files.iter().map(|file| file.chars).sum()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
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
}

/// The bad records of all files.
fn all_bad(corpus: &Corpus, bad: Vec<Bad>) -> Option<BadRecordsManifest> {
    let file_idx = bad.iter().position(|bad| bad.first.is_some())?;
    let mut all = Bad::default();
    bad.into_iter().for_each(|bad| all.merge(bad));
    let first = all.first?.told(&corpus.files()[file_idx], corpus.format_of(file_idx)).to_string();
    let skipped = all.counts.into_iter().map(|(kind, n)| (kind.to_owned(), n)).collect();
    Some(BadRecordsManifest { skipped, first })
}

impl Tally {
    fn of(corpus: &Corpus, block: &Block, alphabet: &mut Alphabet) -> Result<Self, DataError> {
        let mut tally = Self {
            file_idx: block.file_idx,
            block_bytes: block.len_bytes(),
            bytes: 0,
            chars: 0,
            documents: 0,
            n_read: 0,
            empty_documents: 0,
            bad: Bad::default(),
            steps: corpus.steps().counts(),
            left: Vec::new(),
        };
        let steps = corpus.steps();
        let mut bad = Bad::default();
        let mut on_document = |document: Document<'_>| {
            tally.n_read += 1;
            if document.text.is_empty() {
                tally.empty_documents += 1;
                return Ok(());
            }
            let text = steps.apply(document.text, &mut tally.steps);
            let left = text.map(|text| Left {
                bytes: text.len() as u64,
                chars: alphabet.add(&text),
                digest: steps.duplicates().map(|_| digest(&text)),
            });
            left.iter().for_each(|left| tally.count(left));
            if !steps.is_empty() {
                tally.left.push(left);
            }
            Ok(())
        };
        corpus.for_each_document(block, &mut on_document, &mut |record| bad.add(record))?;
        Ok(Self { bad, ..tally })
    }

    fn count(&mut self, document: &Left) {
        self.documents += 1;
        self.bytes += document.bytes;
        self.chars += document.chars;
    }

    /// Takes out what was `seen` before, counted by the step at `duplicates`, and notes in `kept` what is left. No
    /// character is lost with a duplicate: the first of its kind has them all.
    fn sift(&mut self, seen: &mut Seen, duplicates: Option<usize>, kept: &mut Kept) {
        let left = std::mem::take(&mut self.left);
        let Some(step) = duplicates else { return kept.push_block(left.iter().map(Option::is_some)) };
        let mut is_kept = |document: &Option<Left>| {
            let Some(document) = document else { return false };
            let is_first = document.digest.is_some_and(|digest| seen.is_first(digest));
            self.steps[step].enter(document.bytes as usize);
            match is_first {
                true => self.steps[step].leave(document.bytes as usize),
                false => {
                    self.documents -= 1;
                    self.bytes -= document.bytes;
                    self.chars -= document.chars;
                }
            }
            is_first
        };
        kept.push_block(left.iter().map(&mut is_kept));
    }
}

/// A set of characters: one bit for each.
struct Alphabet(Vec<u64>);

impl Default for Alphabet {
    fn default() -> Self {
        Self(vec![0; (char::MAX as usize + 1).div_ceil(64)])
    }
}

impl Alphabet {
    /// Adds the characters of `text`; returns how many it has.
    fn add(&mut self, text: &str) -> u64 {
        if text.is_ascii() {
            let mut seen = [false; 128];
            text.bytes().for_each(|byte| seen[usize::from(byte & 127)] = true);
            (0..128).filter(|&byte| seen[byte]).for_each(|byte| self.insert(byte));
            return text.len() as u64;
        }
        let mut n_chars = 0;
        for c in text.chars() {
            self.insert(c as usize);
            n_chars += 1;
        }
        n_chars
    }

    fn insert(&mut self, c: usize) {
        self.0[c / 64] |= 1 << (c % 64);
    }

    fn has(&self, c: char) -> bool {
        self.0[c as usize / 64] >> (c as usize % 64) & 1 == 1
    }

    /// The characters of any of `alphabets`, in ascending order.
    fn chars(alphabets: &[Self]) -> Vec<char> {
        ('\0'..=char::MAX).filter(|&c| alphabets.iter().any(|alphabet| alphabet.has(c))).collect()
    }
}
