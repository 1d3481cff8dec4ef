//! What a network consists of: its sizes, its kinds of layers, and where its parameters lie in a flat buffer.
//!
//! A family describes its network once; [`cpu`](super::cpu) and [`board`](super::board) execute the description.

use std::ops::Range;

use super::adapters::Adapters;
use wattle_ops::rope::{Rotary, Scaling};
use wattle_ops::{Activation, attention};

/// A decoder of blocks that are alike but for what attention sees, each attention and a feed-forward half behind a norm.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) sizes: Sizes,
    /// (v, c)
    pub(crate) token_table: usize,
    pub(crate) positions: Positions,
    pub(crate) blocks: Vec<Block>,
    pub(crate) final_norm: Norm,
    /// (v, c); the token table if they are one.
    pub(crate) head: usize,
    /// Whether training may drop elements: of the embedding, of attention's probabilities, and of what each half of
    /// a block adds.
    pub(crate) drops: bool,
    /// What is trained in place of the weights, which are frozen then.
    pub(crate) adapters: Option<Adapters>,
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
    pub(crate) norm_place: NormPlace,
    pub(crate) mlp: MlpKind,
    /// Largest magnitude of a logit, which `cap · tanh(logit / cap)` keeps it below; `None` for no bound.
    pub(crate) logit_cap: Option<f32>,
}

/// How a network knows positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Positions {
    /// A learnt vector for each is added to the embedding.
    Learned {
        /// Where the table (t, c) lies.
        table: usize,
    },
    /// Queries and keys are rotated.
    Rotary {
        /// Base of the frequencies.
        theta: f64,
        scaling: Scaling,
    },
}

/// How rows are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// To mean 0 and variance 1.
    Layer,
    /// To root mean square 1.
    Rms,
}

/// Where the norm of each half of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormPlace {
    /// Before the half, which reads normalized rows: `x + f(norm(x))`.
    Before,
    /// After the half, whose result is normalized: `x + norm(f(x))`.
    ///
    /// # References
    /// Liu et al., *Swin Transformer V2*, 2022, section 3.2.
    After,
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
    /// Which keys a query sees.
    pub(crate) attention: attention::Kind,
    /// To query, key and value, side by side.
    pub(crate) attention_in: Linear,
    /// Of queries and keys, before positions turn them.
    pub(crate) query_key_norms: Option<QueryKeyNorms>,
    pub(crate) attention_out: Linear,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp_in: Linear,
    pub(crate) mlp_out: Linear,
}

/// Where the norms of queries and keys lie. They normalize to root mean square 1, and their width says what: that of a
/// head, or of all heads of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryKeyNorms {
    pub(crate) q: Norm,
    pub(crate) k: Norm,
}

/// Where a norm's parameters lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
    /// Width of a row.
    pub(crate) width: usize,
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

    /// Width of all keys, or of all values, side by side.
    pub(crate) fn kv(&self) -> usize {
        self.n_kv_heads * self.head_width
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
}

impl Network {
    pub(crate) fn n_layers(&self) -> usize {
        self.blocks.len()
    }

    /// Which keys queries see: each kind once.
    pub(crate) fn attention_kinds(&self) -> Vec<attention::Kind> {
        let mut kinds = Vec::new();
        for block in &self.blocks {
            if !kinds.contains(&block.attention) {
                kinds.push(block.attention);
            }
        }
        kinds
    }

    /// The first block's norms of queries and keys, whose widths are those of all.
    pub(crate) fn query_key_norms(&self) -> Option<&QueryKeyNorms> {
        self.blocks.first()?.query_key_norms.as_ref()
    }

    /// Where the table of positions starts, if they are learnt.
    pub(crate) fn position_table(&self) -> Option<usize> {
        match self.positions {
            Positions::Learned { table } => Some(table),
            Positions::Rotary { .. } => None,
        }
    }

    /// The angles of all positions, if they are rotations.
    pub(crate) fn rotary(&self) -> Option<Rotary> {
        let Sizes { head_width, t, .. } = self.sizes;
        match self.positions {
            Positions::Learned { .. } => None,
            Positions::Rotary { theta, scaling } => Some(Rotary::new(theta, head_width, t, scaling)),
        }
    }
}

impl Block {
    /// Where its norms and biases lie.
    ///
    /// # Panics
    /// If they are not neighbours.
    pub(crate) fn vectors(&self) -> Range<usize> {
        let biases = self.linears().into_iter().filter_map(Linear::bias_range);
        let norms = [&self.attention_norm, &self.mlp_norm].into_iter();
        let query_key_norms = self.query_key_norms.iter().flat_map(|norms| [&norms.q, &norms.k]);
        let norms = norms.chain(query_key_norms).map(Norm::range);
        let (start, end, len) = biases.chain(norms).fold((usize::MAX, 0, 0), |(start, end, len), range| {
            (start.min(range.start), end.max(range.end), len + range.len())
        });
        assert_eq!(end - start, len, "a block's norms and biases are neighbours");
        start..end
    }
}

impl Norm {
    pub(crate) fn weight_range(&self) -> Range<usize> {
        self.weight..self.weight + self.width
    }

    pub(crate) fn bias_range(&self) -> Option<Range<usize>> {
        self.bias.map(|start| start..start + self.width)
    }

    /// Weight and bias together.
    ///
    /// # Panics
    /// If they are not neighbours.
    pub(crate) fn range(&self) -> Range<usize> {
        let weight = self.weight_range();
        let bias = self.bias_range().unwrap_or(weight.end..weight.end);
        assert_eq!(weight.end, bias.start, "a norm's weight and bias are neighbours");
        weight.start..bias.end
    }
}

impl Linear {
    pub(crate) fn weight_range(&self) -> Range<usize> {
        self.weight..self.weight + self.n_in * self.n_out
    }

    pub(crate) fn bias_range(&self) -> Option<Range<usize>> {
        self.bias.map(|start| start..start + self.n_out)
    }
}
