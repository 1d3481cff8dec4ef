//! Explicit engines: forward and backward written out, over memory that is planned once.
//!
//! Engine tier 2, for a family's own layers in `f32` on a CPU. Weights, gradients and moments lie in flat
//! buffers; gradients are accumulated in place; activations lie in an arena that no step enlarges. Nothing here
//! calls candle within a step, so its threads do not stand in the way of rayon's.
//!
//! A batch is cut between sequences into slices, each of which goes through the network on one thread.
//! Gradients of weights are computed over the whole micro-batch by blocks of the weight, and sums over rows
//! sequence by sequence: results do not depend on the number of threads, nor on what is kept or computed again.
//!
//! - [`layout`]: where each parameter lies in a flat buffer
//! - [`flat_state`]: weights, gradients and moments, and the update
//! - [`memory`]: what an engine takes, before it takes it
//! - [`gpt2`], [`llama`]: the engines of the families
//! - [`board`]: the engine on a GPU, of all families

pub mod board;
pub mod flat_state;
pub mod gpt2;
pub mod layout;
pub mod llama;
pub mod memory;

mod arena;
mod backward_slice;
mod forward_slice;
mod head;
mod per_layer;
mod rows;
mod slices;

use serde::{Deserialize, Serialize};

use crate::pass::TrainingPass;

pub use flat_state::FlatState;
pub use layout::Layout;
pub use memory::MemoryPlan;

/// Trains one model by explicit forward and backward passes.
pub trait Engine: Send {
    /// Weights, gradients and moments.
    fn state(&self) -> &FlatState;

    /// Weights, gradients and moments, to be changed.
    fn state_mut(&mut self) -> &mut FlatState;

    /// Adds the gradients of `scale · Σ losses` of one micro-batch to those that are there.
    ///
    /// # Shapes
    /// `inputs`, `targets` (b·t), with at most as many sequences as the engine was made for.
    ///
    /// # Panics
    /// If there are more, or not whole ones, or a token is not in the vocabulary.
    fn accumulate_gradients(
        &mut self,
        inputs: &[u32],
        targets: &[u32],
        pass: TrainingPass,
        scale: f32,
    ) -> LossSum;

    /// The losses of some sequences, without dropout; the gradients stay as they are.
    ///
    /// # Shapes
    /// As for [`Engine::accumulate_gradients`].
    ///
    /// # Panics
    /// As for [`Engine::accumulate_gradients`].
    fn evaluate(&mut self, inputs: &[u32], targets: &[u32]) -> LossSum;

    /// What it takes of memory.
    fn memory(&self) -> MemoryPlan;

    /// Writes to all memory of the plan that lies in this process, so that it is there and not only promised:
    /// what the process has then is what training takes. Gradients are zero afterwards; nothing else changes.
    fn touch(&mut self);
}

/// What the predictions for some tokens were worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum of cross-entropies, in nats.
    pub loss: f64,
    /// Tokens that were the model's first choice.
    pub n_correct: usize,
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.n_correct += other.n_correct;
    }
}

/// How to build an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most sequences of one forward and backward pass.
    pub micro_batch: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
}

/// Which activations are not kept for the backward pass but computed again: memory for time. Results are the
/// same to the bit.
///
/// # References
/// Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, section 4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// All are kept, but for normalized rows, which are had again for next to nothing.
    #[default]
    None,
    /// Those of feed-forward width: more than half of the memory, for one of a block's matrix products more.
    Mlp,
    /// All within a block: its input is what is kept, and most of its forward pass is made twice.
    Block,
}
