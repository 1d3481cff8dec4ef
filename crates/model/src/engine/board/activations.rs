//! The buffers of a forward and a backward pass.

use wattle_ops::attention::{Kind, board as attention};
use wattle_ops::board::{Board, DevicePtr, DeviceTensor, Elem, Ptr, Workspace};
use wattle_ops::decode::board as decode;
use wattle_ops::embedding::board as embedding;
use wattle_ops::head_norm::board as head_norm;
use wattle_ops::layer_norm::board as layer_norm;
use wattle_ops::linear::board as linear;
use wattle_ops::rms_norm::board as rms_norm;
use wattle_ops::rope::Rotary;

use super::DeviceEngineOptions;
use super::adapters::LowRank;
use super::cache::Cached;
use super::cutter::Cutter;
use super::error::EngineError;
use super::state::write_f32;
use crate::engine::Recompute;
use crate::engine::network::{Block, Network, Norm, NormKind, NormPlace, Positions, Sizes};

/// Most bytes of logits that exist at once.
const LOGITS_BYTES: usize = 1 << 30;
/// Fewest rows of logits at once.
const MIN_LOGITS_ROWS: usize = 64;

/// All buffers, with room for one micro-batch. Elements are of the engine's type, statistics are `f32`.
#[derive(Debug)]
pub(super) struct Activations {
    /// Each block's input, and the last one's output, (n, c).
    pub(super) x: Vec<DeviceTensor>,
    pub(super) norms: PerLayer<BlockNorms>,
    pub(super) kept: PerLayer<Kept>,
    pub(super) hidden: PerLayer<Hidden>,
    pub(super) final_norm: Normed,
    pub(super) gradients: Gradients,
    /// What is about to be added to the residual stream; gradients of what was normalized and of heads, (n, c).
    pub(super) branch: DeviceTensor,
    /// (rows, v), some rows at a time.
    pub(super) logits: DeviceTensor,
    pub(super) logits_rows: usize,
    /// For sums over rows in a fixed order, `f32`.
    pub(super) partials: Ptr<f32>,
    pub(super) partials_len: usize,
    pub(super) attention: Attention,
    /// Cosines and sines (t, d/2) `f32`, where positions are rotations.
    pub(super) rotary: Option<[Ptr<f32>; 2]>,
    /// Where weights are frozen.
    pub(super) low_rank: Option<LowRank>,
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttentionPlan {
    /// By the board's own kernels.
    Fused {
        /// What each pass needs.
        workspace_bytes: usize,
    },
    /// By products with a softmax between them.
    Products,
    /// Of each row against the keys of its text in a cache.
    Cached(decode::Shape),
}

/// Which passes activations have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passes {
    /// Forward and backward, with gradients and moments of the weights.
    Both,
    /// Forward alone: nothing is kept from one block to the next but the residual stream, and buffers that a backward
    /// pass would use have no length.
    Forward,
}

/// How attention is computed, and with which memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attention {
    Fused { workspace: Workspace },
    Products { scratch: DevicePtr },
    Cached(Cached),
}

/// Something of each layer, or one thing for all.
#[derive(Debug)]
pub(super) struct PerLayer<T>(Vec<T>);

/// The two norms of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockNorms {
    pub(super) attention: Normed,
    pub(super) mlp: Normed,
}

/// A normalization's result and statistics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normed {
    /// (n, c); empty where what a half adds is normalized, which goes straight to the residual stream.
    pub(super) out: DeviceTensor,
    /// (n), not used where rows are normalized to a root mean square.
    pub(super) mean: Ptr<f32>,
    /// (n)
    pub(super) rstd: Ptr<f32>,
}

/// What a block keeps from the projection to query, key and value on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) qkv: DeviceTensor,
    /// (b, h, t), `f32`
    pub(super) log_sum_exp: Ptr<f32>,
    /// Heads side by side.
    pub(super) attended: DeviceTensor,
    /// The residual stream between the block's halves, (n, c).
    pub(super) middle: DeviceTensor,
    pub(super) query_key: Option<QueryKey>,
    /// What each half adds to the residual stream before that is normalized, (n, c), where it is.
    pub(super) added: Option<Added>,
}

/// Queries and keys before they are normalized.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryKey {
    /// Queries, and keys beside them, in one row.
    pub(super) saved: DeviceTensor,
    /// One a norm of queries.
    pub(super) q_rstd: Ptr<f32>,
    /// One a norm of keys.
    pub(super) k_rstd: Ptr<f32>,
}

/// What the halves of a block add.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added {
    pub(super) attention: DeviceTensor,
    pub(super) mlp: DeviceTensor,
}

/// What lies at feed-forward width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hidden {
    /// Before the activation, without the bias, or with it where the product's epilogue made both: see `gelu`.
    pub(super) before: DeviceTensor,
    pub(super) after: DeviceTensor,
}

/// Gradients of activations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gradients {
    /// Of the residual stream.
    pub(super) x: DeviceTensor,
    pub(super) qkv: DeviceTensor,
    /// Of what a half adds to the residual stream, where elements are dropped from it or it is normalized; else that
    /// is `x`.
    pub(super) addend: DeviceTensor,
    pub(super) hidden: DeviceTensor,
    /// Of `Hidden::before`, where that is not in the place of `hidden`.
    pub(super) expanded: DeviceTensor,
}

impl Activations {
    /// Cuts them, and says how many bytes of them are kept for the backward pass.
    pub(super) fn cut(
        cutter: &mut Cutter,
        network: &Network,
        options: &DeviceEngineOptions,
        attention: AttentionPlan,
        passes: Passes,
    ) -> (Self, u64) {
        let (sizes, elem) = (&network.sizes, options.elem);
        let n = options.micro_batch * sizes.t;
        let start = cutter.len_bytes();
        let normed_width = match sizes.norm_place {
            NormPlace::Before => sizes.c,
            NormPlace::After => 0,
        };
        let layers = Layers::new(network.n_layers(), options.recompute);
        let n_streams = if passes == Passes::Both { network.n_layers() + 1 } else { 2 };
        let streams: Vec<_> = (0..n_streams).map(|_| cutter.take(n * sizes.c, elem)).collect();
        let x = (0..=network.n_layers()).map(|i| streams[i % n_streams]).collect();
        let norms = PerLayer::new(layers.n_norms, || BlockNorms {
            attention: Normed::cut(cutter, n, normed_width, elem),
            mlp: Normed::cut(cutter, n, normed_width, elem),
        });
        let kept = PerLayer::new(layers.n_blocks, || Kept::cut(cutter, n, network, elem));
        let hidden = PerLayer::new(layers.n_hidden, || Hidden {
            before: cutter.take(n * sizes.expanded(), elem),
            after: cutter.take(n * sizes.ff, elem),
        });
        let final_norm = Normed::cut(cutter, n, sizes.c, elem);
        let kept_bytes = cutter.len_bytes() - start;
        let (backward_n, partials_len) = match passes {
            Passes::Both => (n, partials_len(network, options)),
            Passes::Forward => (0, 0),
        };
        let (logits_rows, n_positions) = match attention {
            // Whoever decodes wants the logits of some rows, elsewhere.
            AttentionPlan::Cached(shape) => (0, shape.room),
            AttentionPlan::Fused { .. } | AttentionPlan::Products => (logits_rows(n, sizes, elem), sizes.t),
        };
        let activations = Self {
            x,
            norms,
            kept,
            hidden,
            final_norm,
            gradients: Gradients::cut(cutter, backward_n, sizes, options),
            branch: cutter.take(n * sizes.c.max(sizes.heads()), elem),
            logits: cutter.take(logits_rows * sizes.v_padded(), elem),
            logits_rows,
            partials: cutter.take_of(partials_len),
            partials_len,
            attention: match attention {
                AttentionPlan::Fused { workspace_bytes } => {
                    let at = cutter.take_bytes(workspace_bytes);
                    Attention::Fused { workspace: Workspace { at, bytes: workspace_bytes } }
                }
                AttentionPlan::Products => {
                    // Of any kind: all have as many scores.
                    let bytes = attention::scratch_bytes(&sizes.attention(1, elem, Kind::Causal));
                    Attention::Products { scratch: cutter.take_bytes(bytes) }
                }
                AttentionPlan::Cached(shape) => {
                    Attention::Cached(Cached::cut(cutter, shape, n, network, elem))
                }
            },
            rotary: match network.positions {
                Positions::Learned { .. } => None,
                Positions::Rotary { .. } => {
                    Some([(); 2].map(|()| cutter.take_of(n_positions * sizes.head_width / 2)))
                }
            },
            low_rank: network.adapters.as_ref().map(|adapters| LowRank::cut(cutter, adapters, n, elem)),
        };
        (activations, kept_bytes)
    }

    /// Puts a network's angles where positions are rotations.
    pub(super) fn write_angles(&self, board: &dyn Board, rotary: Option<&Rotary>) -> Result<(), EngineError> {
        if let (Some(rotary), Some([cos, sin])) = (rotary, self.rotary) {
            write_f32(board, cos, rotary.cos())?;
            write_f32(board, sin, rotary.sin())?;
        }
        Ok(())
    }
}

/// Rows whose logits exist at once: a power of two, or all.
fn logits_rows(n: usize, sizes: &Sizes, elem: Elem) -> usize {
    let rows = LOGITS_BYTES / (sizes.v_padded() * elem.bytes());
    let rows = 1 << rows.max(1).ilog2();
    rows.max(MIN_LOGITS_ROWS).min(n)
}

/// Floats that sums over rows want, those of a block together or those of the tables, of a whole micro-batch or the last, shorter one.
fn partials_len(network: &Network, options: &DeviceEngineOptions) -> usize {
    let sizes = &network.sizes;
    let &Sizes { t, c, norm, .. } = sizes;
    let of_block = |block: &Block, n: usize| {
        let linears = [&block.attention_in, &block.attention_out, &block.mlp_in, &block.mlp_out];
        let biased = linears.into_iter().filter(|linear| linear.bias.is_some());
        let biases: usize = biased.map(|linear| linear::scratch_len(n, linear.n_out)).sum();
        let norm = match norm {
            NormKind::Layer => layer_norm::bwd_scratch_len(n, c),
            NormKind::Rms => rms_norm::bwd_scratch_len(n, c),
        };
        let head_norm =
            |norm: &Norm, width: usize| head_norm::bwd_scratch_len(n, width / norm.width, norm.width);
        let query_key = block
            .query_key_norms
            .as_ref()
            .map_or(0, |norms| head_norm(&norms.q, sizes.heads()) + head_norm(&norms.k, sizes.kv()));
        biases + 2 * norm + query_key
    };
    let len = |b: usize| {
        let of_blocks = network.blocks.iter().map(|block| of_block(block, b * t));
        of_blocks.max().unwrap_or(0).max(embedding::bwd_scratch_len(b * t, c))
    };
    options.micro_batches().map(|sequences| len(sequences.len())).max().unwrap_or(0)
}

/// How many layers have activations of their own.
struct Layers {
    n_norms: usize,
    n_blocks: usize,
    n_hidden: usize,
}

impl Layers {
    fn new(n: usize, recompute: Recompute) -> Self {
        match recompute {
            Recompute::None => Self { n_norms: n, n_blocks: n, n_hidden: n },
            Recompute::Mlp => Self { n_norms: 1, n_blocks: n, n_hidden: 1 },
            Recompute::Block => Self { n_norms: 1, n_blocks: 1, n_hidden: 1 },
        }
    }
}

impl<T> PerLayer<T> {
    fn new(n: usize, make: impl FnMut() -> T) -> Self {
        Self(std::iter::repeat_with(make).take(n).collect())
    }

    pub(super) fn at(&self, layer_idx: usize) -> &T {
        &self.0[layer_idx.min(self.0.len() - 1)]
    }
}

impl Normed {
    fn cut(cutter: &mut Cutter, n: usize, c: usize, elem: Elem) -> Self {
        Self { out: cutter.take(n * c, elem), mean: cutter.take_of(n), rstd: cutter.take_of(n) }
    }

    pub(super) fn layer(&self) -> layer_norm::Normed {
        layer_norm::Normed { out: self.out, mean: self.mean, rstd: self.rstd }
    }

    pub(super) fn rms(&self) -> rms_norm::Normed {
        rms_norm::Normed { out: self.out, rstd: self.rstd }
    }
}

impl Kept {
    fn cut(cutter: &mut Cutter, n: usize, network: &Network, elem: Elem) -> Self {
        let sizes = &network.sizes;
        Self {
            qkv: cutter.take(n * sizes.qkv(), elem),
            log_sum_exp: cutter.take_of(n * sizes.n_heads),
            attended: cutter.take(n * sizes.heads(), elem),
            middle: cutter.take(n * sizes.c, elem),
            query_key: network.query_key_norms().map(|norms| QueryKey {
                saved: cutter.take(n * (sizes.heads() + sizes.kv()), elem),
                q_rstd: cutter.take_of(n * sizes.heads() / norms.q.width),
                k_rstd: cutter.take_of(n * sizes.kv() / norms.k.width),
            }),
            added: match sizes.norm_place {
                NormPlace::Before => None,
                NormPlace::After => Some(Added {
                    attention: cutter.take(n * sizes.c, elem),
                    mlp: cutter.take(n * sizes.c, elem),
                }),
            },
        }
    }
}

impl Gradients {
    fn cut(cutter: &mut Cutter, n: usize, sizes: &Sizes, options: &DeviceEngineOptions) -> Self {
        let elem = options.elem;
        let x = cutter.take(n * sizes.c, elem);
        let hidden = cutter.take(n * sizes.ff, elem);
        Self {
            x,
            qkv: cutter.take(n * sizes.qkv(), elem),
            addend: match sizes.norm_place {
                NormPlace::Before if options.dropout <= 0.0 => x,
                _ => cutter.take(n * sizes.c, elem),
            },
            hidden,
            expanded: if sizes.expanded() == sizes.ff {
                hidden
            } else {
                cutter.take(n * sizes.expanded(), elem)
            },
        }
    }
}
