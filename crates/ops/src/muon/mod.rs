//! One update of Muon: the momentum of a matrix, orthogonalized, with decoupled weight decay.
//!
//! ```text
//! m ← μ m + (1 − μ) g
//! u = μ m + (1 − μ) g with Nesterov's momentum, else m
//! X = u / max(‖u‖, ε), then as often as asked:  G = X Xᵀ,  X ← a X + (b G + c G²) X
//! p ← p (1 − η λ) − η · 0.2 √max(rows, columns) · X
//! ```
//!
//! The iteration (Newton and Schulz's, of degree 5, steep at zero) moves all singular values of X
//! near 1, so the update has the directions of the momentum and one length for all of them. `G` is of the smaller side:
//! a matrix with more rows than columns takes `Xᵀ X` and multiplies from the right, which is the same for its transpose.
//! The last factor gives an update the root mean square that AdamW's typically has, so that its learning rate and weight
//! decay carry over (PyTorch's `adjust_lr_fn="match_rms_adamw"`).
//!
//! [`muon_update`] is the reference, for one tensor; [`cpu`] makes the same update on slices, in `f32`, [`board`] on a GPU,
//! and [`Muon`] over candle's variables.
//!
//! # References
//! Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024; Liu et al., *Muon is Scalable for LLM
//! Training*, 2025, section 2.2, for the factor; `torch.optim.Muon` for names and defaults.

pub mod board;
pub mod cpu;
mod reference;
mod tensors;

pub use reference::muon_update;
pub use tensors::Muon;

/// a, b and c of the iteration.
pub const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// ε: a matrix whose norm is less is divided by it.
pub const EPS: f64 = 1e-7;

/// Root mean square of AdamW's updates, over that of a matrix with all singular values 1 and a longer side of 1.
const ADAMW_RMS: f64 = 0.2;

/// The numbers that all updates share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// μ
    pub momentum: f64,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Iterations.
    pub ns_steps: usize,
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Those of every update.
    pub hyperparameters: Hyperparameters,
    /// η, as for AdamW.
    pub learning_rate: f64,
    /// λ
    pub weight_decay: f64,
    /// Multiplies every gradient first: what clipping found.
    pub gradient_factor: f32,
}

impl Update {
    /// The update of matrices beside AdamW's of the other parameters.
    pub fn beside(adamw: &crate::adamw::Update, hyperparameters: Hyperparameters) -> Self {
        Self {
            hyperparameters,
            learning_rate: adamw.learning_rate,
            weight_decay: adamw.hyperparameters.weight_decay,
            gradient_factor: adamw.gradient_factor,
        }
    }

    fn decay(&self) -> f64 {
        1.0 - self.learning_rate * self.weight_decay
    }

    /// The learning rate of a matrix of this shape.
    fn adjusted_rate(&self, n_rows: usize, n_columns: usize) -> f64 {
        self.learning_rate * adjustment(n_rows, n_columns)
    }
}

/// What the learning rate is multiplied by for a matrix of this shape.
fn adjustment(n_rows: usize, n_columns: usize) -> f64 {
    ADAMW_RMS * (n_rows.max(n_columns) as f64).sqrt()
}
