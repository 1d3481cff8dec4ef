//! The GPT-2 family's engine: what [`Gpt2`](crate::Gpt2) does, written out.
//!
//! - `sizes`, `parameters`: what the operations are told
//! - `sites`: where elements are dropped
//! - `forward`, `backward`: the passes
//! - `network`: what the engine on a board is told

mod backward;
mod forward;
pub(crate) mod network;
mod parameters;
mod sites;
mod sizes;

use candle_core::Result;
use rayon::prelude::*;
use wattle_ops::dropout::cpu as dropout;
use wattle_ops::embedding::cpu as embedding;

use self::backward::weight_gradients;
use self::forward::Network;
use self::parameters::Parameters;
use self::sites::Sites;
use self::sizes::Sizes;
use super::arena::{Arena, ArenaSizes};
use super::backward_slice::{BackwardSlice, FinalNormSlice, add_vector_gradients, add_weight_gradients};
use super::flat_state::FlatState;
use super::forward_slice::ForwardSlice;
use super::head::Head;
use super::rows::cut_mut;
use super::slices::Slices;
use super::{Engine, EngineOptions, LossSum, MemoryPlan};
use crate::config::ModelConfig;
use crate::parameter::Parameter;
use crate::pass::TrainingPass;

/// What the arena of an engine for a GPT-2 would take, for rayon's threads.
pub(crate) fn arena_plan(config: &ModelConfig, vocab_size: usize, options: EngineOptions) -> MemoryPlan {
    let sizes = Sizes::new(config, vocab_size);
    sizes.arena(options, sizes.most_vectors(config.bias), rayon::current_num_threads()).plan()
}

/// Trains a GPT-2.
pub struct Gpt2Engine {
    sizes: Sizes,
    parameters: Parameters,
    arena_sizes: ArenaSizes,
    head: Head,
    state: FlatState,
    arena: Arena,
}

impl Gpt2Engine {
    /// An engine for the GPT-2 with these `parameters`, of which it takes a copy, and for rayon's threads.
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
        Ok(Self { sizes, parameters, arena_sizes, head, state, arena })
    }

    fn forward(&mut self, sites: &Sites, inputs: &[u32], slices: &Slices) {
        let (network, _, arena) = self.parts(sites);
        let slices = ForwardSlice::cut(arena, slices);
        slices.into_par_iter().with_max_len(1).for_each(|slice| network.forward(slice, inputs));
    }

    fn backward(&mut self, sites: &Sites, inputs: &[u32], slices: &Slices) {
        self.final_norm_backward(sites, inputs.len() / self.sizes.t, slices);
        for layer_idx in (0..self.sizes.n_layers).rev() {
            self.block_backward(sites, layer_idx, inputs.len() / self.sizes.t, slices);
        }
        self.embedding_backward(sites, inputs, slices);
    }

    fn final_norm_backward(&mut self, sites: &Sites, n_sequences: usize, slices: &Slices) {
        let vectors = self.parameters.final_norm.vectors();
        let (network, gradients, arena) = self.parts(sites);
        let slices = FinalNormSlice::cut(arena, vectors.len(), slices);
        slices.into_par_iter().with_max_len(1).for_each(|slice| network.final_norm_backward(slice));
        add_vector_gradients(&mut gradients[vectors], arena, n_sequences);
    }

    fn block_backward(&mut self, sites: &Sites, layer_idx: usize, n_sequences: usize, slices: &Slices) {
        let recompute = self.arena_sizes.options.recompute;
        let (network, gradients, arena) = self.parts(sites);
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

    fn embedding_backward(&mut self, sites: &Sites, inputs: &[u32], slices: &Slices) {
        let Sizes { t, c, .. } = self.sizes;
        let grad_x = &mut self.arena.gradients.x;
        let parts: Vec<_> = slices.ranges().zip(cut_mut([&mut *grad_x], slices)).collect();
        parts.into_par_iter().with_max_len(1).for_each(|(sequences, [grad])| {
            if let Some(site) = sites.embedding(sequences.start) {
                dropout::bwd(grad, t * c, &site);
            }
        });
        let Parameters { token_table, position_table, .. } = &self.parameters;
        let tables = [token_table.clone(), position_table.clone()];
        let [tokens, positions] =
            self.state.gradients.get_disjoint_mut(tables).expect("tables do not overlap");
        embedding::bwd_par(tokens, Some(positions), grad_x.of(inputs.len() / t), inputs, t, c);
    }

    /// What passes read, and the gradients and the arena that they write.
    fn parts<'a>(&'a mut self, sites: &'a Sites) -> (Network<'a>, &'a mut [f32], &'a mut Arena) {
        let Self { sizes, parameters, state, arena, .. } = self;
        let network = Network { sizes, parameters, weights: &state.weights, sites };
        (network, &mut state.gradients, arena)
    }
}

impl Engine for Gpt2Engine {
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
        pass: TrainingPass,
        scale: f32,
    ) -> LossSum {
        let slices = self.arena_sizes.slices(inputs, targets);
        let sites = Sites::training(pass, self.sizes.n_layers);
        // On one of rayon's threads, so that handing out work does not go through another.
        rayon::scope(|_| {
            self.forward(&sites, inputs, &slices);
            let sum = self.head.train(&mut self.arena, &mut self.state, targets, scale);
            self.backward(&sites, inputs, &slices);
            sum
        })
    }

    fn evaluate(&mut self, inputs: &[u32], targets: &[u32]) -> LossSum {
        let slices = self.arena_sizes.slices(inputs, targets);
        let sites = Sites::evaluation(self.sizes.n_layers);
        rayon::scope(|_| {
            self.forward(&sites, inputs, &slices);
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
