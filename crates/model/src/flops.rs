//! Floating-point operations a token of training, by the two conventions that published figures use.
//!
//! Both count a multiply-add as two, and the backward pass as twice the forward. They differ in two things:
//! whether the table of positions counts as parameters, and whether attention's causal half is left out.

use crate::config::ModelConfig;

/// Floating-point operations of one token, forward and backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlopsPerToken {
    /// nanoGPT's `estimate_mfu`: `6·(N − N_positions) + 12·L·C·T`.
    pub nanogpt: u64,
    /// llm.c's `gpt2_estimate_mfu`: `6·N + 6·L·C·T`.
    pub llm_c: u64,
}

/// Counts for a model of `n_parameters`. A Llama has no table of positions; fewer heads of keys and values make
/// fewer parameters, but no fewer products in attention.
pub fn flops_per_token(config: &ModelConfig, n_parameters: u64) -> FlopsPerToken {
    let of = |n: usize| n as u128;
    let (c, t) = (of(config.d_model), of(config.context));
    let attention = of(config.n_layers) * of(config.n_heads * config.head_width()) * t;
    let n_positions = if config.family.has_rotary_positions() { 0 } else { c * t };
    let n = u128::from(n_parameters);
    let saturated = |flops: u128| u64::try_from(flops).unwrap_or(u64::MAX);
    FlopsPerToken {
        nanogpt: saturated(6 * n.saturating_sub(n_positions) + 12 * attention),
        llm_c: saturated(6 * n + 6 * attention),
    }
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
        let flops = flops_per_token(&config, n_parameters);
        assert_eq!(flops.nanogpt, 6 * (n_parameters - 786_432) + 113_246_208);
        assert_eq!(flops.llm_c, 6 * n_parameters + 56_623_104);
    }

    #[test]
    fn a_llama_has_no_positions_to_leave_out() {
        let config = ModelConfig { family: Family::Llama, n_kv_heads: 2, ..ModelConfig::default() };
        assert_eq!(flops_per_token(&config, 1_000_000).nanogpt, 6_000_000 + 12 * 4 * 128 * 128);
    }
}
