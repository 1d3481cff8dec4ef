//! Explicit engines: forward and backward written out, over memory that is planned once.
//!
//! - [`layout`]: where each parameter lies in a flat buffer
//! - `network`: what a family's network consists of
//! - `adapters`: low-rank adapters beside frozen weights
//! - [`cpu`]: executes a network in `f32` on a CPU
//! - [`board`]: executes a network on a GPU
//! - [`flat_state`]: weights, gradients and moments on a CPU, and the update
//! - `fp8`: which products are in eight bits
//! - `flat_tensors`: a flat buffer as the tensors of its layout
//! - `modules`: the matrices that can have adapters
//! - `moments`: the optimizer's moments, and their type
//! - `muon`: updates of matrices by Muon
//! - `owners`: which of several processes makes each of those
//! - [`snapshot`]: what training has learnt between two steps, in memory that training does not touch
//! - [`ranges`]: parts of a flat buffer
//! - [`split`]: which part of the flat buffers each of several processes keeps
//! - [`memory`]: what an engine takes, before it takes it

pub(crate) mod adapters;
pub mod board;
pub mod cpu;
pub mod flat_state;
mod flat_tensors;
mod fp8;
pub mod layout;
pub mod memory;
pub(crate) mod modules;
mod moments;
pub(crate) mod muon;
pub(crate) mod network;
mod owners;
pub mod ranges;
pub mod snapshot;
pub mod split;

use std::ops::Range;

use crate::moments::MatrixUpdate;
use crate::pass::TrainingPass;

pub use flat_state::FlatState;
pub use fp8::{Fp8Options, Fp8SizeError};
pub use layout::Layout;
pub use memory::MemoryPlan;
pub use moments::Moments;
pub use ranges::Ranges;
pub use snapshot::FlatSnapshot;
pub use split::{Part, Share, Split};

/// Trains one model by explicit forward and backward passes.
pub trait Engine: Send {
    /// Weights, gradients and moments.
    fn state(&self) -> &FlatState;

    /// Weights, gradients and moments, to be changed.
    fn state_mut(&mut self) -> &mut FlatState;

    /// Adds the gradients of `scale · Σ weighted losses` of one micro-batch to those that are there.
    ///
    /// # Shapes
    /// At most as many sequences as the engine was made for.
    ///
    /// # Panics
    /// If there are more, or not whole ones, or a token is not in the vocabulary.
    fn accumulate_gradients(&mut self, sequences: Sequences<'_>, pass: TrainingPass, scale: f32) -> LossSum;

    /// The losses of some sequences, without dropout; the gradients stay as they are.
    ///
    /// # Shapes
    /// As for [`Engine::accumulate_gradients`].
    ///
    /// # Panics
    /// As for [`Engine::accumulate_gradients`].
    fn evaluate(&mut self, sequences: Sequences<'_>) -> LossSum;

    /// What it takes of memory.
    fn memory(&self) -> MemoryPlan;

    /// Bytes of the buffers that there are.
    fn allocated_bytes(&self) -> u64;

    /// Writes to all memory of the plan that lies in this process, so that it is there and not only promised:
    /// what the process has then is what training takes. Gradients are zero afterwards; nothing else changes.
    fn touch(&mut self);
}

/// Sequences of the same length that go through a network together.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    /// Tokens, (b·t).
    pub inputs: &'a [u32],
    /// The tokens to predict, (b·t).
    pub targets: &'a [u32],
    /// How much each target counts, (b·t): finite and at least 0, where 0 leaves it out. Absent, each counts once.
    pub weights: Option<&'a [f32]>,
    /// For each token the position in its sequence at which its document starts, (b·t). No token sees one of another
    /// document. Absent, each sequence is one document.
    pub documents: Option<&'a [u32]>,
}

impl<'a> Sequences<'a> {
    /// Sequences of which every target counts once, and which are one document each.
    pub fn plain(inputs: &'a [u32], targets: &'a [u32]) -> Self {
        Self { inputs, targets, weights: None, documents: None }
    }

    /// Those that lie in `rows` of the tokens.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        Self {
            inputs: &self.inputs[rows.clone()],
            targets: &self.targets[rows.clone()],
            weights: self.weights.map(|weights| &weights[rows.clone()]),
            documents: self.documents.map(|documents| &documents[rows.clone()]),
        }
    }

    /// The sum of the targets' weights: what a sum of losses is divided by for their mean.
    pub fn weight(&self) -> f64 {
        match self.weights {
            Some(weights) => weights.iter().map(|&weight| f64::from(weight)).sum(),
            None => self.targets.len() as f64,
        }
    }

    /// Targets whose weight is above 0.
    pub fn n_counted(&self) -> usize {
        match self.weights {
            Some(weights) => weights.iter().filter(|weight| **weight > 0.0).count(),
            None => self.targets.len(),
        }
    }
}

/// What the predictions for some tokens were worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum of cross-entropies times the targets' weights, in nats.
    pub loss: f64,
    /// Targets that count and were the model's first choice.
    pub n_correct: usize,
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.n_correct += other.n_correct;
    }
}

/// How to build an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineOptions {
    /// Most sequences of one forward and backward pass.
    pub micro_batch: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Which products are made of numbers that were rounded to eight bits, as a board makes them.
    pub fp8: Option<Fp8Options>,
    /// In which type moments are kept.
    pub moments: Moments,
    /// How matrices of blocks are updated.
    pub matrices: MatrixUpdate,
    /// Of which part of the parameters this process keeps the moments and makes the update.
    pub share: Share,
}

wattle_settings::choices! {
    /// Which activations are not kept for the backward pass but computed again: memory for time. Results are the
    /// same to the bit.
    ///
    /// # References
    /// Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016, section 4.
    pub enum Recompute (default None) {
        /// All are kept, except normalized rows, which are cheap to recompute.
        None = "none",
        /// Those of feed-forward width: more than half of the memory, for one of a block's matrix products more.
        Mlp = "mlp",
        /// All within a block: its input is what is kept, and most of its forward pass is made twice.
        Block = "block",
    }
}
