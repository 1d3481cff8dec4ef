//! Low-rank adapters: what a matrix of small rank adds to a frozen linear layer.
//!
//! # References
//! Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2022, section 4.1.

pub mod board;
pub mod cpu;
mod reference;

pub use reference::low_rank;

/// The sizes of an adapter, and which columns of its layer's result it adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of a row of `x`.
    pub n_in: usize,
    /// Columns that it adds to.
    pub n_out: usize,
    /// r, the width between the factors.
    pub rank: usize,
    /// The first of those columns.
    pub first: usize,
    /// Width of a row of the layer's result: larger than `n_out` where several matrices are one layer.
    pub row: usize,
}

impl Shape {
    /// An adapter of all columns of a layer.
    pub fn whole(n_in: usize, n_out: usize, rank: usize) -> Self {
        Self { n_in, n_out, rank, first: 0, row: n_out }
    }

    /// Elements of the first factor, A (r, in).
    pub fn a_len(&self) -> usize {
        self.rank * self.n_in
    }

    /// Elements of the second factor, B (out, r).
    pub fn b_len(&self) -> usize {
        self.n_out * self.rank
    }
}
