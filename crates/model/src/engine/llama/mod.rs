//! The Llama family's engine: what [`Llama`](crate::Llama) does, written out.
//!
//! - `sizes`, `parameters`: what the operations are told
//! - `arena`: the buffers
//! - `forward`, `backward`: the passes
//! - `network`: what the engine on a board is told

mod arena;
mod backward;
mod forward;
pub(crate) mod network;
mod parameters;
mod sizes;

use candle_core::Result;
use rayon::prelude::*;
use wattle_ops::classifier::cpu::{self as classifier, Input};
use wattle_ops::embedding::cpu as embedding;
use wattle_ops::rope::Rotary;

use self::arena::Arena;
use self::backward::{BackwardSlice, FinalNormSlice, add_vector_gradients, add_weight_gradients};
use self::forward::{ForwardSlice, Network};
use self::parameters::Parameters;
use self::sizes::Sizes;
use super::flat_state::FlatState;
use super::slices::Slices;
use super::{Engine, EngineOptions, LossSum, MemoryPlan, head};
use crate::config::ModelConfig;
use crate::parameter::Parameter;
use crate::pass::TrainingPass;

/// Trains a Llama.
pub struct LlamaEngine {
    sizes: Sizes,
    parameters: Parameters,
    options: EngineOptions,
    /// Slices are made for so many.
    n_threads: usize,
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
        let n_threads = rayon::current_num_threads();
        let arena = Arena::new(&sizes, options, parameters.most_vectors(), n_threads);
        let rotary = Rotary::new(config.rope_theta, config.head_width(), config.context, config.scaling());
        Ok(Self { sizes, parameters, options, n_threads, state, arena, rotary })
    }

    /// Bytes of the buffers that there are.
    pub fn allocated_bytes(&self) -> u64 {
        self.state.bytes() + self.arena.bytes()
    }

    fn slices(&self, inputs: &[u32], targets: &[u32]) -> Slices {
        let t = self.sizes.t;
        let n_sequences = inputs.len() / t;
        assert_eq!(
            (inputs.len(), targets.len()),
            (n_sequences * t, n_sequences * t),
            "sequences of {t} tokens"
        );
        let most = self.options.micro_batch;
        assert!((1..=most).contains(&n_sequences), "{n_sequences} sequences for an engine of 1 to {most}");
        Slices::new(n_sequences, t, self.n_threads)
    }

    fn forward(&mut self, inputs: &[u32], slices: &Slices) {
        let (network, _, arena) = self.parts();
        let slices = ForwardSlice::cut(arena, slices);
        slices.into_par_iter().with_max_len(1).for_each(|slice| network.forward(slice, inputs));
    }

    /// Losses, the gradient of the output head, and that of the normalized rows in `branch`.
    fn classify(&mut self, targets: &[u32], scale: f32) -> LossSum {
        let shape = self.sizes.classifier();
        let n_sequences = targets.len() / self.sizes.t;
        let Arena { final_norm, branch, losses, logits, .. } = &mut self.arena;
        let head = self.parameters.head.clone();
        let input =
            Input { x: final_norm.out.of(n_sequences), weight: &self.state.weights[head.clone()], targets };
        let grad_x = &mut branch.values_mut()[..input.x.len()];
        let losses = &mut losses.values_mut()[..targets.len()];
        let grad_weight = &mut self.state.gradients[head];
        let n_correct = classifier::fwd_bwd_par(grad_x, grad_weight, losses, &input, scale, &shape, logits);
        LossSum { loss: head::sum(losses), n_correct }
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
        let recompute = self.options.recompute;
        let (network, gradients, arena) = self.parts();
        let block = &network.parameters.blocks[layer_idx];
        let slices = BackwardSlice::cut(arena, layer_idx, block, slices);
        slices
            .into_par_iter()
            .with_max_len(1)
            .for_each(|slice| network.backward(layer_idx, slice, recompute));
        add_weight_gradients(gradients, arena, layer_idx, block, network.sizes, n_sequences);
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
        let slices = self.slices(inputs, targets);
        // On one of rayon's threads, so that handing out work does not go through another.
        rayon::scope(|_| {
            self.forward(inputs, &slices);
            let sum = self.classify(targets, scale);
            self.backward(inputs, &slices);
            sum
        })
    }

    fn evaluate(&mut self, inputs: &[u32], targets: &[u32]) -> LossSum {
        let slices = self.slices(inputs, targets);
        rayon::scope(|_| {
            self.forward(inputs, &slices);
            let shape = self.sizes.classifier();
            let x = self.arena.final_norm.out.of(inputs.len() / self.sizes.t);
            let weight = &self.state.weights[self.parameters.head.clone()];
            let losses = &mut self.arena.losses.values_mut()[..targets.len()];
            head::evaluate(losses, &Input { x, weight, targets }, &shape, &mut self.arena.logits)
        })
    }

    fn memory(&self) -> MemoryPlan {
        let most_vectors = self.parameters.most_vectors();
        let arena = Arena::plan(&self.sizes, self.options, most_vectors, self.n_threads);
        let bytes = (self.state.layout().len() * size_of::<f32>()) as u64;
        MemoryPlan { weights: bytes, gradients: bytes, moments: 2 * bytes, ..arena }
    }
}
