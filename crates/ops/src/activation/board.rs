//! Activations on a board, with the bias of the projection before.

use super::Activation;
use crate::board::args::{args, pack_grid, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch};

/// Rows of what goes in, and the bias that is still to be added to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// (n, c)
    pub x: DeviceTensor,
    /// (c); absent for none.
    pub bias: Option<DeviceTensor>,
    /// Rows.
    pub n: usize,
    /// Width.
    pub c: usize,
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
    out: DeviceTensor,
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
    grad: DeviceTensor,
    input: &Input,
) -> Result<(), BoardError> {
    launch(board, "activation_bwd", activation, grad, input)
}

fn launch(
    board: &dyn Board,
    stem: &str,
    activation: Activation,
    out: DeviceTensor,
    input: &Input,
) -> Result<(), BoardError> {
    let &Input { x, bias, n, c } = input;
    let elem = x.elem();
    let kind: i32 = match activation {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::Relu2 => 3,
    };
    board.launch(&Launch {
        kernel: &symbol(stem, elem),
        grid: [pack_grid(n * c, elem, 256), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, bias, (n * c) as u64, c as i32, kind],
    })
}
