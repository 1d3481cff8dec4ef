//! A Llama or a relative as an engine sees it.

use wattle_ops::attention::Kind;

use super::TOKEN_TABLE;
use super::design::Design;
use crate::config::ModelConfig;
use crate::engine::layout::Layout;
use crate::engine::network::{
    Block, Linear, MlpKind, Network, Norm, NormKind, NormPlace, Positions, QueryKeyNorms, Sizes,
};
use crate::families::{HEAD, NamedShapes};

/// Projections and their biases that lie right behind the one before, and are one matrix or vector with it.
pub(crate) const CONTINUED: [&str; 5] = [
    ".self_attn.k_proj.weight",
    ".self_attn.v_proj.weight",
    ".self_attn.k_proj.bias",
    ".self_attn.v_proj.bias",
    ".mlp.up_proj.weight",
];

/// A parameter of a block.
pub(super) struct Part {
    /// What it is called within the block.
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) start: Start,
}

/// What a parameter starts from.
#[derive(Clone, Copy)]
pub(super) enum Start {
    Ones,
    Zeros,
    /// Normal numbers.
    Normal,
    /// Smaller ones: its result is added to the residual stream.
    Residual,
}

/// The parameters of a block, in the order in which they are made.
pub(super) fn parts(config: &ModelConfig) -> Vec<Part> {
    let design = Design::of(config);
    let (c, ff, d) = (config.d_model, config.feed_forward_width(), config.head_width());
    let heads = [("q", config.n_heads), ("k", config.kv_heads()), ("v", config.kv_heads())];
    let mut parts = Vec::new();
    let mut add = |name: &str, dims: &[usize], start| {
        parts.push(Part { name: name.to_owned(), dims: dims.to_vec(), start });
    };
    let norm = |add: &mut dyn FnMut(&str, &[usize], Start), name: &str| {
        add(&format!("{name}.weight"), &[c], Start::Ones);
    };
    let [attention_norm, mlp_norm] = design.norm_names();
    if design.norm_place == NormPlace::Before {
        norm(&mut add, attention_norm);
    }
    for (name, n_heads) in heads {
        add(&format!("self_attn.{name}_proj.weight"), &[n_heads * d, c], Start::Normal);
        if design.has_qkv_bias {
            add(&format!("self_attn.{name}_proj.bias"), &[n_heads * d], Start::Zeros);
        }
    }
    add("self_attn.o_proj.weight", &[c, config.n_heads * d], Start::Residual);
    for (name, n_heads) in &heads[..2] {
        if let Some(width) = design.query_key_norm.width(*n_heads, d) {
            add(&format!("self_attn.{name}_norm.weight"), &[width], Start::Ones);
        }
    }
    if design.norm_place == NormPlace::Before {
        norm(&mut add, mlp_norm);
    }
    if design.mlp(config) == MlpKind::Gated {
        add("mlp.gate_proj.weight", &[ff, c], Start::Normal);
    }
    add("mlp.up_proj.weight", &[ff, c], Start::Normal);
    add("mlp.down_proj.weight", &[c, ff], Start::Residual);
    if design.norm_place == NormPlace::After {
        norm(&mut add, attention_norm);
        norm(&mut add, mlp_norm);
    }
    parts
}

/// Every parameter of a model of `config`, in the order in which it makes them.
pub(crate) fn parameter_shapes(config: &ModelConfig) -> NamedShapes {
    let (c, parts) = (config.d_model, parts(config));
    let mut shapes = vec![(TOKEN_TABLE.to_owned(), vec![config.vocab_size, c])];
    for layer_idx in 0..config.n_layers {
        let named = |part: &Part| (format!("model.layers.{layer_idx}.{}", part.name), part.dims.clone());
        shapes.extend(parts.iter().map(named));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![c]));
    if !config.tie_embeddings {
        shapes.push((HEAD.to_owned(), vec![config.vocab_size, c]));
    }
    shapes
}

/// The network, with the parameters where `layout` has them.
pub(crate) fn network(config: &ModelConfig, vocab_size: usize, layout: &Layout) -> Network {
    let design = Design::of(config);
    let sizes = Sizes {
        n_heads: config.n_heads,
        n_kv_heads: config.kv_heads(),
        head_width: config.head_width(),
        c: config.d_model,
        ff: config.feed_forward_width(),
        t: config.context,
        v: vocab_size,
        norm_eps: config.norm_eps as f32,
        norm: NormKind::Rms,
        norm_place: design.norm_place,
        mlp: design.mlp(config),
        logit_cap: (config.logit_softcap > 0.0).then_some(config.logit_softcap as f32),
    };
    let token_table = find(layout, TOKEN_TABLE);
    Network {
        token_table,
        positions: Positions::Rotary { theta: config.rope_theta, scaling: config.scaling() },
        blocks: (0..config.n_layers)
            .map(|layer_idx| block(layout, (layer_idx, config.attention_kind(layer_idx)), &sizes, &design))
            .collect(),
        final_norm: Norm { weight: find(layout, "model.norm.weight"), bias: None, width: sizes.c },
        head: layout.find(HEAD).map_or(token_table, |range| range.start),
        drops: false,
        adapters: None,
        sizes,
    }
}

fn block(layout: &Layout, (layer_idx, attention): (usize, Kind), sizes: &Sizes, design: &Design) -> Block {
    let place = |part: &str| find(layout, &format!("model.layers.{layer_idx}.{part}"));
    let &Sizes { c, ff, n_heads, n_kv_heads, head_width, .. } = sizes;
    let norm = |part: &str, width| Norm { weight: place(&format!("{part}.weight")), bias: None, width };
    let linear = |first: &str, n_in: usize, n_out: usize| Linear {
        weight: place(&format!("{first}.weight")),
        bias: None,
        n_in,
        n_out,
        output_first: true,
    };
    let query_key_norms = || {
        let q = design.query_key_norm.width(n_heads, head_width)?;
        let k = design.query_key_norm.width(n_kv_heads, head_width)?;
        Some(QueryKeyNorms { q: norm("self_attn.q_norm", q), k: norm("self_attn.k_norm", k) })
    };
    let [attention_norm, mlp_norm] = design.norm_names();
    let first_of_mlp = match sizes.mlp {
        MlpKind::Gated => "mlp.gate_proj",
        MlpKind::Plain(_) => "mlp.up_proj",
    };
    Block {
        attention_norm: norm(attention_norm, c),
        attention,
        attention_in: Linear {
            bias: design.has_qkv_bias.then(|| place("self_attn.q_proj.bias")),
            ..linear("self_attn.q_proj", c, sizes.qkv())
        },
        query_key_norms: query_key_norms(),
        attention_out: linear("self_attn.o_proj", sizes.heads(), c),
        mlp_norm: norm(mlp_norm, c),
        mlp_in: linear(first_of_mlp, c, sizes.expanded()),
        mlp_out: linear("mlp.down_proj", ff, c),
    }
}

fn find(layout: &Layout, name: &str) -> usize {
    layout.find(name).unwrap_or_else(|| panic!("the model has a parameter {name}")).start
}
