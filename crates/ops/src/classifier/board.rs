//! Softmax and cross-entropy over rows of logits on a board.

use crate::board::args::{args, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch, Ptr};

/// Some rows of logits, and what they are held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// (n, v_padded)
    pub logits: DeviceTensor,
    /// (n) `u32`, each below v.
    pub targets: Ptr<u32>,
    /// (n), at least 0: how much each row counts. Absent, each counts 1.
    pub target_weights: Option<Ptr<f32>>,
    /// (n), overwritten: 0 where the weight is.
    pub losses: Ptr<f32>,
    /// (n), overwritten: 1 where the weight is above 0 and the target's is the first of the largest logits.
    pub correct: Ptr<u32>,
    /// Rows.
    pub n: usize,
    /// Tokens of the vocabulary.
    pub v: usize,
    /// Columns.
    pub v_padded: usize,
}

/// Weighted losses, and hits; the logits stay.
///
/// # Errors
/// If the launch fails.
pub fn fwd(board: &dyn Board, rows: &Rows) -> Result<(), BoardError> {
    launch(board, "classifier_fwd", rows, 0.0)
}

/// Weighted losses, hits, and in place of the logits the gradients of `scale · Σ losses`, 0 in the columns of padding.
///
/// # Errors
/// If the launch fails.
pub fn fwd_bwd(board: &dyn Board, rows: &Rows, scale: f32) -> Result<(), BoardError> {
    launch(board, "classifier_bwd", rows, scale)
}

fn launch(board: &dyn Board, stem: &str, rows: &Rows, scale: f32) -> Result<(), BoardError> {
    let &Rows { logits, targets, target_weights, losses, correct, n, v, v_padded } = rows;
    board.launch(&Launch {
        kernel: &symbol(stem, logits.elem()),
        grid: [n as u32, 1, 1],
        block: [512, 1, 1],
        shared_bytes: 0,
        args: &args![logits, losses, correct, targets, target_weights, v as i32, v_padded as i32, scale],
    })
}
