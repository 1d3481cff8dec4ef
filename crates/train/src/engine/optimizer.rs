//! The optimizer of a model's own tensors: AdamW for all, or Muon for the matrices of blocks and AdamW for the others.

use std::collections::HashMap;

use candle_core::{Result, Tensor, Var};
use wattle_model::{LanguageModel, MatrixUpdate, Parameter};
use wattle_ops::adamw::{AdamW, Moments};
use wattle_ops::muon::Muon;

use crate::config::OptimizerConfig;

/// Updates parameters where they lie. It holds their moments.
pub(super) struct TensorOptimizer {
    matrices: MatrixUpdate,
    adamw: AdamW,
    muon: Option<Muon>,
}

impl TensorOptimizer {
    /// An optimizer of the parameters of `model` that has made no update.
    pub(super) fn new(model: &dyn LanguageModel, config: &OptimizerConfig) -> Result<Self> {
        let (matrices, hyperparameters) = (config.matrices(), config.hyperparameters());
        let muon = match matrices {
            MatrixUpdate::AdamW => None,
            MatrixUpdate::Muon(muon) => {
                Some(Muon::new(muon, hyperparameters.weight_decay, variables(model, matrices, true))?)
            }
        };
        let adamw = AdamW::new(hyperparameters, variables(model, matrices, false))?;
        Ok(Self { matrices, adamw, muon })
    }

    /// Makes update number `step`, counted from 1. `gradients` are those of the parameters of `model`, and `factor`, a
    /// scalar, multiplies each.
    pub(super) fn step(
        &mut self,
        model: &dyn LanguageModel,
        gradients: &[Tensor],
        factor: Option<&Tensor>,
        step: u64,
        learning_rate: f64,
    ) -> Result<()> {
        let matrices = self.matrices;
        let of = |is_muons: bool| -> Vec<Tensor> {
            let of_parameters = model.parameters().iter().zip(gradients);
            let own = of_parameters.filter(|(parameter, _)| is_muon(matrices, parameter) == is_muons);
            own.map(|(_, gradient)| gradient.clone()).collect()
        };
        self.adamw.step(variables(model, matrices, false), &of(false), factor, step, learning_rate)?;
        if let Some(muon) = &mut self.muon {
            muon.step(variables(model, matrices, true), &of(true), factor, learning_rate)?;
        }
        Ok(())
    }

    /// The moments under their [names](MatrixUpdate::moment_names), in the order of the parameters of `model`.
    pub(super) fn named_moments(&self, model: &dyn LanguageModel) -> Vec<(String, Tensor)> {
        let mut adamw = self.adamw.moments().iter();
        let mut momentum = self.muon.iter().flat_map(Muon::momentum);
        let mut named = Vec::new();
        for Parameter { name, var } in model.parameters() {
            let moments: Vec<&Tensor> = match self.matrices.orthogonalizes(name, var.dims()) {
                true => momentum.next().into_iter().collect(),
                false => adamw.next().into_iter().flat_map(|m| [&m.mean, &m.mean_square]).collect(),
            };
            let names = self.matrices.moment_names(name, var.dims());
            named.extend(names.into_iter().zip(moments.into_iter().cloned()));
        }
        named
    }

    /// Takes over moments as [`TensorOptimizer::named_moments`] gives them: the caller has checked names and shapes.
    pub(super) fn set_moments(&mut self, model: &dyn LanguageModel, moments: &HashMap<String, Tensor>) {
        let (mut adamw, mut momentum) = (Vec::new(), Vec::new());
        for Parameter { name, var } in model.parameters() {
            let names = self.matrices.moment_names(name, var.dims());
            match names.iter().map(|name| moments[name].clone()).collect::<Vec<_>>().as_slice() {
                [mean, mean_square] => {
                    adamw.push(Moments { mean: mean.clone(), mean_square: mean_square.clone() });
                }
                of_muon => momentum.extend_from_slice(of_muon),
            }
        }
        self.adamw.set_moments(adamw);
        if let Some(muon) = &mut self.muon {
            muon.set_momentum(momentum);
        }
    }
}

fn is_muon(matrices: MatrixUpdate, Parameter { name, var }: &Parameter) -> bool {
    matrices.orthogonalizes(name, var.dims())
}

/// The variables that Muon updates, or those that AdamW does.
fn variables(
    model: &dyn LanguageModel,
    matrices: MatrixUpdate,
    is_muons: bool,
) -> impl Iterator<Item = &Var> {
    let own = model.parameters().iter().filter(move |parameter| is_muon(matrices, parameter) == is_muons);
    own.map(|parameter| &parameter.var)
}
