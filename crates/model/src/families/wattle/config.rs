//! The configuration of a wattle.

use crate::config::{ActivationKind, ModelConfig};
use crate::families::llama;

/// What a wattle cannot be: what a Llama cannot, and layers of which every one sees the whole context.
pub(super) fn faults(config: &ModelConfig, faults: &mut Vec<String>) {
    (llama::SPEC.faults)(config, faults);
    if config.window > 0 && config.window_pattern == 1 {
        faults.push(
            "model.window_pattern = 1: every layer would see the whole context; leave model.window out, or set this to \
             2 or more"
                .to_owned(),
        );
    }
}

/// A Llama's with a gate; without one there are two matrices and not three, and it is four times the width.
///
/// # References
/// Shazeer, *GLU Variants Improve Transformer*, 2020, section 2: two thirds of the width keep the count of parameters.
pub(super) fn default_d_ff(config: &ModelConfig) -> usize {
    match config.activation {
        ActivationKind::Swiglu => llama::default_d_ff(config),
        _ => 4 * config.d_model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;

    fn wattle() -> ModelConfig {
        let mut config = ModelConfig { family: Family::Wattle, ..ModelConfig::default() };
        config.settle(&[]);
        config
    }

    #[test]
    fn every_option_is_taken_and_the_feed_forward_width_follows_the_activation() {
        assert_eq!((wattle().activation, wattle().feed_forward_width()), (ActivationKind::Swiglu, 352));
        let config = ModelConfig {
            activation: ActivationKind::Relu2,
            qk_norm: true,
            window: 32,
            window_pattern: 2,
            logit_softcap: 15.0,
            tie_embeddings: false,
            ..wattle()
        };
        assert_eq!(config.faults(), Vec::<String>::new());
        assert_eq!(config.idle_faults(&["qk_norm", "window_pattern", "logit_softcap"]), Vec::<String>::new());
        assert_eq!(config.feed_forward_width(), 512);
    }

    #[test]
    fn what_no_block_can_be_is_refused() {
        let wrong = ModelConfig { window: 32, window_pattern: 1, logit_softcap: 0.5, bias: true, ..wattle() }
            .faults();
        for expected in [
            "model.window_pattern = 1: every layer would see the whole context",
            "model.logit_softcap = 0.5: expected 0, or from 1 to 1000000",
            "model.bias = true: a Wattle has no biases",
        ] {
            assert!(
                wrong.iter().any(|fault| fault.starts_with(expected)),
                "{expected:?} is not in {wrong:?}"
            );
        }
        let idle = ModelConfig { window_pattern: 3, ..wattle() }.idle_faults(&[]);
        assert!(
            idle[0].starts_with("model.window_pattern = 3: has no effect with model.window = 0"),
            "{idle:?}"
        );
        let llama = ModelConfig { family: Family::Llama, qk_norm: true, logit_softcap: 9.0, ..wattle() };
        let faults = llama.idle_faults(&[]);
        assert!(
            faults.len() == 2 && faults.iter().all(|f| f.contains("set model.family = \"wattle\"")),
            "{faults:?}"
        );
    }

    #[test]
    fn every_second_layer_sees_the_whole_context() {
        let config = ModelConfig { window: 32, window_pattern: 2, ..wattle() };
        let has_window = |layer_idx| config.attention_kind(layer_idx) != wattle().attention_kind(0);
        assert_eq!([0, 1, 2, 3].map(has_window), [true, false, true, false]);
        let config = ModelConfig { window_pattern: 0, ..config };
        assert!((0..4).all(|layer_idx| config.attention_kind(layer_idx) != wattle().attention_kind(0)));
    }
}
