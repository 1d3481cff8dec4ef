//! Which part of the flat buffers is which parameter.

use std::ops::Range;

use crate::engine::layout::Layout;

/// The places of all parameters.
pub(super) struct Parameters {
    pub(super) token_table: Range<usize>,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Range<usize>,
    /// Of the output head; the token table's if they are one.
    pub(super) head: Range<usize>,
}

/// The places of a block's parameters. Weights are stored output first, so those that have the same input and are
/// neighbours in the buffer are one matrix, and their outputs lie side by side in a row.
pub(super) struct Block {
    pub(super) attention_norm: Range<usize>,
    /// Query, key and value.
    pub(super) attention_in: Range<usize>,
    pub(super) attention_out: Range<usize>,
    pub(super) mlp_norm: Range<usize>,
    /// Gate and up.
    pub(super) mlp_in: Range<usize>,
    pub(super) mlp_out: Range<usize>,
    /// Where its norms lie, which are neighbours.
    pub(super) vectors: Range<usize>,
}

impl Parameters {
    /// Finds them by name.
    pub(super) fn find(layout: &Layout, n_layers: usize) -> Self {
        let token_table = find(layout, "model.embed_tokens.weight");
        Self {
            blocks: (0..n_layers).map(|layer_idx| Block::find(layout, layer_idx)).collect(),
            final_norm: find(layout, "model.norm.weight"),
            head: layout.find("lm_head.weight").unwrap_or_else(|| token_table.clone()),
            token_table,
        }
    }

    /// Numbers in the largest group of norms whose gradients are summed together.
    pub(super) fn most_vectors(&self) -> usize {
        let blocks = self.blocks.iter().map(|block| block.vectors.len());
        blocks.chain([self.final_norm.len()]).max().unwrap_or(0)
    }
}

impl Block {
    fn find(layout: &Layout, layer_idx: usize) -> Self {
        let place = |part: &str| find(layout, &format!("model.layers.{layer_idx}.{part}.weight"));
        let (attention_norm, mlp_norm) = (place("input_layernorm"), place("post_attention_layernorm"));
        Self {
            attention_in: together(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(place)),
            attention_out: place("self_attn.o_proj"),
            mlp_in: together(["mlp.gate_proj", "mlp.up_proj"].map(place)),
            mlp_out: place("mlp.down_proj"),
            vectors: together([attention_norm.clone(), mlp_norm.clone()]),
            attention_norm,
            mlp_norm,
        }
    }
}

/// Neighbours as one.
fn together<const N: usize>(places: [Range<usize>; N]) -> Range<usize> {
    assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start), "{places:?} are neighbours");
    places[0].start..places[N - 1].end
}

fn find(layout: &Layout, name: &str) -> Range<usize> {
    layout.find(name).unwrap_or_else(|| panic!("a Llama has a parameter {name}"))
}
