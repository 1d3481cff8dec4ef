//! Text to tokens to shards to batches.
//!
//! The modules stand in the order in which data flows: [`grammar`] writes the embedded corpus, [`corpus`] reads
//! any text in bounded memory, [`bpe`] and [`tokenizer`] turn it into tokens, [`shard`] and [`store`] keep those
//! in memory-mapped files, [`mod@prepare`] runs all of it once into a cached [`dataset`], and [`loader`] cuts
//! batches as a pure function of seed, epoch, step and rank.
//!
//! Nothing here knows of a device or of a model.

pub mod config;
pub mod error;

pub mod grammar;
pub mod tales;

pub mod bpe;
pub mod corpus;
pub mod tokenizer;

mod digest;
pub mod shard;
pub mod store;

mod cache;
pub mod dataset;
pub mod manifest;
pub mod prepare;
mod staging;

pub mod evaluation;
pub mod loader;

pub use config::{DataConfig, TokenizerConfig, TokenizerKind};
pub use dataset::{Dataset, EntropyFloor, Origin};
pub use error::DataError;
pub use evaluation::EvalBatches;
pub use loader::{Batch, Loader};
pub use manifest::{Manifest, Split, SplitManifest};
pub use prepare::{Progress, Stage, prepare, prepare_into};
pub use store::TokenStore;
pub use tokenizer::Tokenizer;
