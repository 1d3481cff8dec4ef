//! A Llama as an engine on a board sees it.

use wattle_ops::rope::Rotary;

use crate::config::ModelConfig;
use crate::engine::board::layout::BoardLayout;
use crate::engine::board::network::{Block, Linear, MlpKind, Network, Norm, NormKind, Sizes};
use crate::parameter::Parameter;

/// Projections that lie right behind the one before, and are one matrix with it.
const NEIGHBOURS: [&str; 3] = [".self_attn.k_proj.weight", ".self_attn.v_proj.weight", ".mlp.up_proj.weight"];

/// Where its parameters lie on a board.
pub(crate) fn layout(parameters: &[Parameter]) -> BoardLayout {
    let is_vocabulary = |name: &str| matches!(name, "model.embed_tokens.weight" | "lm_head.weight");
    BoardLayout::new(parameters, is_vocabulary, |name| NEIGHBOURS.iter().any(|end| name.ends_with(end)))
}

/// Its network, with the parameters where `layout` has them.
pub(crate) fn network(config: &ModelConfig, vocab_size: usize, layout: &BoardLayout) -> Network {
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
        mlp: MlpKind::Gated,
    };
    let token_table = find(layout, "model.embed_tokens");
    Network {
        token_table,
        position_table: None,
        rotary: Some(Rotary::new(config.rope_theta, config.head_width(), config.context, config.scaling())),
        blocks: (0..config.n_layers).map(|layer_idx| block(layout, layer_idx, &sizes)).collect(),
        final_norm: Norm { weight: find(layout, "model.norm"), bias: None },
        head: layout.find("lm_head.weight").unwrap_or(token_table),
        sizes,
    }
}

fn block(layout: &BoardLayout, layer_idx: usize, sizes: &Sizes) -> Block {
    let place = |part: &str| find(layout, &format!("model.layers.{layer_idx}.{part}"));
    let norm = |part: &str| Norm { weight: place(part), bias: None };
    let linear = |first: &str, n_in: usize, n_out: usize| Linear {
        weight: place(first),
        bias: None,
        n_in,
        n_out,
        output_first: true,
    };
    let &Sizes { c, ff, .. } = sizes;
    Block {
        attention_norm: norm("input_layernorm"),
        attention_in: linear("self_attn.q_proj", c, sizes.qkv()),
        attention_out: linear("self_attn.o_proj", sizes.heads(), c),
        mlp_norm: norm("post_attention_layernorm"),
        mlp_in: linear("mlp.gate_proj", c, sizes.expanded()),
        mlp_out: linear("mlp.down_proj", ff, c),
    }
}

fn find(layout: &BoardLayout, name: &str) -> usize {
    layout.find(&format!("{name}.weight")).unwrap_or_else(|| panic!("a Llama has a parameter {name}.weight"))
}
