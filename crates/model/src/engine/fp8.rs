//! Products in eight bits: which there are, and which sizes they take.

use wattle_ops::fp8::{self, MULTIPLE};

use super::network::{Block, Linear, Network};

/// Which products are of numbers of eight bits: those of the blocks, forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fp8Options {
    /// Those of the output head too.
    pub head: bool,
}

/// A size that products in eight bits do not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "precision.dtype = \"fp8\": {what} is {size}, and products in eight bits take multiples of {MULTIPLE}: change {remedy}, \
     or set precision.dtype = \"bf16\""
)]
pub struct Fp8SizeError {
    /// What has the size.
    pub what: &'static str,
    /// The size.
    pub size: usize,
    /// The keys that it follows from.
    pub remedy: &'static str,
}

impl Network {
    /// Refuses sizes that products in eight bits do not have.
    pub(crate) fn refuse_fp8_sizes(&self) -> Result<(), Fp8SizeError> {
        let sizes = &self.sizes;
        let widths = [
            ("the width of the model", sizes.c, "model.d_model"),
            ("the width of the feed-forward half", sizes.ff, "model.d_ff"),
            ("the width of all heads", sizes.heads(), "model.n_heads or model.head_width"),
            ("a sequence in tokens", sizes.t, "model.context"),
            ("the width of queries, keys and values", sizes.qkv(), "model.n_kv_heads or model.head_width"),
        ];
        match widths.into_iter().find(|(_, size, _)| !fp8::fits(&[*size])) {
            Some((what, size, remedy)) => Err(Fp8SizeError { what, size, remedy }),
            None => Ok(()),
        }
    }
}

impl Block {
    /// Its products with weights.
    pub(crate) fn linears(&self) -> [&Linear; 4] {
        [&self.attention_in, &self.attention_out, &self.mlp_in, &self.mlp_out]
    }
}
