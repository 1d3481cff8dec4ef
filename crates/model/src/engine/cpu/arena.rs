//! The buffers of a forward and a backward pass.

use wattle_ops::attention::cpu as attention;
use wattle_ops::classifier::cpu as classifier;

use super::per_layer::{Layers, PerLayer};
use super::rows::Rows;
use super::slices::Slices;
use crate::engine::{EngineOptions, MemoryPlan};

/// How much room an arena has. Widths are numbers a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArenaSizes {
    pub(super) n_layers: usize,
    pub(super) options: EngineOptions,
    pub(super) attention: attention::Shape,
    pub(super) classifier: classifier::Shape,
    /// Width of a norm's means: 1, or 0 where a norm takes none off.
    pub(super) mean: usize,
    /// Width of queries and keys before they are normalized, 0 where they are not.
    pub(super) query_key: usize,
    /// Norms of queries and keys in a row.
    pub(super) query_key_norms: usize,
    /// Width of what a half of a block adds before that is normalized, 0 where it is not.
    pub(super) added: usize,
    /// Width of what goes into the feed-forward activation.
    pub(super) before: usize,
    /// Width of what comes out of it.
    pub(super) after: usize,
    /// Width of the gradient of what goes into the activation, 0 where that takes the place of `after`'s.
    pub(super) grad_before: usize,
    /// Numbers in the largest group of norms and biases whose gradients are summed together.
    pub(super) most_vectors: usize,
    /// Width of the narrowest row that goes into or comes out of a product with a weight.
    pub(super) narrowest: usize,
    pub(super) n_threads: usize,
    /// Numbers a row that the adapters of a block take for a moment.
    pub(super) adapters: usize,
}

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
    /// Empty where a norm takes no mean off.
    pub(super) mean: T,
    pub(super) rstd: T,
}

/// What a block keeps from the projection to query, key and value on.
pub(super) struct Kept<T> {
    /// As attention reads them: turned by their positions, where they are.
    pub(super) qkv: T,
    pub(super) log_sum_exp: T,
    /// Heads side by side.
    pub(super) attended: T,
    /// The residual stream between the block's halves.
    pub(super) middle: T,
    /// Queries and keys before they are normalized; empty where they are not.
    pub(super) query_key: T,
    /// Of the norms of queries and keys.
    pub(super) query_key_rstd: T,
    /// What attention adds to the residual stream, before it is normalized; empty where it is not.
    pub(super) attention_added: T,
    /// The same of the feed-forward half.
    pub(super) mlp_added: T,
}

/// What lies at feed-forward width.
pub(super) struct Hidden<T> {
    /// Before the activation: without the bias, or gate and up side by side in a row.
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
    /// Of `Hidden::before`; empty where that takes the place of `after`'s.
    pub(super) before: T,
    /// Of `Hidden::after`.
    pub(super) after: T,
    /// Of what the feed-forward half adds to the residual stream.
    pub(super) mlp_out: T,
}

impl Arena {
    pub(super) fn new(sizes: &ArenaSizes) -> Self {
        let (b, t, c) = sizes.dims();
        let n_layers = sizes.n_layers;
        let rows = |width: usize| Rows::new(b, t * width);
        let normed = || Normed::from(sizes.normed().map(rows));
        let Layers { n_blocks, n_hidden } = Layers::new(n_layers, sizes.options.recompute);
        Self {
            x: (0..=n_layers).map(|_| rows(c)).collect(),
            attention_norm: normed(),
            mlp_norm: normed(),
            kept: PerLayer::new(n_blocks, || Kept::from(sizes.kept().map(rows))),
            hidden: PerLayer::new(n_hidden, || Hidden::from(sizes.hidden().map(rows))),
            final_norm: normed(),
            gradients: Gradients::from(sizes.gradients().map(rows)),
            branch: rows(sizes.branch()),
            partials: Rows::new(b, sizes.most_vectors),
            losses: rows(1),
            logits: vec![0.0; sizes.logits_len()],
            scratch: (0..sizes.n_slices()).map(|_| vec![0.0; sizes.scratch_len()]).collect(),
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

impl ArenaSizes {
    /// The activations and scratch that an arena would take.
    pub(super) fn plan(&self) -> MemoryPlan {
        let (b, t, c) = self.dims();
        let Layers { n_blocks, n_hidden } = Layers::new(self.n_layers, self.options.recompute);
        let sum = |widths: &[usize]| widths.iter().sum::<usize>();
        let blocks = n_blocks * sum(&self.kept()) + n_hidden * sum(&self.hidden());
        let kept = (self.n_layers + 1) * c + 3 * sum(&self.normed()) + blocks;
        let gradients = sum(&self.gradients()) + self.branch() + 1 + self.rounded() + self.adapters;
        let scratch = self.n_slices().saturating_mul(self.scratch_len());
        let others =
            (b * self.most_vectors + self.logits_len() + self.rounded_head()).saturating_add(scratch);
        // What is asked for may be absurd, and is to be refused by its size.
        let bytes = |rows: usize, width: usize, others: usize| {
            let floats = (b as u128) * (rows as u128) * (width as u128) + others as u128;
            u64::try_from(floats * size_of::<f32>() as u128).unwrap_or(u64::MAX)
        };
        MemoryPlan {
            activations: bytes(t, kept, 0),
            scratch: bytes(t, gradients, others),
            ..MemoryPlan::default()
        }
    }

    /// The slices of a micro-batch, whose sizes are looked at.
    pub(super) fn slices(&self, inputs: &[u32], targets: &[u32]) -> Slices {
        let (b, t, _) = self.dims();
        let n_sequences = inputs.len() / t;
        assert_eq!(
            (inputs.len(), targets.len()),
            (n_sequences * t, n_sequences * t),
            "sequences of {t} tokens"
        );
        assert!((1..=b).contains(&n_sequences), "{n_sequences} sequences for an engine of 1 to {b}");
        self.cut(n_sequences)
    }

    fn n_slices(&self) -> usize {
        let (b, _, _) = self.dims();
        self.cut(b).len()
    }

    /// In eight bits a tensor has one scale, so it is not cut.
    fn cut(&self, n_sequences: usize) -> Slices {
        match self.options.fp8 {
            Some(_) => Slices::whole(n_sequences),
            None => Slices::new(n_sequences, self.dims().1, self.narrowest, self.n_threads),
        }
    }

    /// Numbers a row of what is rounded to eight bits at once: a layer's argument and the gradient of its result.
    fn rounded(&self) -> usize {
        let attention::Shape { n_heads, n_kv_heads, head_width, .. } = self.attention;
        let (heads, qkv) = (n_heads * head_width, (n_heads + 2 * n_kv_heads) * head_width);
        let (_, _, c) = self.dims();
        let most = [qkv, heads, self.before, self.after].into_iter().max().unwrap_or(0);
        self.options.fp8.map_or(0, |_| c + most)
    }

    /// Numbers of what the output head rounds at once.
    fn rounded_head(&self) -> usize {
        let has_head = self.options.fp8.is_some_and(|fp8| fp8.head);
        let (b, t, c) = self.dims();
        let rows = (b * t).min(self.classifier.chunk_rows());
        if has_head { self.classifier.n_vocab * c + rows * (c + self.classifier.n_vocab) } else { 0 }
    }

    /// Sequences of a micro-batch, rows of each, and the width of the residual stream.
    fn dims(&self) -> (usize, usize, usize) {
        (self.options.micro_batch, self.attention.t, self.classifier.n_in)
    }

    /// Floats of logits that exist at once.
    fn logits_len(&self) -> usize {
        let (b, t, _) = self.dims();
        self.classifier.scratch_len(b * t)
    }

    /// Floats of scratch that attention, or the norms of one row of queries and keys, want for a slice.
    fn scratch_len(&self) -> usize {
        self.attention.fwd_scratch_len().max(self.attention.bwd_scratch_len()).max(self.query_key)
    }

    /// Of what is about to be added to the residual stream, or of the gradients of all heads.
    fn branch(&self) -> usize {
        let (_, _, c) = self.dims();
        c.max(self.heads())
    }

    /// Of all heads side by side.
    fn heads(&self) -> usize {
        self.attention.n_heads * self.attention.head_width
    }

    /// Of query, key and value side by side.
    fn qkv(&self) -> usize {
        let attention::Shape { n_heads, n_kv_heads, head_width, .. } = self.attention;
        (n_heads + 2 * n_kv_heads) * head_width
    }

    fn normed(&self) -> [usize; 3] {
        let (_, _, c) = self.dims();
        [c, self.mean, 1]
    }

    fn kept(&self) -> [usize; 8] {
        let (_, _, c) = self.dims();
        let Self { query_key, query_key_norms, added, .. } = *self;
        let (qkv, heads) = (self.qkv(), self.heads());
        [qkv, self.attention.n_heads, heads, c, query_key, query_key_norms, added, added]
    }

    fn hidden(&self) -> [usize; 2] {
        [self.before, self.after]
    }

    fn gradients(&self) -> [usize; 6] {
        let (_, _, c) = self.dims();
        [c, self.qkv(), c, self.grad_before, self.after, c]
    }
}

impl<T> From<[T; 3]> for Normed<T> {
    fn from([out, mean, rstd]: [T; 3]) -> Self {
        Self { out, mean, rstd }
    }
}

impl<T> From<[T; 8]> for Kept<T> {
    fn from(parts: [T; 8]) -> Self {
        let [qkv, log_sum_exp, attended, middle, query_key, query_key_rstd, attention_added, mlp_added] =
            parts;
        Self { qkv, log_sum_exp, attended, middle, query_key, query_key_rstd, attention_added, mlp_added }
    }
}

impl<T> From<[T; 2]> for Hidden<T> {
    fn from([before, after]: [T; 2]) -> Self {
        Self { before, after }
    }
}

impl<T> From<[T; 6]> for Gradients<T> {
    fn from([x, qkv, attention_out, before, after, mlp_out]: [T; 6]) -> Self {
        Self { x, qkv, attention_out, before, after, mlp_out }
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
    fn each(&self) -> [&T; 8] {
        let Self {
            qkv,
            log_sum_exp,
            attended,
            middle,
            query_key,
            query_key_rstd,
            attention_added,
            mlp_added,
        } = self;
        [qkv, log_sum_exp, attended, middle, query_key, query_key_rstd, attention_added, mlp_added]
    }

    pub(super) fn each_mut(&mut self) -> [&mut T; 8] {
        let Self {
            qkv,
            log_sum_exp,
            attended,
            middle,
            query_key,
            query_key_rstd,
            attention_added,
            mlp_added,
        } = self;
        [qkv, log_sum_exp, attended, middle, query_key, query_key_rstd, attention_added, mlp_added]
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
    fn each(&self) -> [&T; 6] {
        [&self.x, &self.qkv, &self.attention_out, &self.before, &self.after, &self.mlp_out]
    }

    pub(super) fn each_mut(&mut self) -> [&mut T; 6] {
        let Self { x, qkv, attention_out, before, after, mlp_out } = self;
        [x, qkv, attention_out, before, after, mlp_out]
    }
}
