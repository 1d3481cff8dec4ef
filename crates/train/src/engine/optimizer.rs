//! The optimizer of a model's own tensors: AdamW for all, or Muon for the matrices of blocks and AdamW for the others.

use std::collections::HashMap;

use candle_core::{Result, Tensor, Var};
use wattle_model::{LanguageModel, MatrixUpdate, Parameter};
use wattle_ops::adamw::{AdamW, FlatAdamW, Hyperparameters, Moments};
use wattle_ops::muon::Muon;

use crate::config::OptimizerConfig;

/// Updates parameters where they lie. It holds their moments.
pub(super) struct TensorOptimizer {
    matrices: MatrixUpdate,
    adamw: Adam,
    muon: Option<Muon>,
}

/// AdamW over some parameters.
enum Adam {
    /// Each in turn: on a CPU, where memory is what costs time.
    Each(AdamW),
    /// All as one: elsewhere, where launches are.
    Together(FlatAdamW),
}

impl Adam {
    fn new(model: &dyn LanguageModel, matrices: MatrixUpdate, numbers: Hyperparameters) -> Result<Self> {
        let variables = || variables(model, matrices, false);
        let together = match model.device().is_cpu() {
            true => None,
            false => FlatAdamW::new(numbers, variables())?,
        };
        Ok(match together {
            Some(together) => Self::Together(together),
            None => Self::Each(AdamW::new(numbers, variables())?),
        })
    }

    /// The moments of each parameter, in their order.
    fn moments(&self) -> Result<Vec<Moments>> {
        match self {
            Self::Each(each) => Ok(each.moments().to_vec()),
            Self::Together(together) => together.moments(),
        }
    }
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
        Ok(Self { matrices, adamw: Adam::new(model, matrices, hyperparameters)?, muon })
    }

    /// The gradients of the parameters of `model` in fewer tensors: those that AdamW takes as one, then Muon's. `None` where
    /// each is taken as it is.
    pub(super) fn packed(
        &self,
        model: &dyn LanguageModel,
        gradients: &[Tensor],
    ) -> Result<Option<Vec<Tensor>>> {
        let Adam::Together(together) = &self.adamw else { return Ok(None) };
        let mut packed = vec![together.flatten(&self.part(model, gradients, false))?];
        packed.extend(self.part(model, gradients, true));
        Ok(Some(packed))
    }

    /// Those gradients that Muon takes, or those that AdamW does.
    fn part(&self, model: &dyn LanguageModel, gradients: &[Tensor], is_muons: bool) -> Vec<Tensor> {
        let of_parameters = model.parameters().iter().zip(gradients);
        let own = of_parameters.filter(|(parameter, _)| is_muon(self.matrices, parameter) == is_muons);
        own.map(|(_, gradient)| gradient.clone()).collect()
    }

    /// Makes update number `step`, counted from 1. `gradients` are those of the parameters of `model`, `packed` the same by
    /// [`TensorOptimizer::packed`], and `factor`, a scalar, multiplies each.
    pub(super) fn step(
        &mut self,
        model: &dyn LanguageModel,
        (gradients, packed): (&[Tensor], Option<&[Tensor]>),
        factor: Option<&Tensor>,
        step: u64,
        learning_rate: f64,
    ) -> Result<()> {
        let (of_adamw, of_muon) = match packed {
            Some([of_adamw, of_muon @ ..]) => (vec![of_adamw.clone()], of_muon.to_vec()),
            _ => (self.part(model, gradients, false), self.part(model, gradients, true)),
        };
        let own = variables(model, self.matrices, false);
        match &mut self.adamw {
            Adam::Each(each) => each.step(own, &of_adamw, factor, step, learning_rate)?,
            Adam::Together(together) => together.step(own, &of_adamw[0], factor, step, learning_rate)?,
        }
        match &mut self.muon {
            Some(muon) => muon.step(variables(model, self.matrices, true), &of_muon, factor, learning_rate),
            None => Ok(()),
        }
    }

    /// The moments under their [names](MatrixUpdate::moment_names), in the order of the parameters of `model`.
    pub(super) fn named_moments(&self, model: &dyn LanguageModel) -> Result<Vec<(String, Tensor)>> {
        let mut adamw = self.adamw.moments()?.into_iter();
        let mut momentum = self.muon.iter().flat_map(Muon::momentum);
        let mut named = Vec::new();
        for Parameter { name, var } in model.parameters() {
            let moments: Vec<Tensor> = match self.matrices.orthogonalizes(name, var.dims()) {
                true => momentum.next().cloned().into_iter().collect(),
                false => adamw.next().into_iter().flat_map(|m| [m.mean, m.mean_square]).collect(),
            };
            let names = self.matrices.moment_names(name, var.dims());
            named.extend(names.into_iter().zip(moments));
        }
        Ok(named)
    }

    /// Numbers of all moments of the parameters of `model`.
    pub(super) fn n_moments(&self, model: &dyn LanguageModel) -> u64 {
        let of = |Parameter { name, var }: &Parameter| {
            (self.matrices.moment_names(name, var.dims()).len() * var.elem_count()) as u64
        };
        model.parameters().iter().map(of).sum()
    }

    /// Takes over moments as [`TensorOptimizer::named_moments`] gives them: the caller has checked names and shapes.
    pub(super) fn set_moments(
        &mut self,
        model: &dyn LanguageModel,
        moments: &HashMap<String, Tensor>,
    ) -> Result<()> {
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
        match &mut self.adamw {
            Adam::Each(each) => each.set_moments(adamw),
            Adam::Together(together) => together.set_moments(adamw)?,
        }
        if let Some(muon) = &mut self.muon {
            muon.set_momentum(momentum);
        }
        Ok(())
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
