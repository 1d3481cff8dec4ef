//! Which part of the flat buffers is which parameter.

use std::ops::Range;

use crate::engine::layout::Layout;

/// The places of all parameters.
pub(super) struct Parameters {
    pub(super) token_table: Range<usize>,
    pub(super) position_table: Range<usize>,
    pub(super) blocks: Vec<Block>,
    pub(super) final_norm: Affine,
    /// Of the output head; the token table's if they are one.
    pub(super) head: Range<usize>,
}

/// The places of a block's parameters.
pub(super) struct Block {
    pub(super) attention_norm: Affine,
    pub(super) attention_in: Affine,
    pub(super) attention_out: Affine,
    pub(super) mlp_norm: Affine,
    pub(super) mlp_in: Affine,
    pub(super) mlp_out: Affine,
    /// Where its norms and biases lie, which are neighbours.
    pub(super) vectors: Range<usize>,
}

/// The places of a weight and its bias.
pub(super) struct Affine {
    pub(super) weight: Range<usize>,
    pub(super) bias: Option<Range<usize>>,
}

impl Parameters {
    /// Finds them by name.
    pub(super) fn find(layout: &Layout, n_layers: usize) -> Self {
        let token_table = find(layout, "transformer.wte.weight");
        Self {
            position_table: find(layout, "transformer.wpe.weight"),
            blocks: (0..n_layers).map(|layer_idx| Block::find(layout, layer_idx)).collect(),
            final_norm: Affine::find(layout, "transformer.ln_f"),
            head: layout.find("lm_head.weight").unwrap_or_else(|| token_table.clone()),
            token_table,
        }
    }

    /// Numbers in the largest group of norms and biases whose gradients are summed together.
    pub(super) fn most_vectors(&self) -> usize {
        let blocks = self.blocks.iter().map(|block| block.vectors.len());
        blocks.chain([self.final_norm.vectors().len()]).max().unwrap_or(0)
    }
}

impl Block {
    fn find(layout: &Layout, layer_idx: usize) -> Self {
        let affine = |part: &str| Affine::find(layout, &format!("transformer.h.{layer_idx}.{part}"));
        let mut block = Self {
            attention_norm: affine("ln_1"),
            attention_in: affine("attn.c_attn"),
            attention_out: affine("attn.c_proj"),
            mlp_norm: affine("ln_2"),
            mlp_in: affine("mlp.c_fc"),
            mlp_out: affine("mlp.c_proj"),
            vectors: 0..0,
        };
        let linears = [&block.attention_in, &block.attention_out, &block.mlp_in, &block.mlp_out];
        let norms = [block.attention_norm.vectors(), block.mlp_norm.vectors()];
        let vectors = linears.into_iter().filter_map(|linear| linear.bias.clone()).chain(norms);
        let (start, end, len) = vectors.fold((usize::MAX, 0, 0), |(start, end, len), range| {
            (start.min(range.start), end.max(range.end), len + range.len())
        });
        assert_eq!(end - start, len, "a block's norms and biases are neighbours");
        block.vectors = start..end;
        block
    }
}

impl Affine {
    fn find(layout: &Layout, name: &str) -> Self {
        let weight = find(layout, &format!("{name}.weight"));
        Self { weight, bias: layout.find(&format!("{name}.bias")) }
    }

    /// A norm's weight and bias together.
    pub(super) fn vectors(&self) -> Range<usize> {
        self.weight.start..self.bias.as_ref().map_or(self.weight.end, |bias| bias.end)
    }

    /// The values in a buffer.
    pub(super) fn of<'a>(&self, buffer: &'a [f32]) -> (&'a [f32], Option<&'a [f32]>) {
        (&buffer[self.weight.clone()], self.bias.clone().map(|bias| &buffer[bias]))
    }
}

fn find(layout: &Layout, name: &str) -> Range<usize> {
    layout.find(name).unwrap_or_else(|| panic!("a GPT-2 has a parameter {name}"))
}
