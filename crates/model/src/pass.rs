//! One forward pass through a model.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, TensorId, Var, bail};
use wattle_ops::Dropout;
use wattle_ops::attention::{self, Kind};
use wattle_random::{Purpose, Stream};

/// What a forward pass is for. A new one is made for each pass: it counts the dropout sites it comes by.
pub struct Pass<'a> {
    /// The dtype of activations and matrix products. Parameters stay in `f32` and are cast on use.
    pub dtype: DType,
    training: Option<TrainingPass>,
    next_site_idx: u32,
    watch: Option<&'a mut Watch<'a>>,
    documents: Option<&'a [u32]>,
    /// What stands for some parameters, where the others are frozen.
    values: Option<HashMap<TensorId, Tensor>>,
}

/// Looks at a named intermediate tensor.
pub type Watch<'a> = dyn FnMut(&str, &Tensor) -> Result<()> + 'a;

/// What a training pass knows besides its tokens.
#[derive(Clone, Copy, Debug)]
pub struct TrainingPass {
    /// The run's seed.
    pub seed: u64,
    /// The step being made, counted from 1.
    pub step: u64,
    /// Position of this micro-batch's first sequence within the step's batch.
    pub first_sequence: usize,
    /// Share of elements to drop.
    pub dropout: f32,
}

impl<'a> Pass<'a> {
    /// A pass that records a graph for gradients, and drops.
    pub fn training(dtype: DType, training: TrainingPass) -> Self {
        Self { dtype, training: Some(training), next_site_idx: 0, watch: None, documents: None, values: None }
    }

    /// A pass that records nothing.
    pub fn evaluation(dtype: DType) -> Self {
        Self { dtype, training: None, next_site_idx: 0, watch: None, documents: None, values: None }
    }

    /// Keeps attention within documents, whose positions start at 0: for each of the (b·t) tokens the position in its sequence at which its document
    /// starts. Absent, each sequence is one document.
    pub fn within(mut self, documents: Option<&'a [u32]>) -> Self {
        self.documents = documents;
        self
    }

    /// Where each of the tokens stands in its document, in sequences of `t` tokens, (b·t); `None` where that is where it
    /// stands in its sequence.
    pub fn positions(&self, t: usize) -> Option<Vec<u32>> {
        let documents = self.documents.filter(|documents| documents.iter().any(|&start| start > 0))?;
        let rows = (0..t as u32).cycle().zip(documents);
        Some(rows.map(|(row, start)| row - start).collect())
    }

    /// What is added to attention's scores of `t` positions that follow `n_before` others.
    ///
    /// # Shapes
    /// → (t, n_before + t), or (b, 1, t, t) within documents; `f32`.
    ///
    /// # Errors
    /// If a tensor operation fails, or there are documents and positions before.
    pub fn attention_mask(&self, kind: Kind, n_before: usize, t: usize, device: &Device) -> Result<Tensor> {
        match self.documents {
            None => attention::mask_after(kind, n_before, t, device),
            Some(_) if n_before > 0 => bail!("a cache of keys and values holds one document"),
            documents => attention::mask(kind, t, documents, device),
        }
    }

    /// Shows every named intermediate tensor to `watch`, in the order in which they are computed.
    pub fn watched(mut self, watch: &'a mut Watch<'a>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// A parameter's value for this pass: part of the graph in training, detached in evaluation.
    pub fn value(&self, var: &Var) -> Tensor {
        if let Some(values) = &self.values {
            return values.get(&var.id()).cloned().unwrap_or_else(|| var.as_detached_tensor());
        }
        if self.training.is_some() { var.as_tensor().clone() } else { var.as_detached_tensor() }
    }

    /// Goes through a model whose parameters are frozen, but for those that `values` stand for.
    pub(crate) fn with_values<T>(
        &mut self,
        values: HashMap<TensorId, Tensor>,
        forward: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.values = Some(values);
        let out = forward(self);
        self.values = None;
        out
    }

    /// Drops elements of `x` in training.
    pub fn dropout(&mut self, x: &Tensor) -> Result<Tensor> {
        match self.dropout_site() {
            Some(dropout) => dropout.apply(x),
            None => Ok(x.clone()),
        }
    }

    /// The next place of dropout; none in evaluation or where nothing is dropped.
    pub fn dropout_site(&mut self) -> Option<Dropout> {
        let training = self.training?;
        let site_idx = self.next_site_idx;
        self.next_site_idx += 1;
        (training.dropout > 0.0).then(|| Dropout {
            probability: training.dropout,
            stream: Stream::new(training.seed, Purpose::Dropout { site_idx }, training.step),
            first_sequence: training.first_sequence,
        })
    }

    /// Names an intermediate tensor to whoever watches. `name` is only called then.
    pub fn see(&mut self, name: impl FnOnce() -> String, x: &Tensor) -> Result<()> {
        match &mut self.watch {
            Some(watch) => watch(&name(), x),
            None => Ok(()),
        }
    }
}
