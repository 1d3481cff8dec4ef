//! Transformer language models on candle tensors.
//!
//! A parameter is a candle [`Var`](candle_core::Var) with a name; a model is anything that turns tokens into
//! logits ([`LanguageModel`]), so a user's own model built with candle trains like the families here.
//!
//! - [`config`]: the `model` section of a configuration
//! - [`adapter`]: low-rank adapters, trained in place of a model's own weights
//! - [`parameter`]: named parameters and their initial values
//! - [`pass`]: one forward pass: training or evaluation, precision, dropout, and what to look out for
//! - [`kv_cache`]: what a model keeps between the tokens of one text
//! - [`language_model`]: the trait that the trainer asks for
//! - [`families`]: the model families
//! - [`engine`]: explicit forward and backward passes on a CPU, over memory planned once
//! - [`hugging_face`]: weights and configuration in Hugging Face's layout
//! - [`gguf`]: a model in one file, in half precision or quantized, for llama.cpp and back
//! - [`generate`]: text, one token after the other
//! - `copies`: numbers in and out of tensors, on all threads
//! - `size`: what a model takes of memory, before anything is built
//! - [`flops`]: floating-point operations a token, by the field's two conventions

pub mod adapter;
pub mod config;
mod copies;
mod differences;
pub mod engine;
pub mod error;
pub mod families;
pub mod flops;
mod fp8;
pub mod generate;
pub mod gguf;
pub mod hugging_face;
mod idle_keys;
pub mod kv_cache;
pub mod language_model;
mod moments;
pub mod parameter;
pub mod pass;
mod size;
mod window;

pub use adapter::{Adapted, AdapterInfo, LoraConfig, PeftAdapter};
pub use config::{ActivationKind, Family, ModelConfig, RopeScaling};
pub use differences::abridged;
pub use engine::adapters::is_first_factor;
pub use engine::board::{
    AttentionMemory, BoardDecoder, BoardEvaluator, Counts, DecoderOptions, DeviceEngine, DeviceEngineOptions,
    DeviceSpan, EngineError, EvaluatorOptions, FinishedSteps, Masks, StepInputs, StepPart, StepResult,
    share_of,
};
pub use engine::{
    Engine, EngineOptions, Fp8Options, Fp8SizeError, MemoryPlan, Moments, Part, Ranges, Recompute, Sequences,
    Share, Split,
};
pub use error::ModelError;
pub use families::gpt2::Gpt2;
pub use families::llama::Llama;
pub use fp8::Fp8Balance;
pub use generate::{ByModel, Decoder, GenerateOptions, Generator, Sampling, Step, Texts};
pub use gguf::{GgufExport, GgufFile, WeightType};
pub use hugging_face::Directory;
pub use kv_cache::KvCache;
pub use language_model::LanguageModel;
pub use moments::{MatrixUpdate, check_moments, is_block_matrix, moment_faults};
pub use parameter::Parameter;
pub use pass::{Pass, TrainingPass};
