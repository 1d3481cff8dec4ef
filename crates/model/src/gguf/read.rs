//! A GGUF file to a model.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use wattle_guard::guard;

use super::keys::Keys;
use super::mapping::Mapping;
use super::tensor::{Constant, Entry};
use super::{ARCHITECTURE, TOKENIZER_JSON, family, header};
use crate::config::ModelConfig;
use crate::differences::differences;
use crate::error::ModelError;
use crate::families::FamilySpec;
use crate::hugging_face::refuse_stand_in;
use crate::language_model::LanguageModel;

/// Of a constant's value, in relation to it: what another program's `f32` may be off.
const CONSTANT_TOLERANCE: f32 = 1e-5;

/// A GGUF file of a family that there is, checked but for its weights.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    spec: &'static FamilySpec,
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
        let mut file = wattle_files::open(path).map_err(|error| unreadable(error.to_string()))?;
        refuse_stand_in(path)?;
        let len_bytes = file.metadata().map_err(|error| unreadable(error.to_string()))?.len();
        header::check(&file, len_bytes).map_err(unreadable)?;
        file.rewind().map_err(|error| unreadable(error.to_string()))?;
        let content = guard(|| Content::read(&mut BufReader::new(file))).map_err(unreadable)?;
        let content = content.map_err(|error| unreadable(first_line(&error)))?;
        let mut keys = Keys::new(path, &content.metadata);
        let (spec, mapping) = family::of_architecture(keys.text(ARCHITECTURE))
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
        Ok(Self { path: path.to_owned(), content, spec, mapping, config, tokenizer_json })
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
        let constants = (self.mapping.constants)(&self.config);
        // Before a byte is allocated: what the keys say may be absurd.
        let faults = self.mismatches(&entries, &constants);
        if !faults.is_empty() {
            return Err(self.mismatch(faults));
        }
        let model = self.spec.blank(&self.config, self.config.vocab_size, device)?;
        let mut reader = self.reader()?;
        let mut read = || {
            self.check_constants(&constants, &mut reader)?;
            self.weights(&entries, &mut reader, device)
        };
        let weights = guard(&mut read).map_err(|panic| self.unreadable(panic))??;
        model.set_weights(&weights)?.map_err(|faults| self.mismatch(faults))?;
        Ok(model)
    }

    fn weights(
        &self,
        entries: &[Entry],
        reader: &mut BufReader<File>,
        device: &Device,
    ) -> Result<HashMap<String, Tensor>, ModelError> {
        let mut weights = HashMap::new();
        for entry in entries {
            let ours = entry.restored(&self.tensor(&entry.theirs, reader)?.dequantize(device)?)?;
            weights.insert(entry.ours.clone(), ours);
        }
        Ok(weights)
    }

    /// Holds tensors that follow from the keys against those that there are.
    fn check_constants(
        &self,
        constants: &[Constant],
        reader: &mut BufReader<File>,
    ) -> Result<(), ModelError> {
        for (name, expected) in constants {
            let got: Vec<f32> = self.tensor(name, reader)?.dequantize(&Device::Cpu)?.to_vec1()?;
            let is_near =
                |(got, expected): (&f32, &f32)| (got - expected).abs() <= CONSTANT_TOLERANCE * expected;
            if !got.iter().zip(expected).all(is_near) {
                let fault = format!("{name} = {got:?}, but by the file's keys it is {expected:?}");
                return Err(self.mismatch(vec![fault]));
            }
        }
        Ok(())
    }

    fn reader(&self) -> Result<BufReader<File>, ModelError> {
        let file = wattle_files::open(&self.path).map_err(|error| self.unreadable(error.to_string()))?;
        Ok(BufReader::new(file))
    }

    fn tensor(&self, name: &str, reader: &mut BufReader<File>) -> Result<QTensor, ModelError> {
        let tensor = self.content.tensor(reader, name, &Device::Cpu);
        tensor.map_err(|error| self.unreadable(first_line(&error)))
    }

    /// What is missing, extra, or of another shape than expected, a clause each.
    fn mismatches(&self, entries: &[Entry], constants: &[Constant]) -> Vec<String> {
        let there = &self.content.tensor_infos;
        let entries = entries.iter().map(|entry| (entry.theirs.as_str(), entry.stored_shape()));
        let constants = constants.iter().map(|(name, values)| (*name, vec![values.len()]));
        let expected: BTreeMap<&str, Vec<usize>> = entries.chain(constants).collect();
        let got = there.iter().map(|(name, info)| (name.as_str(), info.shape.dims()));
        differences(expected, got, |_| None).faults()
    }

    fn unreadable(&self, reason: String) -> ModelError {
        ModelError::UnreadableGguf { path: self.path.clone(), reason }
    }

    fn mismatch(&self, faults: Vec<String>) -> ModelError {
        ModelError::Mismatch { path: self.path.clone(), faults }
    }
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
