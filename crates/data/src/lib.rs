//! Text to tokens to shards to batches.
//!
//! The modules stand in the order in which data flows: [`catalog`] knows corpora by name and [`mod@fetch`] brings
//! them here, [`grammar`] writes the embedded corpora, [`corpus`] reads any text or documents in bounded memory,
//! [`conversation`] makes documents of chats, [`steps`] filters, cleans and counts documents, [`bpe`] and [`tokenizer`] turn
//! it into tokens, [`shard`] and [`store`] keep those
//! in memory-mapped files, [`mod@prepare`] runs all of it once into a cached [`dataset`], and [`loader`] cuts
//! batches as a pure function of seed, epoch, step and rank. [`task`] reads items that a model is scored on.
//!
//! Nothing here knows of a device or of a model.

pub mod config;
pub mod error;
pub mod mixture;
mod packing;
mod pii_choice;
mod progress;
mod split;
mod tokenizer_kind;

pub mod catalog;
pub mod fetch;

pub mod grammar;
pub mod tales;
mod written;

pub mod census;
pub mod conversation;
pub mod corpus;
mod document;
mod foreign;
pub mod format;
mod hub_folder;
mod input;
mod inputs;
mod json_scan;
mod parquet_file;
mod parquet_rows;
mod passage;
mod pii;
mod quality;
mod records;
pub mod steps;
mod unpack;

pub mod bpe;
mod call_state;
#[cfg(test)]
mod damaged;
mod encode_error;
mod encoder;
mod end_of_text;
mod fidelity;
#[cfg(test)]
mod foreign_tokenizers;
mod hugging_face;
pub mod text_stream;
pub mod tokenizer;
mod tokenizer_file;
mod verified;
mod vocabulary;
mod word_cache;
mod words;
mod zstd;

mod digest;
pub mod shard;
pub mod store;

mod cache;
pub mod dataset;
pub mod manifest;
mod pipeline;
pub mod prepare;
mod scratch;
mod source;
mod staging;
mod tokenize;

pub mod batch;
pub mod evaluation;
pub mod loader;
mod schedule;
pub mod task;
mod windows;

pub use batch::Batch;
pub use catalog::{DatasetManifest, datasets};
pub use config::{DataConfig, TokenizerConfig};
pub use conversation::{ChatTemplate, Message, TemplateChoice};
pub use dataset::{Dataset, EntropyFloor, MixedSource, Origin};
pub use error::DataError;
pub use evaluation::EvalBatches;
pub use fetch::{FetchProgress, Fetched, Fetcher, Token, fetch};
pub use format::{BadRecords, Format, FormatChoice};
pub use loader::Loader;
pub use manifest::{BadRecordsManifest, Manifest, SplitManifest, StepManifest};
pub use mixture::{Mixture, MixtureSource};
pub use packing::Packing;
pub use pii_choice::PiiChoice;
pub use prepare::{prepare, prepare_into};
pub use progress::{Progress, Stage};
pub use split::Split;
pub use store::TokenStore;
pub use task::Task;
pub use text_stream::TextStream;
pub use tokenizer::Tokenizer;
pub use tokenizer_kind::TokenizerKind;
pub use verified::Verify;
