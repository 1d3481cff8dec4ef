//! What a board can do at best, measured on it: the roof that kernels are held against.
//!
//! A board's data sheet knows neither its power limit nor its cooling. A large copy and a large product are quick to make,
//! and what they reach now is what any kernel could.

use wattle_random::{Purpose, Stream};

use super::{Board, BoardError, DevicePtr, DeviceTensor, Elem, Epilogue, Gemm, Matrix, Work};
use crate::bf16;

/// The roof of a board.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Bytes a second that a copy within the device reads and writes.
    pub bytes_per_s: f64,
    /// Floating-point operations a second of a product of bf16.
    pub flops_per_s: f64,
}

/// Bytes that are copied.
const COPY_BYTES: usize = 512 << 20;
/// Sides of the products that are tried, rising until one takes long enough.
const SIDES: [usize; 4] = [256, 1024, 4096, 8192];
/// A measurement takes so long at least, in milliseconds.
const LONG_MS: f32 = 2.0;
/// Bytes that are drawn on the host; the rest are copies of them.
const FILLED_AT_FIRST: usize = 1 << 20;
/// How often each is done; the fastest counts.
const N_ROUNDS: usize = 5;
/// Marks that no step is under way to use.
const MARKS: [usize; 2] = [0, 1];

/// Measures the roof of `board`, on which nothing else is under way.
///
/// # Errors
/// If there is not enough memory, or the board fails.
pub fn measure(board: &dyn Board) -> Result<Roof, BoardError> {
    let free = board.memory()?.free as usize;
    let largest = SIDES[SIDES.len() - 1];
    // Two places to copy between, or three matrices.
    let wanted = (2 * COPY_BYTES).max(3 * largest * largest * Elem::Bf16.bytes());
    let bytes = wanted.min(free / 2) / 256 * 256;
    let arena = board.allocate(bytes)?;
    fill(board, arena, bytes)?;
    let half = bytes / 2;
    let copy_s = fastest(board, &|| board.copy(arena.offset(half), arena, half))? / 1e3;
    let mut flops_per_s = 0f64;
    for side in SIDES {
        let product = square(arena, side);
        if 3 * side * side * Elem::Bf16.bytes() > bytes {
            break;
        }
        let ms = fastest(board, &|| board.gemm(&product))?;
        flops_per_s = flops_per_s.max(product.flops() as f64 * 1e3 / f64::from(ms));
        if ms >= LONG_MS {
            break;
        }
    }
    Ok(Roof { bytes_per_s: 2.0 * half as f64 / f64::from(copy_s), flops_per_s })
}

/// Fills memory with normal numbers in bf16: a board draws less power for zeros, and is then faster than it ever is in
/// training.
fn fill(board: &dyn Board, arena: DevicePtr, bytes: usize) -> Result<(), BoardError> {
    let mut numbers = vec![0f32; FILLED_AT_FIRST.min(bytes) / Elem::Bf16.bytes()];
    Stream::new(0, Purpose::Sampling, 0).fill_normal(0, &mut numbers);
    let first: Vec<u8> = numbers.iter().flat_map(|&number| bf16::nearest(number).to_ne_bytes()).collect();
    board.write(arena, &first)?;
    let mut filled = first.len();
    while filled < bytes {
        let more = filled.min(bytes - filled);
        board.copy(arena.offset(filled), arena, more)?;
        filled += more;
    }
    Ok(())
}

fn square(arena: DevicePtr, side: usize) -> Gemm {
    let bytes = side * side * Elem::Bf16.bytes();
    let matrix = |idx: usize| Matrix::new(DeviceTensor::new(arena.offset(idx * bytes), Elem::Bf16), side);
    Gemm {
        m: side,
        n: side,
        k: side,
        a: matrix(0),
        b: matrix(1),
        c: matrix(2),
        alpha: 1.0,
        accumulate: false,
        batch: 1,
        epilogue: Epilogue::None,
    }
}

/// Milliseconds of the fastest of some rounds.
fn fastest(board: &dyn Board, work: &dyn Fn() -> Result<(), BoardError>) -> Result<f32, BoardError> {
    // The first time loads what it needs.
    work()?;
    let mut best = f32::MAX;
    for _ in 0..N_ROUNDS {
        board.mark(MARKS[0])?;
        work()?;
        board.mark(MARKS[1])?;
        best = best.min(board.elapsed_ms(MARKS[0], MARKS[1])?);
    }
    Ok(best.max(f32::MIN_POSITIVE))
}

impl Roof {
    /// The share of the roof at which `work` is done in so many seconds: the least time that either the memory or the
    /// arithmetic would take, by the time that it takes. What lies in a cache is above the roof. `None` where it is not
    /// known how much work it is.
    pub fn share(&self, work: Work, seconds: f64) -> Option<f64> {
        let by_memory = work.bytes as f64 / self.bytes_per_s;
        let by_arithmetic = work.flops as f64 / self.flops_per_s;
        (work != Work::default()).then(|| by_memory.max(by_arithmetic) / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_binds_a_kernel_is_its_roof() {
        let roof = Roof { bytes_per_s: 1e12, flops_per_s: 1e14 };
        let share = |bytes, flops| roof.share(Work { bytes, flops }, 1e-3);
        assert_eq!(share(500_000_000, 0), Some(0.5));
        assert_eq!(share(1_000_000, 80_000_000_000), Some(0.8));
        assert_eq!(share(0, 0), None);
    }
}
