//! Models saved in Hugging Face's layout, as a test wants them.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use wattle_model::hugging_face::write_safetensors;
use wattle_model::{Directory, LanguageModel, ModelConfig, ModelError, Pass};

pub const CPU: Device = Device::Cpu;
/// Rows of every model's token table.
pub const VOCAB: usize = 11;

pub type Weights = BTreeMap<String, Tensor>;

/// A model of `config` whose every parameter differs from its initial value.
pub fn model(config: &ModelConfig) -> Box<dyn LanguageModel> {
    let model = config.build(VOCAB, 5, &CPU).unwrap();
    for (parameter_idx, parameter) in model.parameters().iter().enumerate() {
        let shift = 0.01 * (parameter_idx + 1) as f64;
        parameter.var.set(&(parameter.var.as_detached_tensor() + shift).unwrap()).unwrap();
    }
    model
}

/// [`model`], with what rounding to `dtype` leaves of its parameters, and those as they are saved then.
pub fn rounded(config: &ModelConfig, dtype: DType) -> (Box<dyn LanguageModel>, Weights) {
    let model = model(config);
    for parameter in model.parameters() {
        let rounded = parameter.var.as_detached_tensor().to_dtype(dtype).unwrap();
        parameter.var.set(&rounded.to_dtype(DType::F32).unwrap().copy().unwrap()).unwrap();
    }
    let saved = weights(model.as_ref()).into_iter();
    let saved = saved.map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap())).collect();
    (model, saved)
}

pub fn weights(model: &dyn LanguageModel) -> Weights {
    model.weights().unwrap().into_iter().collect()
}

pub fn write(dir: &Path, config: &Value, weights: &Weights) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let weights: Vec<_> = weights.clone().into_iter().collect();
    write_safetensors(&dir.join("model.safetensors"), &weights).unwrap();
}

/// Weights in two shards and their index.
pub fn write_sharded(dir: &Path, config: &Value, weights: &Weights) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let (first, second): (Vec<_>, Vec<_>) =
        weights.clone().into_iter().partition(|(name, _)| name.contains(".0."));
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut weight_map = BTreeMap::new();
    for (name, shard) in names.iter().zip([first, second]) {
        write_safetensors(&dir.join(name), &shard).unwrap();
        weight_map.extend(shard.into_iter().map(|(tensor, _)| (tensor, *name)));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

pub fn logits(model: &dyn LanguageModel) -> Vec<f32> {
    let tokens = Tensor::new(&[[1u32, 4, 2, 8, 5]], &CPU).unwrap();
    let logits = model.logits(&tokens, &mut Pass::evaluation(DType::F32)).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn load(dir: &Path) -> Result<Box<dyn LanguageModel + Send + Sync>, ModelError> {
    Directory::open(dir)?.load(&CPU)
}

/// What the loader says of a directory of `model` with `change` made to it.
pub fn refusal(model: &dyn LanguageModel, change: impl Fn(&mut Value, &mut Weights)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, mut weights) = (model.config_json(), weights(model));
    change(&mut config, &mut weights);
    write(dir.path(), &config, &weights);
    let error = load(dir.path()).err().expect("it should be refused").to_string();
    assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    error
}

/// Holds models of each type, in shards, against the model with the same rounding.
pub fn check_rounded_and_sharded(config: &ModelConfig) {
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let (model, rounded) = rounded(config, dtype);
        let dir = tempfile::tempdir().unwrap();
        write_sharded(dir.path(), &model.config_json(), &rounded);
        assert_eq!(Directory::open(dir.path()).unwrap().weight_files().len(), 2);
        let loaded = load(dir.path()).unwrap();
        assert_eq!(logits(model.as_ref()), logits(loaded.as_ref()), "{dtype:?}");
        assert!(loaded.parameters().iter().all(|p| p.var.dtype() == DType::F32));
    }
}
