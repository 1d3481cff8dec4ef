//! A Llama or a relative in differentiable tensor operations.
//!
//! Weights of linear layers are stored output first, as Hugging Face's files have them.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use wattle_ops::Activation;
use wattle_ops::attention::{Kind, scaled_dot_product_attention};
use wattle_ops::board::Board;
use wattle_ops::classifier::soft_cap;
use wattle_ops::linear::{linear, linear_transposed};
use wattle_ops::rms_norm::rms_norm;
use wattle_ops::rope::{Rotary, rope};
use wattle_ops::swiglu::swiglu;

use super::design::Design;
use super::network::{Start, parts};
use crate::config::ModelConfig;
use crate::engine::board::{
    BoardDecoder, BoardEvaluator, DecoderOptions, DeviceEngine, DeviceEngineOptions, EngineError,
    EvaluatorOptions,
};
use crate::engine::network::{MlpKind, NormPlace};
use crate::engine::{Engine, EngineOptions};
use crate::families;
use crate::kv_cache::KvCache;
use crate::language_model::LanguageModel;
use crate::parameter::{Parameter, ParameterBuilder};
use crate::pass::Pass;

/// Standard deviation of initial weights (`initializer_range` of Hugging Face's Llama).
const INIT_STD: f32 = 0.02;

/// A Llama, or a relative of that family: Qwen2, Qwen3, Mistral, OLMo 2, Wattle.
pub struct Llama {
    config: ModelConfig,
    vocab_size: usize,
    parameters: Vec<Parameter>,
    token_table: Var,
    blocks: Vec<Block>,
    final_norm: Var,
    head: Option<Var>,
}

struct Block {
    attention_norm: Var,
    q: Projection,
    k: Projection,
    v: Projection,
    attention_out: Projection,
    mlp_norm: Var,
    /// Absent where the activation has no gate.
    gate: Option<Projection>,
    up: Projection,
    down: Projection,
}

/// A linear layer, and a norm behind it where there is one.
struct Projection {
    weight: Var,
    bias: Option<Var>,
    norm: Option<Var>,
}

impl Llama {
    /// A model with initial values that are a function of `seed`: weights normal with standard deviation 0.02,
    /// that of the projections into the residual stream divided by √(2·layers), as for our GPT-2; norms 1.
    ///
    /// # Errors
    /// If the family is not a relative of Llama, or a tensor operation fails.
    pub fn new(config: &ModelConfig, vocab_size: usize, seed: u64, device: &Device) -> Result<Self> {
        Self::build(config, vocab_size, ParameterBuilder::new(seed, device))
    }

    /// A model whose parameters are all zero, for weights that are about to be read, or to know its sizes.
    ///
    /// # Errors
    /// If the family is not a relative of Llama, or a tensor operation fails.
    pub fn blank(config: &ModelConfig, vocab_size: usize, device: &Device) -> Result<Self> {
        Self::build(config, vocab_size, ParameterBuilder::blank(device))
    }

    pub(super) fn build(
        config: &ModelConfig,
        vocab_size: usize,
        mut builder: ParameterBuilder<'_>,
    ) -> Result<Self> {
        if config.family.spec().design.is_none() {
            bail!("model.family = \"{}\": neither Llama nor one of its relatives", config.family.name());
        }
        let c = config.d_model;
        let token_table = builder.normal("model.embed_tokens.weight", &[vocab_size, c], INIT_STD)?;
        let blocks = (0..config.n_layers)
            .map(|layer_idx| Block::new(&mut builder, config, layer_idx))
            .collect::<Result<_>>()?;
        let final_norm = builder.ones("model.norm.weight", &[c])?;
        let head = match config.tie_embeddings {
            true => None,
            false => Some(builder.normal("lm_head.weight", &[vocab_size, c], INIT_STD)?),
        };
        Ok(Self {
            config: config.clone(),
            vocab_size,
            token_table,
            blocks,
            final_norm,
            head,
            parameters: builder.finish(),
        })
    }

    /// The rows of the last block, normalized, for `tokens` (b, t), which stand behind those that are cached.
    fn forward(
        &self,
        tokens: &Tensor,
        mut cache: Option<&mut KvCache>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let first = cache.as_ref().map_or(0, |cache| cache.n_cached());
        let (b, t) = tokens.dims2()?;
        let vectors = pass.value(&self.token_table).index_select(&tokens.flatten_all()?, 0)?;
        let mut x = vectors.reshape((b, t, self.config.d_model))?.to_dtype(pass.dtype)?;
        pass.see(|| "model.embed_tokens output".to_owned(), &x)?;
        let view = View::of(&self.config, first, t, pass, tokens.device())?;
        for layer_idx in 0..self.blocks.len() {
            x = self.block(layer_idx, &x, &view, cache.as_deref_mut(), pass)?;
        }
        self.norm_rows(&x, &self.final_norm, pass)
    }

    fn block(
        &self,
        layer_idx: usize,
        x: &Tensor,
        view: &View,
        cache: Option<&mut KvCache>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer_idx];
        let attended = self.half(x, &block.attention_norm, pass, |x, pass| {
            self.attention(layer_idx, x, view, cache, pass)
        })?;
        let x = (x + attended)?;
        pass.see(|| format!("model.layers.{layer_idx}.self_attn output"), &x)?;
        let added = self.half(&x, &block.mlp_norm, pass, |x, pass| {
            let hidden = self.expand(x, block, pass)?;
            self.map_rows(&hidden, &block.down, pass)
        })?;
        let x = (&x + added)?;
        pass.see(|| format!("model.layers.{layer_idx}.mlp output"), &x)?;
        Ok(x)
    }

    /// The feed-forward half up to its second product.
    fn expand(&self, x: &Tensor, block: &Block, pass: &Pass<'_>) -> Result<Tensor> {
        match &block.gate {
            Some(gate) => swiglu(&self.map_rows(x, gate, pass)?, &self.map_rows(x, &block.up, pass)?),
            None => Activation::from(self.config.activation).apply(&self.map_rows(x, &block.up, pass)?),
        }
    }

    /// What one half of a block, `f`, adds to the residual stream `x`.
    fn half<'a>(
        &self,
        x: &Tensor,
        norm: &Var,
        pass: &mut Pass<'a>,
        f: impl FnOnce(&Tensor, &mut Pass<'a>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match Design::of(&self.config).norm_place {
            NormPlace::Before => f(&self.norm_rows(x, norm, pass)?, pass),
            NormPlace::After => self.norm_rows(&f(x, pass)?, norm, pass),
        }
    }

    fn attention(
        &self,
        layer_idx: usize,
        x: &Tensor,
        view: &View,
        cache: Option<&mut KvCache>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer_idx];
        let (b, t, _) = x.dims3()?;
        let d = self.config.head_width();
        let heads = |projection: &Projection| {
            self.map_rows(x, projection, pass)?.reshape((b, t, (), d))?.transpose(1, 2)
        };
        let q = rope(&heads(&block.q)?, &view.cos, &view.sin)?;
        let k = rope(&heads(&block.k)?, &view.cos, &view.sin)?;
        let v = heads(&block.v)?;
        let (k, v) = match cache {
            Some(cache) => cache.store(layer_idx, &k, &v)?,
            None => (k, v),
        };
        let group = self.config.n_heads / self.config.kv_heads();
        let (k, v) = (repeat_heads(&k, group)?, repeat_heads(&v, group)?);
        let mask = view.mask(self.config.attention_kind(layer_idx));
        let out_bhtd = scaled_dot_product_attention(&q, &k, &v, mask, None)?;
        self.map_rows(&out_bhtd.transpose(1, 2)?.reshape((b, t, ()))?, &block.attention_out, pass)
    }

    fn map_rows(&self, x: &Tensor, projection: &Projection, pass: &Pass<'_>) -> Result<Tensor> {
        let Projection { weight, bias, norm } = projection;
        let bias = bias.as_ref().map(|bias| pass.value(bias));
        let rows = linear(x, &pass.value(weight).t()?, bias.as_ref())?;
        let Some(norm) = norm else { return Ok(rows) };
        let (b, t, _) = rows.dims3()?;
        self.norm_rows(&rows.reshape((b, t, (), norm.dim(0)?))?, norm, pass)?.reshape((b, t, ()))
    }

    fn norm_rows(&self, x: &Tensor, weight: &Var, pass: &Pass<'_>) -> Result<Tensor> {
        rms_norm(x, &pass.value(weight), self.config.norm_eps)
    }

    /// Logits (b, t, v) in `f32` of rows (b, t, c).
    fn predict(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let head = pass.value(self.head.as_ref().unwrap_or(&self.token_table));
        let logits = linear_transposed(x, &head)?;
        let mut logits = logits.to_dtype(DType::F32)?;
        if self.config.logit_softcap > 0.0 {
            logits = soft_cap(&logits, self.config.logit_softcap)?;
        }
        pass.see(|| "logits".to_owned(), &logits)?;
        Ok(logits)
    }
}

/// What some positions look back on, and their angles. It is made for each pass at the length at hand: tables for
/// the whole context would take memory with its square.
struct View {
    /// One for each kind of attention that there is.
    masks: Vec<(Kind, Tensor)>,
    /// Cosines of each position's angles, (t, d/2); within documents (b, 1, t, d/2).
    cos: Tensor,
    /// Their sines.
    sin: Tensor,
}

impl View {
    /// Of `t` positions that follow `first` others.
    fn of(config: &ModelConfig, first: usize, t: usize, pass: &Pass<'_>, device: &Device) -> Result<Self> {
        let d = config.head_width();
        let rotary = Rotary::of(config.rope_theta, d, first..first + t, config.scaling());
        let positions = match pass.positions(t) {
            None => None,
            Some(positions) => Some(Tensor::new(positions, device)?),
        };
        let table = |values: &[f32]| {
            let table = Tensor::from_slice(values, (t, d / 2), device)?.to_dtype(pass.dtype)?;
            let Some(positions) = &positions else { return Ok(table) };
            table.index_select(positions, 0)?.reshape(((), 1, t, d / 2))
        };
        let mut masks = Vec::new();
        for kind in (0..config.n_layers).map(|layer_idx| config.attention_kind(layer_idx)) {
            if masks.iter().all(|(other, _)| *other != kind) {
                masks.push((kind, pass.attention_mask(kind, first, t, device)?));
            }
        }
        Ok(Self { masks, cos: table(rotary.cos())?, sin: table(rotary.sin())? })
    }

    fn mask(&self, kind: Kind) -> &Tensor {
        let of_kind = self.masks.iter().find(|(other, _)| *other == kind);
        &of_kind.expect("there is one for each kind").1
    }
}

impl LanguageModel for Llama {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn logits(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let x = self.forward(tokens, None, pass)?;
        self.predict(&x, pass)
    }

    fn decode_last(
        &self,
        tokens: &[u32],
        n_last: usize,
        cache: &mut KvCache,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let (shape, on) = (self.config.kv_shape(), (pass.dtype, self.token_table.device()));
        let forward = |new: &Tensor, cache: &mut KvCache| self.forward(new, Some(cache), pass);
        let x = cache.extend(tokens, &shape, on, n_last, forward)?;
        self.predict(&x, pass)?.squeeze(0)
    }

    fn engine(&self, options: EngineOptions) -> Result<Option<Box<dyn Engine>>> {
        families::cpu_engine(&self.config, self.vocab_size, &self.parameters, options)
    }

    fn device_engine(
        &self,
        board: Arc<dyn Board>,
        options: DeviceEngineOptions,
    ) -> std::result::Result<Option<Box<dyn DeviceEngine>>, EngineError> {
        families::board_engine(&self.config, self.vocab_size, &self.parameters, board, options)
    }

    fn refuse_what_cannot_fit(
        &self,
        board: &dyn Board,
        options: DeviceEngineOptions,
    ) -> std::result::Result<(), EngineError> {
        let Self { config, vocab_size, parameters, .. } = self;
        families::refuse_what_cannot_fit(config, *vocab_size, parameters, board, options)
    }

    fn decoder(
        &self,
        board: Arc<dyn Board>,
        options: DecoderOptions,
    ) -> std::result::Result<Option<BoardDecoder>, EngineError> {
        families::board_decoder(&self.config, self.vocab_size, &self.parameters, board, options)
    }

    fn evaluator(
        &self,
        board: Arc<dyn Board>,
        options: EvaluatorOptions,
    ) -> std::result::Result<Option<BoardEvaluator>, EngineError> {
        families::board_evaluator(&self.config, self.vocab_size, &self.parameters, board, options)
    }

    fn context(&self) -> usize {
        self.config.context
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn config_json(&self) -> serde_json::Value {
        (self.config.family.spec().hugging_face.config_json)(&self.config, self.vocab_size)
    }
}

impl Block {
    fn new(builder: &mut ParameterBuilder<'_>, config: &ModelConfig, layer_idx: usize) -> Result<Self> {
        let residual_std = INIT_STD / (2.0 * config.n_layers as f32).sqrt();
        let mut made = HashMap::new();
        for part in parts(config) {
            let name = format!("model.layers.{layer_idx}.{}", part.name);
            let var = match part.start {
                Start::Ones => builder.ones(&name, &part.dims)?,
                Start::Zeros => builder.zeros(&name, &part.dims)?,
                Start::Normal => builder.normal(&name, &part.dims, INIT_STD)?,
                Start::Residual => builder.normal(&name, &part.dims, residual_std)?,
            };
            made.insert(part.name, var);
        }
        let weight = |name: &str| made[&format!("{name}.weight")].clone();
        let has_gate = Design::of(config).mlp(config) == MlpKind::Gated;
        let projection = |name: &str| Projection {
            weight: weight(&format!("{name}_proj")),
            bias: made.get(&format!("{name}_proj.bias")).cloned(),
            norm: made.get(&format!("{name}_norm.weight")).cloned(),
        };
        let [attention_norm, mlp_norm] = Design::of(config).norm_names();
        Ok(Self {
            attention_norm: weight(attention_norm),
            q: projection("self_attn.q"),
            k: projection("self_attn.k"),
            v: projection("self_attn.v"),
            attention_out: projection("self_attn.o"),
            mlp_norm: weight(mlp_norm),
            gate: has_gate.then(|| projection("mlp.gate")),
            up: projection("mlp.up"),
            down: projection("mlp.down"),
        })
    }
}

/// Each head `group` times, side by side: (b, h, t, d) → (b, h·group, t, d).
fn repeat_heads(x: &Tensor, group: usize) -> Result<Tensor> {
    if group == 1 {
        return Ok(x.clone());
    }
    let (b, h, t, d) = x.dims4()?;
    x.unsqueeze(2)?.broadcast_as((b, h, group, t, d))?.reshape((b, h * group, t, d))
}
