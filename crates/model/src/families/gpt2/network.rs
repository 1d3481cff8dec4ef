//! GPT-2 as an engine sees it.

use wattle_ops::attention::Kind;

use super::{POSITION_TABLE, TOKEN_TABLE};
use crate::config::{ModelConfig, NORM_EPS};
use crate::engine::layout::Layout;
use crate::engine::network::{Block, Linear, MlpKind, Network, Norm, NormKind, NormPlace, Positions, Sizes};
use crate::families::{HEAD, NamedShapes};

/// Every parameter of a GPT-2 of `config`, in the order in which it makes them.
pub(super) fn parameter_shapes(config: &ModelConfig) -> NamedShapes {
    let mut shapes = shapes_with_biases(config);
    shapes.retain(|(name, _)| !is_absent_bias(config, name));
    shapes
}

/// The biases that a model of `config` does not have.
pub(super) fn absent_biases(config: &ModelConfig) -> NamedShapes {
    let mut shapes = shapes_with_biases(config);
    shapes.retain(|(name, _)| is_absent_bias(config, name));
    shapes
}

/// Whether a parameter is a bias that a model of `config` does not have.
pub(super) fn is_absent_bias(config: &ModelConfig, name: &str) -> bool {
    !config.bias && name.ends_with(".bias")
}

/// Its network, with the parameters where `layout` has them.
pub(super) fn network(config: &ModelConfig, vocab_size: usize, layout: &Layout) -> Network {
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
        norm_place: NormPlace::Before,
        mlp: MlpKind::Plain(config.activation.into()),
        logit_cap: None,
    };
    let token_table = find(layout, TOKEN_TABLE);
    Network {
        token_table,
        positions: Positions::Learned { table: find(layout, POSITION_TABLE) },
        blocks: (0..config.n_layers).map(|layer_idx| block(layout, layer_idx, &sizes)).collect(),
        final_norm: norm(layout, "transformer.ln_f", sizes.c),
        head: layout.find(HEAD).map_or(token_table, |range| range.start),
        drops: true,
        adapters: None,
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
        attention: Kind::Causal,
        attention_in: linear("attn.c_attn", c, sizes.qkv()),
        query_key_norms: None,
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

/// Every parameter of a GPT-2 of `config`, with biases whether it has them or not.
pub(super) fn shapes_with_biases(config: &ModelConfig) -> NamedShapes {
    let (c, ff) = (config.d_model, config.feed_forward_width());
    let parts = [
        ("ln_1", vec![c], c),
        ("attn.c_attn", vec![c, 3 * c], 3 * c),
        ("attn.c_proj", vec![c, c], c),
        ("ln_2", vec![c], c),
        ("mlp.c_fc", vec![c, ff], ff),
        ("mlp.c_proj", vec![ff, c], c),
    ];
    let affine = |name: String, weight: &[usize], bias: usize| {
        [(format!("{name}.weight"), weight.to_vec()), (format!("{name}.bias"), vec![bias])]
    };
    let mut shapes = vec![
        (TOKEN_TABLE.to_owned(), vec![config.vocab_size, c]),
        (POSITION_TABLE.to_owned(), vec![config.context, c]),
    ];
    for layer_idx in 0..config.n_layers {
        for (part, weight, bias) in &parts {
            shapes.extend(affine(format!("transformer.h.{layer_idx}.{part}"), weight, *bias));
        }
    }
    shapes.extend(affine("transformer.ln_f".to_owned(), &[c], c));
    if !config.tie_embeddings {
        shapes.push((HEAD.to_owned(), vec![config.vocab_size, c]));
    }
    shapes
}
