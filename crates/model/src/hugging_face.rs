//! Weights and configuration in Hugging Face's layout.

use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Value, json};

use crate::config::{ActivationKind, ModelConfig};
use crate::error::ModelError;
use crate::gpt2::NORM_EPS;
use crate::language_model::LanguageModel;

/// Writes tensors to a safetensors file, as PyTorch programs expect it.
///
/// # Errors
/// If the file cannot be written; what was written of it is left for the caller to remove.
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> std::result::Result<(), ModelError> {
    let tensors: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    // transformers refuses a file that does not say which framework's tensors it holds.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let unwritable = |reason: String| ModelError::Unwritable { path: path.to_owned(), reason };
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| unwritable(e.to_string()))?;
    // safetensors makes its files for their owner's eyes alone.
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).map_err(|e| unwritable(e.to_string()))
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// If it cannot be read or is not whole.
pub fn read_safetensors(
    path: &Path,
    device: &Device,
) -> std::result::Result<HashMap<String, Tensor>, ModelError> {
    candle_core::safetensors::load(path, device)
        .map_err(|e| ModelError::Unreadable { path: path.to_owned(), reason: first_line(&e) })
}

/// Loads a model's weights from a safetensors file.
///
/// # Errors
/// If the file is not whole or its tensors are not the model's: every difference is listed, and the model is
/// left as it was.
pub fn load_weights(
    model: &dyn LanguageModel,
    path: &Path,
    device: &Device,
) -> std::result::Result<(), ModelError> {
    let weights = read_safetensors(path, device)?;
    model.set_weights(&weights)?.map_err(|faults| ModelError::Mismatch { path: path.to_owned(), faults })
}

/// The content of `config.json` for a GPT-2, as `transformers` reads it. `bias` is ours: without it every bias
/// in the weights is zero.
pub(crate) fn gpt2_config_json(config: &ModelConfig, vocab_size: usize) -> Value {
    let activation = match config.activation {
        ActivationKind::Gelu => "gelu",
        ActivationKind::GeluTanh => "gelu_new",
        ActivationKind::Relu => "relu",
    };
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation,
        "attn_pdrop": config.dropout,
        "bias": config.bias,
        "bos_token_id": null,
        "embd_pdrop": config.dropout,
        "eos_token_id": null,
        "initializer_range": 0.02,
        "layer_norm_epsilon": NORM_EPS,
        "n_ctx": config.context,
        "n_embd": config.d_model,
        "n_head": config.n_heads,
        "n_inner": config.feed_forward_width(),
        "n_layer": config.n_layers,
        "n_positions": config.context,
        "resid_pdrop": config.dropout,
        "scale_attn_weights": true,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": vocab_size,
    })
}

/// The biases that Hugging Face's GPT-2 has and a model without biases does not: zeros.
pub(crate) fn zero_biases(config: &ModelConfig, device: &Device) -> Result<Vec<(String, Tensor)>> {
    gpt2_bias_shapes(config)
        .into_iter()
        .map(|(name, len)| Ok((name, Tensor::zeros(len, DType::F32, device)?)))
        .collect()
}

/// Removes the biases of a GPT-2 from `weights`, for a model that has none.
///
/// # Errors
/// Those that are not zero: leaving them out would change the model.
pub(crate) fn drop_zero_biases(
    config: &ModelConfig,
    weights: &mut HashMap<String, Tensor>,
) -> Result<std::result::Result<(), Vec<String>>> {
    let mut faults = Vec::new();
    for (name, _) in gpt2_bias_shapes(config) {
        let Some(bias) = weights.remove(&name) else { continue };
        if bias.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()? != 0.0 {
            faults.push(format!("{name} is not zero, but model.bias = false"));
        }
    }
    Ok(if faults.is_empty() { Ok(()) } else { Err(faults) })
}

fn gpt2_bias_shapes(config: &ModelConfig) -> Vec<(String, usize)> {
    let c = config.d_model;
    let parts = [
        ("ln_1", c),
        ("attn.c_attn", 3 * c),
        ("attn.c_proj", c),
        ("ln_2", c),
        ("mlp.c_fc", config.feed_forward_width()),
        ("mlp.c_proj", c),
    ];
    let blocks = (0..config.n_layers).flat_map(|layer_idx| {
        parts.map(|(part, len)| (format!("transformer.h.{layer_idx}.{part}.bias"), len))
    });
    blocks.chain([("transformer.ln_f.bias".to_owned(), c)]).collect()
}

fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
