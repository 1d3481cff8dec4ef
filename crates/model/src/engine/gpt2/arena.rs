//! The buffers of a forward and a backward pass.

use super::sizes::Sizes;
use crate::engine::per_layer::{Layers, PerLayer};
use crate::engine::rows::Rows;
use crate::engine::slices::Slices;
use crate::engine::{EngineOptions, MemoryPlan};

/// All buffers, with room for one micro-batch.
pub(super) struct Arena {
    /// Each block's input, and the last one's output.
    pub(super) x: Vec<Rows>,
    /// Of the block at hand: normalizing again costs less than the memory.
    pub(super) attention_norm: Normed<Rows>,
    pub(super) mlp_norm: Normed<Rows>,
    pub(super) kept: PerLayer<Kept<Rows>>,
    pub(super) hidden: PerLayer<Hidden<Rows>>,
    pub(super) final_norm: Normed<Rows>,
    pub(super) gradients: Gradients<Rows>,
    /// What is about to be added to the residual stream; gradients of what was normalized and of heads.
    pub(super) branch: Rows,
    /// Gradients of norms and biases, one row a sequence.
    pub(super) partials: Rows,
    /// One a row.
    pub(super) losses: Rows,
    /// Of some rows.
    pub(super) logits: Vec<f32>,
    /// For attention, one a slice.
    pub(super) scratch: Vec<Vec<f32>>,
}

/// A normalization's result and statistics.
pub(super) struct Normed<T> {
    pub(super) out: T,
    pub(super) mean: T,
    pub(super) rstd: T,
}

/// What a block keeps from the projection to query, key and value on.
pub(super) struct Kept<T> {
    pub(super) qkv: T,
    pub(super) log_sum_exp: T,
    /// Heads side by side.
    pub(super) attended: T,
    /// The residual stream between the block's halves.
    pub(super) middle: T,
}

/// What lies at feed-forward width.
pub(super) struct Hidden<T> {
    /// Before the activation, without the bias.
    pub(super) before: T,
    pub(super) after: T,
}

/// Gradients of activations.
pub(super) struct Gradients<T> {
    /// Of the residual stream.
    pub(super) x: T,
    pub(super) qkv: T,
    /// Of what attention adds to the residual stream.
    pub(super) attention_out: T,
    pub(super) hidden: T,
    /// Of what the feed-forward half adds to the residual stream.
    pub(super) mlp_out: T,
}

impl Arena {
    pub(super) fn new(sizes: &Sizes, options: EngineOptions, most_vectors: usize, n_threads: usize) -> Self {
        let &Sizes { n_layers, c, t, .. } = sizes;
        let b = options.micro_batch;
        let rows = |width: usize| Rows::new(b, t * width);
        let normed = || Normed::from(Normed::widths(sizes).map(rows));
        let n_slices = Slices::new(b, t, n_threads).len();
        let Layers { n_blocks, n_hidden } = Layers::new(n_layers, options.recompute);
        Self {
            x: (0..=n_layers).map(|_| rows(c)).collect(),
            attention_norm: normed(),
            mlp_norm: normed(),
            kept: PerLayer::new(n_blocks, || Kept::from(Kept::widths(sizes).map(rows))),
            hidden: PerLayer::new(n_hidden, || Hidden::from([rows(sizes.ff), rows(sizes.ff)])),
            final_norm: normed(),
            gradients: Gradients::from(Gradients::widths(sizes).map(rows)),
            branch: rows(c),
            partials: Rows::new(b, most_vectors),
            losses: rows(1),
            logits: vec![0.0; sizes.classifier().scratch_len(b * t)],
            scratch: (0..n_slices).map(|_| vec![0.0; sizes.scratch_len()]).collect(),
        }
    }

    /// The activations and scratch that an arena would take.
    pub(super) fn plan(
        sizes: &Sizes,
        options: EngineOptions,
        most_vectors: usize,
        n_threads: usize,
    ) -> MemoryPlan {
        let &Sizes { n_layers, c, t, ff, .. } = sizes;
        let b = options.micro_batch;
        let Layers { n_blocks, n_hidden } = Layers::new(n_layers, options.recompute);
        let sum = |widths: &[usize]| widths.iter().sum::<usize>();
        let norms = 3 * sum(&Normed::widths(sizes));
        let kept = (n_layers + 1) * c + norms + n_blocks * sum(&Kept::widths(sizes)) + n_hidden * 2 * ff;
        let gradients = sum(&Gradients::widths(sizes)) + c + 1;
        let n_slices = Slices::new(b, t, n_threads).len();
        let others =
            b * most_vectors + sizes.classifier().scratch_len(b * t) + n_slices * sizes.scratch_len();
        let bytes = |floats: usize| (floats * size_of::<f32>()) as u64;
        MemoryPlan {
            activations: bytes(b * t * kept),
            scratch: bytes(b * t * gradients + others),
            ..MemoryPlan::default()
        }
    }

    /// Writes to all of it.
    pub(super) fn touch(&mut self) {
        self.x.iter_mut().for_each(Rows::touch);
        for norm in [&mut self.attention_norm, &mut self.mlp_norm, &mut self.final_norm] {
            norm.each_mut().into_iter().for_each(Rows::touch);
        }
        self.kept.iter_mut().for_each(|kept| kept.each_mut().into_iter().for_each(Rows::touch));
        self.hidden.iter_mut().for_each(|hidden| hidden.each_mut().into_iter().for_each(Rows::touch));
        self.gradients.each_mut().into_iter().for_each(Rows::touch);
        [&mut self.branch, &mut self.partials, &mut self.losses].into_iter().for_each(Rows::touch);
        self.logits.fill(0.0);
        self.scratch.iter_mut().for_each(|scratch| scratch.fill(0.0));
    }

    /// Bytes that were allocated.
    pub(super) fn bytes(&self) -> u64 {
        let x: u64 = self.x.iter().map(Rows::bytes).sum();
        let norms = [&self.attention_norm, &self.mlp_norm, &self.final_norm];
        let norms: u64 = norms.into_iter().flat_map(|norm| norm.each().map(Rows::bytes)).sum();
        let kept: u64 = self.kept.iter().flat_map(|kept| kept.each().map(Rows::bytes)).sum();
        let hidden: u64 = self.hidden.iter().flat_map(|hidden| hidden.each().map(Rows::bytes)).sum();
        let gradients: u64 = self.gradients.each().map(Rows::bytes).iter().sum();
        let others = [&self.branch, &self.partials, &self.losses].map(Rows::bytes).iter().sum::<u64>();
        let floats = self.logits.capacity() + self.scratch.iter().map(Vec::capacity).sum::<usize>();
        x + norms + kept + hidden + gradients + others + (floats * size_of::<f32>()) as u64
    }
}

impl Normed<()> {
    /// Numbers a row.
    pub(super) fn widths(sizes: &Sizes) -> [usize; 3] {
        [sizes.c, 1, 1]
    }
}

impl Kept<()> {
    /// Numbers a row.
    fn widths(sizes: &Sizes) -> [usize; 4] {
        let c = sizes.c;
        [3 * c, sizes.n_heads, c, c]
    }
}

impl Gradients<()> {
    /// Numbers a row.
    fn widths(sizes: &Sizes) -> [usize; 5] {
        let c = sizes.c;
        [c, 3 * c, c, sizes.ff, c]
    }
}

impl<T> From<[T; 3]> for Normed<T> {
    fn from([out, mean, rstd]: [T; 3]) -> Self {
        Self { out, mean, rstd }
    }
}

impl<T> From<[T; 4]> for Kept<T> {
    fn from([qkv, log_sum_exp, attended, middle]: [T; 4]) -> Self {
        Self { qkv, log_sum_exp, attended, middle }
    }
}

impl<T> From<[T; 2]> for Hidden<T> {
    fn from([before, after]: [T; 2]) -> Self {
        Self { before, after }
    }
}

impl<T> From<[T; 5]> for Gradients<T> {
    fn from([x, qkv, attention_out, hidden, mlp_out]: [T; 5]) -> Self {
        Self { x, qkv, attention_out, hidden, mlp_out }
    }
}

impl<T> Normed<T> {
    fn each(&self) -> [&T; 3] {
        [&self.out, &self.mean, &self.rstd]
    }

    pub(super) fn each_mut(&mut self) -> [&mut T; 3] {
        [&mut self.out, &mut self.mean, &mut self.rstd]
    }
}

impl<T> Kept<T> {
    fn each(&self) -> [&T; 4] {
        [&self.qkv, &self.log_sum_exp, &self.attended, &self.middle]
    }

    pub(super) fn each_mut(&mut self) -> [&mut T; 4] {
        [&mut self.qkv, &mut self.log_sum_exp, &mut self.attended, &mut self.middle]
    }
}

impl<T> Hidden<T> {
    fn each(&self) -> [&T; 2] {
        [&self.before, &self.after]
    }

    pub(super) fn each_mut(&mut self) -> [&mut T; 2] {
        [&mut self.before, &mut self.after]
    }
}

impl<T> Gradients<T> {
    fn each(&self) -> [&T; 5] {
        [&self.x, &self.qkv, &self.attention_out, &self.hidden, &self.mlp_out]
    }

    pub(super) fn each_mut(&mut self) -> [&mut T; 5] {
        [&mut self.x, &mut self.qkv, &mut self.attention_out, &mut self.hidden, &mut self.mlp_out]
    }
}
