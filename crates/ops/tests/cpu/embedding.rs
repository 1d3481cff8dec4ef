use candle_core::{Device, Tensor};
use wattle_ops::embedding::{cpu, embedding};

use crate::harness::*;

#[test]
fn embedding_is_its_reference() {
    for (b, t, c, v) in [(1, 1, 1, 1), (3, 5, 7, 11), (4, 33, 17, 65)] {
        let tokens: Vec<u32> = (0..b * t).map(|i| (i * i % v) as u32).collect();
        let (tokens_table, positions) = (normal(0, v * c), normal(1, (t + 2) * c));
        let grad_out = normal(2, b * t * c);
        let token_tensor = Tensor::from_slice(&tokens, (b, t), &Device::Cpu).unwrap();
        let (table_var, position_var) = (var(&tokens_table, &[v, c]), var(&positions, &[t + 2, c]));
        let expected = embedding(&token_tensor, &table_var, &position_var).unwrap();
        let mut out = vec![f32::NAN; b * t * c];
        cpu::fwd(&mut out, &tokens, &tokens_table, Some(&positions), t, c);
        // One addition.
        assert_close("embedding", &out, &values(&expected), 0.0, 1.2e-7);
        cpu::fwd(&mut out, &tokens, &tokens_table, None, t, c);
        for (out, &token) in out.chunks(c).zip(&tokens) {
            assert_eq!(out, &tokens_table[token as usize * c..][..c]);
        }

        let [grad_tokens, grad_positions] = gradients(&expected, &grad_out, [&table_var, &position_var]);
        let (mut got_tokens, mut got_positions) = (vec![0.0; v * c], vec![0.0; (t + 2) * c]);
        cpu::bwd(&mut got_tokens, Some(&mut got_positions), &grad_out, &tokens, t, c);
        // Sums of at most 20 numbers of size 1.
        assert_close("tokens", &got_tokens, &grad_tokens, 5e-6, 1e-6);
        assert_close("positions", &got_positions, &grad_positions, 5e-6, 1e-6);

        let par = assert_threads_do_not_matter(|| {
            let (mut tokens_sum, mut positions_sum) = (vec![0.0; v * c], vec![0.0; (t + 2) * c]);
            cpu::bwd_par(&mut tokens_sum, Some(&mut positions_sum), &grad_out, &tokens, t, c);
            tokens_sum.extend(positions_sum);
            tokens_sum
        });
        got_tokens.extend(got_positions);
        assert_same_bits("on one thread", &par, &got_tokens);
    }
}
