//! The Llama family's engine: what [`Llama`](crate::Llama) does, written out.
//!
//! - `sizes`, `parameters`: what the operations are told
//! - `forward`, `backward`: the passes
//! - `network`: what the engine on a board is told

mod backward;
mod forward;
pub(crate) mod network;
mod parameters;
mod sizes;

use candle_core::Result;
use rayon::prelude::*;
use wattle_ops::embedding::cpu as embedding;
use wattle_ops::rope::Rotary;

use self::backward::weight_gradients;
use self::forward::Network;
use self::parameters::Parameters;
use self::sizes::Sizes;
use super::arena::{Arena, ArenaSizes};
use super::backward_slice::{BackwardSlice, FinalNormSlice, add_vector_gradients, add_weight_gradients};
use super::flat_state::FlatState;
use super::forward_slice::ForwardSlice;
use super::head::Head;
use super::slices::Slices;
use super::{Engine, EngineOptions, LossSum, MemoryPlan};
use crate::config::ModelConfig;
use crate::parameter::Parameter;
use crate::pass::TrainingPass;

/// What the arena of an engine for a Llama would take, for rayon's threads.
pub(crate) fn arena_plan(config: &ModelConfig, vocab_size: usize, options: EngineOptions) -> MemoryPlan {
    let sizes = Sizes::new(config, vocab_size);
    sizes.arena(options, sizes.most_vectors(), rayon::current_num_threads()).plan()
}

/// Trains a Llama.
pub struct LlamaEngine {
    sizes: Sizes,
    parameters: Parameters,
    arena_sizes: ArenaSizes,
    head: Head,
    state: FlatState,
    arena: Arena,
    rotary: Rotary,
}

impl LlamaEngine {
    /// An engine for the Llama with these `parameters`, of which it takes a copy, and for rayon's threads.
    ///
    /// # Errors
    /// If a tensor operation fails.
    ///
    /// # Panics
    /// If the parameters are not those of `config`.
    pub fn new(
        config: &ModelConfig,
        vocab_size: usize,
        parameters: &[Parameter],
        options: EngineOptions,
    ) -> Result<Self> {
        let sizes = Sizes::new(config, vocab_size);
        let state = FlatState::new(parameters)?;
        let parameters = Parameters::find(state.layout(), sizes.n_layers);
        let arena_sizes = sizes.arena(options, parameters.most_vectors(), rayon::current_num_threads());
        let arena = Arena::new(&arena_sizes);
        let head = Head { weight: parameters.head.clone(), shape: sizes.classifier() };
        let rotary = Rotary::new(config.rope_theta, config.head_width(), config.context, config.scaling());
        Ok(Self { sizes, parameters, arena_sizes, head, state, arena, rotary })
    }

    fn forward(&mut self, inputs: &[u32], slices: &Slices) {
        let (network, _, arena) = self.parts();
        let slices = ForwardSlice::cut(arena, slices);
        slices.into_par_iter().with_max_len(1).for_each(|slice| network.forward(slice, inputs));
    }

    fn backward(&mut self, inputs: &[u32], slices: &Slices) {
        self.final_norm_backward(inputs.len() / self.sizes.t, slices);
        for layer_idx in (0..self.sizes.n_layers).rev() {
            self.block_backward(layer_idx, inputs.len() / self.sizes.t, slices);
        }
        self.embedding_backward(inputs);
    }

    fn final_norm_backward(&mut self, n_sequences: usize, slices: &Slices) {
        let vectors = self.parameters.final_norm.clone();
        let (network, gradients, arena) = self.parts();
        let slices = FinalNormSlice::cut(arena, vectors.len(), slices);
        slices.into_par_iter().with_max_len(1).for_each(|slice| network.final_norm_backward(slice));
        add_vector_gradients(&mut gradients[vectors], arena, n_sequences);
    }

    fn block_backward(&mut self, layer_idx: usize, n_sequences: usize, slices: &Slices) {
        let recompute = self.arena_sizes.options.recompute;
        let (network, gradients, arena) = self.parts();
        let block = &network.parameters.blocks[layer_idx];
        let slices = BackwardSlice::cut(arena, layer_idx, &block.vectors, slices);
        slices
            .into_par_iter()
            .with_max_len(1)
            .for_each(|slice| network.backward(layer_idx, slice, recompute));
        let products = weight_gradients(arena, layer_idx, block, network.sizes);
        add_weight_gradients(gradients, products, n_sequences);
        add_vector_gradients(&mut gradients[block.vectors.clone()], arena, n_sequences);
    }

    fn embedding_backward(&mut self, inputs: &[u32]) {
        let Sizes { t, c, .. } = self.sizes;
        let tokens = &mut self.state.gradients[self.parameters.token_table.clone()];
        embedding::bwd_par(tokens, None, self.arena.gradients.x.of(inputs.len() / t), inputs, t, c);
    }

    /// What passes read, and the gradients and the arena that they write.
    fn parts(&mut self) -> (Network<'_>, &mut [f32], &mut Arena) {
        let Self { sizes, parameters, state, arena, rotary, .. } = self;
        let network = Network { sizes, parameters, weights: &state.weights, rotary };
        (network, &mut state.gradients, arena)
    }
}

impl Engine for LlamaEngine {
    fn state(&self) -> &FlatState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut FlatState {
        &mut self.state
    }

    fn accumulate_gradients(
        &mut self,
        inputs: &[u32],
        targets: &[u32],
        _pass: TrainingPass,
        scale: f32,
    ) -> LossSum {
        let slices = self.arena_sizes.slices(inputs, targets);
        // On one of rayon's threads, so that handing out work does not go through another.
        rayon::scope(|_| {
            self.forward(inputs, &slices);
            let sum = self.head.train(&mut self.arena, &mut self.state, targets, scale);
            self.backward(inputs, &slices);
            sum
        })
    }

    fn evaluate(&mut self, inputs: &[u32], targets: &[u32]) -> LossSum {
        let slices = self.arena_sizes.slices(inputs, targets);
        rayon::scope(|_| {
            self.forward(inputs, &slices);
            self.head.evaluate(&mut self.arena, &self.state, targets)
        })
    }

    fn memory(&self) -> MemoryPlan {
        let bytes = (self.state.layout().len() * size_of::<f32>()) as u64;
        MemoryPlan { weights: bytes, gradients: bytes, moments: 2 * bytes, ..self.arena_sizes.plan() }
    }

    fn allocated_bytes(&self) -> u64 {
        self.state.bytes() + self.arena.bytes()
    }

    fn touch(&mut self) {
        self.state.touch();
        self.arena.touch();
    }
}
