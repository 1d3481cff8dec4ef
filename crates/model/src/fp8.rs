//! What products in eight bits ask of a model's sizes, and whether they pay: what they save against what rounding to them costs, by counting.

use crate::config::ModelConfig;
use crate::engine::layout::{Layout, Placement};
use crate::engine::network::Network;
use crate::engine::{Fp8Options, Fp8SizeError};

/// Of an H100 in training, by `crates/ops/benches/results/h100-2026-11-27`: products in bf16, operations a second.
const BF16_RATE: f64 = 720e12;
/// The same in eight bits: twice the peak, of which a board at its power limit reaches less. Assumed, not measured.
const FP8_RATE: f64 = 1250e12;
/// Bytes a second that kernels read and write, by the same results.
const BANDWIDTH: f64 = 3.0e12;
/// Floating-point operations of a weight's element for a token, forward and backward.
const FLOP: f64 = 6.0;
/// Bytes that an argument's element takes: read in bf16 for its largest, for its codes, and again on the way back; a
/// byte written each way.
const ARGUMENT_BYTES: f64 = 8.0;
/// The same of a result's gradient: read twice, and written both ways round.
const GRADIENT_BYTES: f64 = 6.0;
/// The same of a weight, once a step: read twice in `f32`, and written both ways round.
const WEIGHT_BYTES: f64 = 10.0;

/// Time of an H100, in nanoseconds a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fp8Balance {
    /// What products take less.
    pub saved_ns: f64,
    /// What rounding takes.
    pub rounding_ns: f64,
}

impl Fp8Balance {
    /// Whether products save more than rounding takes.
    pub fn pays(&self) -> bool {
        self.saved_ns > self.rounding_ns
    }
}

impl ModelConfig {
    /// What products in eight bits bring in steps of so many tokens, with a token table of `vocab_size` rows.
    pub fn fp8_balance(&self, vocab_size: usize, options: Fp8Options, tokens_per_step: u64) -> Fp8Balance {
        let network = self.one_block(vocab_size);
        let of_block = network.blocks.iter().flat_map(|block| block.linears());
        let of_block = of_block.map(|linear| (linear.n_in, linear.n_out, self.n_layers));
        let head = options.head.then_some((self.d_model, vocab_size, 1));
        let mut balance = Fp8Balance { saved_ns: 0.0, rounding_ns: 0.0 };
        for (n_in, n_out, count) in of_block.chain(head) {
            let (n_in, n_out, count) = (n_in as f64, n_out as f64, count as f64);
            let weight = WEIGHT_BYTES * n_in * n_out / tokens_per_step.max(1) as f64;
            let bytes = ARGUMENT_BYTES * n_in + GRADIENT_BYTES * n_out + weight;
            balance.saved_ns += 1e9 * count * FLOP * n_in * n_out * (1.0 / BF16_RATE - 1.0 / FP8_RATE);
            balance.rounding_ns += 1e9 * count * bytes / BANDWIDTH;
        }
        balance
    }

    /// Refuses widths and a context that products in eight bits do not have.
    ///
    /// # Errors
    /// The first that is not a multiple of 16.
    pub fn refuse_fp8_sizes(&self) -> Result<(), Fp8SizeError> {
        // The vocabulary is padded.
        self.one_block(1).refuse_fp8_sizes()
    }

    /// All blocks are alike.
    fn one_block(&self, vocab_size: usize) -> Network {
        let one_block = Self { n_layers: 1, ..self.clone() };
        let layout = Layout::of_shapes(one_block.parameter_shapes(vocab_size), &Placement::FLAT);
        one_block.network(vocab_size, &layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(d_model: usize, n_layers: usize) -> Fp8Balance {
        let config = ModelConfig { d_model, n_layers, n_heads: 8, ..ModelConfig::default() };
        config.fp8_balance(50_257, Fp8Options::default(), 1 << 19)
    }

    #[test]
    fn eight_bits_pay_at_large_widths_and_not_at_small_ones() {
        assert!(!balance(128, 4).pays() && !balance(512, 12).pays());
        assert!(balance(1600, 48).pays() && balance(4096, 32).pays());
        let (one, two) = (balance(1600, 1), balance(1600, 2));
        assert_eq!((2.0 * one.saved_ns, 2.0 * one.rounding_ns), (two.saved_ns, two.rounding_ns));
    }

    #[test]
    fn small_steps_pay_less_since_weights_are_rounded_in_each() {
        let config = ModelConfig { d_model: 1600, n_heads: 25, ..ModelConfig::default() };
        let at = |tokens| config.fp8_balance(50_257, Fp8Options { head: true }, tokens);
        assert!(at(1 << 19).pays() && !at(1 << 10).pays());
    }
}
