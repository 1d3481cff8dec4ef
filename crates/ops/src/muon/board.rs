//! Muon on a board: a matrix at a time, products by the board's library.

use super::{COEFFICIENTS, Hyperparameters, adjustment};
use crate::bf16::Noise;
use crate::board::args::{args, pack_grid, symbol};
use crate::board::{
    Arg, Board, BoardError, DeviceTensor, Elem, Epilogue, Gemm, GradNorm, Launch, Matrix, Ptr, StepState,
};

/// Most blocks that sum squares.
const MAX_PARTS: usize = 512;
/// Elements that are worth a block.
const PART: usize = 1 << 13;

/// One update of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Master weights (rows, columns), `f32`.
    pub weights: Ptr<f32>,
    /// m (rows, columns), `f32` or bfloat16.
    pub momentum: DeviceTensor,
    /// The run's seed, for momentum in bfloat16, which is rounded at random.
    pub seed: u64,
    /// Place of the matrix's first element in the flat buffer, in which the random numbers count.
    pub first: usize,
    /// The weights in bfloat16 (rows, columns), written beside the masters; absent if passes read the masters.
    pub working: Option<DeviceTensor>,
    /// Gradients (rows, columns), `f32` or bfloat16.
    pub gradients: DeviceTensor,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// μ, and how.
    pub hyperparameters: Hyperparameters,
    /// What differs from step to step.
    pub state: Ptr<StepState>,
    /// What [`grad_norm`](crate::grad_norm::board) left.
    pub norm: Ptr<GradNorm>,
}

/// Memory for an update. Products are of the type of `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scratch {
    /// What is orthogonalized, [`ScratchLens::matrix`] numbers.
    pub direction: Ptr<f32>,
    /// Sums of squares, [`ScratchLens::partial`] numbers.
    pub partial: Ptr<f64>,
    /// An iteration's matrix, [`ScratchLens::matrix`] numbers.
    pub x: DeviceTensor,
    /// The next one.
    pub next: DeviceTensor,
    /// X Xᵀ, [`ScratchLens::square`] numbers.
    pub gram: DeviceTensor,
    /// a I + b G + c G², as many.
    pub polynomial: DeviceTensor,
}

/// How many numbers the buffers of [`Scratch`] have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScratchLens {
    /// Of a matrix.
    pub matrix: usize,
    /// Of the square of the smaller side.
    pub square: usize,
    /// Of partial sums.
    pub partial: usize,
}

impl ScratchLens {
    /// What updates of matrices of these rows and columns take, one after the other.
    pub fn of(shapes: impl Iterator<Item = [usize; 2]>) -> Self {
        shapes.fold(Self::default(), |lens, [n_rows, n_columns]| {
            let side = n_rows.min(n_columns);
            Self {
                matrix: lens.matrix.max(n_rows * n_columns),
                square: lens.square.max(side * side),
                partial: MAX_PARTS,
            }
        })
    }
}

/// Makes the update, unless the run is halted: as on the CPU, with X rounded to the type of products after each.
///
/// # Errors
/// If a launch or a product fails.
pub fn step(board: &dyn Board, step: &Step, scratch: &Scratch) -> Result<(), BoardError> {
    let &Step { weights, working, shape: [n_rows, n_columns], hyperparameters, state, norm, .. } = step;
    let n = n_rows * n_columns;
    let n_parts = direct(board, step, scratch)?;
    let elem = scratch.x.elem();
    let packs = |kernel: &str, args: &[Arg]| {
        board.launch(&Launch {
            kernel: &symbol(kernel, elem),
            grid: [pack_grid(n, elem, 256), 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args,
        })
    };
    packs("muon_scale", &args![scratch.x, scratch.direction, scratch.partial, n_parts as i32, n as u64])?;
    let x = orthogonalize(board, step, scratch, hyperparameters.ns_steps)?;
    let scale = adjustment(n_rows, n_columns) as f32;
    packs("muon_update", &args![weights, working, x, n as u64, scale, state, norm])
}

/// Updates the momentum, and writes what is to be orthogonalized and sums of its squares. Returns how many sums.
fn direct(board: &dyn Board, step: &Step, scratch: &Scratch) -> Result<usize, BoardError> {
    let &Step { momentum, gradients, shape, hyperparameters, .. } = step;
    let Hyperparameters { momentum: mu, nesterov, .. } = hyperparameters;
    let n = shape[0] * shape[1];
    let n_parts = n.div_ceil(PART).clamp(1, MAX_PARTS);
    let stem = if gradients.elem() == Elem::F32 { "muon_direct" } else { "muon_direct_of_bf16" };
    board.launch(&Launch {
        kernel: &symbol(stem, momentum.elem()),
        grid: [n_parts as u32, 1, 1],
        block: [512, 1, 1],
        shared_bytes: 0,
        args: &args![
            scratch.direction,
            scratch.partial,
            momentum,
            gradients,
            n as u64,
            mu as f32,
            (1.0 - mu) as f32,
            i32::from(nesterov),
            step.state,
            step.norm,
            step.seed,
            Noise::purpose(),
            step.first as u64,
        ],
    })?;
    Ok(n_parts)
}

/// A matrix with the singular vectors of `scratch.x` and singular values near 1, in one of two buffers.
fn orthogonalize(
    board: &dyn Board,
    step: &Step,
    scratch: &Scratch,
    n_steps: usize,
) -> Result<DeviceTensor, BoardError> {
    let &Scratch { mut x, mut next, gram, polynomial, .. } = scratch;
    let [n_rows, n_columns] = step.shape;
    let (side, other) = (n_rows.min(n_columns), n_rows.max(n_columns));
    let is_tall = n_rows > n_columns;
    let [a, b, c] = COEFFICIENTS.map(|coefficient| coefficient as f32);
    let square = |tensor| Matrix::new(tensor, side);
    for _ in 0..n_steps {
        let matrix = Matrix::new(x, n_columns);
        let wide = if is_tall { matrix.transposed() } else { matrix };
        board.gemm(&product([side, side, other], wide, wide.transposed(), square(gram)))?;
        board.launch(&Launch {
            kernel: &symbol("muon_polynomial", x.elem()),
            grid: [(side * side).div_ceil(256) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: &args![polynomial, gram, a, b, side as u64],
        })?;
        let squared = product([side; 3], square(gram), square(gram), square(polynomial));
        board.gemm(&Gemm { alpha: c, accumulate: true, ..squared })?;
        let (left, right) = if is_tall { (matrix, square(polynomial)) } else { (square(polynomial), matrix) };
        board.gemm(&product([n_rows, n_columns, side], left, right, Matrix::new(next, n_columns)))?;
        std::mem::swap(&mut x, &mut next);
    }
    Ok(x)
}

fn product([m, n, k]: [usize; 3], a: Matrix, b: Matrix, c: Matrix) -> Gemm {
    Gemm { m, n, k, a, b, c, alpha: 1.0, accumulate: false, batch: 1, epilogue: Epilogue::None }
}
