//! A GPT-2 in differentiable tensor operations.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use wattle_ops::Activation;
use wattle_ops::attention::{Kind, scaled_dot_product_attention};
use wattle_ops::board::Board;
use wattle_ops::embedding::{embedding, embedding_at};
use wattle_ops::layer_norm::layer_norm;
use wattle_ops::linear::{linear, linear_transposed};

use super::hugging_face;
use crate::config::{ModelConfig, NORM_EPS};
use crate::engine::board::{
    BoardDecoder, BoardEvaluator, DecoderOptions, DeviceEngine, DeviceEngineOptions, EngineError,
    EvaluatorOptions,
};
use crate::engine::{Engine, EngineOptions};
use crate::families;
use crate::kv_cache::KvCache;
use crate::language_model::{LanguageModel, set_parameters};
use crate::parameter::{Parameter, ParameterBuilder};
use crate::pass::Pass;

/// Standard deviation of initial weights (GPT-2's published code).
const INIT_STD: f32 = 0.02;

/// A GPT-2.
pub struct Gpt2 {
    config: ModelConfig,
    vocab_size: usize,
    parameters: Vec<Parameter>,
    token_table: Var,
    position_table: Var,
    blocks: Vec<Block>,
    final_norm: Affine,
    head: Option<Var>,
}

struct Block {
    attention_norm: Affine,
    /// Query, key and value side by side.
    attention_in: Affine,
    attention_out: Affine,
    mlp_norm: Affine,
    mlp_in: Affine,
    mlp_out: Affine,
}

/// A weight, and a bias unless the model has none.
struct Affine {
    weight: Var,
    bias: Option<Var>,
}

impl Gpt2 {
    /// A model with initial values that are a function of `seed`: weights normal with standard deviation 0.02,
    /// that of the projections into the residual stream divided by √(2·layers); biases 0, norms 1.
    pub fn new(config: &ModelConfig, vocab_size: usize, seed: u64, device: &Device) -> Result<Self> {
        Self::build(config, vocab_size, ParameterBuilder::new(seed, device))
    }

    /// A model whose parameters are all zero, for weights that are about to be read, or to know its sizes.
    pub fn blank(config: &ModelConfig, vocab_size: usize, device: &Device) -> Result<Self> {
        Self::build(config, vocab_size, ParameterBuilder::blank(device))
    }

    pub(super) fn build(
        config: &ModelConfig,
        vocab_size: usize,
        mut builder: ParameterBuilder<'_>,
    ) -> Result<Self> {
        let c = config.d_model;
        let token_table = builder.normal("transformer.wte.weight", &[vocab_size, c], INIT_STD)?;
        let position_table = builder.normal("transformer.wpe.weight", &[config.context, c], INIT_STD)?;
        let blocks = (0..config.n_layers)
            .map(|layer_idx| Block::new(&mut builder, config, layer_idx))
            .collect::<Result<_>>()?;
        let final_norm = Affine::norm(&mut builder, "transformer.ln_f", config)?;
        let head = match config.tie_embeddings {
            true => None,
            false => Some(builder.normal("lm_head.weight", &[vocab_size, c], INIT_STD)?),
        };
        Ok(Self {
            config: config.clone(),
            vocab_size,
            parameters: builder.finish(),
            token_table,
            position_table,
            blocks,
            final_norm,
            head,
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
        let t = tokens.dim(1)?;
        let mask = pass.attention_mask(Kind::Causal, first, t, tokens.device())?;
        let (token_table, position_table) = (pass.value(&self.token_table), pass.value(&self.position_table));
        let embedded = match pass.positions(t) {
            None => embedding(tokens, &token_table, &position_table.narrow(0, first, t)?)?,
            Some(positions) => {
                let positions = Tensor::from_vec(positions, tokens.dims2()?, tokens.device())?;
                embedding_at(tokens, &positions, &token_table, &position_table)?
            }
        };
        let mut x = pass.dropout(&embedded.to_dtype(pass.dtype)?)?;
        pass.see(|| "transformer.wte + transformer.wpe output".to_owned(), &x)?;
        for layer_idx in 0..self.blocks.len() {
            x = self.block(layer_idx, &x, &mask, cache.as_deref_mut(), pass)?;
        }
        self.final_norm.norm_rows(&x, pass)
    }

    fn block(
        &self,
        layer_idx: usize,
        x: &Tensor,
        mask: &Tensor,
        cache: Option<&mut KvCache>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer_idx];
        let attended =
            self.attention(layer_idx, &block.attention_norm.norm_rows(x, pass)?, mask, cache, pass)?;
        let x = (x + pass.dropout(&attended)?)?;
        pass.see(|| format!("transformer.h.{layer_idx}.attn output"), &x)?;
        let hidden = block.mlp_in.map_rows(&block.mlp_norm.norm_rows(&x, pass)?, pass)?;
        let hidden = Activation::from(self.config.activation).apply(&hidden)?;
        let x = (&x + pass.dropout(&block.mlp_out.map_rows(&hidden, pass)?)?)?;
        pass.see(|| format!("transformer.h.{layer_idx}.mlp output"), &x)?;
        Ok(x)
    }

    fn attention(
        &self,
        layer_idx: usize,
        x: &Tensor,
        mask: &Tensor,
        cache: Option<&mut KvCache>,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer_idx];
        let (b, t, c) = x.dims3()?;
        let h = self.config.n_heads;
        let qkv = block.attention_in.map_rows(x, pass)?;
        let heads = |part: usize| qkv.narrow(2, part * c, c)?.reshape((b, t, h, c / h))?.transpose(1, 2);
        let (q, k, v) = (heads(0)?, heads(1)?, heads(2)?);
        let (k, v) = match cache {
            Some(cache) => cache.store(layer_idx, &k, &v)?,
            None => (k, v),
        };
        let dropout = pass.dropout_site();
        let out_bhtd = scaled_dot_product_attention(&q, &k, &v, mask, dropout.as_ref())?;
        block.attention_out.map_rows(&out_bhtd.transpose(1, 2)?.reshape((b, t, c))?, pass)
    }

    /// Logits (b, t, v) in `f32` of rows (b, t, c).
    fn predict(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let head = pass.value(self.head.as_ref().unwrap_or(&self.token_table));
        let logits = linear_transposed(x, &head)?.to_dtype(DType::F32)?;
        pass.see(|| "logits".to_owned(), &logits)?;
        Ok(logits)
    }
}

impl LanguageModel for Gpt2 {
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

    fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        let mut weights: Vec<_> =
            self.parameters.iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
        if !self.config.bias {
            weights.extend(hugging_face::zero_biases(&self.config, self.token_table.device())?);
        }
        Ok(weights)
    }

    fn set_weights(&self, weights: &HashMap<String, Tensor>) -> Result<std::result::Result<(), Vec<String>>> {
        let mut weights = weights.clone();
        if !self.config.bias
            && let Err(faults) = hugging_face::drop_zero_biases(&self.config, &mut weights)?
        {
            return Ok(Err(faults));
        }
        set_parameters(&self.parameters, &weights)
    }

    fn config_json(&self) -> serde_json::Value {
        hugging_face::config_json(&self.config, self.vocab_size)
    }
}

impl Block {
    fn new(builder: &mut ParameterBuilder<'_>, config: &ModelConfig, layer_idx: usize) -> Result<Self> {
        let (c, ff) = (config.d_model, config.feed_forward_width());
        let name = |part: &str| format!("transformer.h.{layer_idx}.{part}");
        let residual_std = INIT_STD / (2.0 * config.n_layers as f32).sqrt();
        Ok(Self {
            attention_norm: Affine::norm(builder, &name("ln_1"), config)?,
            attention_in: Affine::linear(builder, &name("attn.c_attn"), [c, 3 * c], INIT_STD, config)?,
            attention_out: Affine::linear(builder, &name("attn.c_proj"), [c, c], residual_std, config)?,
            mlp_norm: Affine::norm(builder, &name("ln_2"), config)?,
            mlp_in: Affine::linear(builder, &name("mlp.c_fc"), [c, ff], INIT_STD, config)?,
            mlp_out: Affine::linear(builder, &name("mlp.c_proj"), [ff, c], residual_std, config)?,
        })
    }
}

impl Affine {
    fn norm(builder: &mut ParameterBuilder<'_>, name: &str, config: &ModelConfig) -> Result<Self> {
        let weight = builder.ones(&format!("{name}.weight"), &[config.d_model])?;
        Ok(Self { weight, bias: Self::bias(builder, name, config.d_model, config)? })
    }

    fn linear(
        builder: &mut ParameterBuilder<'_>,
        name: &str,
        shape: [usize; 2],
        standard_deviation: f32,
        config: &ModelConfig,
    ) -> Result<Self> {
        let weight = builder.normal(&format!("{name}.weight"), &shape, standard_deviation)?;
        Ok(Self { weight, bias: Self::bias(builder, name, shape[1], config)? })
    }

    fn bias(
        builder: &mut ParameterBuilder<'_>,
        name: &str,
        len: usize,
        config: &ModelConfig,
    ) -> Result<Option<Var>> {
        config.bias.then(|| builder.zeros(&format!("{name}.bias"), &[len])).transpose()
    }

    fn norm_rows(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = self.values(pass);
        layer_norm(x, &weight, bias.as_ref(), NORM_EPS)
    }

    fn map_rows(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = self.values(pass);
        linear(x, &weight, bias.as_ref())
    }

    fn values(&self, pass: &Pass<'_>) -> (Tensor, Option<Tensor>) {
        (pass.value(&self.weight), self.bias.as_ref().map(|bias| pass.value(bias)))
    }
}
