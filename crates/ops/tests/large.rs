//! Kernels over buffers of more than 2³² elements, of which the last block alone runs: what it reads and writes lies where
//! a 32-bit index does not reach. Memory is mapped and never filled: pages that nobody touches take none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ops::Range;

use kernel_shim::run_block;
use memmap2::{MmapMut, MmapOptions};
use wattle_ops::activation::Activation;
use wattle_ops::activation::board::Input;
use wattle_ops::attention::Kind;
use wattle_ops::bf16;
use wattle_ops::board::{
    Board, BoardError, Choices, DevicePtr, DeviceTensor, Elem, Gemm, Launch, MemoryInfo, Ptr, StepState,
};
use wattle_ops::dropout::board::Site;

/// Rows whose buffers have 2³² elements at a width of 2048.
const N: usize = 1 << 21;
const C: usize = 1 << 11;

/// Runs the last block of every launch.
#[derive(Default)]
struct LastBlock {
    choices: Choices,
}

impl Board for LastBlock {
    fn name(&self) -> String {
        "the last block of a launch".to_owned()
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError> {
        // SAFETY: tests hand over addresses of memory that is as large as the operation says.
        unsafe { run_block(launch, launch.grid.map(|blocks| blocks - 1)) }
    }

    /// Products are a library's.
    fn gemm(&self, _: &Gemm) -> Result<(), BoardError> {
        Ok(())
    }

    fn max_shared_bytes(&self) -> usize {
        227 << 10
    }

    fn choices(&self) -> &Choices {
        &self.choices
    }

    fn allocate(&self, _: usize) -> Result<DevicePtr, BoardError> {
        unreachable!("tests have memory of their own")
    }

    fn memory(&self) -> Result<MemoryInfo, BoardError> {
        Ok(MemoryInfo { free: 0, total: 0 })
    }

    fn write(&self, _: DevicePtr, _: &[u8]) -> Result<(), BoardError> {
        unreachable!("no operation writes")
    }

    fn read(&self, _: DevicePtr, _: &mut [u8]) -> Result<(), BoardError> {
        unreachable!("no operation reads")
    }

    fn copy(&self, _: DevicePtr, _: DevicePtr, _: usize) -> Result<(), BoardError> {
        unreachable!("no operation copies")
    }

    fn zero(&self, _: DevicePtr, _: usize) -> Result<(), BoardError> {
        Ok(())
    }

    fn mark(&self, _: usize) -> Result<(), BoardError> {
        Ok(())
    }

    fn elapsed_ms(&self, _: usize, _: usize) -> Result<f32, BoardError> {
        Ok(1.0)
    }

    fn begin_record(&self) -> Result<(), BoardError> {
        Ok(())
    }

    fn end_record(&self) -> Result<usize, BoardError> {
        Ok(0)
    }

    fn replay(&self, _: usize) -> Result<(), BoardError> {
        Ok(())
    }

    fn synchronize(&self) -> Result<(), BoardError> {
        Ok(())
    }
}

/// Zeros that take memory only where they are written.
struct Sparse {
    map: MmapMut,
    elem: Elem,
}

impl Sparse {
    fn new(n: usize, elem: Elem) -> Self {
        let mut options = MmapOptions::new();
        Self { map: options.len(n * elem.bytes()).no_reserve_swap().map_anon().unwrap(), elem }
    }

    fn bf16(n: usize) -> Self {
        Self::new(n, Elem::Bf16)
    }

    fn tensor(&self) -> DeviceTensor {
        DeviceTensor::new(DevicePtr::new(self.map.as_ptr() as u64), self.elem)
    }

    fn ptr<T>(&self) -> Ptr<T> {
        Ptr::new(self.tensor().bytes())
    }

    fn fill(&mut self, range: Range<usize>, value: f32) {
        for i in range {
            match self.elem {
                Elem::F32 => self.map[4 * i..4 * i + 4].copy_from_slice(&value.to_ne_bytes()),
                _ => self.map[2 * i..2 * i + 2].copy_from_slice(&bf16::nearest(value).to_ne_bytes()),
            }
        }
    }

    fn at(&self, i: usize) -> f32 {
        let bytes = &self.map[i * self.elem.bytes()..];
        match self.elem {
            Elem::F32 => f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            _ => bf16::widen(u16::from_ne_bytes([bytes[0], bytes[1]])),
        }
    }
}

fn no_dropout(state: &Sparse) -> Site {
    Site::new(0.0, 1, 0, 0, state.ptr::<StepState>())
}

fn close(got: f32, expected: f32) {
    assert!((got - expected).abs() <= 0.01 * expected.abs(), "{got} and {expected}");
}

#[test]
fn swiglu_reaches_its_last_row_and_has_more_rows_than_a_grid_has_in_y() {
    let (mut x, out, grad_x) = (Sparse::bf16(2 * N * C), Sparse::bf16(N * C), Sparse::bf16(2 * N * C));
    let mut grad_out = Sparse::bf16(N * C);
    x.fill(2 * N * C - 2 * C..2 * N * C, 2.0);
    grad_out.fill(N * C - C..N * C, 1.0);
    let board = LastBlock::default();
    wattle_ops::swiglu::board::fwd(&board, out.tensor(), x.tensor(), [N, C]).unwrap();
    wattle_ops::swiglu::board::bwd(&board, grad_x.tensor(), grad_out.tensor(), x.tensor(), [N, C]).unwrap();
    let silu = 2.0 / (1.0 + (-2f32).exp());
    close(out.at(N * C - 1), 2.0 * silu);
    close(grad_x.at(2 * N * C - 1), silu);
}

#[test]
fn activations_and_casts_reach_their_last_element() {
    let (mut x, out, wide) = (Sparse::bf16(N * C), Sparse::bf16(N * C), Sparse::new(N * C, Elem::F32));
    x.fill(N * C - C..N * C, 3.0);
    let board = LastBlock::default();
    let input = Input { x: x.tensor(), bias: None, n: N, c: C };
    wattle_ops::activation::board::fwd(&board, Activation::Relu, out.tensor(), &input).unwrap();
    close(out.at(N * C - 1), 3.0);

    let mut wide = wide;
    wide.fill(N * C - 8..N * C, 5.0);
    wattle_ops::cast::board::cast(&board, out.tensor(), wide.ptr(), N * C).unwrap();
    close(out.at(N * C - 1), 5.0);
}

#[test]
fn norms_reach_their_last_row() {
    use wattle_ops::layer_norm::board::{Norm, Normed, fwd};
    let (mut x, out, mut weight) = (Sparse::bf16(N * C), Sparse::bf16(N * C), Sparse::bf16(C));
    let statistics = [(); 2].map(|()| Sparse::new(N, Elem::F32));
    x.fill(N * C - C / 2..N * C, 2.0);
    weight.fill(0..C, 1.0);
    let normed = Normed { out: out.tensor(), mean: statistics[0].ptr(), rstd: statistics[1].ptr() };
    let norm = Norm { n: N, c: C, weight: weight.tensor(), bias: None, eps: 1e-5 };
    fwd(&LastBlock::default(), &normed, x.tensor(), &norm).unwrap();
    close(out.at(N * C - 1), 1.0);
    close(out.at(N * C - C), -1.0);
    close(statistics[0].at(N - 1), 1.0);
}

#[test]
fn both_ways_of_rotation_reach_their_last_row() {
    use wattle_ops::rope::board::{Heads, fwd};
    let (t, d) = (32_768, 128);
    let [mut cos, mut sin] = [(); 2].map(|()| Sparse::new(t * d / 2, Elem::F32));
    cos.fill((t - 1) * d / 2..t * d / 2, 0.5);
    sin.fill((t - 1) * d / 2..t * d / 2, 0.25);
    for way in ["plain", "packs"] {
        let mut x = Sparse::bf16(N * C);
        x.fill(N * C - C..N * C, 4.0);
        let heads = Heads {
            n: N,
            row_stride: C,
            n_heads: C / d,
            d,
            t,
            cos: cos.ptr(),
            sin: sin.ptr(),
            documents: None,
        };
        let board = LastBlock::default();
        board.choices().prefer(way);
        fwd(&board, x.tensor(), &heads).unwrap();
        // The second half of a head: x2 · cos + x1 · sin.
        close(x.at(N * C - 1), 3.0);
    }
}

#[test]
fn the_classifier_reaches_the_last_row_of_its_logits() {
    use wattle_ops::classifier::board::{Rows, fwd_bwd};
    let (n, v, v_padded) = (1 << 17, 32_700, 32_768);
    for way in ["plain", "online", "shared"] {
        let (logits, losses) = (Sparse::bf16(n * v_padded), Sparse::new(n, Elem::F32));
        let [correct, targets] = [(); 2].map(|()| Sparse::new(n, Elem::F32));
        let board = LastBlock::default();
        board.choices().prefer(way);
        let rows = Rows {
            logits: logits.tensor(),
            losses: losses.ptr(),
            correct: correct.ptr(),
            targets: targets.ptr(),
            target_weights: None,
            n,
            v,
            v_padded,
            logit_cap: None,
        };
        fwd_bwd(&board, &rows, 1.0).unwrap();
        close(losses.at(n - 1), (v as f32).ln());
        close(logits.at((n - 1) * v_padded), 1.0 / v as f32 - 1.0);
        close(logits.at((n - 1) * v_padded + v - 1), 1.0 / v as f32);
    }
}

#[test]
fn embeddings_reach_their_last_row() {
    use wattle_ops::embedding::board::{Rows, fwd};
    let (out, mut table, tokens) = (Sparse::bf16(N * C), Sparse::bf16(C), Sparse::new(N, Elem::F32));
    let state = Sparse::new(16, Elem::F32);
    table.fill(0..C, 1.5);
    let rows = Rows { tokens: tokens.ptr(), n: N, t: 32_768, c: C, documents: None };
    let board = LastBlock::default();
    fwd(&board, out.tensor(), &rows, table.tensor(), None, &no_dropout(&state)).unwrap();
    close(out.at(N * C - 1), 1.5);
}

#[test]
fn the_softmax_of_scores_reaches_the_last_of_32_768_squared_a_head() {
    use wattle_ops::attention::board::{Shape, bwd, fwd, scratch_bytes};
    let (t, n_heads, d) = (32_768, 4, 16);
    let kind = Kind::Causal;
    let shape = Shape { b: 1, t, n_heads, n_kv_heads: n_heads, d, elem: Elem::Bf16, kind };
    let scratch = Sparse::bf16(scratch_bytes(&shape) / 2);
    let [qkv, grad_qkv] = [(); 2].map(|()| Sparse::bf16(t * shape.qkv()));
    let (out, lse) = (Sparse::bf16(t * n_heads * d), Sparse::new(t * n_heads, Elem::F32));
    let state = Sparse::new(16, Elem::F32);
    let site = no_dropout(&state);
    let board = LastBlock::default();
    let at = scratch.tensor().bytes();
    fwd(&board, out.tensor(), lse.ptr(), qkv.tensor(), &shape, None, &site, at).unwrap();
    // All scores are 0: each of the keys has the same probability. Scores and their gradients come first, in f32.
    let n = n_heads * t * t;
    close(lse.at(n_heads * t - 1), (t as f32).ln());
    close(scratch.at(2 * 2 * n + n - 1), 1.0 / t as f32);
    bwd(&board, grad_qkv.tensor(), out.tensor(), lse.ptr(), qkv.tensor(), &shape, None, &site, at).unwrap();
    close(scratch.at(2 * 2 * n + n - 1), 1.0 / t as f32);
}
