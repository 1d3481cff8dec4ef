//! The tables without a device, and everything with one.

use wattle_cuda::CudaError;

use super::cublaslt::CublasLt;
use super::driver::Driver;
use super::{CudaBoard, CudaOptions};
use crate::board::{
    AttentionBackward, AttentionForward, AttentionShape, Board, BoardError, DevicePtr, DeviceTensor, Elem,
    Epilogue, Gemm, Launch, Matrix, Ptr,
};
use crate::fp8::Format;

mod attention;
mod compile;
mod gemm;
mod ranks;
mod standin;

#[test]
fn a_library_without_an_entry_point_is_named_with_it() {
    // SAFETY: the C library is open anyway.
    let libc = unsafe { libloading::os::unix::Library::new("libc.so.6") }.unwrap();
    let Err(error) = Driver::of(&libc) else { panic!("the C library is no driver") };
    assert!(matches!(&error, CudaError::NoSymbol { symbol, .. } if symbol == "cuInit"), "{error}");
    let Err(error) = CublasLt::of(&libc) else { panic!("the C library is no cuBLASLt") };
    assert!(error.to_string().contains("has no cublasLtCreate"), "{error}");
    assert!(BoardError::from(error).to_string().contains("cublas"), "the sentence is passed on");
}

#[test]
fn no_entry_point_is_named_twice() {
    for symbols in [Driver::SYMBOLS, CublasLt::SYMBOLS] {
        let mut sorted = symbols.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), symbols.len());
    }
}

#[test]
#[ignore = "needs cuBLASLt of the CUDA that this is built for"]
fn cublaslt_has_every_entry_point() {
    let Ok(table) = CublasLt::open() else { panic!("{:?}", CublasLt::open().err()) };
    // SAFETY: it only answers.
    assert!(unsafe { (table.version)() } >= 120_000);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn what_is_written_is_read_by_any_way() {
    let board = board();
    // Longer than the staging ring, so that it goes round, and of an odd length.
    let bytes: Vec<u8> =
        (0..(40 << 20) + 13).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let [a, b] = [0; 2].map(|_| board.allocate(bytes.len()).unwrap());
    assert_eq!((a.address() % 256, b.address() % 256), (0, 0));
    assert!(read(&board, a, bytes.len()).iter().all(|byte| *byte == 0), "an arena begins as zeros");
    let mut source = bytes.clone();
    board.write(a, &source).unwrap();
    source.fill(0);
    board.copy(b, a, bytes.len()).unwrap();
    board.zero(a, bytes.len()).unwrap();
    board.write_ahead(a, &bytes[..1000]).unwrap();
    assert!(read(&board, b, bytes.len()) == bytes, "a write, copied");
    assert!(read(&board, a, 1000) == bytes[..1000], "a write ahead");
    assert!(read(&board, a.offset(1000), 1000).iter().all(|byte| *byte == 0));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn host_memory_from_another_thread_takes_what_is_read() {
    let board = board();
    let bytes: Vec<u8> = (0..1_000_003u32).flat_map(|i| (i as f32).to_ne_bytes()).collect();
    let at = board.allocate(bytes.len()).unwrap();
    board.write(at, &bytes).unwrap();
    let take = || board.host_memory(bytes.len() / 4);
    let mut memory = std::thread::scope(|scope| scope.spawn(take).join().unwrap()).unwrap();
    // SAFETY: a number is four bytes, and any bytes are a number.
    let out = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<u8>(), bytes.len()) };
    board.read(at, out).unwrap();
    assert!(memory.iter().enumerate().all(|(i, number)| *number == i as f32));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn writes_ahead_in_turn_reach_the_step_that_they_are_for() {
    const STEPS: usize = 200;
    /// Elements of half a slot.
    const HALF: usize = 1 << 18;
    let board = board();
    let [slots, kept] = [2, STEPS].map(|n| board.allocate(n * 4 * HALF).unwrap());
    for step in 0..STEPS {
        let slot = slots.offset(step % 2 * 4 * HALF);
        for half in 0..2 {
            board.write_ahead(slot.offset(2 * half * HALF), &vec![step as u8; 2 * HALF]).unwrap();
        }
        board.copy(kept.offset(4 * step * HALF), slot, 4 * HALF).unwrap();
    }
    let all = read(&board, kept, STEPS * 4 * HALF);
    for (step, bytes) in all.chunks(4 * HALF).enumerate() {
        assert!(bytes.iter().all(|byte| *byte == step as u8), "step {step}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn too_much_memory_is_an_error_that_says_how_much_is_free() {
    let board = board();
    let total = board.memory().unwrap().total;
    let error = board.allocate(2 * total as usize).unwrap_err();
    match error {
        BoardError::OutOfMemory { asked, free, .. } => {
            assert_eq!(asked, 2 * total);
            assert!(free > 0 && free < total, "{free} of {total}");
        }
        other => panic!("{other}"),
    }
    assert!(board.allocate(1 << 20).is_ok(), "and the board goes on");
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_step_is_recorded_replayed_and_timed() {
    let board = board();
    let bytes = 64 << 20;
    let [from, to] = [0; 2].map(|_| board.allocate(bytes).unwrap());
    board.begin_record().unwrap();
    board.mark(0).unwrap();
    board.copy(to, from, bytes).unwrap();
    board.mark(1).unwrap();
    assert!(matches!(board.write(from, &[1]), Err(BoardError::NotRecordable(_))));
    assert!(matches!(board.synchronize(), Err(BoardError::NotRecordable(_))));
    let step = board.end_record().unwrap();
    assert!(read(&board, to, 4) == [0; 4]);
    for value in [7, 8] {
        board.write(from, &vec![value; bytes]).unwrap();
        assert_ne!(read(&board, to, 1), [value], "what is recorded is not done");
        board.mark(2).unwrap();
        board.replay(step).unwrap();
        board.mark(3).unwrap();
        let (inner, outer) = (board.elapsed_ms(0, 1).unwrap(), board.elapsed_ms(2, 3).unwrap());
        // No board moves 64 MiB in less than 5 µs.
        assert!(inner > 0.005 && inner <= outer, "{inner} ms within {outer} ms");
        assert!(read(&board, to, bytes).iter().all(|byte| *byte == value));
    }
    assert!(matches!(board.replay(step + 1), Err(BoardError::NoRecording(_))));
    assert!(matches!(board.elapsed_ms(0, 99), Err(BoardError::NoMark(99))));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn reads_and_marks_beside_the_work_do_not_wait_for_it() {
    let board = board();
    let (bytes, large) = (4 << 10, 32 << 20);
    let [finished, busy] = [0; 2].map(|_| board.allocate(large).unwrap());
    board.mark(0).unwrap();
    board.write(finished, &vec![7; bytes]).unwrap();
    board.mark(1).unwrap();
    let finished_ms = board.elapsed_ms(0, 1).unwrap();
    let mut out = vec![0; bytes];
    let mut is_before_the_end = || {
        // A queue that takes a GPU milliseconds, much longer than a small read.
        (0..120).for_each(|_| board.copy(busy, finished, large).unwrap());
        board.mark(2).unwrap();
        board.read_beside(finished, &mut out).unwrap();
        board.mark_beside(3).unwrap();
        assert!(out.iter().all(|byte| *byte == 7));
        let beside_ms = board.elapsed_ms(0, 3).unwrap();
        assert!(finished_ms <= beside_ms, "{finished_ms} {beside_ms}");
        beside_ms < board.elapsed_ms(0, 2).unwrap()
    };
    // The stand-in does what is queued in an order drawn at random, so there the queue may have ended by chance.
    assert!((0..20).any(|_| is_before_the_end()), "no mark was taken before the queue's end");
    board.begin_record().unwrap();
    assert!(matches!(board.read_beside(finished, &mut out), Err(BoardError::NotRecordable(_))));
    assert!(matches!(board.mark_beside(3), Err(BoardError::NotRecordable(_))));
    board.end_record().unwrap();
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_kernel_that_is_not_there_is_named() {
    let launch =
        Launch { kernel: "no_such_fwd_f32", grid: [1; 3], block: [1; 3], shared_bytes: 0, args: &[] };
    let error = board().launch(&launch).unwrap_err();
    assert!(error.to_string().contains("no_such_fwd_f32"), "{error}");
}

fn board() -> CudaBoard {
    CudaBoard::open(0, &CudaOptions::default()).unwrap()
}

fn read(board: &CudaBoard, from: DevicePtr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    board.read(from, &mut bytes).unwrap();
    bytes
}

/// As bytes of an element type; to nearest, ties to even.
fn encode(values: &[f64], elem: Elem) -> Vec<u8> {
    match elem {
        Elem::F32 => values.iter().flat_map(|value| (*value as f32).to_ne_bytes()).collect(),
        Elem::Bf16 => values.iter().flat_map(|value| bf16_bits(*value as f32).to_ne_bytes()).collect(),
        Elem::E4m3 | Elem::E5m2 => values.iter().map(|value| format(elem).encode(*value as f32)).collect(),
    }
}

fn decode(bytes: &[u8], elem: Elem) -> Vec<f64> {
    let of_f32 = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]).into();
    let of_bf16 = |b: &[u8]| f32::from_bits(u32::from(u16::from_ne_bytes([b[0], b[1]])) << 16).into();
    match elem {
        Elem::F32 => bytes.chunks(4).map(of_f32).collect(),
        Elem::Bf16 => bytes.chunks(2).map(of_bf16).collect(),
        Elem::E4m3 | Elem::E5m2 => bytes.iter().map(|&code| format(elem).decode(code).into()).collect(),
    }
}

fn format(elem: Elem) -> Format {
    if elem == Elem::E4m3 { Format::E4m3 } else { Format::E5m2 }
}

fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

#[test]
fn rounding_to_bf16_is_to_nearest_and_to_even() {
    let rounded = |value: f64| decode(&encode(&[value], Elem::Bf16), Elem::Bf16)[0];
    assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0, "a tie goes to the even one");
    assert_eq!(rounded(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
    assert_eq!(rounded(-2.015), -2.015625);
}
