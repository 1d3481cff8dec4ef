//! The sizes of a network, and where its parameters lie.

use wattle_ops::Activation;
use wattle_ops::attention::{Kind, cuda as attention};
use wattle_ops::board::{AttentionShape, Elem};
use wattle_ops::rope::Rotary;

use super::layout::padded_vocabulary;

/// A decoder of equal blocks, each attention and a feed-forward half behind a norm.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) sizes: Sizes,
    /// (v, c)
    pub(crate) token_table: usize,
    /// (t, c), where positions are learnt.
    pub(crate) position_table: Option<usize>,
    /// Where positions are rotations, their angles.
    pub(crate) rotary: Option<Rotary>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Norm,
    /// (v, c); the token table if they are one.
    pub(crate) head: usize,
}

/// The sizes of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    pub(crate) n_heads: usize,
    /// Heads of keys and values.
    pub(crate) n_kv_heads: usize,
    pub(crate) head_width: usize,
    /// Width of the residual stream.
    pub(crate) c: usize,
    /// Width of the feed-forward block.
    pub(crate) ff: usize,
    /// Rows of a sequence.
    pub(crate) t: usize,
    /// Tokens.
    pub(crate) v: usize,
    pub(crate) norm_eps: f32,
    pub(crate) norm: NormKind,
    pub(crate) mlp: MlpKind,
}

/// How rows are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// To mean 0 and variance 1.
    Layer,
    /// To root mean square 1.
    Rms,
}

/// What stands between the two products of a feed-forward half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MlpKind {
    /// A nonlinearity.
    Plain(Activation),
    /// SwiGLU: gate and value side by side before it.
    Gated,
}

/// Where a block's parameters lie.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: Norm,
    /// To query, key and value, side by side.
    pub(crate) attention_in: Linear,
    pub(crate) attention_out: Linear,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp_in: Linear,
    pub(crate) mlp_out: Linear,
}

/// Where a norm's parameters lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

/// Where a linear layer's parameters lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
    pub(crate) n_in: usize,
    pub(crate) n_out: usize,
    /// Whether the weight is stored (out, in), else (in, out).
    pub(crate) output_first: bool,
}

impl Sizes {
    /// Width of query, key and value side by side.
    pub(crate) fn qkv(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_width
    }

    /// Width of all heads side by side.
    pub(crate) fn heads(&self) -> usize {
        self.n_heads * self.head_width
    }

    /// Width of the feed-forward block before what stands between its products.
    pub(crate) fn expanded(&self) -> usize {
        match self.mlp {
            MlpKind::Plain(_) => self.ff,
            MlpKind::Gated => 2 * self.ff,
        }
    }

    /// Rows of a table of the vocabulary on a board.
    pub(crate) fn v_padded(&self) -> usize {
        padded_vocabulary(self.v)
    }
}

impl Sizes {
    /// Of attention on a board, for `b` sequences.
    pub(super) fn attention(&self, b: usize, elem: Elem) -> attention::Shape {
        let &Self { t, n_heads, n_kv_heads, head_width: d, .. } = self;
        attention::Shape { b, t, n_heads, n_kv_heads, d, elem, kind: Kind::Causal }
    }

    /// Of the board's own attention, for `b` sequences.
    pub(super) fn fused_attention(&self, b: usize) -> AttentionShape {
        let &Self { t, n_heads, n_kv_heads, head_width, .. } = self;
        AttentionShape {
            batch: b,
            time: t,
            n_heads,
            n_kv_heads,
            head_width,
            qkv_row_stride: self.qkv(),
            out_row_stride: self.heads(),
            kind: Kind::Causal,
            has_documents: false,
        }
    }
}

impl Network {
    pub(crate) fn n_layers(&self) -> usize {
        self.blocks.len()
    }
}
