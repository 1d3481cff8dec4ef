//! Token files: a fixed header and the ids, memory-mapped.
//!
//! A split is one or more shards, `train-00000.bin`, `train-00001.bin`, … All numbers are little endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic, `WATTLTOK` |
//! | 8 | 4 | version: 1, or 2 with a mask |
//! | 12 | 4 | width of a token in bytes: 2 if the vocabulary has at most 65,536 entries, else 4 |
//! | 16 | 8 | number of tokens |
//! | 24 | 8 | entries of the vocabulary |
//! | 32 | 32 | SHA-256 of the payload |
//! | 64 | width · tokens | the payload: token ids |
//! | | ⌈tokens / 8⌉ | with a mask, still of the payload: whether each token is learnt, a bit each, the lowest first |
//!
//! A shard is written to `<name>.partial`, synchronized to disk and renamed, so that one which has its name is
//! whole. Opening checks everything but the payload's hash, which [`Dataset::verify`](crate::Dataset::verify) does.

use std::fs::{File, Metadata};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use crate::digest::to_hex;
use crate::error::DataError;
use crate::manifest::ShardManifest;
use crate::tokenizer::check_ids;

/// The first bytes of every shard.
pub const MAGIC: [u8; 8] = *b"WATTLTOK";

/// Version of the layout.
pub const VERSION: u32 = 1;

/// Version of the layout with a mask.
pub const VERSION_WITH_MASK: u32 = 2;

/// Tokens of a shard unless told otherwise: 2²⁸, half a gibibyte at two bytes a token.
pub const TOKENS_PER_SHARD: u64 = 1 << 28;

const HEADER_BYTES: usize = 64;
const WRITE_BUFFER_BYTES: usize = 1 << 20;
/// Bytes that are hashed between two signs of progress.
const HASHED_AT_ONCE: usize = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    has_mask: bool,
    width: u32,
    tokens: u64,
    vocab_size: u64,
    sha256: [u8; 32],
}

/// Bytes of a token for a vocabulary of `vocab_size` entries.
fn width(vocab_size: usize) -> u32 {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let version = if self.has_mask { VERSION_WITH_MASK } else { VERSION };
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.width.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.tokens.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.vocab_size.to_le_bytes());
        bytes[32..].copy_from_slice(&self.sha256);
        bytes
    }

    /// Reads and validates the header of a file of `content`.
    fn parse(path: &Path, content: &[u8]) -> Result<Self, DataError> {
        if !content.starts_with(&MAGIC) {
            let got = String::from_utf8_lossy(&content[..content.len().min(MAGIC.len())]).into_owned();
            let expected = String::from_utf8_lossy(&MAGIC).into_owned();
            return Err(DataError::ShardMagic { path: path.to_owned(), expected, got });
        }
        let length =
            |expected| DataError::ShardLength { path: path.to_owned(), expected, got: content.len() as u64 };
        if content.len() < HEADER_BYTES {
            return Err(length(HEADER_BYTES as u64));
        }
        let (u32_at, u64_at) =
            (|at| u32::from_le_bytes(field(content, at)), |at| u64::from_le_bytes(field(content, at)));
        let has_mask = u32_at(8) == VERSION_WITH_MASK;
        if !has_mask {
            check_field(path, "version", VERSION, u32_at(8))?;
        }
        let header = Self {
            has_mask,
            width: u32_at(12),
            tokens: u64_at(16),
            vocab_size: u64_at(24),
            sha256: field(content, 32),
        };
        let vocab_size = usize::try_from(header.vocab_size).unwrap_or(usize::MAX);
        check_field(path, "token width", width(vocab_size), header.width)?;
        let mask = if has_mask { header.tokens.div_ceil(8) } else { 0 };
        let payload = header.tokens.saturating_mul(u64::from(header.width)).saturating_add(mask);
        let expected = payload.saturating_add(HEADER_BYTES as u64);
        if content.len() as u64 == expected { Ok(header) } else { Err(length(expected)) }
    }
}

fn field<const N: usize>(content: &[u8], at: usize) -> [u8; N] {
    content[at..at + N].try_into().expect("a slice of this length")
}

fn check_field<T: PartialEq + ToString>(
    path: &Path,
    field: &'static str,
    expected: T,
    got: T,
) -> Result<(), DataError> {
    if expected == got {
        return Ok(());
    }
    let (expected, got) = (expected.to_string(), got.to_string());
    Err(DataError::ShardField { path: path.to_owned(), field, expected, got })
}

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    /// Of the file when it was opened.
    metadata: Metadata,
    header: Header,
    map: Mmap,
}

impl Shard {
    /// Opens the shard at `path`, made for a vocabulary of `vocab_size` entries.
    ///
    /// # Errors
    /// If it cannot be read, is no shard, has another version or vocabulary, or is not as long as it says.
    pub fn open(path: &Path, vocab_size: usize) -> Result<Self, DataError> {
        let file = wattle_files::open(path).map_err(DataError::read(path))?;
        let metadata = file.metadata().map_err(DataError::read(path))?;
        // SAFETY: the map is read-only, and shards are never written in place: they are renamed into existence
        // whole, and replaced by renaming. Whoever truncates one under a running process breaks that promise.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::read(path))?;
        let header = Header::parse(path, &map)?;
        check_field(path, "vocabulary size", vocab_size as u64, header.vocab_size)?;
        Ok(Self { path: path.to_owned(), metadata, header, map })
    }

    /// Its file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the system knew of its file when it was opened.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.header.tokens
    }

    /// Bytes of all tokens.
    pub(crate) fn payload_bytes(&self) -> u64 {
        (self.map.len() - HEADER_BYTES) as u64
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.header.tokens == 0
    }

    /// SHA-256 of the payload by the header, in hexadecimal.
    pub fn sha256(&self) -> String {
        to_hex(&self.header.sha256)
    }

    /// Copies the tokens from `start` on into `out`.
    ///
    /// # Panics
    /// If the range is not within the shard.
    pub fn read(&self, start: u64, out: &mut [u32]) {
        let width = self.header.width as usize;
        let first = HEADER_BYTES + start as usize * width;
        let bytes = &self.map[first..first + out.len() * width];
        if width == 2 {
            let ids = bytes.as_chunks().0.iter().map(|&id| u32::from(u16::from_le_bytes(id)));
            out.iter_mut().zip(ids).for_each(|(out, id)| *out = id);
        } else {
            let ids = bytes.as_chunks().0.iter().map(|&id| u32::from_le_bytes(id));
            out.iter_mut().zip(ids).for_each(|(out, id)| *out = id);
        }
    }

    /// Whether it says of each token whether it is learnt.
    pub fn has_mask(&self) -> bool {
        self.header.has_mask
    }

    /// Writes to `out` whether each token from `start` on is learnt; without a mask all are.
    ///
    /// # Panics
    /// If the range is not within the shard.
    pub fn read_mask(&self, start: u64, out: &mut [bool]) {
        assert!(
            start + out.len() as u64 <= self.len(),
            "a mask beyond the {} tokens of its shard",
            self.len()
        );
        if !self.has_mask() {
            out.fill(true);
            return;
        }
        let mask = &self.map[HEADER_BYTES + (self.header.tokens * u64::from(self.header.width)) as usize..];
        for (bit, is_learnt) in (start as usize..).zip(out) {
            *is_learnt = mask[bit / 8] >> (bit % 8) & 1 == 1;
        }
    }

    /// Hashes the payload and compares; tells `on_hashed` of every few bytes.
    ///
    /// # Errors
    /// If a byte of the payload is not what was written.
    pub(crate) fn verify(&self, on_hashed: &mut dyn FnMut(u64)) -> Result<(), DataError> {
        let mut hasher = Sha256::new();
        for bytes in self.map[HEADER_BYTES..].chunks(HASHED_AT_ONCE) {
            hasher.update(bytes);
            on_hashed(bytes.len() as u64);
        }
        let got = to_hex(&hasher.finalize());
        if got == self.sha256() {
            return Ok(());
        }
        Err(DataError::ShardHash { path: self.path.clone(), expected: self.sha256(), got })
    }
}

/// Writes a split's tokens, starting a new shard whenever one is full.
#[derive(Debug)]
pub struct ShardWriter {
    dir: PathBuf,
    stem: String,
    vocab_size: usize,
    tokens_per_shard: u64,
    open: Option<OpenShard>,
    written: Vec<ShardManifest>,
    /// Tokens that are learnt, once any were written with a mask.
    learnt: Option<u64>,
}

#[derive(Debug)]
struct OpenShard {
    partial: PathBuf,
    file: BufWriter<File>,
    hasher: Sha256,
    tokens: u64,
    /// The mask, a bit a token; `None` until a token has one.
    mask: Option<Vec<u8>>,
}

impl ShardWriter {
    /// A writer of `<stem>-00000.bin` and so on in `dir`, which exists.
    pub fn new(dir: &Path, stem: &str, vocab_size: usize, tokens_per_shard: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            stem: stem.to_owned(),
            vocab_size,
            tokens_per_shard: tokens_per_shard.max(1),
            open: None,
            written: Vec::new(),
            learnt: None,
        }
    }

    /// Appends `ids`.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary or a file cannot be written.
    pub fn write(&mut self, ids: &[u32]) -> Result<(), DataError> {
        self.append(ids, None)
    }

    /// Appends `ids` and whether each is learnt. A writer writes all tokens with a mask or none.
    ///
    /// # Errors
    /// As [`Self::write`].
    ///
    /// # Panics
    /// If the mask has another length.
    pub fn write_masked(&mut self, ids: &[u32], mask: &[bool]) -> Result<(), DataError> {
        assert_eq!(ids.len(), mask.len(), "a mask is as long as its tokens");
        let learnt = mask.iter().filter(|&&is_learnt| is_learnt).count() as u64;
        *self.learnt.get_or_insert(0) += learnt;
        self.append(ids, Some(mask))
    }

    /// Tokens that are learnt, if they were written with a mask.
    pub fn learnt(&self) -> Option<u64> {
        self.learnt
    }

    fn append(&mut self, ids: &[u32], mask: Option<&[bool]>) -> Result<(), DataError> {
        check_ids(ids, self.vocab_size, self.tokens())?;
        let (mut rest, mut mask) = (ids, mask);
        while !rest.is_empty() {
            let tokens_per_shard = self.tokens_per_shard;
            let width = width(self.vocab_size) as usize;
            let shard = self.current()?;
            let room = usize::try_from(tokens_per_shard - shard.tokens).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room));
            shard.append(now, width)?;
            if let Some(all) = mask {
                let (of_now, of_later) = all.split_at(now.len());
                shard.append_mask(of_now);
                mask = Some(of_later);
            }
            if shard.tokens == tokens_per_shard {
                self.close()?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Tokens written so far.
    pub fn tokens(&self) -> u64 {
        let closed: u64 = self.written.iter().map(|shard| shard.tokens).sum();
        closed + self.open.as_ref().map_or(0, |shard| shard.tokens)
    }

    /// Closes the last shard and lists them all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<Vec<ShardManifest>, DataError> {
        self.close()?;
        Ok(self.written)
    }

    fn current(&mut self) -> Result<&mut OpenShard, DataError> {
        let shard = match self.open.take() {
            Some(shard) => shard,
            None => OpenShard::create(self.dir.join(self.next_name()).with_extension("bin.partial"))?,
        };
        Ok(self.open.insert(shard))
    }

    fn next_name(&self) -> String {
        format!("{}-{:05}.bin", self.stem, self.written.len())
    }

    fn close(&mut self) -> Result<(), DataError> {
        let Some(shard) = self.open.take() else { return Ok(()) };
        let name = self.next_name();
        let path = self.dir.join(&name);
        let tokens = shard.tokens;
        let sha256 = shard.finish(&path, self.vocab_size)?;
        self.written.push(ShardManifest { file: name, tokens, sha256 });
        Ok(())
    }
}

impl OpenShard {
    fn create(partial: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&partial).map_err(DataError::write(&partial))?;
        let mut file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
        file.write_all(&[0; HEADER_BYTES]).map_err(DataError::write(&partial))?;
        Ok(Self { partial, file, hasher: Sha256::new(), tokens: 0, mask: None })
    }

    fn append(&mut self, ids: &[u32], width: usize) -> Result<(), DataError> {
        let mut bytes = vec![0; ids.len() * width];
        if width == 2 {
            let out = bytes.as_chunks_mut().0.iter_mut();
            out.zip(ids).for_each(|(out, &id)| *out = (id as u16).to_le_bytes());
        } else {
            let out = bytes.as_chunks_mut().0.iter_mut();
            out.zip(ids).for_each(|(out, &id)| *out = id.to_le_bytes());
        }
        self.hasher.update(&bytes);
        self.tokens += ids.len() as u64;
        self.file.write_all(&bytes).map_err(DataError::write(&self.partial))
    }

    /// Notes whether the tokens that were appended last are learnt.
    fn append_mask(&mut self, is_learnt: &[bool]) {
        let mask = self.mask.get_or_insert_default();
        let first = self.tokens as usize - is_learnt.len();
        mask.resize((self.tokens as usize).div_ceil(8), 0);
        for (bit, &is_learnt) in (first..).zip(is_learnt) {
            mask[bit / 8] |= u8::from(is_learnt) << (bit % 8);
        }
    }

    fn complete(&mut self, header: &Header, path: &Path) -> std::io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.to_bytes())?;
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.partial, path)
    }

    /// Writes the header, synchronizes and renames to `path`; returns the payload's hash.
    fn finish(mut self, path: &Path, vocab_size: usize) -> Result<String, DataError> {
        let mask = self.mask.take();
        if let Some(mask) = &mask {
            self.hasher.update(mask);
            self.file.write_all(mask).map_err(DataError::write(&self.partial))?;
        }
        let header = Header {
            has_mask: mask.is_some(),
            width: width(vocab_size),
            tokens: self.tokens,
            vocab_size: vocab_size as u64,
            sha256: self.hasher.finalize_reset().into(),
        };
        self.complete(&header, path).map_err(DataError::write(path))?;
        Ok(to_hex(&header.sha256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tokens: &[u32], vocab_size: usize) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(dir.path(), "train", vocab_size, TOKENS_PER_SHARD);
        tokens.chunks(3).for_each(|ids| writer.write(ids).unwrap());
        let shards = writer.finish().unwrap();
        let path = dir.path().join(&shards[0].file);
        (dir, path)
    }

    fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> Result<Shard, DataError> {
        let (_dir, path) = written(&[1, 2, 3, 4, 5], 300);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        Shard::open(&path, 300)
    }

    #[test]
    fn both_widths_come_back() {
        let tokens = [7, 0, 299, 65_535, 12, 1];
        for vocab_size in [65_536, 65_537] {
            let (_dir, path) = written(&tokens, vocab_size);
            let shard = Shard::open(&path, vocab_size).unwrap();
            let mut out = [0; 4];
            shard.read(1, &mut out);
            assert_eq!(out, tokens[1..5]);
            assert_eq!(shard.len(), 6);
            shard.verify(&mut |_| {}).unwrap();
            let width = if vocab_size == 65_536 { 2 } else { 4 };
            assert_eq!(path.metadata().unwrap().len(), 64 + 6 * width);
        }
    }

    #[test]
    fn masks_come_back_from_beside_their_tokens_and_are_hashed_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(dir.path(), "train", 300, 11);
        let is_learnt = |token: usize| token % 3 == 1 || token == 12;
        let (ids, mask): (Vec<u32>, Vec<bool>) =
            (0..25).map(|token| (token as u32, is_learnt(token))).unzip();
        for (ids, mask) in ids.chunks(7).zip(mask.chunks(7)) {
            writer.write_masked(ids, mask).unwrap();
        }
        assert_eq!(writer.learnt(), Some(mask.iter().filter(|&&is_learnt| is_learnt).count() as u64));
        let shards = writer.finish().unwrap();
        for (shard_idx, written) in shards.iter().enumerate() {
            let path = dir.path().join(&written.file);
            let shard = Shard::open(&path, 300).unwrap();
            let (mut tokens, mut got) = (vec![0; shard.len() as usize], vec![false; shard.len() as usize]);
            shard.read(0, &mut tokens);
            shard.read_mask(0, &mut got);
            assert!(shard.has_mask());
            assert_eq!(tokens, ids[shard_idx * 11..][..tokens.len()]);
            assert_eq!(got, mask[shard_idx * 11..][..tokens.len()]);
            shard.read_mask(2, &mut got[..1]);
            assert_eq!(got[0], mask[shard_idx * 11 + 2]);
            shard.verify(&mut |_| {}).unwrap();
            assert_eq!(path.metadata().unwrap().len(), 64 + 2 * shard.len() + shard.len().div_ceil(8));
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let damaged = Shard::open(&path, 300).unwrap();
            assert!(matches!(damaged.verify(&mut |_| {}), Err(DataError::ShardHash { .. })));
        }
    }

    #[test]
    fn full_shards_are_followed_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(dir.path(), "val", 100, 4);
        writer.write(&[1, 2, 3]).unwrap();
        writer.write(&[4, 5, 6, 7, 8, 9]).unwrap();
        let shards = writer.finish().unwrap();
        let sizes: Vec<_> = shards.iter().map(|shard| (shard.file.as_str(), shard.tokens)).collect();
        assert_eq!(sizes, [("val-00000.bin", 4), ("val-00001.bin", 4), ("val-00002.bin", 1)]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "a partial file was left");
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(dir.path(), "train", 10, 4);
        writer.write(&[1, 2]).unwrap();
        let error = writer.write(&[3, 10]).unwrap_err();
        assert!(matches!(error, DataError::TokenBeyondVocabulary { token: 10, position: 3, vocab_size: 10 }));
    }

    #[test]
    fn foreign_and_damaged_files_are_told_apart() {
        assert!(matches!(
            damaged(|bytes| bytes.clear()),
            Err(DataError::ShardMagic { .. } | DataError::Read { .. })
        ));
        assert!(matches!(damaged(|bytes| bytes[0] = b'X'), Err(DataError::ShardMagic { .. })));
        assert!(matches!(
            damaged(|bytes| bytes.truncate(40)),
            Err(DataError::ShardLength { expected: 64, .. })
        ));
        assert!(matches!(
            damaged(|bytes| bytes.truncate(70)),
            Err(DataError::ShardLength { expected: 74, got: 70, .. })
        ));
        assert!(matches!(damaged(|bytes| bytes.push(0)), Err(DataError::ShardLength { .. })));
        assert!(matches!(damaged(|bytes| bytes[8] = 3), Err(DataError::ShardField { field: "version", .. })));
        assert!(matches!(
            damaged(|bytes| bytes[8] = 2),
            Err(DataError::ShardLength { expected: 75, got: 74, .. })
        ));
        assert!(matches!(
            damaged(|bytes| bytes[12] = 4),
            Err(DataError::ShardField { field: "token width", .. })
        ));
        assert!(matches!(damaged(|bytes| bytes[16] = 9), Err(DataError::ShardLength { .. })));
        assert!(matches!(damaged(|bytes| bytes[23] = 255), Err(DataError::ShardLength { .. })));
        let other = damaged(|bytes| bytes[24] = 77).unwrap_err().to_string();
        assert!(other.contains("vocabulary size is 333, expected 300"), "{other}");
    }

    #[test]
    fn a_flipped_bit_is_found_by_verify_alone() {
        let shard = damaged(|bytes| bytes[66] ^= 1).unwrap();
        assert!(matches!(shard.verify(&mut |_| {}), Err(DataError::ShardHash { .. })));
    }
}
