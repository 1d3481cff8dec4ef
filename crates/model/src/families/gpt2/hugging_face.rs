//! GPT-2 in Hugging Face's layout: what `config.json` says of it, and what its tensors are called.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Value, json};

use super::network::absent_biases;
use crate::config::{ActivationKind, Family, ModelConfig, NORM_EPS};
use crate::hugging_face::ConfigJson;

/// Reads the configuration. What this family here cannot do is a fault, unless
/// it changes no prediction.
///
/// Defaults are those of `transformers` 5.23 (`GPT2Config`).
pub(super) fn read_config(json: &mut ConfigJson) -> ModelConfig {
    refuse_unsupported(json);
    let d_model = json.count("n_embd");
    let config = ModelConfig {
        family: Family::Gpt2,
        vocab_size: json.count("vocab_size"),
        n_layers: json.count("n_layer"),
        n_heads: json.count("n_head"),
        d_model,
        d_ff: json.optional_count("n_inner").unwrap_or(4 * d_model),
        context: json.count("n_positions"),
        // It changes no prediction; who trains on says what to drop.
        dropout: json.number("resid_pdrop", 0.1) as f32,
        // Ours alone: every bias in the weights is zero. Other programs' GPT-2s have biases.
        bias: json.flag("bias", true),
        activation: read_activation(json),
        tie_embeddings: json.flag("tie_word_embeddings", true),
        ..ModelConfig::default()
    };
    if !config.d_model.is_multiple_of(config.n_heads) {
        json.fault(format!("n_head = {} does not divide n_embd = {}", config.n_heads, config.d_model));
    }
    if !(0.0..1.0).contains(&config.dropout) {
        json.fault(format!("resid_pdrop = {}: expected at least 0 and below 1", config.dropout));
    }
    config
}

/// `reorder_and_upcast_attn` is not among these: attention's softmax is computed in `f32` here anyway.
fn refuse_unsupported(json: &mut ConfigJson) {
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if json.flag(key, false) {
            json.fault(format!("{key} = true is not supported: expected false"));
        }
    }
    if !json.flag("scale_attn_weights", true) {
        json.fault("scale_attn_weights = false is not supported: expected true".to_owned());
    }
    let eps = json.number("layer_norm_epsilon", NORM_EPS);
    if eps != NORM_EPS {
        json.fault(format!("layer_norm_epsilon = {eps} is not supported: expected {NORM_EPS}"));
    }
    if json.has("quantization_config") {
        json.fault(
            "quantization_config: quantized weights are not supported: use the original ones".to_owned(),
        );
    }
}

fn read_activation(json: &mut ConfigJson) -> ActivationKind {
    let name = json.text("activation_function");
    match name.as_deref().unwrap_or("gelu_new") {
        "gelu" | "gelu_python" => ActivationKind::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => ActivationKind::GeluTanh,
        "relu" => ActivationKind::Relu,
        "relu2" => ActivationKind::Relu2,
        other => {
            json.fault(format!(
                "activation_function = {other:?} is not supported: expected \"gelu\", \"gelu_new\", \"relu\" or \
                 \"relu2\""
            ));
            ActivationKind::GeluTanh
        }
    }
}

/// A tensor's name here: files of the bare transformer, as the first published GPT-2 is, leave out
/// `transformer.`. `None` for what is no parameter: the causal mask, which old versions of `transformers` saved.
pub(super) fn parameter_name(name: &str) -> Option<String> {
    if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
        return None;
    }
    let is_bare = ["wte.", "wpe.", "h.", "ln_f."].iter().any(|part| name.starts_with(part));
    Some(if is_bare { format!("transformer.{name}") } else { name.to_owned() })
}

/// The content of `config.json` for a GPT-2, as `transformers` reads it. `bias` is ours: without it every bias
/// in the weights is zero.
pub(super) fn config_json(config: &ModelConfig, vocab_size: usize) -> Value {
    let activation = match config.activation {
        ActivationKind::Gelu => "gelu",
        ActivationKind::GeluTanh => "gelu_new",
        ActivationKind::Relu => "relu",
        ActivationKind::Relu2 => "relu2",
        ActivationKind::Swiglu => unreachable!("a configuration of a GPT-2 with SwiGLU is refused"),
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
pub(super) fn zero_biases(config: &ModelConfig, device: &Device) -> Result<Vec<(String, Tensor)>> {
    let zeros = |(name, dims): (String, Vec<usize>)| Ok((name, Tensor::zeros(dims, DType::F32, device)?));
    absent_biases(config).into_iter().map(zeros).collect()
}

/// Removes the biases of a GPT-2 from `weights`, for a model that has none.
///
/// # Errors
/// Those that are not zero: leaving them out would change the model.
pub(super) fn drop_zero_biases(
    config: &ModelConfig,
    weights: &mut HashMap<String, Tensor>,
) -> Result<std::result::Result<(), Vec<String>>> {
    let mut faults = Vec::new();
    for (name, _) in absent_biases(config) {
        let Some(bias) = weights.remove(&name) else { continue };
        if bias.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()? != 0.0 {
            faults.push(format!("{name} is not zero, but model.bias = false"));
        }
    }
    Ok(if faults.is_empty() { Ok(()) } else { Err(faults) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::HEAD;
    use crate::families::gpt2::POSITION_TABLE;

    #[test]
    fn names_of_the_bare_transformer_gain_its_prefix_and_masks_are_no_parameters() {
        let name = |name| parameter_name(name);
        assert_eq!(name("h.0.attn.c_attn.bias").as_deref(), Some("transformer.h.0.attn.c_attn.bias"));
        assert_eq!(name("wpe.weight").as_deref(), Some(POSITION_TABLE));
        assert_eq!(name("lm_head.weight").as_deref(), Some(HEAD));
        assert_eq!(name("transformer.h.11.attn.bias"), None);
        assert_eq!(name("h.0.attn.masked_bias"), None);
    }
}
