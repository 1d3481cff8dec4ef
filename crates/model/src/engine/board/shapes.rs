//! The sizes of a network as a board's operations take them.

use wattle_ops::attention::{Kind, board as attention};
use wattle_ops::board::{AttentionShape, Elem};

use crate::engine::layout::padded_vocabulary;
use crate::engine::network::{Linear, Network, Sizes};

impl Network {
    /// The output head with the rows that are added.
    pub(super) fn board_head(&self) -> Linear {
        let (n_in, n_out) = (self.sizes.c, self.sizes.v_padded());
        Linear { weight: self.head, bias: None, n_in, n_out, output_first: true }
    }
}

impl Sizes {
    /// Rows of a table of the vocabulary.
    pub(super) fn v_padded(&self) -> usize {
        padded_vocabulary(self.v)
    }

    /// Of attention, for `b` sequences.
    pub(super) fn attention(&self, b: usize, elem: Elem, kind: Kind) -> attention::Shape {
        let &Self { t, n_heads, n_kv_heads, head_width: d, .. } = self;
        attention::Shape { b, t, n_heads, n_kv_heads, d, elem, kind }
    }

    /// Of the board's own attention, for `b` sequences.
    pub(super) fn fused_attention(&self, b: usize, kind: Kind) -> AttentionShape {
        let &Self { t, n_heads, n_kv_heads, head_width, .. } = self;
        AttentionShape {
            batch: b,
            time: t,
            n_heads,
            n_kv_heads,
            head_width,
            qkv_row_stride: self.qkv(),
            out_row_stride: self.heads(),
            kind,
            has_documents: false,
        }
    }
}
