//! Floating-point operations a token of training, by the two conventions that published figures use.
//!
//! Both count a multiply-add as two, and the backward pass as twice the forward. They differ in two things:
//! whether the table of positions counts as parameters, and whether attention's causal half is left out. In a layer with a
//! window, T is the window.

use crate::config::ModelConfig;

/// Floating-point operations of one token, forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlopsPerToken {
    /// nanoGPT's `estimate_mfu`: `6·(N − N_positions) + 12·L·C·T`.
    pub nanogpt: u64,
    /// llm.c's `gpt2_estimate_mfu`: `6·N + 6·L·C·T`.
    pub llm_c: u64,
}

/// Counts for a model with `n_parameters` that are trained and `n_frozen` that are not, whose own gradients are not made: of
/// the six operations a parameter, two are theirs. A Llama has no table of positions; fewer heads of keys and values make
/// fewer parameters, but no fewer products in attention.
pub fn flops_per_token(config: &ModelConfig, n_parameters: u64, n_frozen: u64) -> FlopsPerToken {
    let of = |n: usize| n as u128;
    let (c, t) = (of(config.d_model), of(config.context));
    let attention = of(config.n_heads * config.head_width()) * keys_of_layers(config);
    let n_positions = if config.family.has_rotary_positions() { 0 } else { c * t };
    let (n, frozen) = (u128::from(n_parameters), u128::from(n_frozen));
    let (per_position, n) = if frozen > 0 { (4, 6 * n + 4 * frozen) } else { (6, 6 * n) };
    let saturated = |flops: u128| u64::try_from(flops).unwrap_or(u64::MAX);
    FlopsPerToken {
        nanogpt: saturated(n.saturating_sub(per_position * n_positions) + 12 * attention),
        llm_c: saturated(n + 6 * attention),
    }
}

/// Positions that a query may see in each layer, added up.
fn keys_of_layers(config: &ModelConfig) -> u128 {
    let &ModelConfig { n_layers, context, window, window_pattern, .. } = config;
    let seen = if window == 0 { context } else { window.min(context) };
    let n_global = n_layers.checked_div(window_pattern).unwrap_or(0);
    n_global as u128 * context as u128 + (n_layers - n_global) as u128 * seen as u128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;

    #[test]
    fn gpt2_124m_is_as_published() {
        let config =
            ModelConfig { n_layers: 12, n_heads: 12, d_model: 768, context: 1024, ..Default::default() };
        let n_parameters = 124_439_808;
        let flops = flops_per_token(&config, n_parameters, 0);
        assert_eq!(flops.nanogpt, 6 * (n_parameters - 786_432) + 113_246_208);
        assert_eq!(flops.llm_c, 6 * n_parameters + 56_623_104);
    }

    #[test]
    fn layers_with_a_window_count_what_they_see() {
        let config = ModelConfig {
            family: Family::Wattle,
            n_layers: 7,
            window: 32,
            window_pattern: 3,
            ..ModelConfig::default()
        };
        let attention = |config: &ModelConfig| flops_per_token(config, 0, 0).llm_c / (6 * 128);
        assert_eq!(attention(&config), 2 * 128 + 5 * 32);
        assert_eq!(attention(&ModelConfig { window_pattern: 0, ..config.clone() }), 7 * 32);
        assert_eq!(attention(&ModelConfig { window: 0, ..config }), 7 * 128);
    }

    #[test]
    fn a_llama_has_no_positions_to_leave_out() {
        let config = ModelConfig { family: Family::Llama, n_kv_heads: 2, ..ModelConfig::default() };
        assert_eq!(flops_per_token(&config, 1_000_000, 0).nanogpt, 6_000_000 + 12 * 4 * 128 * 128);
    }

    #[test]
    fn a_frozen_parameter_costs_no_gradient_of_its_own() {
        let config = ModelConfig { family: Family::Llama, n_kv_heads: 2, ..ModelConfig::default() };
        let flops = |n, frozen| flops_per_token(&config, n, frozen);
        assert_eq!(flops(1_000_000, 0).llm_c - flops(10_000, 1_000_000).llm_c, 2_000_000 - 60_000);
        let gpt2 = ModelConfig::default();
        let positions = (gpt2.d_model * gpt2.context) as u64;
        let [whole, adapted] =
            [(1_000_000, 0), (0, 1_000_000)].map(|(n, f)| flops_per_token(&gpt2, n, f).nanogpt);
        assert_eq!(whole - adapted, 2 * (1_000_000 - positions));
    }
}
