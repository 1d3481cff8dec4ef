//! A model whose weights stay as they are, and the adapters that are trained in their place.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, TensorId, Var, bail};
use wattle_ops::board::Board;
use wattle_random::{Purpose, Stream};

use super::config::LoraConfig;
use super::info::{AdapterInfo, BaseRecord};
use super::peft;
use crate::config::ModelConfig;
use crate::engine::adapters::{LowRank, factor_names};
use crate::engine::board::{DeviceEngine, DeviceEngineOptions, EngineError};
use crate::engine::modules::Module;
use crate::engine::{Engine, EngineOptions};
use crate::families::{BoxedModel, adapted_board_engine, adapted_cpu_engine, refuse_adapted_that_cannot_fit};
use crate::kv_cache::KvCache;
use crate::language_model::{LanguageModel, set_parameters};
use crate::parameter::Parameter;
use crate::pass::Pass;

/// A model of one of the families with adapters. Its parameters are theirs.
pub struct Adapted {
    base: BoxedModel,
    config: ModelConfig,
    lora: LoraConfig,
    parameters: Vec<Parameter>,
    adapters: Vec<Adapter>,
    info: AdapterInfo,
}

/// A frozen matrix and its two trained factors.
struct Adapter {
    weight: Var,
    a: Var,
    b: Var,
    output_first: bool,
}

impl Adapted {
    /// Adapters beside `base`, which is a model of `config` and was read from `path`. Their first factors are uniform within
    /// ±1/√in, as PEFT draws them, a function of `seed`; the second are zero, so that the model starts as `base` is.
    ///
    /// # Errors
    /// If the base is not a model of `config`, or a tensor operation fails.
    pub fn new(
        base: BoxedModel,
        config: &ModelConfig,
        lora: &LoraConfig,
        seed: u64,
        path: Option<&Path>,
    ) -> Result<Self> {
        let record = BaseRecord::of(base.parameters(), path)?;
        let device = base.device();
        let (mut parameters, mut adapters) = (Vec::new(), Vec::new());
        for Module { name, n_in, n_out, output_first } in lora.modules(config, base.vocab_size()) {
            let weight_name = format!("{name}.weight");
            let weight = base.parameters().iter().find(|parameter| parameter.name == weight_name);
            let Some(Parameter { var: weight, .. }) = weight else {
                bail!("the model has no {weight_name}: it is not of this configuration")
            };
            let parameter_idx = (base.parameters().len() + parameters.len()) as u32;
            let stream = Stream::new(seed, Purpose::Init { parameter_idx }, 0);
            let a = Var::from_tensor(&first_factor(stream, [lora.rank, n_in], &device)?)?;
            let b = Var::zeros((n_out, lora.rank), candle_core::DType::F32, &device)?;
            let factors = factor_names(&name).into_iter().zip([&a, &b]);
            parameters.extend(factors.map(|(name, var)| Parameter { name, var: var.clone() }));
            adapters.push(Adapter { weight: weight.clone(), a, b, output_first });
        }
        let config_json = peft::config_json(lora, config, path);
        let info = AdapterInfo { config_json, base: record, dropout: lora.dropout };
        Ok(Self { base, config: config.clone(), lora: lora.clone(), parameters, adapters, info })
    }

    /// The model whose weights stay as they are.
    pub fn base(&self) -> &dyn LanguageModel {
        self.base.as_ref()
    }

    fn low_rank(&self) -> LowRank<'_> {
        LowRank { parameters: &self.parameters, scale: self.lora.scale(), dropout: self.lora.dropout }
    }

    /// The matrices with what adapters add to them, by which of the base's tensors they stand for.
    fn values(&self, pass: &Pass<'_>) -> Result<HashMap<TensorId, Tensor>> {
        let scale = f64::from(self.lora.scale());
        let value = |Adapter { weight, a, b, output_first }: &Adapter| {
            let added = (pass.value(b).matmul(&pass.value(a))? * scale)?;
            let added = if *output_first { added } else { added.t()? };
            Ok((weight.id(), (weight.as_detached_tensor() + added)?))
        };
        self.adapters.iter().map(value).collect()
    }
}

/// Uniform numbers within ±1/√in.
fn first_factor(stream: Stream, [rank, n_in]: [usize; 2], device: &Device) -> Result<Tensor> {
    let mut values = vec![0f32; rank * n_in];
    stream.fill_uniform(0, &mut values);
    let bound = 1.0 / (n_in as f32).sqrt();
    values.iter_mut().for_each(|value| *value = (2.0 * *value - 1.0) * bound);
    Tensor::from_vec(values, (rank, n_in), device)
}

impl LanguageModel for Adapted {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Nothing that adapters read is dropped.
    fn logits(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let values = self.values(pass)?;
        pass.with_values(values, |pass| self.base.logits(tokens, pass))
    }

    fn decode_last(
        &self,
        tokens: &[u32],
        n_last: usize,
        cache: &mut KvCache,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        let values = self.values(pass)?;
        pass.with_values(values, |pass| self.base.decode_last(tokens, n_last, cache, pass))
    }

    fn engine(&self, options: EngineOptions) -> Result<Option<Box<dyn Engine>>> {
        let (config, vocab_size) = (&self.config, self.base.vocab_size());
        adapted_cpu_engine(config, vocab_size, self.base.parameters(), self.low_rank(), options)
    }

    fn device_engine(
        &self,
        board: Arc<dyn Board>,
        options: DeviceEngineOptions,
    ) -> std::result::Result<Option<Box<dyn DeviceEngine>>, EngineError> {
        let (config, vocab_size) = (&self.config, self.base.vocab_size());
        adapted_board_engine(config, vocab_size, self.base.parameters(), self.low_rank(), board, options)
    }

    fn refuse_what_cannot_fit(
        &self,
        board: &dyn Board,
        options: DeviceEngineOptions,
    ) -> std::result::Result<(), EngineError> {
        let (config, vocab_size) = (&self.config, self.base.vocab_size());
        refuse_adapted_that_cannot_fit(
            config,
            vocab_size,
            self.base.parameters(),
            self.low_rank(),
            board,
            options,
        )
    }

    fn context(&self) -> usize {
        self.base.context()
    }

    fn vocab_size(&self) -> usize {
        self.base.vocab_size()
    }

    /// As PEFT names them.
    fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        let named = |Parameter { name, var }: &Parameter| (peft::file_name(name), var.as_detached_tensor());
        Ok(self.parameters.iter().map(named).collect())
    }

    fn set_weights(&self, weights: &HashMap<String, Tensor>) -> Result<std::result::Result<(), Vec<String>>> {
        let own = |(name, tensor): (&String, &Tensor)| (peft::own_name(name), tensor.clone());
        set_parameters(&self.parameters, &weights.iter().map(own).collect())
    }

    fn config_json(&self) -> serde_json::Value {
        self.base.config_json()
    }

    fn adapter(&self) -> Option<&AdapterInfo> {
        Some(&self.info)
    }
}
