//! GPT-2 as an engine on a board sees it.

use crate::config::{ModelConfig, NORM_EPS};
use crate::engine::board::layout::BoardLayout;
use crate::engine::board::network::{Block, Linear, MlpKind, Network, Norm, NormKind, Sizes};
use crate::parameter::Parameter;

/// Where its parameters lie on a board.
pub(crate) fn layout(parameters: &[Parameter]) -> BoardLayout {
    let is_vocabulary = |name: &str| matches!(name, "transformer.wte.weight" | "lm_head.weight");
    BoardLayout::new(parameters, is_vocabulary, |_| false)
}

/// Its network, with the parameters where `layout` has them.
pub(crate) fn network(config: &ModelConfig, vocab_size: usize, layout: &BoardLayout) -> Network {
    let sizes = Sizes {
        n_heads: config.n_heads,
        n_kv_heads: config.n_heads,
        head_width: config.d_model / config.n_heads,
        c: config.d_model,
        ff: config.feed_forward_width(),
        t: config.context,
        v: vocab_size,
        norm_eps: NORM_EPS as f32,
        norm: NormKind::Layer,
        mlp: MlpKind::Plain(config.activation.into()),
    };
    let token_table = find(layout, "transformer.wte.weight");
    Network {
        token_table,
        position_table: Some(find(layout, "transformer.wpe.weight")),
        blocks: (0..config.n_layers).map(|layer_idx| block(layout, layer_idx, &sizes)).collect(),
        final_norm: norm(layout, "transformer.ln_f"),
        rotary: None,
        head: layout.find("lm_head.weight").unwrap_or(token_table),
        sizes,
    }
}

fn block(layout: &BoardLayout, layer_idx: usize, sizes: &Sizes) -> Block {
    let name = |part: &str| format!("transformer.h.{layer_idx}.{part}");
    let linear = |part: &str, n_in: usize, n_out: usize| {
        let Norm { weight, bias } = norm(layout, &name(part));
        Linear { weight, bias, n_in, n_out, output_first: false }
    };
    let &Sizes { c, ff, .. } = sizes;
    Block {
        attention_norm: norm(layout, &name("ln_1")),
        attention_in: linear("attn.c_attn", c, sizes.qkv()),
        attention_out: linear("attn.c_proj", sizes.heads(), c),
        mlp_norm: norm(layout, &name("ln_2")),
        mlp_in: linear("mlp.c_fc", c, sizes.expanded()),
        mlp_out: linear("mlp.c_proj", ff, c),
    }
}

/// A weight and its bias.
fn norm(layout: &BoardLayout, name: &str) -> Norm {
    let weight = find(layout, &format!("{name}.weight"));
    Norm { weight, bias: layout.find(&format!("{name}.bias")) }
}

fn find(layout: &BoardLayout, name: &str) -> usize {
    layout.find(name).unwrap_or_else(|| panic!("a GPT-2 has a parameter {name}"))
}
