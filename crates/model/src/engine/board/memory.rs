//! All memory of an engine: one allocation, cut into buffers.

use wattle_ops::board::{DevicePtr, Elem};
use wattle_ops::muon::board as muon;

use super::DeviceEngineOptions;
use super::activations::{Activations, AttentionPlan, Passes};
use super::cutter::Cutter;
use super::fp8::Fp8;
use super::inputs::{N_SLOTS, Slot};
use super::results::Results;
use super::shards::{Shards, UpdatedBy};
use super::state::State;
use crate::engine::MemoryPlan;
use crate::engine::layout::Layout;
use crate::engine::network::Network;
use crate::moments::MatrixUpdate;

/// What all memory is cut into.
pub(super) struct Memory {
    pub(super) state: State,
    pub(super) fp8: Option<Fp8>,
    pub(super) slots: [Slot; N_SLOTS],
    /// For evaluations.
    pub(super) eval: Slot,
    pub(super) results: Results,
    pub(super) activations: Activations,
    /// For updates of matrices.
    pub(super) muon: Option<muon::Scratch>,
}

impl Memory {
    /// Cuts all memory from `base` on, and says how much that is of each kind.
    pub(super) fn cut(
        base: DevicePtr,
        network: &Network,
        layout: &Layout,
        shards: &Shards,
        options: &DeviceEngineOptions,
        attention: AttentionPlan,
        passes: Passes,
    ) -> (Self, MemoryPlan) {
        let mut cutter = Cutter::new(base);
        let t = network.sizes.t;
        let (mut state, of_a_step) = match passes {
            Passes::Both => (State::cut(&mut cutter, layout, shards, options), 1),
            Passes::Forward => (State::cut_weights(&mut cutter, layout.len(), options.elem), 0),
        };
        let frozen_len = network.adapters.as_ref().map(|adapters| adapters.frozen_len);
        state.frozen = frozen_len.map(|len| cutter.take(len, options.elem));
        let mut fp8 = Fp8::cut_weights(&mut cutter, network, options);
        let state_bytes = cutter.len_bytes();
        let slots =
            [(); N_SLOTS].map(|()| Slot::cut(&mut cutter, of_a_step * options.batch_size * t, options.masks));
        let eval = Slot::cut(&mut cutter, options.micro_batch * t, options.masks);
        let results = Results::cut(&mut cutter, options.batch_size * t, shards);
        let (activations, kept) = Activations::cut(&mut cutter, network, options, attention, passes);
        if let Some(fp8) = &mut fp8 {
            fp8.cut_scratch(&mut cutter, network, [options.micro_batch * t, activations.logits_rows]);
        }
        let muon = cut_muon(&mut cutter, layout, shards, options.elem);
        let floats = (of_a_step * layout.len() * Elem::F32.bytes()) as u64;
        let n_moments = shards.own_len() + shards.own_squares_len();
        let moments = options.moments.bytes((of_a_step * n_moments) as u64);
        let plan = MemoryPlan {
            weights: state_bytes - floats - moments,
            gradients: floats,
            moments,
            activations: kept,
            scratch: cutter.len_bytes() - state_bytes - kept,
        };
        (Self { state, fp8, slots, eval, results, activations, muon }, plan)
    }
}

/// Memory for the updates that Muon makes of this rank's matrices, whose products are of type `elem`.
fn cut_muon(cutter: &mut Cutter, layout: &Layout, shards: &Shards, elem: Elem) -> Option<muon::Scratch> {
    let lens = muon::ScratchLens::of(shards.own().filter_map(|shard| match shard.updated_by {
        UpdatedBy::Muon { shape } => Some(shape),
        UpdatedBy::AdamW { .. } => None,
    }));
    (layout.matrices() != MatrixUpdate::AdamW).then(|| muon::Scratch {
        direction: cutter.take_of(lens.matrix),
        partial: cutter.take_of(lens.partial),
        x: cutter.take(lens.matrix, elem),
        next: cutter.take(lens.matrix, elem),
        gram: cutter.take(lens.square, elem),
        polynomial: cutter.take(lens.square, elem),
    })
}
