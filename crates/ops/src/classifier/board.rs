//! Softmax and cross-entropy over rows of logits on a board.

use crate::board::args::{are_packs, args, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Job, Launch, Ptr, Way};

/// Bytes of shared memory that a kernel has beside what its launch asks for.
const STATIC_SHARED_BYTES: usize = 1 << 10;

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
    /// What logits are kept below: see [`soft_cap`](super::soft_cap).
    pub logit_cap: Option<f32>,
}

impl Rows {
    /// What the names of kernels begin with.
    fn stem(&self) -> &'static str {
        if self.logit_cap.is_some() { "classifier_capped" } else { "classifier" }
    }

    fn row_bytes(&self) -> usize {
        self.v_padded * self.logits.elem().bytes()
    }
}

/// Weighted losses, and hits; the logits stay.
///
/// # Errors
/// If the launch fails.
pub fn fwd(board: &dyn Board, rows: &Rows) -> Result<(), BoardError> {
    launch(board, "fwd", rows, 0.0, 0)
}

/// Weighted losses, hits, and in place of the logits the gradients of `scale · Σ losses`, 0 in the columns of padding.
///
/// The ways differ in how often they read a row: `plain` three times, `shared` once, if it fits into a block's shared
/// memory, `online` twice. `_fast` has exponentials that are off by a few units in the last place of `f32`.
///
/// # Errors
/// If the launch fails.
pub fn fwd_bwd(board: &dyn Board, rows: &Rows, scale: f32) -> Result<(), BoardError> {
    let bytes = 2 * rows.n * rows.v * rows.logits.elem().bytes();
    let op = format!("{}_bwd", rows.stem());
    let job = Job::new(&op, rows.logits.elem(), &[("n", rows.n), ("v", rows.v)]).moving(bytes);
    let by = |pass: &'static str, shared_bytes: usize| move || launch(board, pass, rows, scale, shared_bytes);
    let plain = by("bwd", 0);
    let [online, online_fast] = ["bwd_online", "bwd_online_fast"].map(|pass| by(pass, 0));
    let [shared, shared_fast] = ["bwd_shared", "bwd_shared_fast"].map(|pass| by(pass, rows.row_bytes()));
    let mut ways =
        vec![Way::new("plain", &plain), Way::new("online", &online), Way::new("online_fast", &online_fast)];
    if are_packs(rows.v_padded, &[rows.logits])
        && rows.row_bytes() + STATIC_SHARED_BYTES <= board.max_shared_bytes()
    {
        ways.extend([Way::new("shared", &shared), Way::new("shared_fast", &shared_fast)]);
    }
    board.choose(&job, &ways)
}

fn launch(
    board: &dyn Board,
    pass: &str,
    rows: &Rows,
    scale: f32,
    shared_bytes: usize,
) -> Result<(), BoardError> {
    let &Rows { logits, targets, target_weights, losses, correct, n, v, v_padded, logit_cap } = rows;
    let (v, v_padded) = (v as i32, v_padded as i32);
    let args = args![logits, losses, correct, targets, target_weights, v, v_padded, scale];
    let cap = logit_cap.map(|cap| args![cap]);
    board.launch(&Launch {
        kernel: &symbol(&format!("{}_{pass}", rows.stem()), logits.elem()),
        grid: [n as u32, 1, 1],
        block: [512, 1, 1],
        shared_bytes: shared_bytes as u32,
        args: &args.into_iter().chain(cap.into_iter().flatten()).collect::<Vec<_>>(),
    })
}
