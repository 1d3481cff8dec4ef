//! Llama and its relatives in Hugging Face's layout: what `config.json` says of it, and what its tensors are called.

use serde_json::{Value, json};

use super::design::Design;
use crate::config::{ActivationKind, Family, ModelConfig, RopeScaling};
use crate::hugging_face::ConfigJson;

/// Where newer versions of `transformers` (5 and later) keep all that concerns rotary positions.
const PARAMETERS: &str = "rope_parameters";
/// Where older ones keep what concerns their scaling.
const SCALING: &str = "rope_scaling";

/// What `transformers` takes for keys that are left out.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) family: Family,
    pub(crate) norm_eps: f64,
    /// Width of a head; `None` is `hidden_size / num_attention_heads`.
    pub(crate) head_width: Option<usize>,
    /// Whether the heads of keys and values have to be given, since the default is a fixed number.
    pub(crate) needs_kv_heads: bool,
}

/// Reads the configuration of a Llama. What this family here cannot do is a fault, unless it changes no prediction.
///
/// Defaults are those of `transformers` 5.23 (`LlamaConfig`).
pub(super) fn read_llama(json: &mut ConfigJson) -> ModelConfig {
    refuse_windows(json);
    if json.has("sliding_window") {
        json.fault(
            "sliding_window is not supported: expected null, attention to the whole context".to_owned(),
        );
    }
    read_config(
        json,
        Reading { family: Family::Llama, norm_eps: 1e-6, head_width: None, needs_kv_heads: false },
    )
}

/// Reads the configuration of a Llama or a relative, but for windows.
pub(crate) fn read_config(json: &mut ConfigJson, reading: Reading) -> ModelConfig {
    let design = reading.family.spec().design;
    refuse_unsupported(json, design.is_some_and(|design| design.has_options));
    let n_heads = json.count("num_attention_heads");
    let n_kv_heads = match reading.needs_kv_heads {
        true => json.count("num_key_value_heads"),
        false => json.optional_count("num_key_value_heads").unwrap_or(n_heads),
    };
    let d_model = json.count("hidden_size");
    let head_width = json.optional_count("head_dim").or(reading.head_width);
    let mut config = ModelConfig {
        family: reading.family,
        vocab_size: json.count("vocab_size"),
        n_layers: json.count("num_hidden_layers"),
        n_heads,
        n_kv_heads,
        // 0 where that is the same.
        head_width: head_width.filter(|width| width.checked_mul(n_heads) != Some(d_model)).unwrap_or(0),
        d_model,
        d_ff: json.count("intermediate_size"),
        context: json.count("max_position_embeddings"),
        dropout: 0.0,
        bias: false,
        activation: ActivationKind::Swiglu,
        tie_embeddings: json.flag("tie_word_embeddings", false),
        norm_eps: json.number("rms_norm_eps", reading.norm_eps),
        ..ModelConfig::default()
    };
    read_rope(json, &mut config);
    refuse_sizes(json, &config);
    config
}

/// Windows in some layers and none in others. `max_window_layers` and `sliding_window` say nothing without them.
pub(crate) fn refuse_windows(json: &mut ConfigJson) {
    if json.flag("use_sliding_window", false) {
        json.fault("use_sliding_window = true is not supported: expected false".to_owned());
    }
    let others: Vec<String> =
        json.texts("layer_types").into_iter().filter(|kind| kind != "full_attention").collect();
    if let Some(kind) = others.first() {
        json.fault(format!(
            "layer_types has {kind:?}, which is not supported: expected \"full_attention\" in every layer"
        ));
    }
}

/// `attention_dropout` is not among these: it changes no prediction, and nothing is dropped here. A family that
/// `has_options` reads its activation itself.
fn refuse_unsupported(json: &mut ConfigJson, has_options: bool) {
    for key in ["attention_bias", "mlp_bias"] {
        if json.flag(key, false) {
            json.fault(format!("{key} = true is not supported: expected false"));
        }
    }
    match json.text("hidden_act").as_deref() {
        None | Some("silu" | "swish") => {}
        Some(_) if has_options => {}
        Some(other) => json.fault(format!("hidden_act = {other:?} is not supported: expected \"silu\"")),
    }
    if json.has("quantization_config") {
        json.fault(
            "quantization_config: quantized weights are not supported: use the original ones".to_owned(),
        );
    }
}

fn refuse_sizes(json: &mut ConfigJson, config: &ModelConfig) {
    let &ModelConfig { n_heads, n_kv_heads, d_model, norm_eps, .. } = config;
    if config.head_width == 0 && !d_model.is_multiple_of(n_heads) {
        json.fault(format!(
            "num_attention_heads = {n_heads} does not divide hidden_size = {d_model}, and head_dim is not given"
        ));
        return;
    }
    let head_width = config.head_width();
    if !head_width.is_multiple_of(2) {
        json.fault(format!(
            "num_attention_heads = {n_heads} and head_dim leave heads of an odd width, {head_width}"
        ));
    }
    if !n_heads.is_multiple_of(n_kv_heads) {
        json.fault(format!(
            "num_key_value_heads = {n_kv_heads} does not divide num_attention_heads = {n_heads}"
        ));
    }
    if !(norm_eps > 0.0 && norm_eps < 1.0) {
        json.fault(format!("rms_norm_eps = {norm_eps}: expected above 0 and below 1"));
    }
}

/// Rotary positions. `rope_parameters` counts where there are both.
fn read_rope(json: &mut ConfigJson, config: &mut ModelConfig) {
    let mut theta = json.number("rope_theta", 10_000.0);
    let key = if json.has(PARAMETERS) { PARAMETERS } else { SCALING };
    if let Some(mut rope) = json.object(key) {
        theta = rope.number("rope_theta", theta);
        // The word of versions before 4.43 is "type".
        let kind = rope.text("rope_type").or_else(|| rope.text("type"));
        match kind.as_deref().unwrap_or("default") {
            "default" => {}
            "linear" => {
                config.rope_scaling = RopeScaling::Linear;
                config.rope_factor = rope.needed_number("factor");
            }
            "llama3" => {
                config.rope_scaling = RopeScaling::Llama3;
                config.rope_factor = rope.needed_number("factor");
                config.rope_low_freq_factor = rope.needed_number("low_freq_factor");
                config.rope_high_freq_factor = rope.needed_number("high_freq_factor");
                config.rope_original_context = rope.count("original_max_position_embeddings");
            }
            other => rope.fault(format!(
                "rope_type = {other:?} is not supported: expected \"default\", \"linear\" or \"llama3\""
            )),
        }
        let partial = rope.number("partial_rotary_factor", 1.0);
        if partial != 1.0 {
            rope.fault(format!("partial_rotary_factor = {partial} is not supported: expected 1"));
        }
        json.take_faults(key, rope);
    }
    config.rope_theta = theta;
    if !(theta > 1.0 && theta.is_finite()) {
        json.fault(format!("rope_theta = {theta}: expected above 1"));
    }
    if config.rope_scaling != RopeScaling::None && (config.rope_factor.is_nan() || config.rope_factor < 1.0) {
        json.fault(format!("{key}.factor = {}: expected at least 1", config.rope_factor));
    }
    let (low, high) = (config.rope_low_freq_factor, config.rope_high_freq_factor);
    if config.rope_scaling == RopeScaling::Llama3 && !(low > 0.0 && high > low) {
        json.fault(format!(
            "{key}.low_freq_factor = {low}: expected above 0 and below high_freq_factor = {high}"
        ));
    }
}

/// A tensor's name here. `None` for what is no parameter: frequencies, which old versions of `transformers` saved.
pub(super) fn parameter_name(name: &str) -> Option<String> {
    if name.ends_with(".rotary_emb.inv_freq") {
        return None;
    }
    let is_bare = ["embed_tokens.", "layers.", "norm."].iter().any(|part| name.starts_with(part));
    Some(if is_bare { format!("model.{name}") } else { name.to_owned() })
}

/// The content of `config.json` for a Llama or a relative, as `transformers` reads it: rotary positions both as version 5 writes
/// them and as version 4 does.
pub(crate) fn config_json(config: &ModelConfig, vocab_size: usize) -> Value {
    let scaling = match config.rope_scaling {
        RopeScaling::None => None,
        RopeScaling::Linear => Some(json!({"rope_type": "linear", "factor": config.rope_factor})),
        RopeScaling::Llama3 => Some(json!({
            "rope_type": "llama3",
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        })),
    };
    let mut parameters = scaling.clone().unwrap_or_else(|| json!({"rope_type": "default"}));
    parameters["rope_theta"] = json!(config.rope_theta);
    let design = Design::of(config);
    let mut json = json!({
        "architectures": [design.architecture],
        "model_type": config.family.spec().hugging_face.model_type,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "eos_token_id": null,
        "head_dim": config.head_width(),
        "hidden_act": "silu",
        "hidden_size": config.d_model,
        "initializer_range": 0.02,
        "intermediate_size": config.feed_forward_width(),
        "max_position_embeddings": config.context,
        "mlp_bias": false,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.kv_heads(),
        "pretraining_tp": 1,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": parameters,
        "rope_scaling": scaling,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": vocab_size,
    });
    if design.has_window {
        json["sliding_window"] = (config.window > 0).then_some(config.window).into();
    }
    json
}
