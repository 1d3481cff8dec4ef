//! Where gradients lie on a board, and how products become gradients in bfloat16.
//!
//! A product for the gradient of a weight is made in `f32`, in memory that all matrices share, and then added to what
//! earlier micro-batches left, rounded at random: a library's product would round to the nearest.

use std::ops::Range;

use wattle_ops::Store;
use wattle_ops::board::{Board, BoardError, DeviceTensor, Elem, Ptr, StepState};
use wattle_ops::grad_sum::board::{self as grad_sum, Sum};

use super::cutter::Cutter;
use crate::engine::GradientType;
use crate::engine::layout::{Layout, within};
use crate::engine::network::{Block, Network};

/// The gradients of all elements of a layout. Those of blocks' matrices may be in bfloat16, all others are in `f32`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlatGradients {
    /// Of the elements before the first in bfloat16; of all, where none is.
    before: Ptr<f32>,
    narrow: DeviceTensor,
    /// Of the elements behind the last in bfloat16.
    behind: Ptr<f32>,
    /// Where those in bfloat16 start and end.
    edges: [usize; 2],
    len: usize,
}

impl FlatGradients {
    /// Cuts room for those of `layout`.
    pub(super) fn cut(cutter: &mut Cutter, layout: &Layout, of_matrices: GradientType) -> Self {
        let len = layout.len();
        let Range { start, end } = match of_matrices {
            GradientType::F32 => len..len,
            GradientType::Bf16 => layout.block_matrices(),
        };
        Self {
            before: cutter.take_of(start),
            narrow: cutter.take(end - start, Elem::Bf16),
            behind: cutter.take_of(len - end),
            edges: [start, end],
            len,
        }
    }

    /// Those of no element.
    pub(super) fn none(cutter: &mut Cutter) -> Self {
        let (before, behind) = (cutter.take_of(0), cutter.take_of(0));
        Self { before, narrow: cutter.take(0, Elem::Bf16), behind, edges: [0; 2], len: 0 }
    }

    /// Bytes of all of them.
    pub(super) fn len_bytes(&self) -> usize {
        self.parts(&(0..self.len)).map(|(part, at)| part.len() * at.elem().bytes()).sum()
    }

    /// Those from `element` on, as far as they have one type.
    pub(super) fn at(&self, element: usize) -> DeviceTensor {
        let [start, end] = self.edges;
        match element {
            _ if element < start => self.before.add(element).into(),
            _ if element < end => self.narrow.add(element - start),
            _ if start == end => self.before.add(element).into(),
            _ => self.behind.add(element - end).into(),
        }
    }

    /// Those from `element` on, which are in `f32`.
    ///
    /// # Panics
    /// If they are not.
    pub(super) fn wide(&self, element: usize) -> Ptr<f32> {
        let at = self.at(element);
        assert_eq!(at.elem(), Elem::F32, "the gradient of element {element}");
        Ptr::new(at.bytes())
    }

    /// All of them, side by side in `f32`.
    ///
    /// # Panics
    /// If they are not.
    pub(super) fn whole(&self) -> Ptr<f32> {
        let [start, end] = self.edges;
        assert_eq!(start, end, "ranks exchange gradients in f32");
        self.before
    }

    /// The parts of `range` that have one type each, and where they lie.
    pub(super) fn parts(
        &self,
        range: &Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, DeviceTensor)> + use<> {
        let ([start, end], all) = (self.edges, *self);
        let parts = [0..start, start..end, end..self.len].map(|part| within(&part, range));
        parts.into_iter().filter(|part| !part.is_empty()).map(move |part| (part.clone(), all.at(part.start)))
    }

    /// Sets those of `range` to zero.
    pub(super) fn zero(&self, board: &dyn Board, range: &Range<usize>) -> Result<(), BoardError> {
        self.parts(range).try_for_each(|(part, at)| board.zero(at.bytes(), part.len() * at.elem().bytes()))
    }
}

/// Elements of a product that waits to be added to a gradient in bfloat16: of the largest matrix of any block.
pub(super) fn product_len(network: &Network, of_matrices: GradientType) -> usize {
    let lens = network.blocks.iter().flat_map(Block::linears).map(|linear| linear.n_in * linear.n_out);
    if of_matrices == GradientType::F32 { 0 } else { lens.max().unwrap_or(0) }
}

/// How one micro-batch adds to gradients in bfloat16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounding {
    /// For one product, [`product_len`] elements.
    pub(super) product: Ptr<f32>,
    /// The run's seed.
    pub(super) seed: u64,
    /// Position of the micro-batch's first sequence in the step's batch.
    pub(super) first_sequence: usize,
    /// What differs from step to step.
    pub(super) state: Ptr<StepState>,
}

impl Rounding {
    /// Where a product for the gradients from `element` on is stored, and how: in their place, or to be
    /// [added](Rounding::add).
    pub(super) fn place(&self, gradients: &FlatGradients, element: usize, store: Store) -> (Ptr<f32>, Store) {
        let at = gradients.at(element);
        match at.elem() {
            Elem::F32 => (Ptr::new(at.bytes()), store),
            _ => (self.product, Store::Overwrite),
        }
    }

    /// Adds the product of `n` elements to the gradients from `element` on, if it is not in their place.
    pub(super) fn add(
        &self,
        board: &dyn Board,
        gradients: &FlatGradients,
        element: usize,
        n: usize,
        store: Store,
    ) -> Result<(), BoardError> {
        let grad = gradients.at(element);
        if grad.elem() == Elem::F32 {
            return Ok(());
        }
        let &Self { product: x, seed, first_sequence, state } = self;
        grad_sum::add(board, &Sum { grad, x, n, first: element, seed, first_sequence, state }, store)
    }
}
