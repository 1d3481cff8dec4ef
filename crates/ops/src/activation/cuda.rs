//! Activations on a board, with the bias of the projection before.

use super::Activation;
use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Board, BoardError, DevicePtr, Elem, Launch};

/// Rows of what goes in, and the bias that is still to be added to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// (n, c)
    pub x: DevicePtr,
    /// (c); [`DevicePtr::NULL`] for none.
    pub bias: DevicePtr,
    /// Rows.
    pub n: usize,
    /// Width.
    pub c: usize,
    /// Type of both.
    pub elem: Elem,
}

/// `out = f(x + bias)`
///
/// # Shapes
/// `out` (n, c), overwritten.
///
/// # Errors
/// If the launch fails.
pub fn fwd(
    board: &dyn Board,
    activation: Activation,
    out: DevicePtr,
    input: &Input,
) -> Result<(), BoardError> {
    launch(board, "activation_fwd", activation, out, input)
}

/// `grad = grad · f′(x + bias)`, in place.
///
/// # Shapes
/// `grad` (n, c)
///
/// # Errors
/// If the launch fails.
pub fn bwd(
    board: &dyn Board,
    activation: Activation,
    grad: DevicePtr,
    input: &Input,
) -> Result<(), BoardError> {
    launch(board, "activation_bwd", activation, grad, input)
}

fn launch(
    board: &dyn Board,
    stem: &str,
    activation: Activation,
    out: DevicePtr,
    input: &Input,
) -> Result<(), BoardError> {
    let &Input { x, bias, n, c, elem } = input;
    let kind: i32 = match activation {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
    };
    board.launch(&Launch {
        kernel: &symbol(stem, elem),
        grid: [pack_grid(n * c, elem, 256), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, bias, (n * c) as u64, c as i32, kind],
    })
}
