//! GGUF files: a model and its tokenizer in one file, as llama.cpp and the tools around it open them.
//!
//! Weights are stored in `f16` or in quantized blocks. [`GgufFile`] reads what [`GgufExport`] wrote, with the
//! weights multiplied out again, so that what a compression costs in loss is measured on the engine that trained
//! the model.
//!
//! - [`export`]: a checkpoint to a file
//! - [`read`]: a file to a model
//!
//! # References
//! The GGUF specification, `docs/gguf.md` of the ggml project; what a family's tensors and keys are called there is
//! in the family's own folder.

pub mod export;
mod family;
mod header;
mod keys;
mod mapping;
pub mod read;
mod tensor;
mod tokenizer;

pub(crate) use keys::Keys;
pub(crate) use mapping::Mapping;
pub(crate) use tensor::{Constant, Entry, Storage};

pub use export::{GgufExport, WeightType};
pub use read::GgufFile;

/// The key under which the whole `tokenizer.json` stands, by the specification.
const TOKENIZER_JSON: &str = "tokenizer.huggingface.json";

/// The key of the family.
const ARCHITECTURE: &str = "general.architecture";
