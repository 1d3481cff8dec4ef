//! Dropout on a board, with the very masks that the CPU draws.

use wattle_random::Purpose;

use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Arg, Board, BoardError, DeviceTensor, Launch, Ptr, StepState};

/// One place in a model where elements are dropped. The step is read from the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Site {
    /// The share of elements that are set to zero.
    pub probability: f32,
    /// The run's seed.
    pub seed: u64,
    /// [`Purpose::word`] of the place.
    pub purpose: u32,
    /// What the first element is, counted from the start of the step's whole batch.
    pub first_element: u64,
    /// What differs from step to step; absent where nothing is dropped.
    pub state: Option<Ptr<StepState>>,
}

impl Site {
    /// Nothing is dropped.
    pub const NONE: Self = Self { probability: 0.0, seed: 0, purpose: 0, first_element: 0, state: None };

    /// The place with index `site_idx`, of rows that start at element `first_element`.
    pub fn new(
        probability: f32,
        seed: u64,
        site_idx: u32,
        first_element: u64,
        state: Ptr<StepState>,
    ) -> Self {
        Self {
            probability,
            seed,
            purpose: Purpose::Dropout { site_idx }.word(),
            first_element,
            state: Some(state),
        }
    }

    /// The same place, `n` elements further on.
    #[must_use]
    pub fn starting_at(self, n: u64) -> Self {
        Self { first_element: self.first_element + n, ..self }
    }

    pub(crate) fn args(&self) -> [Arg; 5] {
        args![self.probability, self.seed, self.purpose, self.first_element, self.state]
    }
}

/// `out = x · mask`; the backward pass is the same. `out` may be `x`.
///
/// # Shapes
/// `x`, `out` (n)
///
/// # Errors
/// If the launch fails.
pub fn fwd(
    board: &dyn Board,
    out: DeviceTensor,
    x: DeviceTensor,
    n: usize,
    site: &Site,
) -> Result<(), BoardError> {
    launch(board, "dropout_fwd", out, x, n, site)
}

/// `out += x · mask`
///
/// # Shapes
/// `x`, `out` (n)
///
/// # Errors
/// If the launch fails.
pub fn add(
    board: &dyn Board,
    out: DeviceTensor,
    x: DeviceTensor,
    n: usize,
    site: &Site,
) -> Result<(), BoardError> {
    launch(board, "dropout_add", out, x, n, site)
}

fn launch(
    board: &dyn Board,
    kernel: &str,
    out: DeviceTensor,
    x: DeviceTensor,
    n: usize,
    site: &Site,
) -> Result<(), BoardError> {
    let [probability, seed, purpose, first_element, state] = site.args();
    board.launch(&Launch {
        kernel: &symbol(kernel, x.elem()),
        grid: [pack_grid(n, x.elem(), 256), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, n as u64, probability, seed, purpose, first_element, state],
    })
}
