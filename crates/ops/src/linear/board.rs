//! What a linear layer needs on a board beside its products, which are [`Board::gemm`]'s.

use std::cell::Cell;

use crate::Store;
use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Arg, Board, BoardError, DeviceTensor, Elem, Job, Launch, Ptr, Way};

/// Most parts that sums over rows are made in.
const MAX_PARTS: usize = 512;
/// Fewest rows of a part.
const MIN_ROWS: usize = 16;

/// How sums over `n` rows are divided, by `n` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// How many.
    pub n_parts: usize,
    /// Rows of each; the last may have fewer.
    pub rows_a_part: usize,
}

impl Parts {
    /// The division of `n` rows.
    pub fn of(n: usize) -> Self {
        let rows_a_part = n.div_ceil(MAX_PARTS).max(MIN_ROWS);
        Self { n_parts: n.div_ceil(rows_a_part), rows_a_part }
    }
}

/// Floats of scratch that partial sums over `n` rows of width `c` want in [`ColumnSums`].
pub fn scratch_len(n: usize, c: usize) -> usize {
    (Parts::of(n).n_parts * c).next_multiple_of(SCRATCH_ALIGNMENT)
}

/// Partial sums over rows start at multiples of so many floats.
const SCRATCH_ALIGNMENT: usize = 64;
/// Most sums of one launch.
const SUMS_A_LAUNCH: usize = 8;

/// Sums over rows that are made in two stages: operations leave partial sums, and [`ColumnSums::finish`] adds those up,
/// of several operations together.
#[derive(Debug)]
pub struct ColumnSums {
    scratch: Ptr<f32>,
    len: usize,
    used: usize,
    store: Store,
    pending: Vec<ColumnSum>,
}

/// `grad = or += Σ over parts of partial`.
#[derive(Clone, Debug)]
struct ColumnSum {
    grad: Ptr<f32>,
    partial: Ptr<f32>,
    n_parts: Cell<usize>,
    c: usize,
}

/// Where an operation leaves partial sums over `n` rows of width `c`.
#[derive(Clone, Copy, Debug)]
pub struct Partials {
    /// (parts, c)
    pub at: Ptr<f32>,
    n: usize,
    c: usize,
    /// Which of the column sums that are pending.
    idx: usize,
}

impl ColumnSums {
    /// Sums whose parts lie in `len` floats of `scratch`, and which go to gradients as `store` says.
    pub fn new(scratch: Ptr<f32>, len: usize, store: Store) -> Self {
        Self { scratch, len, used: 0, store, pending: Vec::new() }
    }

    /// Room for the partial sums over `n` rows of width `c`, which [`ColumnSums::finish`] brings to `grad` (c).
    ///
    /// # Panics
    /// If there is less scratch than [`scratch_len`] says for all of them together.
    pub fn add(&mut self, grad: Ptr<f32>, n: usize, c: usize) -> Partials {
        let partial = self.scratch.add(self.used);
        self.used += scratch_len(n, c);
        assert!(self.used <= self.len, "partial sums want {} floats of {}", self.used, self.len);
        self.pending.push(ColumnSum { grad, partial, n_parts: Cell::new(Parts::of(n).n_parts), c });
        Partials { at: partial, n, c, idx: self.pending.len() - 1 }
    }

    /// Says that `partials` are of so many parts, whatever was said before: 1 where they are whole sums.
    pub fn has_parts(&self, partials: &Partials, n_parts: usize) {
        self.pending[partials.idx].n_parts.set(n_parts);
    }

    /// Leaves the partial sums since [`ColumnSums::finish`] was last called where they are: of parameters that are not
    /// trained, they are of no use.
    pub fn discard(&mut self) {
        self.used = 0;
        self.pending.clear();
    }

    /// Adds up the partial sums that were left since it was last called, always in the same order.
    ///
    /// # Errors
    /// If a launch fails.
    pub fn finish(&mut self, board: &dyn Board) -> Result<(), BoardError> {
        self.used = 0;
        let (accumulate, pending) = (self.store == Store::Accumulate, std::mem::take(&mut self.pending));
        if pending.is_empty() {
            return Ok(());
        }
        let columns = pending.iter().map(|sum| sum.c).sum();
        let most_parts = pending.iter().map(|sum| sum.n_parts.get()).max().unwrap_or(0);
        let sizes = [("sums", pending.len()), ("columns", columns), ("parts", most_parts)];
        let each = || pending.iter().try_for_each(|sum| column_sum(board, sum, accumulate));
        let together =
            || pending.chunks(SUMS_A_LAUNCH).try_for_each(|sums| column_sums(board, sums, accumulate));
        let ways = [Way::new("each", &each), Way::new("together", &together)];
        let parts: usize = pending.iter().map(|sum| sum.c * sum.n_parts.get()).sum();
        let bytes = (parts + 2 * columns) * Elem::F32.bytes();
        board.choose(&Job::new("column_sums", Elem::F32, &sizes).moving(bytes), &ways)
    }
}

/// Leaves the partial sums over rows of `grad_out` of which `sums` makes a bias's gradient.
///
/// # Shapes
/// `grad_out` (n, c), as for `partials`, which `sums` gave.
///
/// # Errors
/// If the launch fails.
pub fn bwd_bias(
    board: &dyn Board,
    grad_out: DeviceTensor,
    partials: &Partials,
    sums: &ColumnSums,
) -> Result<(), BoardError> {
    let &Partials { at: partial, n, c, .. } = partials;
    let (Parts { n_parts, rows_a_part }, elem) = (Parts::of(n), grad_out.elem());
    sums.has_parts(partials, n_parts);
    board.launch(&Launch {
        kernel: &symbol("linear_bias_bwd", elem),
        grid: [pack_grid(c, elem, 128), n_parts as u32, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![partial, grad_out, n as i32, c as i32, rows_a_part as i32],
    })
}

fn column_sum(board: &dyn Board, sum: &ColumnSum, accumulate: bool) -> Result<(), BoardError> {
    let (&ColumnSum { grad, partial, c, .. }, n_parts) = (sum, sum.n_parts.get());
    board.launch(&Launch {
        kernel: "column_sum_f32",
        grid: [sum.n_blocks(), 1, 1],
        block: [32, 8, 1],
        shared_bytes: 0,
        args: &args![grad, partial, n_parts as i32, c as i32, i32::from(accumulate)],
    })
}

fn column_sums(board: &dyn Board, sums: &[ColumnSum], accumulate: bool) -> Result<(), BoardError> {
    let mut args: Vec<Arg> = Vec::with_capacity(4 * SUMS_A_LAUNCH + 1);
    for idx in 0..SUMS_A_LAUNCH {
        args.extend(match sums.get(idx) {
            Some(sum) => args![sum.grad, sum.partial, sum.n_parts.get() as i32, sum.c as i32],
            None => args![None::<Ptr<f32>>, None::<Ptr<f32>>, 0_i32, 0_i32],
        });
    }
    args.push(i32::from(accumulate).into());
    board.launch(&Launch {
        kernel: "column_sums_f32",
        grid: [sums.iter().map(ColumnSum::n_blocks).sum(), 1, 1],
        block: [32, 8, 1],
        shared_bytes: 0,
        args: &args,
    })
}

impl ColumnSum {
    fn n_blocks(&self) -> u32 {
        self.c.div_ceil(32) as u32
    }
}
