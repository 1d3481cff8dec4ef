//! A GGUF file to a model.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};

use super::family::Mapping;
use super::keys::Keys;
use super::tensor::Entry;
use super::{ARCHITECTURE, TOKENIZER_JSON, family};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::language_model::LanguageModel;

/// A GGUF file of a family that there is, checked but for its weights.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    mapping: Mapping,
    config: ModelConfig,
    tokenizer_json: String,
}

impl GgufFile {
    /// Reads and checks a file's keys, without its weights.
    ///
    /// # Errors
    /// If it is no whole GGUF file, or of another family, or without the `tokenizer.json` that `wattle export` puts
    /// in; all faults of the keys are reported together.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let unreadable = |reason: String| ModelError::UnreadableGguf { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let content =
            Content::read(&mut BufReader::new(file)).map_err(|error| unreadable(first_line(&error)))?;
        let mut keys = Keys::new(path, &content.metadata);
        let mapping = family::of_architecture(keys.text(ARCHITECTURE))
            .map_err(|fault| ModelError::Config { path: path.to_owned(), faults: vec![fault] })?;
        let vocab_size = keys.len("tokenizer.ggml.tokens");
        let is_tied = !content.tensor_infos.contains_key(mapping.output);
        let config = (mapping.read_config)(&mut keys, vocab_size, is_tied);
        if config.n_layers > content.tensor_infos.len() {
            let (n, there) = (config.n_layers, content.tensor_infos.len());
            keys.fault(format!("{n} blocks, but there are {there} tensors"));
        }
        let tokenizer_json = keys.text(TOKENIZER_JSON).map(str::to_owned);
        if tokenizer_json.is_none() {
            keys.fault(format!(
                "{TOKENIZER_JSON} is missing: expected a file that wattle export wrote, or one with that key"
            ));
        }
        keys.finish()?;
        let tokenizer_json = tokenizer_json.expect("without one, the keys have a fault");
        Ok(Self { path: path.to_owned(), content, mapping, config, tokenizer_json })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its model.
    pub fn model_config(&self) -> &ModelConfig {
        &self.config
    }

    /// The content of its `tokenizer.json`.
    pub fn tokenizer_json(&self) -> &str {
        &self.tokenizer_json
    }

    /// Builds the model on `device`, its weights multiplied out to `f32`.
    ///
    /// # Errors
    /// If tensors are missing, extra or of another shape than the keys say (all are reported together), or the file
    /// is cut short.
    pub fn load(&self, device: &Device) -> Result<Box<dyn LanguageModel>, ModelError> {
        let entries = (self.mapping.entries)(&self.config);
        // Before a byte is allocated: what the keys say may be absurd.
        let faults = self.mismatches(&entries);
        if !faults.is_empty() {
            return Err(self.mismatch(faults));
        }
        let model = (self.mapping.blank)(&self.config, device)?;
        let weights = self.weights(&entries, device)?;
        model.set_weights(&weights)?.map_err(|faults| self.mismatch(faults))?;
        Ok(model)
    }

    fn weights(&self, entries: &[Entry], device: &Device) -> Result<HashMap<String, Tensor>, ModelError> {
        let unreadable = |reason| ModelError::UnreadableGguf { path: self.path.clone(), reason };
        let file = File::open(&self.path).map_err(|error| unreadable(error.to_string()))?;
        let mut reader = BufReader::new(file);
        let mut weights = HashMap::new();
        for entry in entries {
            let stored = self
                .content
                .tensor(&mut reader, &entry.theirs, &Device::Cpu)
                .map_err(|error| unreadable(first_line(&error)))?;
            let ours = entry.restored(&stored.dequantize(device)?)?;
            weights.insert(entry.ours.clone(), ours);
        }
        Ok(weights)
    }

    /// What is missing, extra, or of another shape than in `entries`, a clause each.
    fn mismatches(&self, entries: &[Entry]) -> Vec<String> {
        let there = &self.content.tensor_infos;
        let mut faults = Vec::new();
        for entry in entries {
            let expected = entry.stored_shape();
            match there.get(&entry.theirs) {
                None => faults.push(format!("{} is missing", entry.theirs)),
                Some(info) if info.shape.dims() != expected => {
                    let got = info.shape.dims();
                    faults.push(format!("{} has shape {got:?}, expected {expected:?}", entry.theirs));
                }
                Some(_) => {}
            }
        }
        let names: HashSet<&str> = entries.iter().map(|entry| entry.theirs.as_str()).collect();
        let mut extra: Vec<&String> = there.keys().filter(|name| !names.contains(name.as_str())).collect();
        extra.sort();
        faults.extend(extra.into_iter().map(|name| format!("{name} is not of this model")));
        faults
    }

    fn mismatch(&self, faults: Vec<String>) -> ModelError {
        ModelError::Mismatch { path: self.path.clone(), faults }
    }
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
