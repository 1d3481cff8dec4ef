//! Models and data that several test programs share.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::path::Path;

use candle_core::{Device, Tensor};
use wattle_data::{DataConfig, Dataset, TokenizerConfig, TokenizerKind};
use wattle_model::{LanguageModel, ModelConfig, Parameter};
use wattle_random::{Purpose, Stream};

pub const CPU: Device = Device::Cpu;
/// Not a multiple of any vector, nor of the 64 that a board pads it to.
pub const VOCAB_SIZE: usize = 41;

/// A model as it starts.
pub fn fresh(config: &ModelConfig, seed: u64) -> Box<dyn LanguageModel + Send + Sync> {
    config.build(VOCAB_SIZE, seed, &CPU).unwrap()
}

/// A model with weights large enough that every part of it matters, biases and norms among them.
pub fn model(config: &ModelConfig) -> Box<dyn LanguageModel + Send + Sync> {
    let model = fresh(config, 5);
    for (idx, Parameter { var, .. }) in model.parameters().iter().enumerate() {
        let mut noise = vec![0f32; var.elem_count()];
        Stream::new(9, Purpose::Init { parameter_idx: idx as u32 }, 0).fill_normal(0, &mut noise);
        let noise = Tensor::from_vec(noise, var.shape(), &CPU).unwrap();
        var.set(&(var.as_detached_tensor() + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
    model
}

/// A text with something to learn, of so many sentences, tokenized by characters.
pub fn dataset(dir: &Path, n_sentences: usize) -> Dataset {
    let path = dir.join("text.txt");
    let text: String = (0..n_sentences).map(|i| format!("{} and {}. ", i * 7 % 10, i * 7 % 10 + 1)).collect();
    std::fs::write(&path, text).unwrap();
    let data = DataConfig {
        input: vec![path],
        cache_dir: Some(dir.join("cache")),
        val_fraction: 0.2,
        ..DataConfig::default()
    };
    let tokenizer = TokenizerConfig { kind: TokenizerKind::Chars, ..TokenizerConfig::default() };
    wattle_data::prepare(&data, &tokenizer, wattle_data::Verify::FirstUse, &mut |_| {}).unwrap()
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
