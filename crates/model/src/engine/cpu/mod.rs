//! The explicit engine on a CPU: any `Network`, in `f32`.
//!
//! Weights, gradients and moments lie in flat buffers; gradients are accumulated in place; activations lie in an
//! arena that no step enlarges. Nothing here calls candle within a step, so its threads do not compete with rayon's.
//!
//! A batch is cut between sequences into slices, each of which goes through the network on one thread.
//! Gradients of weights are computed over the whole micro-batch by blocks of the weight, and sums over rows
//! sequence by sequence: results depend neither on the number of threads nor on what is kept or computed again.
//!
//! - `shapes`: the network's sizes as the operations take them
//! - `sites`: where elements are dropped
//! - `arena`, `rows`, `per_layer`: the buffers
//! - `slices`, `forward_slice`, `backward_slice`: what one thread works on
//! - `forward`, `backward`, `head`, `products`: the passes
//! - `adapters`: what adapters add to products where the weights are frozen

mod adapters;
mod arena;
mod backward;
mod backward_slice;
mod forward;
mod forward_slice;
mod head;
mod per_layer;
mod products;
mod rows;
mod shapes;
mod sites;
mod slices;

use std::ops::Range;

use candle_core::{Result, bail};
use rayon::prelude::*;
use wattle_ops::dropout::cpu as dropout;
use wattle_ops::embedding::cpu as embedding;
use wattle_ops::rope::Rotary;

use self::adapters::{AdapterPass, Passed};
use self::arena::{Arena, ArenaSizes};
use self::backward::weight_gradients;
use self::backward_slice::{BackwardSlice, FinalNormSlice, add_vector_gradients, add_weight_gradients};
use self::forward::Passes;
use self::forward_slice::ForwardSlice;
use self::head::Head;
use self::rows::cut_mut;
use self::sites::Sites;
use self::slices::Slices;
use super::adapters::LowRank;
use super::flat_state::FlatState;
use super::flat_tensors;
use super::layout::{Layout, Placement};
use super::network::{Block, Network, Sizes};
use super::{Engine, EngineOptions, GradientType, LossSum, MemoryPlan, Sequences};
use crate::config::ModelConfig;
use crate::parameter::Parameter;
use crate::pass::TrainingPass;

/// What the arena of an engine for a model of `config` would take, for rayon's threads.
pub(crate) fn arena_plan(config: &ModelConfig, vocab_size: usize, options: EngineOptions) -> MemoryPlan {
    // All blocks are alike, and there may be more of them than could be listed.
    let one_block = ModelConfig { n_layers: 1, ..config.clone() };
    let shapes = one_block.parameter_shapes(vocab_size);
    let layout = Layout::of_shapes(shapes, &Placement::FLAT);
    let network = one_block.network(vocab_size, &layout);
    network.arena_sizes(config.n_layers, options).plan()
}

/// The same of an engine that trains adapters with factors of `shapes`, among `n_blocks` blocks.
pub(crate) fn adapted_arena_plan(
    config: &ModelConfig,
    vocab_size: usize,
    options: EngineOptions,
    (factors, n_blocks): (Vec<(String, Vec<usize>)>, usize),
    dropout: f32,
) -> MemoryPlan {
    let blocks = ModelConfig { n_layers: n_blocks, ..config.clone() };
    let layout = Layout::of_shapes(blocks.parameter_shapes(vocab_size), &Placement::FLAT);
    let network = blocks.network(vocab_size, &layout);
    let own = Layout::of_shapes(factors, &Placement::FLAT);
    network.with_adapters(&layout, &own, 1.0, dropout).arena_sizes(config.n_layers, options).plan()
}

/// Trains a model of a family.
pub struct CpuEngine {
    network: Network,
    /// Where each block's norms and biases lie.
    vectors: Vec<Range<usize>>,
    rotary: Option<Rotary>,
    arena_sizes: ArenaSizes,
    head: Head,
    /// What is trained: the model's weights, or the factors of adapters.
    state: FlatState,
    /// The model's weights where adapters are trained in their place.
    frozen: Option<Vec<f32>>,
    /// The weights with those of products rounded to eight bits; empty where none are.
    rounded: Vec<f32>,
    arena: Arena,
}

impl CpuEngine {
    /// An engine for the model of `config` with these `parameters`, of which it takes a copy, and for rayon's
    /// threads.
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
        let state = FlatState::new(parameters, options.moments, options.matrices, options.share)?;
        let network = config.network(vocab_size, state.layout());
        if options.fp8.is_some() {
            network.refuse_fp8_sizes().map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        }
        let arena_sizes = network.arena_sizes(network.n_layers(), options);
        Ok(Self::of(network, arena_sizes, state, None))
    }

    /// An engine that trains adapters of the model of `config`, whose own `parameters` it takes a copy of and never changes.
    ///
    /// # Errors
    /// If a tensor operation fails, or products are to be in eight bits.
    ///
    /// # Panics
    /// As for [`CpuEngine::new`].
    pub(crate) fn adapted(
        config: &ModelConfig,
        vocab_size: usize,
        parameters: &[Parameter],
        low_rank: LowRank<'_>,
        options: EngineOptions,
    ) -> Result<Self> {
        if options.fp8.is_some() {
            bail!("adapters have no products in eight bits: set precision.dtype = \"f32\"");
        }
        let state = FlatState::new(low_rank.parameters, options.moments, options.matrices, options.share)?;
        let layout = Layout::new(parameters);
        let LowRank { scale, dropout, .. } = low_rank;
        let network = config.network(vocab_size, &layout);
        let network = network.with_adapters(&layout, state.layout(), scale, dropout);
        let arena_sizes = network.arena_sizes(network.n_layers(), options);
        Ok(Self::of(network, arena_sizes, state, Some(flat_tensors::take(&layout, parameters)?)))
    }

    fn of(network: Network, arena_sizes: ArenaSizes, state: FlatState, frozen: Option<Vec<f32>>) -> Self {
        let (Sizes { v, c, .. }, options) = (network.sizes, arena_sizes.options);
        Self {
            vectors: network.blocks.iter().map(Block::vectors).collect(),
            rotary: network.rotary(),
            head: Head {
                weight: network.head..network.head + v * c,
                shape: network.sizes.classifier_shape(),
                logit_cap: network.sizes.logit_cap,
                is_fp8: options.fp8.is_some_and(|fp8| fp8.head),
            },
            rounded: if options.fp8.is_some() { state.weights.clone() } else { Vec::new() },
            arena: Arena::new(&arena_sizes),
            network,
            arena_sizes,
            state,
            frozen,
        }
    }

    fn forward(&mut self, sites: &Sites, sequences: Sequences<'_>, slices: &Slices) {
        let (passes, _, arena) = self.parts(sites, sequences);
        let slices = ForwardSlice::cut(arena, slices);
        slices
            .into_par_iter()
            .with_max_len(1)
            .for_each(|slice| passes.from(slice.sequences.start).forward(slice));
    }

    fn backward(&mut self, sites: &Sites, sequences: Sequences<'_>, slices: &Slices) {
        self.final_norm_backward(sites, sequences, slices);
        for layer_idx in (0..self.network.n_layers()).rev() {
            self.block_backward(sites, layer_idx, sequences, slices);
        }
        if self.frozen.is_none() {
            self.embedding_backward(sites, sequences, slices);
        }
    }

    fn final_norm_backward(&mut self, sites: &Sites, sequences: Sequences<'_>, slices: &Slices) {
        let n_sequences = sequences.inputs.len() / self.network.sizes.t;
        let vectors = self.network.final_norm.range();
        let (passes, gradients, arena) = self.parts(sites, sequences);
        let slices = FinalNormSlice::cut(arena, vectors.len(), slices);
        slices.into_par_iter().with_max_len(1).for_each(|slice| passes.final_norm_backward(slice));
        if passes.adapters.is_none() {
            add_vector_gradients(&mut gradients[vectors], arena, n_sequences);
        }
    }

    fn block_backward(&mut self, sites: &Sites, layer_idx: usize, sequences: Sequences<'_>, slices: &Slices) {
        let n_sequences = sequences.inputs.len() / self.network.sizes.t;
        let recompute = self.arena_sizes.options.recompute;
        let vectors = self.vectors[layer_idx].clone();
        let (passes, gradients, arena) = self.parts(sites, sequences);
        let slices = BackwardSlice::cut(arena, layer_idx, &vectors, slices);
        slices
            .into_par_iter()
            .with_max_len(1)
            .for_each(|slice| passes.from(slice.first).backward(layer_idx, slice, recompute));
        let (Network { blocks, sizes, .. }, is_fp8) = (passes.network, passes.is_fp8);
        let products = weight_gradients(arena, layer_idx, &blocks[layer_idx], sizes);
        if let Some(adapters) = &passes.adapters {
            let passed = products.each_ref().map(|product| Passed {
                weight: product.place.start,
                grad_out: product.grad_out.of(n_sequences),
                x: product.x.of(n_sequences),
            });
            return adapters.add_gradients(gradients, &passed);
        }
        add_weight_gradients(gradients, products, n_sequences, is_fp8);
        add_vector_gradients(&mut gradients[vectors], arena, n_sequences);
    }

    fn embedding_backward(&mut self, sites: &Sites, sequences: Sequences<'_>, slices: &Slices) {
        let Sequences { inputs, documents, .. } = sequences;
        let Sizes { t, c, v, .. } = self.network.sizes;
        let grad_x = &mut self.arena.gradients.x;
        let parts: Vec<_> = slices.ranges().zip(cut_mut([&mut *grad_x], slices)).collect();
        parts.into_par_iter().with_max_len(1).for_each(|(part, [grad])| {
            if let Some(site) = sites.embedding(part.start) {
                dropout::bwd(grad, t * c, &site);
            }
        });
        let grad_x = grad_x.of(inputs.len() / t);
        let table = |start: usize, n_rows: usize| start..start + n_rows * c;
        let tokens = table(self.network.token_table, v);
        let gradients = &mut self.state.gradients;
        match self.network.position_table() {
            Some(start) => {
                let [tokens, positions] =
                    gradients.get_disjoint_mut([tokens, table(start, t)]).expect("tables do not overlap");
                embedding::bwd_par(tokens, Some(positions), grad_x, inputs, documents, t, c);
            }
            None => embedding::bwd_par(&mut gradients[tokens], None, grad_x, inputs, documents, t, c),
        }
    }

    /// The weights are anybody's to change between two passes.
    fn round_weights(&mut self) {
        if self.arena_sizes.options.fp8.is_some() {
            products::round_weights(&mut self.rounded, &self.state.weights, &self.network);
        }
    }

    /// What passes read, and the gradients and the arena that they write.
    fn parts<'a>(
        &'a mut self,
        sites: &'a Sites,
        sequences: Sequences<'a>,
    ) -> (Passes<'a>, &'a mut [f32], &'a mut Arena) {
        let Self { network, rotary, state, frozen, rounded, arena, arena_sizes, .. } = self;
        let is_fp8 = arena_sizes.options.fp8.is_some();
        let (weights, gradients): (&[f32], &mut [f32]) = (&state.weights, &mut state.gradients);
        let adapters = network.adapters.as_ref().map(|adapters| AdapterPass {
            adapters,
            factors: weights,
            training: sites.pass,
            t: network.sizes.t,
        });
        let weights = match frozen {
            Some(weights) => weights,
            None if is_fp8 => rounded,
            None => weights,
        };
        let rotary = rotary.as_ref();
        let passes = Passes { network, weights, is_fp8, sites, rotary, sequences, adapters, first: 0 };
        (passes, gradients, arena)
    }

    /// The weights of the network and, unless they are frozen, their gradients; and the arena and the head.
    fn head_parts(&mut self) -> (&Head, &mut Arena, &[f32], Option<&mut [f32]>) {
        let Self { head, arena, state, frozen, .. } = self;
        let FlatState { weights, gradients, .. } = state;
        match frozen {
            Some(weights) => (head, arena, weights, None),
            None => (head, arena, weights, Some(gradients)),
        }
    }
}

impl Engine for CpuEngine {
    fn state(&self) -> &FlatState {
        &self.state
    }

    fn state_mut(&mut self) -> &mut FlatState {
        &mut self.state
    }

    fn accumulate_gradients(&mut self, sequences: Sequences<'_>, pass: TrainingPass, scale: f32) -> LossSum {
        let slices = self.arena_sizes.slices(sequences.inputs, sequences.targets);
        let sites = Sites::training(pass, &self.network);
        self.round_weights();
        // On one of rayon's threads, so that handing out work does not go through another.
        rayon::scope(|_| {
            self.forward(&sites, sequences, &slices);
            let (head, arena, weights, gradients) = self.head_parts();
            let sum = head.train(arena, weights, gradients, sequences, scale);
            self.backward(&sites, sequences, &slices);
            if self.arena_sizes.options.gradients == GradientType::Bf16 {
                self.state.round_gradients(&pass);
            }
            sum
        })
    }

    fn evaluate(&mut self, sequences: Sequences<'_>) -> LossSum {
        let slices = self.arena_sizes.slices(sequences.inputs, sequences.targets);
        let sites = Sites::evaluation(&self.network);
        self.round_weights();
        rayon::scope(|_| {
            self.forward(&sites, sequences, &slices);
            let (head, arena, weights, _) = self.head_parts();
            head.evaluate(arena, weights, sequences)
        })
    }

    fn memory(&self) -> MemoryPlan {
        let bytes = (self.state.layout().len() * size_of::<f32>()) as u64;
        let frozen = self.frozen.as_ref().map_or(0, |weights| (weights.len() * size_of::<f32>()) as u64);
        let weights = frozen + if self.rounded.is_empty() { bytes } else { 2 * bytes };
        let moments = self.arena_sizes.options.moments.bytes(self.state.n_moments() as u64);
        let arena = self.arena_sizes.plan();
        let scratch = arena.scratch.saturating_add(self.state.muon_bytes());
        MemoryPlan { weights, gradients: bytes, moments, scratch, ..arena }
    }

    fn allocated_bytes(&self) -> u64 {
        let frozen = self.frozen.as_ref().map_or(0, Vec::capacity);
        let beside = ((self.rounded.capacity() + frozen) * size_of::<f32>()) as u64;
        self.state.bytes() + beside + self.arena.bytes()
    }

    fn touch(&mut self) {
        self.state.touch();
        self.arena.touch();
    }
}
