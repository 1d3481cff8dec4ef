//! A corpus to token shards, on all threads.
//!
//! Blocks are read by one thread, encoded by all, written by another, see [`crate::pipeline`]. The shards are the
//! same on any number of threads. In memory are at most 8 blocks for each thread, of a mebibyte or one document
//! if that is longer, and the tokens of 12, at most 4 bytes for a byte of text.

use std::path::Path;

use crate::conversation::{Aligner, Conversation};
use crate::corpus::Block;
use crate::encode_error::EncodeError;
use crate::encoder::Specials;
use crate::error::DataError;
use crate::manifest::{
    DocumentsManifest, MixedManifest, Separator, SplitManifest, SplitsManifest, StepManifest,
};
use crate::passage::{CONTEXT_BYTES, Encoded, Passage};
use crate::pipeline;
use crate::scratch::Scratch;
use crate::shard::{ShardWriter, TOKENS_PER_SHARD};
use crate::source::Source;
use crate::split::Split;
use crate::tokenizer::Tokenizer;
use crate::word_cache::WordCache;

/// What stands between documents where the vocabulary has no token for it.
const LINE_ENDS: &str = "\n\n";

/// Text of one split as tokens.
#[derive(Default)]
struct Part {
    encoded: Encoded,
    /// Of conversations: whether each token is learnt.
    mask: Vec<bool>,
    /// The file that it is of.
    file_idx: usize,
    chars: u64,
    bytes: u64,
    documents: u64,
    /// The documents by their number of tokens, where that has bounds.
    by_tokens: StepManifest,
}

/// Tokens at the end of what was written that are held against those that come out before the next block.
const TAIL_TOKENS: usize = 4096;

/// One split while it is written.
struct SplitWriter<'a> {
    writer: ShardWriter,
    source: &'a Source,
    /// The last tokens written, where the tokenizer needs a context.
    tail: Option<Vec<u32>>,
    chars: u64,
    bytes: u64,
    documents: u64,
    lost_chars: u64,
    unknown_tokens: u64,
    by_tokens: StepManifest,
    /// What each source of a mixture has of it.
    sources: Vec<SplitManifest>,
}

impl<'a> SplitWriter<'a> {
    fn new(dir: &Path, split: Split, source: &'a Source, tokenizer: &Tokenizer) -> Self {
        let writer = ShardWriter::new(dir, split.name(), tokenizer.vocab_size(), TOKENS_PER_SHARD);
        let tail = (!tokenizer.is_exact()).then(Vec::new);
        Self {
            writer,
            source,
            tail,
            chars: 0,
            bytes: 0,
            documents: 0,
            lost_chars: 0,
            unknown_tokens: 0,
            by_tokens: StepManifest::default(),
            sources: vec![SplitManifest::default(); source.mixture.len()],
        }
    }

    fn write(&mut self, part: &Part) -> Result<(), DataError> {
        self.chars += part.chars;
        self.bytes += part.bytes;
        self.documents += part.documents;
        self.lost_chars += part.encoded.lost_chars.min(part.chars);
        self.unknown_tokens += part.encoded.unknown_tokens;
        self.by_tokens.merge(&part.by_tokens);
        let ids = &part.encoded.ids;
        if let Some(source_idx) = self.source.mixed_idx(part.file_idx) {
            self.sources[source_idx].add(part);
        }
        if let Some(tail) = &mut self.tail {
            if !tail.ends_with(&part.encoded.overlap) {
                let path = self.source.census.files[part.file_idx].path.clone();
                return Err(DataError::FarContext { path, context: CONTEXT_BYTES });
            }
            tail.extend_from_slice(&ids[ids.len().saturating_sub(TAIL_TOKENS)..]);
            tail.drain(..tail.len().saturating_sub(TAIL_TOKENS));
        }
        match self.source.corpus.conversations() {
            Some(_) => self.writer.write_masked(ids, &part.mask),
            None => self.writer.write(ids),
        }
    }

    /// The whole split, and the parts of a mixture's sources.
    fn finish(self) -> Result<(SplitManifest, Vec<SplitManifest>), DataError> {
        let split = SplitManifest {
            tokens: self.writer.tokens(),
            chars: self.chars,
            bytes: self.bytes,
            lost_chars: Some(self.lost_chars),
            unknown_tokens: Some(self.unknown_tokens),
            learnt: self.writer.learnt(),
            shards: self.writer.finish()?,
        };
        Ok((split, self.sources))
    }
}

impl SplitManifest {
    /// Counts a part of a source.
    fn add(&mut self, part: &Part) {
        self.tokens += part.encoded.ids.len() as u64;
        self.chars += part.chars;
        self.bytes += part.bytes;
        *self.lost_chars.get_or_insert(0) += part.encoded.lost_chars.min(part.chars);
        *self.unknown_tokens.get_or_insert(0) += part.encoded.unknown_tokens;
    }
}

/// What was written of a corpus.
#[derive(Debug)]
pub(crate) struct Tokenized {
    pub split: SplitsManifest,
    pub documents: Option<DocumentsManifest>,
    pub mixture: Vec<MixedManifest>,
}

/// The sources of a mixture, with what each has of both splits.
fn mixture(source: &Source, train: Vec<SplitManifest>, val: Vec<SplitManifest>) -> Vec<MixedManifest> {
    let parts = train.into_iter().zip(val);
    let mixed = source.mixture.iter().zip(parts).map(|(mixed, (train, val))| MixedManifest {
        name: mixed.source.name.clone(),
        weight: mixed.source.weight,
        epochs: mixed.source.epochs,
        texts: mixed.files.len(),
        train,
        val: (val.tokens > 0).then_some(val),
    });
    mixed.collect()
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
    /// Of conversations: what tells which tokens are learnt.
    aligner: Option<Aligner>,
    caches: Scratch<WordCache>,
}

impl Encoding<'_> {
    /// The tokens of a block: those to learn from, and those to measure on.
    fn encode(&self, block: &Block) -> Result<[Part; 2], DataError> {
        let first_unit = self.source.first_unit(block)?;
        let mut parts: [Part; 2] = Default::default();
        parts.iter_mut().for_each(|part| part.file_idx = block.file_idx);
        self.caches.with(|cache| {
            let mut position = first_unit;
            self.source.for_each_text(block, &mut |split, passage| {
                let part = &mut parts[split as usize];
                let chars = passage.text.chars().count() as u64;
                let is_kept = self
                    .append(passage, part, cache)
                    .map_err(|error| self.told(error, block.file_idx, position))?;
                if is_kept {
                    part.chars += chars;
                    part.bytes += passage.text.len() as u64;
                }
                position += chars;
                Ok(())
            })
        })?;
        Ok(parts)
    }

    /// Appends the tokens of a text, and of what ends it if it is a document. `false` if a document has too few or too
    /// many, which are then not there.
    fn append(
        &self,
        passage: Passage<'_>,
        part: &mut Part,
        cache: &mut WordCache,
    ) -> Result<bool, EncodeError> {
        let out = &mut part.encoded;
        let before = (out.ids.len(), out.lost_chars, out.unknown_tokens);
        if let (Some(conversation), Some(aligner)) = (passage.conversation, &self.aligner) {
            self.append_conversation(aligner, conversation, part, cache)?;
        } else {
            match &self.separator {
                None => {
                    self.tokenizer.encode_passage(passage, Specials::Tokens, cache, out)?;
                    return Ok(true);
                }
                Some(Separator::Token { id, .. }) => {
                    self.tokenizer.encode_passage(passage, Specials::Text, cache, out)?;
                    out.ids.push(*id);
                }
                Some(Separator::Text(end)) => {
                    let ended = format!("{}{end}", passage.text);
                    self.tokenizer.encode_passage(Passage::whole(&ended), Specials::Text, cache, out)?;
                }
            }
        }
        let out = &mut part.encoded;
        if let Some(limits) = self.source.corpus.steps().token_limits() {
            let n_ends = usize::from(matches!(self.separator, Some(Separator::Token { .. })));
            let bytes = passage.text.len();
            part.by_tokens.enter(bytes);
            if !limits.holds((out.ids.len() - before.0 - n_ends) as f64) {
                out.ids.truncate(before.0);
                part.mask.truncate(before.0);
                (out.lost_chars, out.unknown_tokens) = (before.1, before.2);
                return Ok(false);
            }
            part.by_tokens.leave(bytes);
        }
        part.documents += 1;
        Ok(true)
    }

    /// Appends the tokens of a conversation, which are found where its text spells them, and of what ends it, which is not
    /// learnt.
    fn append_conversation(
        &self,
        aligner: &Aligner,
        conversation: &Conversation,
        part: &mut Part,
        cache: &mut WordCache,
    ) -> Result<(), EncodeError> {
        let Part { encoded: out, mask, .. } = part;
        let learnt = conversation.learnt().map_err(EncodeError::Conversation)?;
        let text = conversation.text();
        if aligner.encode(self.tokenizer, text, &learnt, cache, out, mask)? == 0 {
            let reason = "has nothing to learn: what its assistant says is no token; remove it, or correct the chat \
                          template";
            return Err(EncodeError::Conversation(reason.to_owned()));
        }
        match &self.separator {
            Some(Separator::Token { id, .. }) => out.ids.push(*id),
            Some(Separator::Text(end)) => {
                self.tokenizer.encode_passage(Passage::whole(end), Specials::Text, cache, out)?;
            }
            None => {}
        }
        mask.resize(out.ids.len(), false);
        Ok(())
    }

    /// An error in a text; one of a running text begins at character `position` of the corpus and is told by file.
    fn told(&self, error: EncodeError, file_idx: usize, position: u64) -> DataError {
        if self.separator.is_some() {
            return error.told(self.tokenizer.path());
        }
        match error {
            EncodeError::Unknown { character, position: in_text } => {
                let place = self.source.census.locate(position + in_text);
                DataError::UnknownCharacter {
                    path: place.map(|(path, _)| path.to_owned()),
                    character,
                    position: place.map_or(in_text, |(_, position)| position),
                }
            }
            other => DataError::InText {
                path: self.source.census.files[file_idx].path.clone(),
                source: Box::new(other.told(self.tokenizer.path())),
            },
        }
    }
}

/// Writes the shards of `source` into `dir`. `on_done` hears the bytes of input that were worked on.
pub(crate) fn tokenize(
    dir: &Path,
    source: &Source,
    tokenizer: &Tokenizer,
    on_done: &mut dyn FnMut(u64),
) -> Result<Tokenized, DataError> {
    let is_documents = source.corpus.is_documents();
    let separator = is_documents.then(|| separator(tokenizer));
    let aligner = source.corpus.conversations().map(|_| Aligner::new(tokenizer));
    let encoding =
        Encoding { source, tokenizer, separator: separator.clone(), aligner, caches: Scratch::default() };
    let [mut train, mut val] =
        [Split::Train, Split::Val].map(|split| SplitWriter::new(dir, split, source, tokenizer));
    pipeline::ordered(
        |feed| source.corpus.read_blocks(false, &mut |done, block| feed.give(done, block)),
        |block| encoding.encode(&block),
        |[to_train, to_val]| {
            train.write(&to_train)?;
            val.write(&to_val)
        },
        on_done,
    )?;
    let mut by_tokens = train.by_tokens.clone();
    by_tokens.merge(&val.by_tokens);
    let n_dropped = by_tokens.documents_in - by_tokens.documents_out;
    let got = match is_documents {
        true => train.documents + val.documents + n_dropped,
        false => train.chars + val.chars,
    };
    if got != source.census.units() {
        return Err(DataError::Changed { expected: source.census.units(), got });
    }
    let mut steps = source.census.steps.clone();
    if let Some(last) = steps.last_mut().filter(|_| source.corpus.steps().token_limits().is_some()) {
        last.merge(&by_tokens);
    }
    let documents = separator.map(|separator| DocumentsManifest {
        train: train.documents,
        val: val.documents,
        empty: source.census.empty_documents,
        bad: source.census.bad.clone(),
        steps,
        separator,
    });
    let ((train, of_train), (val, of_val)) = (train.finish()?, val.finish()?);
    let mixture = mixture(source, of_train, of_val);
    Ok(Tokenized {
        split: SplitsManifest { train, val: (val.tokens > 0).then_some(val) },
        documents,
        mixture,
    })
}
