//! The configuration of a Llama or a relative.

use super::design::Design;
use crate::config::{ActivationKind, ModelConfig, nearest_divisor};

/// What a Llama or a relative cannot be.
pub(super) fn faults(config: &ModelConfig, faults: &mut Vec<String>) {
    let kv_heads = config.kv_heads();
    if kv_heads > 0 && !config.n_heads.is_multiple_of(kv_heads) {
        faults.push(format!(
            "model.n_kv_heads = {kv_heads}: does not divide model.n_heads = {}; try {}",
            config.n_heads,
            nearest_divisor(config.n_heads, kv_heads)
        ));
    }
    let divides = config.n_heads > 0 && config.d_model.is_multiple_of(config.n_heads);
    if !config.head_width.is_multiple_of(2) {
        faults.push(format!(
            "model.head_width = {}: expected an even number, since rotary positions turn pairs",
            config.head_width
        ));
    } else if config.head_width == 0 && divides && !config.head_width().is_multiple_of(2) {
        faults.push(format!(
            "model.n_heads = {}: leaves heads of {} numbers, but rotary positions turn pairs; change it or \
             model.d_model",
            config.n_heads,
            config.head_width()
        ));
    }
    let family = config.family.with_article();
    let design = Design::of(config);
    if config.activation != ActivationKind::Swiglu && !design.has_options {
        faults.push(format!("model.activation: {family} has \"swiglu\" and no other; leave it out"));
    }
    if config.bias {
        let biases = match design.has_qkv_bias {
            true => "biases of queries, keys and values, and no others",
            false => "no biases",
        };
        faults.push(format!("model.bias = true: {family} has {biases}; leave it out or set it to false"));
    }
    if config.dropout != 0.0 {
        faults.push(format!(
            "model.dropout = {}: {family} has no dropout; set it to 0 or leave it out",
            config.dropout
        ));
    }
}

/// The only activation; neither biases nor dropout, which a preset may have.
pub(super) fn settle(config: &mut ModelConfig, explicit_keys: &[&str]) {
    let is_free = |key: &str| !explicit_keys.contains(&key);
    if is_free("activation") {
        config.activation = ActivationKind::Swiglu;
    }
    if is_free("bias") {
        config.bias = false;
    }
    if is_free("dropout") {
        config.dropout = 0.0;
    }
}

/// Two thirds of four times the width, rounded up to a multiple of 256, or of 32 for narrow models.
///
/// # References
/// Touvron et al., *LLaMA*, 2023, section 2.2, and its published code, which rounds up to a multiple of 256.
pub(crate) fn default_d_ff(config: &ModelConfig) -> usize {
    let multiple = if config.d_model < 1024 { 32 } else { 256 };
    (8 * config.d_model / 3).next_multiple_of(multiple)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Family, RopeScaling};

    #[test]
    fn a_llama_has_defaults_and_faults_of_its_own() {
        let mut llama = ModelConfig { family: Family::Llama, ..ModelConfig::default() };
        llama.settle(&[]);
        assert_eq!(llama.faults(), Vec::<String>::new());
        assert_eq!((llama.kv_heads(), llama.feed_forward_width()), (4, 352));
        // Llama 2 7B's.
        assert_eq!(ModelConfig { d_model: 4096, ..llama.clone() }.feed_forward_width(), 11_008);

        let wrong = ModelConfig {
            n_kv_heads: 3,
            d_model: 12,
            activation: ActivationKind::Relu,
            bias: true,
            dropout: 0.1,
            norm_eps: 0.0,
            rope_theta: 0.5,
            rope_scaling: RopeScaling::Llama3,
            rope_factor: 0.5,
            rope_low_freq_factor: 4.0,
            rope_original_context: 0,
            ..llama
        };
        let faults = wrong.faults().join("\n");
        for expected in [
            "model.n_kv_heads = 3: does not divide model.n_heads = 4; try 2",
            "model.n_heads = 4: leaves heads of 3 numbers",
            "model.activation: a Llama has \"swiglu\"",
            "model.bias = true: a Llama has no biases",
            "model.dropout = 0.1: a Llama has no dropout",
            "model.norm_eps = 0: expected above 0",
            "model.rope_theta = 0.5: expected above 1",
            "model.rope_factor = 0.5: expected at least 1",
            "model.rope_low_freq_factor = 4: expected above 0 and below model.rope_high_freq_factor = 4",
            "model.rope_original_context = 0",
        ] {
            assert!(faults.contains(expected), "{expected:?} is not in\n{faults}");
        }
    }
}
