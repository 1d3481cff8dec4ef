//! A checkpoint to a GGUF file.

use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, Write};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::mapping::Mapping;
use super::tensor::{Entry, Storage};
use super::{ARCHITECTURE, TOKENIZER_JSON, family, tokenizer};
use crate::error::ModelError;
use crate::hugging_face::Directory;
use crate::language_model::LanguageModel;

/// The version of the layout of quantized blocks.
const QUANTIZATION_VERSION: u32 = 2;

/// In what the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// Half precision.
    F16,
    /// Blocks of 32 numbers of 8 bits with a scale in `f16`: 8.5 bits a weight.
    Q8_0,
    /// Blocks of 32 numbers of 4 bits with a scale in `f16`: 4.5 bits a weight.
    Q4_0,
}

/// A model in the types of a GGUF file, ready to be written.
pub struct GgufExport {
    keys: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
    in_halves: Vec<String>,
    notes: Vec<String>,
}

/// The tensors of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many there are.
    pub n_tensors: usize,
    /// What they take.
    pub len_bytes: usize,
}

impl GgufExport {
    /// The model in `directory` with its tokenizer, the content of a `tokenizer.json`.
    ///
    /// Matrices are stored as `weight_type`, those of which a row is no multiple of its block in `f16`; vectors and
    /// the table of positions stay in `f32`.
    ///
    /// # Errors
    /// If the weights cannot be read, or llama.cpp could not run the model or tokenize as it does: everything that
    /// stands against it is reported together.
    pub fn of(
        directory: &Directory,
        tokenizer_json: &str,
        weight_type: WeightType,
    ) -> Result<Self, ModelError> {
        Self::of_weights(directory, tokenizer_json, weight_type, || directory.load(&Device::Cpu))
    }

    /// [`GgufExport::of`] with the weights of a model that `load` gives, which is one of the directory's configuration.
    ///
    /// # Errors
    /// As for [`GgufExport::of`].
    pub fn of_weights(
        directory: &Directory,
        tokenizer_json: &str,
        weight_type: WeightType,
        load: impl FnOnce() -> Result<Box<dyn LanguageModel + Send + Sync>, ModelError>,
    ) -> Result<Self, ModelError> {
        let config = directory.model_config();
        let refused = |faults| ModelError::Export { dir: directory.dir().to_owned(), faults };
        let mapping = family::of_family(config.family).map_err(|fault| refused(vec![fault]))?;
        let keys = keys(&mapping, directory, tokenizer_json, weight_type).map_err(refused)?;
        let model = load()?;
        let weights: HashMap<String, Tensor> = model.weights()?.into_iter().collect();
        let mut export =
            Self { keys, tensors: Vec::new(), in_halves: Vec::new(), notes: (mapping.notes)(config) };
        let mut faults = Vec::new();
        for entry in (mapping.entries)(config) {
            faults.extend(export.push(&entry, &weights[&entry.ours], weight_type)?);
        }
        if !faults.is_empty() {
            return Err(refused(faults));
        }
        for (name, values) in (mapping.constants)(config) {
            let values = Tensor::from_vec(values.clone(), values.len(), &Device::Cpu)?;
            export.tensors.push((name.to_owned(), QTensor::quantize(&values, GgmlDType::F32)?));
        }
        Ok(export)
    }

    /// The same with a chat template, and the token that ends a turn, if one does.
    #[must_use]
    pub fn with_chat(mut self, template: &str, end_of_turn: Option<u32>) -> Self {
        self.keys.push(("tokenizer.chat_template".to_owned(), Value::String(template.to_owned())));
        let end = end_of_turn.map(|id| ("tokenizer.ggml.eot_token_id".to_owned(), Value::U32(id)));
        self.keys.extend(end);
        self
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, out: &mut (impl Write + Seek)) -> candle_core::Result<()> {
        let keys: Vec<(&str, &Value)> = self.keys.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            self.tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
        gguf_file::write(out, &keys, &tensors)
    }

    /// What there is of each type, by the type's name.
    pub fn shares(&self) -> BTreeMap<String, Share> {
        let mut shares: BTreeMap<String, Share> = BTreeMap::new();
        for (_, tensor) in &self.tensors {
            let share = shares.entry(format!("{:?}", tensor.dtype()).to_lowercase()).or_default();
            share.n_tensors += 1;
            share.len_bytes += tensor.storage_size_in_bytes();
        }
        shares
    }

    /// Matrices that are stored in `f16` because the blocks do not divide their rows.
    pub fn in_halves(&self) -> &[String] {
        &self.in_halves
    }

    /// What llama.cpp will compute a little differently, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds a tensor, unless its type cannot hold its values: then it says why.
    fn push(
        &mut self,
        entry: &Entry,
        weight: &Tensor,
        weight_type: WeightType,
    ) -> candle_core::Result<Option<String>> {
        let stored = entry.stored(weight)?;
        let row = *stored.dims().last().unwrap_or(&0);
        let dtype = match entry.storage {
            Storage::Exact => GgmlDType::F32,
            _ if row.is_multiple_of(weight_type.dtype().block_size()) => weight_type.dtype(),
            _ => {
                self.in_halves.push(entry.theirs.clone());
                GgmlDType::F16
            }
        };
        if let Some(fault) = range_fault(&stored, dtype)? {
            return Ok(Some(format!("{}: {fault}", entry.ours)));
        }
        self.tensors.push((entry.theirs.clone(), QTensor::quantize(&stored, dtype)?));
        Ok(None)
    }
}

/// Why `dtype` cannot hold `values`, if it cannot. Rounding would turn what is out of range into infinity or NaN.
fn range_fault(values: &Tensor, dtype: GgmlDType) -> candle_core::Result<Option<String>> {
    let values: Vec<f32> = values.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
    let not_finite = values.iter().filter(|value| !value.is_finite()).count();
    if not_finite > 0 {
        return Ok(Some(format!("{not_finite} of {} values are NaN or infinite", values.len())));
    }
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let limit = largest_value(dtype);
    Ok((largest > limit).then(|| {
        format!("its largest value, {largest}, is beyond {limit}, the largest that {dtype:?} can hold")
    }))
}

/// The largest magnitude of a type: a quantized block's is its largest integer times its `f16` scale.
fn largest_value(dtype: GgmlDType) -> f32 {
    const F16: f32 = 65_504.0;
    match dtype {
        GgmlDType::F16 => F16,
        GgmlDType::Q8_0 => 127.0 * F16,
        GgmlDType::Q4_0 => 8.0 * F16,
        _ => f32::MAX,
    }
}

impl WeightType {
    fn dtype(self) -> GgmlDType {
        match self {
            Self::F16 => GgmlDType::F16,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4_0 => GgmlDType::Q4_0,
        }
    }

    /// Bits that a weight takes.
    pub fn bits_per_weight(self) -> f64 {
        match self {
            Self::F16 => 16.0,
            Self::Q8_0 => 8.5,
            Self::Q4_0 => 4.5,
        }
    }

    /// llama.cpp's number for a file whose matrices are mostly of this type (`enum llama_ftype`).
    fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4_0 => 2,
        }
    }
}

fn keys(
    mapping: &Mapping,
    directory: &Directory,
    tokenizer_json: &str,
    weight_type: WeightType,
) -> Result<Vec<(String, Value)>, Vec<String>> {
    let config = directory.model_config();
    let text = |text: &str| Value::String(text.to_owned());
    let mut keys = vec![
        (ARCHITECTURE.to_owned(), text(mapping.architecture)),
        ("general.file_type".to_owned(), Value::U32(weight_type.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(QUANTIZATION_VERSION)),
    ];
    keys.extend((mapping.keys)(config));
    let mut faults = (mapping.faults)(config);
    match tokenizer::keys(tokenizer_json, directory.vocab_size()) {
        Ok(tokenizer) => keys.extend(tokenizer),
        Err(others) => faults.extend(others),
    }
    keys.push((TOKENIZER_JSON.to_owned(), text(tokenizer_json)));
    if faults.is_empty() { Ok(keys) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_a_type_are_refused_and_its_largest_is_kept() {
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q4_0] {
            let fault = |value: f32| {
                let values = Tensor::new(&[[value; 32], [0.5; 32]], &Device::Cpu).unwrap();
                let fault = range_fault(&values, dtype).unwrap();
                let stored = QTensor::quantize(&values, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
                let stored: Vec<f32> = stored.flatten_all().unwrap().to_vec1().unwrap();
                let is_kept = stored.iter().all(|value| value.is_finite());
                assert!(fault.is_some() || is_kept, "{dtype:?} of {value}");
                fault
            };
            assert_eq!(fault(largest_value(dtype)), None);
            assert_eq!(fault(-1e3), None);
            assert!(fault(f32::NAN).unwrap().contains("32 of 64"));
            assert!(fault(f32::INFINITY).is_some());
            if dtype != GgmlDType::F32 {
                assert!(fault(-1e7).unwrap().contains("10000000"));
            }
        }
    }
}
