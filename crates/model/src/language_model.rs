//! What the trainer asks of a model.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use wattle_ops::board::Board;

use crate::adapter::info::AdapterInfo;
use crate::copies::{overwrite, with_values};
use crate::differences::differences;
use crate::engine::board::{
    BoardDecoder, BoardEvaluator, DecoderOptions, DeviceEngine, DeviceEngineOptions, EngineError,
    EvaluatorOptions,
};
use crate::engine::{Engine, EngineOptions};
use crate::kv_cache::KvCache;
use crate::parameter::Parameter;
use crate::pass::Pass;

/// A model that predicts the next token.
///
/// Implement it for a model of your own to train it as any other: the trainer, the meter and checkpoints need
/// nothing else.
pub trait LanguageModel {
    /// Every trainable parameter, shared ones once.
    fn parameters(&self) -> &[Parameter];

    /// Predictions for the token after each position.
    ///
    /// # Shapes
    /// `tokens` (b, t) of `u32` → (b, t, v) in `f32`.
    fn logits(&self, tokens: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor>;

    /// Predictions for the token after `tokens`, which go on from those in the cache's window.
    ///
    /// # Shapes
    /// `tokens` 1 or more of one text → (v) in `f32`.
    fn decode(&self, tokens: &[u32], cache: &mut KvCache, pass: &mut Pass<'_>) -> Result<Tensor> {
        self.decode_last(tokens, 1, cache, pass)?.flatten_all()
    }

    /// Predictions for the token after each of the last `n_last` of `tokens`, which go on from those in the cache's window.
    ///
    /// A model that keeps nothing computes the whole window anew; a family overrides this with a method that
    /// computes what is new in it.
    ///
    /// # Shapes
    /// `tokens` 1 or more of one text, at most as many as the context → (n_last, v) in `f32`.
    fn decode_last(
        &self,
        tokens: &[u32],
        n_last: usize,
        cache: &mut KvCache,
        pass: &mut Pass<'_>,
    ) -> Result<Tensor> {
        cache.push(tokens, self.context());
        let window = Tensor::new(cache.window(), &self.device())?.unsqueeze(0)?;
        let logits_btv = self.logits(&window, pass)?;
        logits_btv.narrow(1, window.dim(1)? - n_last, n_last)?.squeeze(0)
    }

    /// An engine that trains this model by explicit passes in `f32` on a CPU, if the family has one. It starts
    /// from the parameters' values.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn engine(&self, _options: EngineOptions) -> Result<Option<Box<dyn Engine>>> {
        Ok(None)
    }

    /// An engine that trains this model on a board, if the family has one for the type asked for. It starts from
    /// the parameters' values.
    ///
    /// # Errors
    /// If there is too little memory, the board fails, or a tensor operation does.
    fn device_engine(
        &self,
        _board: Arc<dyn Board>,
        _options: DeviceEngineOptions,
    ) -> std::result::Result<Option<Box<dyn DeviceEngine>>, EngineError> {
        Ok(None)
    }

    /// Refuses what [`LanguageModel::device_engine`] would refuse for lack of memory. The answer comes at once:
    /// parameters' values are not looked at, and nothing is made.
    ///
    /// # Errors
    /// If there is too little memory, or the board fails.
    fn refuse_what_cannot_fit(
        &self,
        _board: &dyn Board,
        _options: DeviceEngineOptions,
    ) -> std::result::Result<(), EngineError> {
        Ok(())
    }

    /// What predicts with this model on a board, if the family has it. It has a copy of the parameters' values.
    ///
    /// # Errors
    /// If there is too little memory, the model's attention sees ahead, or the board fails.
    fn decoder(
        &self,
        _board: Arc<dyn Board>,
        _options: DecoderOptions,
    ) -> std::result::Result<Option<BoardDecoder>, EngineError> {
        Ok(None)
    }

    /// What evaluates this model on a board, if the family has it. It has a copy of the parameters' values.
    ///
    /// # Errors
    /// If there is too little memory, or the board fails.
    fn evaluator(
        &self,
        _board: Arc<dyn Board>,
        _options: EvaluatorOptions,
    ) -> std::result::Result<Option<BoardEvaluator>, EngineError> {
        Ok(None)
    }

    /// The device of its parameters.
    fn device(&self) -> Device {
        self.parameters().first().map_or(Device::Cpu, |parameter| parameter.var.device().clone())
    }

    /// Most tokens that a prediction can look back on.
    fn context(&self) -> usize;

    /// Number of tokens it can predict.
    fn vocab_size(&self) -> usize;

    /// The tensors of `model.safetensors`. The parameters, unless a family's files hold more.
    fn weights(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.parameters().iter().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect())
    }

    /// Takes over tensors as [`LanguageModel::weights`] gives them.
    ///
    /// # Errors
    /// Every tensor that is missing, extra, or of another shape; nothing is changed then.
    fn set_weights(&self, weights: &HashMap<String, Tensor>) -> Result<std::result::Result<(), Vec<String>>> {
        set_parameters(self.parameters(), weights)
    }

    /// The content of `config.json` beside the weights.
    fn config_json(&self) -> serde_json::Value;

    /// What a checkpoint says of the weights that are not trained, where [`LanguageModel::parameters`] are those of
    /// adapters: its files are PEFT's then.
    fn adapter(&self) -> Option<&AdapterInfo> {
        None
    }

    /// Number of trainable numbers.
    fn n_parameters(&self) -> u64 {
        self.parameters().iter().map(|p| p.var.elem_count() as u64).sum()
    }
}

/// Gives `parameters` the values of the same names, all of them or, with the differences listed, none.
pub(crate) fn set_parameters(
    parameters: &[Parameter],
    weights: &HashMap<String, Tensor>,
) -> Result<std::result::Result<(), Vec<String>>> {
    let expected = parameters.iter().map(|Parameter { name, var }| (name.as_str(), var.dims()));
    let got = weights.iter().map(|(name, tensor)| (name.as_str(), tensor.dims()));
    let faults = differences(expected, got, |_| None).faults();
    if !faults.is_empty() {
        return Ok(Err(faults));
    }
    for parameter in parameters {
        let (var, weight) = (&parameter.var, &weights[&parameter.name]);
        match (var.dtype(), weight.dtype()) {
            (DType::F32, DType::F32) if !is_same(var, weight) => {
                with_values(weight, |values| overwrite(var, values))??;
            }
            (own, _) => var.set(&weight.to_dtype(own)?)?,
        }
    }
    Ok(Ok(()))
}

/// Whether two tensors lie in the same memory: one cannot be read while the other is written.
fn is_same(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.storage_and_layout().0, b.storage_and_layout().0);
    std::ptr::eq(&raw const *a, &raw const *b)
}
