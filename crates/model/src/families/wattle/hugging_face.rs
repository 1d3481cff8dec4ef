//! A wattle in Hugging Face's layout: as the family there that computes the same, or else under a name of its own, which
//! `transformers` does not know.

use serde_json::{Value, json};
use wattle_settings::Section;

use crate::config::{ActivationKind, Family, ModelConfig};
use crate::families::llama::{self, Reading};
use crate::hugging_face::ConfigJson;

/// A Llama whose feed-forward half has an activation without a gate, ReLU² unless another is named.
pub(super) const ARCEE: &str = "arcee";

/// Ours: whether each head of queries and keys is normalized.
const QK_NORM: &str = "use_qk_norm";
/// Every such layer sees the whole context; the name is Gemma 3's.
const WINDOW_PATTERN: &str = "sliding_window_pattern";
/// The bound of logits; the name is Gemma 2's.
const LOGIT_SOFTCAP: &str = "final_logit_softcapping";

/// What a wattle is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twin {
    /// One of the families here.
    Family(Family),
    Arcee,
}

/// The family there that computes the same, if there is one.
fn twin(config: &ModelConfig) -> Option<Twin> {
    let is_gated = config.activation == ActivationKind::Swiglu;
    let (has_window, is_mixed) = (config.window > 0, config.window > 0 && config.window_pattern > 0);
    match (is_gated, config.qk_norm, has_window) {
        _ if config.logit_softcap > 0.0 || is_mixed => None,
        (true, false, false) => Some(Twin::Family(Family::Llama)),
        (true, true, false) => Some(Twin::Family(Family::Qwen3)),
        (true, false, true) => Some(Twin::Family(Family::Mistral)),
        (false, false, false) => Some(Twin::Arcee),
        _ => None,
    }
}

/// The content of `config.json`.
pub(super) fn config_json(config: &ModelConfig, vocab_size: usize) -> Value {
    let as_family = |family| llama::config_json(&ModelConfig { family, ..config.clone() }, vocab_size);
    let mut json = match twin(config) {
        Some(Twin::Family(family)) => return as_family(family),
        Some(Twin::Arcee) => as_family(Family::Llama),
        None => as_family(Family::Wattle),
    };
    json["hidden_act"] = activation_name(config.activation).into();
    if twin(config) == Some(Twin::Arcee) {
        json["architectures"] = json!(["ArceeForCausalLM"]);
        json["model_type"] = ARCEE.into();
        return json;
    }
    json[QK_NORM] = config.qk_norm.into();
    json[WINDOW_PATTERN] = (config.window_pattern > 0).then_some(config.window_pattern).into();
    json[LOGIT_SOFTCAP] = (config.logit_softcap > 0.0).then_some(config.logit_softcap).into();
    json
}

/// Reads the configuration: ours, or an Arcee's, with the defaults of `transformers` 5.23 (`ArceeConfig`).
pub(super) fn read_config(json: &mut ConfigJson) -> ModelConfig {
    let is_arcee = json.text("model_type").as_deref() == Some(ARCEE);
    let reading = Reading { family: Family::Wattle, norm_eps: 1e-5, head_width: None, needs_kv_heads: false };
    let config =
        ModelConfig { activation: read_activation(json, is_arcee), ..llama::read_config(json, reading) };
    if is_arcee {
        llama::refuse_windows(json);
        return config;
    }
    let logit_softcap = json.number(LOGIT_SOFTCAP, 0.0);
    let config = ModelConfig {
        qk_norm: json.flag(QK_NORM, false),
        window: json.optional_count("sliding_window").unwrap_or(0),
        window_pattern: json.optional_count(WINDOW_PATTERN).unwrap_or(0),
        logit_softcap,
        ..config
    };
    let faults = config.faults_of(&|key| key == "logit_softcap");
    faults.into_iter().for_each(|fault| json.fault(fault));
    config
}

fn read_activation(json: &mut ConfigJson, is_arcee: bool) -> ActivationKind {
    let name = json.text("hidden_act").unwrap_or_else(|| if is_arcee { "relu2" } else { "silu" }.to_owned());
    match name.as_str() {
        "silu" | "swish" if !is_arcee => ActivationKind::Swiglu,
        "gelu" => ActivationKind::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => ActivationKind::GeluTanh,
        "relu" => ActivationKind::Relu,
        "relu2" => ActivationKind::Relu2,
        other => {
            json.fault(format!(
                "hidden_act = {other:?} is not supported: expected \"relu2\", \"relu\", \"gelu\" or \"gelu_new\""
            ));
            ActivationKind::Relu2
        }
    }
}

/// An activation's name in `transformers`.
fn activation_name(kind: ActivationKind) -> &'static str {
    match kind {
        ActivationKind::Gelu => "gelu",
        ActivationKind::GeluTanh => "gelu_new",
        ActivationKind::Relu => "relu",
        ActivationKind::Relu2 => "relu2",
        ActivationKind::Swiglu => "silu",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wattle_is_saved_as_the_family_that_computes_the_same() {
        let plain = ModelConfig {
            family: Family::Wattle,
            activation: ActivationKind::Swiglu,
            ..ModelConfig::default()
        };
        let relu2 = ModelConfig { activation: ActivationKind::Relu2, ..plain.clone() };
        for (config, model_type) in [
            (plain.clone(), "llama"),
            (ModelConfig { qk_norm: true, ..plain.clone() }, "qwen3"),
            (ModelConfig { window: 8, ..plain.clone() }, "mistral"),
            (relu2.clone(), "arcee"),
            (ModelConfig { qk_norm: true, ..relu2.clone() }, "wattle"),
            (ModelConfig { window: 8, ..relu2 }, "wattle"),
            (ModelConfig { window: 8, window_pattern: 2, ..plain.clone() }, "wattle"),
            (ModelConfig { logit_softcap: 20.0, ..plain.clone() }, "wattle"),
            // Without windows, a pattern has no effect.
            (ModelConfig { window_pattern: 2, ..plain }, "llama"),
        ] {
            assert_eq!(config_json(&config, 50)["model_type"], model_type, "{config:?}");
        }
    }
}
