//! Where the network drops elements.

use candle_core::DType;
use wattle_ops::Dropout;

use crate::engine::network::Network;
use crate::pass::{Pass, TrainingPass};

/// All places, in the order in which [`Pass`] counts them.
pub(super) struct Sites {
    /// Of training.
    pub(super) pass: Option<TrainingPass>,
    embedding: Option<Dropout>,
    blocks: Vec<BlockSites>,
}

/// Places of a block.
#[derive(Clone, Copy)]
pub(super) struct BlockSites {
    /// Attention's probabilities.
    pub(super) attention: Option<Dropout>,
    pub(super) attention_out: Option<Dropout>,
    pub(super) mlp_out: Option<Dropout>,
}

impl Sites {
    /// Those of a training pass.
    pub(super) fn training(pass: TrainingPass, network: &Network) -> Self {
        let sites = match network.drops {
            true => Self::of(Pass::training(DType::F32, pass), network.n_layers()),
            false => Self::evaluation(network),
        };
        Self { pass: Some(pass), ..sites }
    }

    /// None.
    pub(super) fn evaluation(network: &Network) -> Self {
        Self::of(Pass::evaluation(DType::F32), network.n_layers())
    }

    fn of(mut pass: Pass<'_>, n_layers: usize) -> Self {
        let embedding = pass.dropout_site();
        let block = |_| BlockSites {
            attention: pass.dropout_site(),
            attention_out: pass.dropout_site(),
            mlp_out: pass.dropout_site(),
        };
        Self { pass: None, embedding, blocks: (0..n_layers).map(block).collect() }
    }

    /// The dropout of embeddings, for rows that start with the micro-batch's sequence `first`.
    pub(super) fn embedding(&self, first: usize) -> Option<Dropout> {
        from(self.embedding, first)
    }

    /// The dropouts of a block, for rows that start with the micro-batch's sequence `first`.
    pub(super) fn block(&self, layer_idx: usize, first: usize) -> BlockSites {
        let BlockSites { attention, attention_out, mlp_out } = self.blocks[layer_idx];
        BlockSites {
            attention: from(attention, first),
            attention_out: from(attention_out, first),
            mlp_out: from(mlp_out, first),
        }
    }
}

fn from(site: Option<Dropout>, first: usize) -> Option<Dropout> {
    site.map(|dropout| Dropout { first_sequence: dropout.first_sequence + first, ..dropout })
}
