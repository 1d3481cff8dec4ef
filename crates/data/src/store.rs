//! The tokens of one split, over all its shards.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::DataError;
use crate::manifest::SplitManifest;
use crate::packing::Packed;
use crate::shard::Shard;
use crate::split::Split;
use crate::tokenizer::check_ids;

/// One long sequence of tokens in memory-mapped shards. Cloning shares them.
#[derive(Clone, Debug)]
pub struct TokenStore {
    split: Split,
    /// What the split is of, for messages.
    source: Arc<str>,
    vocab_size: usize,
    shards: Arc<[Shard]>,
    /// Where among the tokens of the shards it begins.
    offset: u64,
    len: u64,
    has_mask: bool,
    /// How its documents are kept apart, if they are.
    packed: Option<Packed>,
}

impl TokenStore {
    /// Opens the shards of `manifest` in `dir`.
    ///
    /// # Errors
    /// If a shard cannot be opened or is not the one of the manifest.
    pub fn open(
        dir: &Path,
        split: Split,
        manifest: &SplitManifest,
        vocab_size: usize,
    ) -> Result<Self, DataError> {
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for expected in &manifest.shards {
            let path = dir.join(&expected.file);
            let shard = Shard::open(&path, vocab_size)?;
            if (shard.len(), shard.sha256()) != (expected.tokens, expected.sha256.clone()) {
                let reason = format!("is not the one listed in {}", crate::manifest::FILE_NAME);
                return Err(DataError::Manifest { path, reason });
            }
            shards.push(shard);
        }
        let len = shards.iter().map(Shard::len).sum();
        if len != manifest.tokens {
            let reason = format!("the {split} shards hold {len} tokens, expected {}", manifest.tokens);
            return Err(DataError::Manifest { path: dir.to_owned(), reason });
        }
        let has_mask = manifest.learnt.is_some();
        if let Some(other) = shards.iter().find(|shard| shard.has_mask() != has_mask) {
            let has = if has_mask { "lacks the mask" } else { "has a mask that is not" };
            let reason = format!("{has} of {}", crate::manifest::FILE_NAME);
            return Err(DataError::Manifest { path: other.path().to_owned(), reason });
        }
        let source = dir.display().to_string().into();
        Ok(Self { split, source, vocab_size, shards: shards.into(), offset: 0, len, has_mask, packed: None })
    }

    /// The same, called `source` in messages.
    pub(crate) fn of_source(self, source: &str) -> Self {
        Self { source: source.into(), ..self }
    }

    /// The same, cut into windows as `packed` says.
    pub(crate) fn packed_as(self, packed: Option<Packed>) -> Self {
        Self { packed, ..self }
    }

    pub(crate) fn packed(&self) -> Option<&Packed> {
        self.packed.as_ref()
    }

    /// Whether documents are kept apart: batches then say where each starts, and which rows are padding.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// The tokens of `range` alone.
    ///
    /// # Panics
    /// If it is not within the store.
    pub(crate) fn part(&self, range: Range<u64>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self { offset: self.offset + range.start, len: range.end - range.start, ..self.clone() }
    }

    /// What the tokens were made of, for messages.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which split it is.
    pub fn split(&self) -> Split {
        self.split
    }

    /// Entries of the vocabulary: one more than the highest id that may occur.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Copies the tokens from `start` on into `out`, over the borders of shards.
    ///
    /// # Errors
    /// If an id is beyond the vocabulary, as only a damaged shard has it.
    ///
    /// # Panics
    /// If the range is not within the store.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<(), DataError> {
        let end = start + out.len() as u64;
        assert!(end <= self.len, "tokens {start}..{end} of a {} split of {}", self.split, self.len);
        let (mut skip, mut filled) = (self.offset + start, 0);
        for shard in self.shards.iter() {
            let here = shard.len().saturating_sub(skip).min((out.len() - filled) as u64) as usize;
            if here > 0 {
                shard.read(skip, &mut out[filled..filled + here]);
                filled += here;
            }
            skip = skip.saturating_sub(shard.len());
        }
        check_ids(out, self.vocab_size, start)
    }

    /// Whether it says of each token whether it is learnt.
    pub fn has_mask(&self) -> bool {
        self.has_mask
    }

    /// Writes to `out` whether each token from `start` on is learnt; without a mask all are.
    ///
    /// # Panics
    /// If the range is not within the store.
    pub fn read_mask(&self, start: u64, out: &mut [bool]) {
        let (mut skip, mut filled) = (start, 0);
        for shard in self.shards.iter() {
            let here = shard.len().saturating_sub(skip).min((out.len() - filled) as u64) as usize;
            if here > 0 {
                shard.read_mask(skip, &mut out[filled..filled + here]);
                filled += here;
            }
            skip = skip.saturating_sub(shard.len());
        }
        assert_eq!(filled, out.len(), "a mask beyond the {} tokens of a split", self.len);
    }

    /// Windows of `context` + 1 tokens: window `i` is tokens `[i·context, (i + 1)·context]`, so that
    /// neighbours share one token, the last target of the one and the first input of the other.
    ///
    /// # Errors
    /// If there is not one.
    pub fn windows(&self, context: usize) -> Result<u64, DataError> {
        self.check_context(context)?;
        let needed = context as u64 + 1;
        if self.len < needed {
            let source = self.source.to_string();
            return Err(DataError::TooShort {
                source_name: source,
                split: self.split,
                tokens: self.len,
                needed,
            });
        }
        Ok((self.len - 1) / context as u64)
    }

    /// That a window has a token.
    pub(crate) fn check_context(&self, context: usize) -> Result<(), DataError> {
        if context > 0 {
            return Ok(());
        }
        let expected = "at least 1".to_owned();
        Err(DataError::Argument { name: "model.context", expected, got: "0".to_owned() })
    }

    /// The context of an evaluation by a model that reads `context` tokens: that, or as many as there are if there are
    /// fewer, so that a short text is one short window.
    ///
    /// # Errors
    /// If there is no token to be predicted from another.
    pub fn evaluation_context(&self, context: usize) -> Result<usize, DataError> {
        match self.len {
            0 | 1 => {
                Err(DataError::NothingToPredict { source_name: self.source.to_string(), tokens: self.len })
            }
            len => Ok(context.min(usize::try_from(len - 1).unwrap_or(context))),
        }
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shard::ShardWriter;

    /// The split of the tokens `0..len` modulo `vocab_size`, in shards of `tokens_per_shard`.
    pub(crate) fn counting_store(
        len: u32,
        vocab_size: usize,
        tokens_per_shard: u64,
    ) -> (tempfile::TempDir, TokenStore) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(dir.path(), "train", vocab_size, tokens_per_shard);
        let ids: Vec<u32> = (0..len).map(|i| i % vocab_size as u32).collect();
        writer.write(&ids).unwrap();
        let shards = writer.finish().unwrap();
        let manifest = SplitManifest { tokens: u64::from(len), shards, ..SplitManifest::default() };
        let store = TokenStore::open(dir.path(), Split::Train, &manifest, vocab_size).unwrap();
        (dir, store)
    }

    #[test]
    fn ranges_cross_shards() {
        let (_dir, store) = counting_store(25, 1000, 4);
        for start in 0..25 {
            for len in 0..=25 - start {
                let mut out = vec![0; len as usize];
                store.read(start, &mut out).unwrap();
                assert_eq!(out, (start as u32..(start + len) as u32).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_part_is_a_store_of_its_own() {
        let (_dir, store) = counting_store(25, 1000, 4);
        let part = store.part(5..21).part(2..16);
        let mut out = [0; 14];
        part.read(0, &mut out).unwrap();
        assert_eq!(out.to_vec(), (7..21).collect::<Vec<_>>());
        assert_eq!((part.len(), part.windows(5).unwrap()), (14, 2));
    }

    #[test]
    fn windows_are_context_plus_one_long() {
        let (_dir, store) = counting_store(21, 1000, 100);
        assert_eq!(store.windows(5).unwrap(), 4);
        assert_eq!(store.windows(20).unwrap(), 1);
        let error = store.windows(21).unwrap_err().to_string();
        assert!(error.contains("train split has 21 tokens, expected at least 22"), "{error}");
        assert!(store.windows(0).is_err());
    }

    #[test]
    fn a_damaged_id_is_an_error_with_its_place() {
        let (dir, store) = counting_store(21, 300, 100);
        drop(store);
        let path = dir.path().join("train-00000.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[64 + 2 * 7 + 1] = 0xFF;
        std::fs::write(&path, &bytes).unwrap();
        let sha256 = crate::digest::to_hex(&bytes[32..64]);
        let shards =
            vec![crate::manifest::ShardManifest { file: "train-00000.bin".into(), tokens: 21, sha256 }];
        let manifest = SplitManifest { tokens: 21, shards, ..SplitManifest::default() };
        let store = TokenStore::open(dir.path(), Split::Train, &manifest, 300).unwrap();
        let error = store.read(5, &mut [0; 10]).unwrap_err();
        assert!(
            matches!(error, DataError::TokenBeyondVocabulary { token: 0xFF07, position: 7, .. }),
            "{error}"
        );
    }
}
