//! GPT-2 as an engine sees it.

use crate::config::{ModelConfig, NORM_EPS};
use crate::engine::layout::Layout;
use crate::engine::network::{Block, Linear, MlpKind, Network, Norm, NormKind, Positions, Sizes};
use crate::hugging_face::gpt2::{HEAD, POSITION_TABLE, TOKEN_TABLE, is_bias};

/// Tables with a row for each token.
pub(crate) const VOCABULARY: [&str; 2] = [TOKEN_TABLE, HEAD];

/// Every parameter of a GPT-2 of `config`, in the order in which it makes them.
pub(crate) fn parameter_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let mut shapes = crate::hugging_face::gpt2::parameter_shapes(config);
    shapes.retain(|(name, _)| config.bias || !is_bias(name));
    shapes
}

/// Its network, with the parameters where `layout` has them.
pub(crate) fn network(config: &ModelConfig, vocab_size: usize, layout: &Layout) -> Network {
    let sizes = Sizes {
        n_heads: config.n_heads,
        n_kv_heads: config.n_heads,
        head_width: config.head_width(),
        c: config.d_model,
        ff: config.feed_forward_width(),
        t: config.context,
        v: vocab_size,
        norm_eps: NORM_EPS as f32,
        norm: NormKind::Layer,
        mlp: MlpKind::Plain(config.activation.into()),
    };
    let token_table = find(layout, TOKEN_TABLE);
    Network {
        token_table,
        positions: Positions::Learned { table: find(layout, POSITION_TABLE) },
        blocks: (0..config.n_layers).map(|layer_idx| block(layout, layer_idx, &sizes)).collect(),
        final_norm: norm(layout, "transformer.ln_f", sizes.c),
        head: layout.find(HEAD).map_or(token_table, |range| range.start),
        drops: true,
        sizes,
    }
}

fn block(layout: &Layout, layer_idx: usize, sizes: &Sizes) -> Block {
    let name = |part: &str| format!("transformer.h.{layer_idx}.{part}");
    let linear = |part: &str, n_in: usize, n_out: usize| {
        let Norm { weight, bias, .. } = norm(layout, &name(part), n_out);
        Linear { weight, bias, n_in, n_out, output_first: false }
    };
    let &Sizes { c, ff, .. } = sizes;
    Block {
        attention_norm: norm(layout, &name("ln_1"), c),
        attention_in: linear("attn.c_attn", c, sizes.qkv()),
        attention_out: linear("attn.c_proj", sizes.heads(), c),
        mlp_norm: norm(layout, &name("ln_2"), c),
        mlp_in: linear("mlp.c_fc", c, sizes.expanded()),
        mlp_out: linear("mlp.c_proj", ff, c),
    }
}

/// A weight and its bias.
fn norm(layout: &Layout, name: &str, width: usize) -> Norm {
    let weight = find(layout, &format!("{name}.weight"));
    Norm { weight, bias: layout.find(&format!("{name}.bias")).map(|range| range.start), width }
}

fn find(layout: &Layout, name: &str) -> usize {
    layout.find(name).unwrap_or_else(|| panic!("a GPT-2 has a parameter {name}")).start
}
