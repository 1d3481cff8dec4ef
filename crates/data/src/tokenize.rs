//! A corpus to token shards, on all threads.
//!
//! Blocks are read by one thread, encoded by all, written by another, see [`crate::pipeline`]. The shards are the
//! same on any number of threads. In memory are at most 8 blocks for each thread, of a mebibyte or one document
//! if that is longer, and the tokens of 12, at most 4 bytes for a byte of text.

use std::path::Path;

use crate::corpus::{Block, Corpus};
use crate::encoder::{EncodeError, Specials};
use crate::error::DataError;
use crate::manifest::{DocumentsManifest, Separator, Split, SplitManifest, SplitsManifest};
use crate::pipeline;
use crate::prepare::Source;
use crate::scratch::Scratch;
use crate::shard::{ShardWriter, TOKENS_PER_SHARD};
use crate::tokenizer::{FILE_NAME, Tokenizer};
use crate::word_cache::WordCache;

/// What stands between documents where the vocabulary has no token for it.
const LINE_ENDS: &str = "\n\n";

/// Text as tokens.
#[derive(Default)]
struct Encoded {
    ids: Vec<u32>,
    chars: u64,
    bytes: u64,
    documents: u64,
}

/// One split while it is written.
struct SplitWriter {
    writer: ShardWriter,
    chars: u64,
    bytes: u64,
    documents: u64,
}

impl SplitWriter {
    fn new(dir: &Path, split: Split, tokenizer: &Tokenizer) -> Self {
        let writer = ShardWriter::new(dir, split.name(), tokenizer.vocab_size(), TOKENS_PER_SHARD);
        Self { writer, chars: 0, bytes: 0, documents: 0 }
    }

    fn write(&mut self, encoded: &Encoded) -> Result<(), DataError> {
        self.chars += encoded.chars;
        self.bytes += encoded.bytes;
        self.documents += encoded.documents;
        self.writer.write(&encoded.ids)
    }

    fn finish(self) -> Result<SplitManifest, DataError> {
        let tokens = self.writer.tokens();
        Ok(SplitManifest { tokens, chars: self.chars, bytes: self.bytes, shards: self.writer.finish()? })
    }
}

/// What ends a document for `tokenizer`.
fn separator(tokenizer: &Tokenizer) -> Separator {
    match tokenizer.end_of_text().and_then(|id| Some((id, tokenizer.token(id)?))) {
        Some((id, text)) => Separator::Token { text, id },
        None => Separator::Text(LINE_ENDS.to_owned()),
    }
}

/// Turns texts of one corpus into tokens.
struct Encoding<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    /// Of documents: what ends each.
    separator: Option<Separator>,
    caches: Scratch<WordCache>,
}

impl Encoding<'_> {
    /// The tokens of a block: those to learn from, and those to measure on.
    fn encode(&self, block: &Block) -> Result<[Encoded; 2], DataError> {
        let first_unit = self.source.first_unit(block)?;
        let mut encoded: [Encoded; 2] = Default::default();
        self.caches.with(|cache| {
            let mut position = first_unit;
            let corpus: &Corpus = &self.source.corpus;
            corpus.for_each_text(block, first_unit, self.source.train_units, &mut |split, text| {
                let part = &mut encoded[split as usize];
                let chars = text.chars().count() as u64;
                self.append(text, part, cache).map_err(|error| self.told(error, position))?;
                part.chars += chars;
                part.bytes += text.len() as u64;
                position += chars;
                Ok(())
            })
        })?;
        Ok(encoded)
    }

    /// Appends the tokens of a text, and of what ends it if it is a document.
    fn append(&self, text: &str, part: &mut Encoded, cache: &mut WordCache) -> Result<(), EncodeError> {
        let ids = &mut part.ids;
        match &self.separator {
            None => return self.tokenizer.encode_piece(text, Specials::Tokens, cache, ids),
            Some(Separator::Token { id, .. }) => {
                self.tokenizer.encode_piece(text, Specials::Text, cache, ids)?;
                ids.push(*id);
            }
            Some(Separator::Text(end)) => {
                self.tokenizer.encode_piece(&format!("{text}{end}"), Specials::Text, cache, ids)?;
            }
        }
        part.documents += 1;
        Ok(())
    }

    /// An error in a text; one of a running text begins at character `position` of the corpus and is told by file.
    fn told(&self, error: EncodeError, position: u64) -> DataError {
        match error {
            EncodeError::Unknown { character, position: in_text } if self.separator.is_none() => {
                let place = self.source.census.locate(position + in_text);
                DataError::UnknownCharacter {
                    path: place.map(|(path, _)| path.to_owned()),
                    character,
                    position: place.map_or(in_text, |(_, position)| position),
                }
            }
            other => other.told(FILE_NAME),
        }
    }
}

/// Writes the shards of `source` into `dir`. `on_done` hears the bytes of input that were worked on.
pub(crate) fn tokenize(
    dir: &Path,
    source: &Source,
    tokenizer: &Tokenizer,
    on_done: &mut dyn FnMut(u64),
) -> Result<(SplitsManifest, Option<DocumentsManifest>), DataError> {
    let is_documents = source.corpus.format().is_documents();
    let separator = is_documents.then(|| separator(tokenizer));
    let encoding = Encoding { source, tokenizer, separator: separator.clone(), caches: Scratch::default() };
    let [mut train, mut val] =
        [Split::Train, Split::Val].map(|split| SplitWriter::new(dir, split, tokenizer));
    pipeline::ordered(
        |feed| source.corpus.read_blocks(false, &mut |done, block| feed.give(done, block)),
        |block| encoding.encode(&block),
        |[to_train, to_val]| {
            train.write(&to_train)?;
            val.write(&to_val)
        },
        on_done,
    )?;
    let got = if is_documents { train.documents + val.documents } else { train.chars + val.chars };
    if got != source.census.units() {
        return Err(DataError::Changed { expected: source.census.units(), got });
    }
    let documents = separator.map(|separator| DocumentsManifest {
        train: train.documents,
        val: val.documents,
        empty: source.census.empty_documents,
        separator,
    });
    let val = val.finish()?;
    Ok((SplitsManifest { train: train.finish()?, val: (val.tokens > 0).then_some(val) }, documents))
}
