//! Every kernel of `kernels/`, run on the CPU with its threads in several orders, against the CPU's own.

use kernel_shim::ShimBoard;
use wattle_ops::attention::Kind;
use wattle_ops::board::{AttentionShape, Board, BoardError};
use wattle_ops::verify::board::checks;

#[test]
fn every_kernel_agrees_with_the_cpu_whatever_the_order_of_its_warps() {
    for seed in [0, 1, 2, 3] {
        let all = checks(&ShimBoard::shuffled(seed)).unwrap();
        let failed: Vec<_> = all.iter().filter(|check| !check.holds()).collect();
        assert!(failed.is_empty(), "{} of {} with seed {seed}: {failed:#?}", failed.len(), all.len());
    }
}

#[test]
fn fused_attention_of_documents_is_refused_so_that_an_engine_takes_products() {
    let board = ShimBoard::default().with_fused_attention();
    let fused = board.fused_attention().expect("it was made with one");
    let shape = AttentionShape {
        batch: 1,
        time: 8,
        n_heads: 2,
        n_kv_heads: 1,
        head_width: 8,
        qkv_row_stride: 32,
        out_row_stride: 16,
        kind: Kind::Window(3),
        has_documents: false,
    };
    assert!(fused.prepare(&shape).is_ok());
    let refused = fused.prepare(&AttentionShape { has_documents: true, ..shape });
    assert!(matches!(refused, Err(BoardError::NoAttention(_))), "{refused:?}");
}
