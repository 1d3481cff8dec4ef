//! A Llama as an engine sees it.

use wattle_ops::attention::Kind;

use super::TOKEN_TABLE;
use crate::config::ModelConfig;
use crate::engine::layout::Layout;
use crate::engine::network::{Block, Linear, MlpKind, Network, Norm, NormKind, Positions, Sizes};
use crate::families::{HEAD, NamedShapes};

/// Projections that lie right behind the one before, and are one matrix with it.
pub(super) const CONTINUED: [&str; 3] =
    [".self_attn.k_proj.weight", ".self_attn.v_proj.weight", ".mlp.up_proj.weight"];

/// Every parameter of a Llama of `config`, in the order in which it makes them.
pub(super) fn parameter_shapes(config: &ModelConfig) -> NamedShapes {
    let (c, ff, kv) = (config.d_model, config.feed_forward_width(), config.kv_heads() * config.head_width());
    let parts = [
        ("input_layernorm", vec![c]),
        ("self_attn.q_proj", vec![c, c]),
        ("self_attn.k_proj", vec![kv, c]),
        ("self_attn.v_proj", vec![kv, c]),
        ("self_attn.o_proj", vec![c, c]),
        ("post_attention_layernorm", vec![c]),
        ("mlp.gate_proj", vec![ff, c]),
        ("mlp.up_proj", vec![ff, c]),
        ("mlp.down_proj", vec![c, ff]),
    ];
    let mut shapes = vec![(TOKEN_TABLE.to_owned(), vec![config.vocab_size, c])];
    for layer_idx in 0..config.n_layers {
        let named = |(part, shape): &(&str, Vec<usize>)| {
            (format!("model.layers.{layer_idx}.{part}.weight"), shape.clone())
        };
        shapes.extend(parts.iter().map(named));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![c]));
    if !config.tie_embeddings {
        shapes.push((HEAD.to_owned(), vec![config.vocab_size, c]));
    }
    shapes
}

/// Its network, with the parameters where `layout` has them.
pub(super) fn network(config: &ModelConfig, vocab_size: usize, layout: &Layout) -> Network {
    let sizes = Sizes {
        n_heads: config.n_heads,
        n_kv_heads: config.kv_heads(),
        head_width: config.head_width(),
        c: config.d_model,
        ff: config.feed_forward_width(),
        t: config.context,
        v: vocab_size,
        attention: Kind::Causal,
        norm_eps: config.norm_eps as f32,
        norm: NormKind::Rms,
        mlp: MlpKind::Gated,
    };
    let token_table = find(layout, "model.embed_tokens");
    Network {
        token_table,
        positions: Positions::Rotary { theta: config.rope_theta, scaling: config.scaling() },
        blocks: (0..config.n_layers).map(|layer_idx| block(layout, layer_idx, &sizes)).collect(),
        final_norm: Norm { weight: find(layout, "model.norm"), bias: None, width: sizes.c },
        head: layout.find(HEAD).map_or(token_table, |range| range.start),
        drops: false,
        sizes,
    }
}

fn block(layout: &Layout, layer_idx: usize, sizes: &Sizes) -> Block {
    let place = |part: &str| find(layout, &format!("model.layers.{layer_idx}.{part}"));
    let &Sizes { c, ff, .. } = sizes;
    let norm = |part: &str| Norm { weight: place(part), bias: None, width: c };
    let linear = |first: &str, n_in: usize, n_out: usize| Linear {
        weight: place(first),
        bias: None,
        n_in,
        n_out,
        output_first: true,
    };
    Block {
        attention_norm: norm("input_layernorm"),
        attention_in: linear("self_attn.q_proj", c, sizes.qkv()),
        attention_out: linear("self_attn.o_proj", sizes.heads(), c),
        mlp_norm: norm("post_attention_layernorm"),
        mlp_in: linear("mlp.gate_proj", c, sizes.expanded()),
        mlp_out: linear("mlp.down_proj", ff, c),
    }
}

fn find(layout: &Layout, name: &str) -> usize {
    let name = format!("{name}.weight");
    layout.find(&name).unwrap_or_else(|| panic!("a Llama has a parameter {name}")).start
}
