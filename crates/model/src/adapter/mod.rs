//! Low-rank adapters: factors of small rank that are trained beside matrices which stay as they are.
//!
//! - [`config`]: the `lora` section of a configuration
//! - `modules`: which matrices get adapters
//! - [`adapted`]: a model whose adapters are trained
//! - [`info`]: what a checkpoint of adapters says of them and of the weights that they belong to
//! - [`peft`]: adapters in PEFT's layout, and adding them to the weights for good
//!
//! # References
//! Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2022; Kalajdzievski, *A Rank Stabilization Scaling
//! Factor for Fine-Tuning with LoRA*, 2023.

pub mod adapted;
pub mod config;
pub mod info;
mod modules;
pub mod peft;

pub use adapted::Adapted;
pub use config::LoraConfig;
pub use info::{AdapterInfo, BaseRecord};
pub use peft::PeftAdapter;

use crate::language_model::LanguageModel;

/// What a checkpoint's file of weights is called.
pub fn weight_file(model: &dyn LanguageModel) -> &'static str {
    if model.adapter().is_some() { peft::WEIGHTS } else { "model.safetensors" }
}
