//! A prepared corpus: tokenizer, shards and manifest in one folder.

use std::path::{Path, PathBuf};

use wattle_settings::Choices;

use crate::conversation::{ChatTemplate, template};
use crate::digest::sha256_hex;
use crate::error::DataError;
use crate::manifest::{ChatManifest, Manifest, Separator, SplitManifest};
use crate::mixture::Mixture;
use crate::packing::{Packed, Packing};
use crate::progress::Progress;
use crate::split::Split;
use crate::store::TokenStore;
use crate::tokenizer::{self, Tokenizer};
use crate::verified;

/// An open dataset.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its folder.
    pub dir: PathBuf,
    /// What it was made from.
    pub manifest: Manifest,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Of conversations: the template that made text of them.
    pub chat: Option<ChatTemplate>,
    /// The tokens to learn from.
    pub train: TokenStore,
    /// The tokens to measure on; `None` with `data.val_fraction` 0.
    pub val: Option<TokenStore>,
    /// Of a mixture: its sources, in order.
    pub mixture: Vec<MixedSource>,
    /// Of an embedded corpus: what no model can do better than.
    pub floor: Option<EntropyFloor>,
    /// How it came about.
    pub origin: Origin,
    /// Whether its tokens are known to be those that were written.
    pub is_verified: bool,
}

/// A source of a mixture, and its part of the tokens.
#[derive(Clone, Debug)]
pub struct MixedSource {
    /// What it is called.
    pub name: String,
    /// Its part of the tokens that are learnt from, beside those of the others.
    pub weight: Option<f64>,
    /// How often it is, or may be, passed through.
    pub epochs: Option<f64>,
    /// Its tokens to learn from.
    pub train: TokenStore,
    /// Its tokens to measure on.
    pub val: Option<TokenStore>,
    /// What those are of.
    pub val_manifest: Option<SplitManifest>,
}

/// How a dataset came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was named by `data.dir`.
    Opened,
    /// It was found in the cache.
    Cached,
    /// It was prepared now.
    Prepared,
    /// It was found in the cache, damaged, and prepared anew.
    Repaired {
        /// What was wrong with it.
        fault: String,
    },
}

/// The information in a generated validation split: the least that a model can need to write it down, which is
/// what one that knew the grammar by heart would need.
///
/// It is the sum of −log₂ p over the choices that the generator took. As every text has one derivation alone,
/// that is the probability of the text itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EntropyFloor {
    /// Bits of the whole split.
    pub bits: f64,
    /// Its characters.
    pub chars: u64,
    /// Its tokens.
    pub tokens: u64,
}

impl EntropyFloor {
    /// Bits a character.
    pub fn bits_per_char(&self) -> f64 {
        self.bits / self.chars as f64
    }

    /// Nats a token, to compare with a validation loss.
    pub fn nats_per_token(&self) -> f64 {
        self.bits * std::f64::consts::LN_2 / self.tokens as f64
    }
}

impl Dataset {
    /// Opens the dataset in `dir`. Everything is checked but the content of the shards, see [`Self::verify`].
    ///
    /// # Errors
    /// If a part is missing, damaged, or does not belong to the others.
    pub fn open(dir: &Path) -> Result<Self, DataError> {
        let manifest = Manifest::read(dir)?;
        let tokenizer = Tokenizer::load(&dir.join(tokenizer::FILE_NAME))?;
        let expected = (manifest.tokenizer.vocab_size, manifest.tokenizer.sha256.clone());
        if (tokenizer.vocab_size(), tokenizer.sha256()) != expected {
            let reason = format!("{} is not the one it was made with", tokenizer::FILE_NAME);
            return Err(DataError::Manifest { path: dir.to_owned(), reason });
        }
        let source = source_name(&manifest);
        let open = |split, part| {
            let store = TokenStore::open(dir, split, part, tokenizer.vocab_size())?;
            Ok::<_, DataError>(store.of_source(&source))
        };
        let train = open(Split::Train, &manifest.split.train)?;
        let val = manifest.split.val.as_ref().map(|part| open(Split::Val, part)).transpose()?;
        let mixture = mixture(dir, &manifest, &train, val.as_ref())?;
        let floor = floor(&manifest);
        let chat = manifest.chat.as_ref().map(|chat| chat_template(dir, chat)).transpose()?;
        Ok(Self {
            dir: dir.to_owned(),
            manifest,
            tokenizer,
            chat,
            train,
            val,
            mixture,
            floor,
            origin: Origin::Opened,
            is_verified: false,
        })
    }

    /// The same with the weights and epochs of `mixture`, whose sources it was prepared from.
    pub(crate) fn mixed_as(mut self, mixture: &Mixture) -> Self {
        for (source, asked) in self.mixture.iter_mut().zip(&mixture.0) {
            (source.weight, source.epochs) = (asked.weight, asked.epochs);
        }
        self
    }

    /// The same with documents kept apart as `packing` says.
    ///
    /// # Errors
    /// If there are no documents, or no token marks their ends.
    pub fn packed_as(self, packing: Packing) -> Result<Self, DataError> {
        if packing == Packing::None {
            return Ok(self);
        }
        let refused = |reason: &str| DataError::NotPackable {
            packing: packing.name(),
            source_name: source_name(&self.manifest),
            reason: reason.to_owned(),
        };
        let (end, documents) = match &self.manifest.documents {
            None => {
                return Err(refused(
                    "is one running text: give documents (JSON, Parquet, or text with <|endoftext|> lines), or set \
                     data.packing = \"none\"",
                ));
            }
            Some(documents) => match documents.separator {
                Separator::Token { id, .. } => (id, documents),
                Separator::Text(_) => {
                    return Err(refused(
                        "was prepared by a tokenizer without a token that ends documents: use another tokenizer.kind or \
                         tokenizer.file, or set data.packing = \"none\"",
                    ));
                }
            },
        };
        let packed = |store: TokenStore, n_documents| store.packed_as(Packed::new(packing, end, n_documents));
        let (n_train, n_val) = (documents.train, documents.val);
        let mixture = self.mixture.into_iter().map(|source| MixedSource {
            train: packed(source.train, None),
            val: source.val.map(|val| packed(val, None)),
            ..source
        });
        Ok(Self {
            train: packed(self.train, Some(n_train)),
            val: self.val.map(|val| packed(val, Some(n_val))),
            mixture: mixture.collect(),
            ..self
        })
    }

    /// What is evaluated on: the validation split, of a mixture each source's.
    pub fn val_stores(&self) -> impl Iterator<Item = &TokenStore> {
        let whole = self.val.iter().filter(|_| self.mixture.is_empty());
        whole.chain(self.mixture.iter().filter_map(|source| source.val.as_ref()))
    }

    /// Entries of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// One hash over the tokenizer and all tokens: equal where two runs saw the same data.
    pub fn content_hash(&self) -> String {
        self.content_hash_with(&self.manifest.tokenizer.sha256)
    }

    /// Whether `hash` is the content hash of these data, or was before what a tokenizer's file asks of a call was
    /// left out of it.
    pub fn has_content(&self, hash: &str) -> bool {
        let given = self.manifest.tokenizer.given_sha256.as_deref();
        self.content_hash() == hash || given.is_some_and(|given| self.content_hash_with(given) == hash)
    }

    fn content_hash_with(&self, tokenizer_sha256: &str) -> String {
        let parts = [Some(&self.manifest.split.train), self.manifest.split.val.as_ref()];
        let mut text = format!("tokenizer {tokenizer_sha256}\n");
        for (split, part) in [Split::Train, Split::Val].into_iter().zip(parts) {
            for shard in part.into_iter().flat_map(|part| &part.shards) {
                text += &format!("{split} {} {}\n", shard.tokens, shard.sha256);
            }
        }
        for MixedSource { name, weight, epochs, train, .. } in &self.mixture {
            text += &format!("source {name:?} {} {weight:?} {epochs:?}\n", train.len());
        }
        sha256_hex(text.as_bytes())
    }

    /// One hash over the texts and where they are split: equal where two runs saw the same text, whatever tokens
    /// it was cut into.
    pub fn text_hash(&self) -> String {
        let mut text = format!("val_fraction {:?}\n", self.manifest.val_fraction);
        if let Some(val_files) = self.manifest.val_files {
            text += &format!("validation files {val_files}\n");
        }
        for source in &self.manifest.sources {
            text += &format!("source {}\n", source.sha256);
        }
        sha256_hex(text.as_bytes())
    }

    /// Compares all tokens with their hashes, those of shards that were found whole before and have not changed since
    /// excepted.
    ///
    /// # Errors
    /// If a byte is not what was written.
    pub fn verify(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), DataError> {
        let shards: Vec<_> =
            self.train.shards().iter().chain(self.val.iter().flat_map(|val| val.shards())).collect();
        verified::verify(&self.dir, &shards, progress)?;
        self.is_verified = true;
        Ok(())
    }
}

/// The chat template in a dataset's folder.
fn chat_template(dir: &Path, manifest: &ChatManifest) -> Result<ChatTemplate, DataError> {
    let path = dir.join(template::FILE_NAME);
    let source = wattle_files::read_text(&path, wattle_files::SMALL).map_err(DataError::read(&path))?;
    let template = ChatTemplate::new(source, &manifest.template, manifest.special_tokens.clone())?;
    if template.sha256() == manifest.sha256 {
        return Ok(template);
    }
    let reason = format!("{} is not the one it was made with", template::FILE_NAME);
    Err(DataError::Manifest { path: dir.to_owned(), reason })
}

/// What messages call the texts of a dataset.
fn source_name(manifest: &Manifest) -> String {
    match &manifest.sources[..] {
        _ if manifest.generated.is_some() => "the embedded corpus".to_owned(),
        [] => "no text".to_owned(),
        [one] => one.path.clone(),
        [first, others @ ..] => format!("{} and {} more", first.path, others.len()),
    }
}

/// The sources of a mixture, which lie one after another in both splits.
fn mixture(
    dir: &Path,
    manifest: &Manifest,
    train: &TokenStore,
    val: Option<&TokenStore>,
) -> Result<Vec<MixedSource>, DataError> {
    let (mut train_at, mut val_at) = (0u64, 0u64);
    let mut sources = Vec::with_capacity(manifest.mixture.len());
    for source in &manifest.mixture {
        let val_tokens = source.val.as_ref().map_or(0, |val| val.tokens);
        let (train_end, val_end) =
            (train_at.saturating_add(source.train.tokens), val_at.saturating_add(val_tokens));
        if train_end > train.len() || val_end > val.map_or(0, TokenStore::len) {
            let reason = format!("its sources have more tokens than there are, with {:?}", source.name);
            return Err(DataError::Manifest { path: dir.to_owned(), reason });
        }
        let of_source = |store: TokenStore| store.of_source(&source.name);
        sources.push(MixedSource {
            name: source.name.clone(),
            weight: source.weight,
            epochs: source.epochs,
            train: of_source(train.part(train_at..train_end)),
            val: val.filter(|_| val_tokens > 0).map(|val| of_source(val.part(val_at..val_end))),
            val_manifest: source.val.clone(),
        });
        (train_at, val_at) = (train_end, val_end);
    }
    Ok(sources)
}

fn floor(manifest: &Manifest) -> Option<EntropyFloor> {
    let (generated, val) = (manifest.generated.as_ref()?, manifest.split.val.as_ref()?);
    Some(EntropyFloor { bits: generated.floor_bits, chars: val.chars, tokens: val.tokens })
}
