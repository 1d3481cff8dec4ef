use wattle_ops::embedding::cpu;
use wattle_ops::verify::cpu::embedding::{TABLE, check, documents, tokens};

use crate::harness::*;

#[test]
fn embedding_is_its_reference() {
    for shape in TABLE {
        assert_hold(check(shape, None));
        assert_hold(check(shape, Some(&documents(shape[0] * shape[1], shape[1]))));
    }
}

#[test]
fn without_positions_rows_are_copied() {
    for [b, t, c, v] in TABLE {
        let (tokens, table) = (tokens(b * t, v), normal(0, v * c));
        let mut out = vec![f32::NAN; b * t * c];
        cpu::fwd(&mut out, &tokens, &table, None, None, t, c);
        for (out, &token) in out.chunks(c).zip(&tokens) {
            assert_eq!(out, &table[token as usize * c..][..c]);
        }
    }
}

#[test]
fn threads_do_not_change_a_tables_gradient() {
    for [b, t, c, v] in TABLE {
        let (tokens, grad_out) = (tokens(b * t, v), normal(2, b * t * c));
        let starts = documents(b * t, t);
        for documents in [None, Some(&starts[..])] {
            let sums = |par: bool| {
                let (mut of_tokens, mut of_positions) = (vec![0.0; v * c], vec![0.0; (t + 2) * c]);
                let bwd = if par { cpu::bwd_par } else { cpu::bwd };
                bwd(&mut of_tokens, Some(&mut of_positions), &grad_out, &tokens, documents, t, c);
                of_tokens.extend(of_positions);
                of_tokens
            };
            let par = assert_threads_do_not_matter(|| sums(true));
            assert_same_bits("on one thread", &par, &sums(false));
        }
    }
}
