//! Adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use wattle_ops::lora::Shape;
use wattle_ops::lora::cpu::{Factors, merge};

use super::config::LoraConfig;
use crate::config::ModelConfig;
use crate::copies::{overwrite, with_values};
use crate::differences::differences;
use crate::engine::adapters::factor_names;
use crate::engine::modules::Module;
use crate::error::ModelError;
use crate::families::Family;
use crate::hugging_face::{read_json_text, read_safetensors};
use crate::language_model::LanguageModel;
use crate::parameter::Parameter;

/// The file that describes adapters.
pub const CONFIG: &str = "adapter_config.json";
/// The file with their factors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before a module's name: its own wrapper, and the field in which that keeps the model.
const PREFIX: &str = "base_model.model.";

/// Adapters that were saved, by this program or by PEFT.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    dir: PathBuf,
    lora: LoraConfig,
    base: Option<String>,
}

impl PeftAdapter {
    /// Whether `dir` holds adapters.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CONFIG).is_file()
    }

    /// Reads and checks `adapter_config.json`.
    ///
    /// # Errors
    /// If it cannot be read, or the adapters are of a kind that is not supported; all faults are reported together.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(CONFIG);
        let json = read_json_text(&path, "adapters in PEFT's layout, which have one")?;
        let refused = |faults| ModelError::Config { path: path.clone(), faults };
        let json: Value = serde_json::from_str(&json)
            .map_err(|e| refused(vec![format!("not JSON ({e}); save or download it again")]))?;
        let (lora, faults) = read_config(&json);
        if !faults.is_empty() {
            return Err(refused(faults));
        }
        let base = json["base_model_name_or_path"].as_str().map(str::to_owned);
        Ok(Self { dir: dir.to_owned(), lora, base })
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Their rank, factor and targets.
    pub fn lora(&self) -> &LoraConfig {
        &self.lora
    }

    /// The model that they belong to, as the file names it: a folder, or a name on the Hub.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// Adds the adapters to the weights of `model`, which is one of `config`.
    ///
    /// # Errors
    /// If the file of factors is not whole, or has others than those of the model's matrices; the model is then as it was.
    pub fn merge_into(&self, model: &dyn LanguageModel, config: &ModelConfig) -> Result<(), ModelError> {
        let path = self.dir.join(WEIGHTS);
        let factors: HashMap<String, Tensor> = read_safetensors(&path, &Device::Cpu)?
            .into_iter()
            .map(|(name, tensor)| (own_name(&name), tensor))
            .collect();
        let vocab_size = model.vocab_size();
        let (modules, shapes) = (self.lora.modules(config, vocab_size), self.lora.shapes(config, vocab_size));
        let got = factors.iter().map(|(name, tensor)| (name.as_str(), tensor.dims()));
        let mut faults = differences(shapes, got, |_| None).faults();
        if modules.is_empty() {
            faults.push("the model has none of their matrices".to_owned());
        }
        if !faults.is_empty() {
            return Err(ModelError::Mismatch { path, faults });
        }
        for module in modules {
            let [a, b] = factor_names(&module.name).map(|name| values(&factors[&name]));
            let factors = Factors { a: &a?, b: &b?, scale: self.lora.scale() };
            merge_matrix(model, &module, &factors)?;
        }
        Ok(())
    }
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1()
}

fn merge_matrix(
    model: &dyn LanguageModel,
    Module { name, n_in, n_out, output_first }: &Module,
    factors: &Factors<'_>,
) -> candle_core::Result<()> {
    let weight_name = format!("{name}.weight");
    let parameter = model.parameters().iter().find(|parameter| parameter.name == weight_name);
    let Some(Parameter { var, .. }) = parameter else {
        candle_core::bail!("the model has no {weight_name}");
    };
    let mut weight = with_values(var, <[f32]>::to_vec)?;
    let shape = Shape::whole(*n_in, *n_out, factors.a.len() / n_in);
    merge(&mut weight, factors, &shape, *output_first);
    overwrite(var, &weight)
}

/// A factor's name in PEFT's files.
pub(super) fn file_name(own: &str) -> String {
    format!("{PREFIX}{own}")
}

/// A factor's name here, of that in PEFT's files.
pub(super) fn own_name(file: &str) -> String {
    file.strip_prefix(PREFIX).unwrap_or(file).to_owned()
}

/// The content of `adapter_config.json`, as PEFT 0.21 reads it.
pub(super) fn config_json(lora: &LoraConfig, config: &ModelConfig, base: Option<&Path>) -> Value {
    let LoraConfig { rank, alpha, dropout, rslora, .. } = lora;
    let targets = match lora.targets_in(config.family).as_slice() {
        // PEFT takes it as a word, not as a name in a list.
        [all] if all == "all-linear" => json!(all),
        targets => json!(targets),
    };
    // A whole number is written as one, as in PEFT's own files.
    let alpha = if alpha.fract() == 0.0 { json!(*alpha as i64) } else { json!(alpha) };
    json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base.map(|base| base.display().to_string()),
        "bias": "none",
        // Whether matrices are stored input first.
        "fan_in_fan_out": config.family == Family::Gpt2,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": rslora,
    })
}

/// Reads what [`config_json`] and PEFT write. What would change a prediction and is not supported is a fault.
fn read_config(json: &Value) -> (LoraConfig, Vec<String>) {
    let mut faults = Vec::new();
    if json["peft_type"] != "LORA" {
        faults.push(format!("peft_type = {}: expected \"LORA\"", json["peft_type"]));
    }
    if !matches!(json["bias"].as_str(), None | Some("none")) {
        faults.push(format!("bias = {}: adapters with biases are not supported", json["bias"]));
    }
    for key in ["use_dora", "lora_bias", "use_qalora", "use_bdlora"] {
        if json[key] == true {
            faults.push(format!("{key} = true is not supported: expected false"));
        }
    }
    let keys = [
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "layer_replication",
        "exclude_modules",
        "target_parameters",
        "trainable_token_indices",
        "alora_invocation_tokens",
    ];
    for key in keys {
        let is_empty = match &json[key] {
            Value::Null => true,
            Value::Object(entries) => entries.is_empty(),
            Value::Array(entries) => entries.is_empty(),
            _ => false,
        };
        if !is_empty {
            faults.push(format!("{key} = {} is not supported: expected none", json[key]));
        }
    }
    let targets = match &json["target_modules"] {
        Value::Array(names) => names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        Value::String(all) if all == "all-linear" => vec![all.clone()],
        other => {
            faults.push(format!("target_modules = {other}: expected a list of names, or \"all-linear\""));
            Vec::new()
        }
    };
    let rank = json["r"].as_u64().filter(|&rank| rank > 0).and_then(|rank| usize::try_from(rank).ok());
    if rank.is_none() {
        faults.push(format!("r = {}: expected a whole number of at least 1", json["r"]));
    }
    let alpha = json["lora_alpha"].as_f64().filter(|alpha| alpha.is_finite());
    if alpha.is_none() {
        faults.push(format!("lora_alpha = {}: expected a number", json["lora_alpha"]));
    }
    let lora = LoraConfig {
        rank: rank.unwrap_or(1),
        alpha: alpha.unwrap_or(1.0),
        targets,
        dropout: json["lora_dropout"].as_f64().unwrap_or(0.0) as f32,
        rslora: json["use_rslora"] == true,
    };
    (lora, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_supported_is_named() {
        let lora = LoraConfig {
            rank: 4,
            alpha: 10.5,
            targets: vec!["c_fc".to_owned()],
            dropout: 0.25,
            rslora: true,
        };
        let json = config_json(&lora, &ModelConfig::default(), None);
        assert_eq!(read_config(&json), (lora.clone(), Vec::new()));
        let all = LoraConfig { targets: vec!["all-linear".to_owned()], ..lora };
        let json = config_json(&all, &ModelConfig::default(), None);
        assert_eq!(
            (json["target_modules"].clone(), read_config(&json)),
            (json!("all-linear"), (all, Vec::new()))
        );

        let foreign = json!({
            "peft_type": "LOHA",
            "bias": "all",
            "use_dora": true,
            "rank_pattern": {"c_attn": 2},
            "modules_to_save": ["lm_head"],
            "target_modules": ".*attn",
            "r": 0,
            "lora_alpha": "much",
        });
        let faults = read_config(&foreign).1;
        let keys = [
            "peft_type",
            "bias",
            "use_dora",
            "rank_pattern",
            "modules_to_save",
            "target_modules",
            "r",
            "lora_alpha",
        ];
        assert!(
            faults.len() == keys.len() && faults.iter().zip(keys).all(|(f, key)| f.starts_with(key)),
            "{faults:?}"
        );
    }
}
