//! The configuration of a GPT-2.

use crate::config::{ActivationKind, ModelConfig, NORM_EPS};

/// What a GPT-2 cannot be.
pub(super) fn faults(config: &ModelConfig, faults: &mut Vec<String>) {
    if config.kv_heads() != config.n_heads {
        faults.push(format!(
            "model.n_kv_heads = {}: a GPT-2 has as many as model.n_heads = {}; leave it out or set \
             model.family = \"llama\"",
            config.n_kv_heads, config.n_heads
        ));
    }
    if config.activation == ActivationKind::Swiglu {
        faults.push(
            "model.activation = \"swiglu\": a GPT-2 has \"gelu\", \"gelu_tanh\", \"relu\" or \
             \"relu2\"; or set model.family = \"llama\""
                .to_owned(),
        );
    }
    if config.norm_eps != NORM_EPS {
        faults
            .push(format!("model.norm_eps = {:e}: a GPT-2 has {NORM_EPS:e}; leave it out", config.norm_eps));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_other_families_is_refused() {
        let wrong = ModelConfig {
            n_kv_heads: 2,
            activation: ActivationKind::Swiglu,
            norm_eps: 1e-6,
            ..ModelConfig::default()
        };
        let faults = wrong.faults();
        let keys = ["model.n_kv_heads = 2", "model.activation", "model.norm_eps = 1e-6"];
        assert_eq!(faults.len(), keys.len(), "{faults:?}");
        assert!(faults.iter().zip(keys).all(|(fault, key)| fault.starts_with(key)), "{faults:?}");
    }
}
