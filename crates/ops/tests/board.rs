//! Every kernel of `kernels/`, run on the CPU with its threads in several orders, against the CPU's own.

use kernel_shim::{ShimBoard, kernels};
use wattle_ops::attention::Kind;
use wattle_ops::board::{
    Arg, AttentionPass, AttentionShape, Board, BoardError, DeviceTensor, Elem, Launch, Plans, Ptr,
};
use wattle_ops::classifier::board as classifier;
use wattle_ops::verify::board::checks;

#[test]
fn every_kernel_agrees_with_the_cpu_whatever_the_order_of_its_warps() {
    for seed in [0, 1, 2, 3] {
        let all = checks(&ShimBoard::shuffled(seed)).unwrap();
        let failed: Vec<_> = all.iter().filter(|check| !check.holds()).collect();
        assert!(failed.is_empty(), "{} of {} with seed {seed}: {failed:#?}", failed.len(), all.len());
    }
}

/// So the arguments of every launch were held against the parameters of its kernel.
#[test]
fn no_kernel_is_left_out() {
    let board = ShimBoard::default();
    checks(&board).unwrap();
    let left_out: Vec<_> = kernels().difference(&board.launched()).cloned().collect();
    assert_eq!(left_out, Vec::<String>::new());
}

#[test]
fn arguments_of_other_types_than_the_parameters_are_refused() {
    let board = ShimBoard::default();
    let memory = board.allocate(256).unwrap();
    let launch = |args: &[Arg]| {
        let (grid, block) = ([1; 3], [256, 1, 1]);
        board.launch(&Launch { kernel: "cast_bf16", grid, block, shared_bytes: 0, args })
    };
    let [bf16, f32] = [Elem::Bf16, Elem::F32].map(|elem| Arg::from(DeviceTensor::new(memory, elem)));
    let n = Arg::from(8_u64);
    launch(&[bf16, f32, n]).unwrap();
    let words = Arg::from(Ptr::<u32>::new(memory));
    for wrong in [[f32, f32, n], [bf16, words, n], [bf16, f32, Arg::from(8_i32)], [bf16, n, n]] {
        let error = launch(&wrong).unwrap_err().to_string();
        assert!(error.contains("are not what it takes"), "{error}");
    }
    assert!(launch(&[bf16, f32]).is_err());
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
    for pass in [AttentionPass::Forward, AttentionPass::Backward] {
        assert!(fused.prepare(&shape, pass, Plans::First).is_ok());
        let refused = fused.prepare(&AttentionShape { has_documents: true, ..shape }, pass, Plans::First);
        assert!(matches!(refused, Err(BoardError::NoAttention(_))), "{refused:?}");
    }
}

#[test]
fn a_block_that_asks_for_more_shared_memory_than_there_is_is_refused() {
    let board = ShimBoard::default().with_shared_bytes(1024);
    let launch = |shared_bytes| {
        let (grid, block) = ([1; 3], [256, 1, 1]);
        board.launch(&Launch { kernel: "cast_bf16", grid, block, shared_bytes, args: &[] })
    };
    let error = launch(1025).unwrap_err().to_string();
    assert!(error.contains("1025 bytes of shared memory, of 1024"), "{error}");
}

/// Rows of logits on a board: what the classifier leaves there, by a way of doing it.
fn classified(
    board: &ShimBoard,
    elem: Elem,
    way: &str,
    logit_cap: Option<f32>,
) -> Result<Vec<u8>, BoardError> {
    const N: usize = 3;
    const V_PADDED: usize = 512;
    let len = N * V_PADDED * elem.bytes();
    let memory = board.allocate(2 * len + 256)?;
    let words = (0..len as u32 / 2).map(|i| 0x3c00 + (i.wrapping_mul(2_654_435_761) >> 23) as u16);
    let bytes: Vec<u8> = words.flat_map(u16::to_ne_bytes).collect();
    board.write(memory, &bytes)?;
    let behind = memory.offset(len);
    let rows = classifier::Rows {
        logits: DeviceTensor::new(memory, elem),
        targets: Ptr::new(behind),
        target_weights: None,
        losses: Ptr::new(behind.offset(64)),
        correct: Ptr::new(behind.offset(128)),
        n: N,
        v: V_PADDED - 30,
        v_padded: V_PADDED,
        logit_cap,
    };
    board.choices().trying(way, || classifier::fwd_bwd(board, &rows, 0.5))?;
    let mut out = vec![0; len + 192];
    board.read(memory, &mut out)?;
    Ok(out)
}

#[test]
fn a_classifier_that_holds_rows_in_shared_memory_gives_the_same_bits_as_one_that_reads_them_again() {
    for elem in [Elem::F32, Elem::Bf16] {
        for (logit_cap, stem) in [(None, "classifier"), (Some(3.0), "classifier_capped")] {
            let board = ShimBoard::default();
            let by = |way| classified(&board, elem, way, logit_cap).unwrap();
            assert_eq!(by("shared"), by("plain"));
            assert!(board.launched().contains(&format!("{stem}_bwd_shared_{}", elem.suffix())));
        }
    }
}

#[test]
fn rows_that_do_not_fit_into_shared_memory_are_read_again() {
    let board = ShimBoard::default().with_shared_bytes(2 << 10);
    classified(&board, Elem::F32, "shared", None).unwrap();
    assert_eq!(board.launched().into_iter().collect::<Vec<_>>(), ["classifier_bwd_f32"]);
}
