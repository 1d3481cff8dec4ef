//! Adam with decoupled weight decay.

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use wattle_model::Parameter;

use crate::config::OptimizerConfig;

/// AdamW over a model's parameters. Moments are `f32`, and public, so that a run can resume exactly.
///
/// ```text
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// p ← p (1 − η λ) − η · m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)
/// ```
/// The decay λ is applied to tensors of two or more dimensions alone: not to biases and norms.
///
/// # References
/// Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2019, algorithm 2.
pub struct AdamW {
    config: OptimizerConfig,
    moments: Vec<Moments>,
}

struct Moments {
    mean: Tensor,
    mean_square: Tensor,
}

impl AdamW {
    /// An optimizer that has seen nothing yet.
    pub fn new(config: &OptimizerConfig, parameters: &[Parameter]) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|p| Ok(Moments { mean: p.var.zeros_like()?, mean_square: p.var.zeros_like()? }))
            .collect::<Result<_>>()?;
        Ok(Self { config: config.clone(), moments })
    }

    /// Makes update number `step`, counted from 1.
    ///
    /// # Shapes
    /// `gradients` like `parameters`, in the same order; `factor` a scalar that multiplies every gradient.
    pub fn step(
        &mut self,
        parameters: &[Parameter],
        gradients: &[Tensor],
        factor: Option<&Tensor>,
        step: u64,
        learning_rate: f64,
    ) -> Result<()> {
        let OptimizerConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let mean_correction = 1.0 - beta1.powf(step as f64);
        let square_correction = 1.0 - beta2.powf(step as f64);
        for ((parameter, gradient), moments) in parameters.iter().zip(gradients).zip(&mut self.moments) {
            let gradient = match factor {
                Some(factor) => gradient.broadcast_mul(factor)?,
                None => gradient.clone(),
            };
            moments.mean = ((&moments.mean * beta1)? + (&gradient * (1.0 - beta1))?)?;
            moments.mean_square = ((&moments.mean_square * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
            let root = ((&moments.mean_square / square_correction)?.sqrt()? + eps)?;
            let update = (&moments.mean / &root)?;
            let value = parameter.var.as_detached_tensor();
            let decay = if value.rank() >= 2 { 1.0 - learning_rate * weight_decay } else { 1.0 };
            parameter.var.set(&((value * decay)? - (update * (learning_rate / mean_correction))?)?)?;
        }
        Ok(())
    }

    /// Its state as named tensors, `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, PyTorch's names.
    pub fn state(&self, parameters: &[Parameter]) -> Vec<(String, Tensor)> {
        let names = parameters.iter().map(|p| &p.name);
        names
            .zip(&self.moments)
            .flat_map(|(name, moments)| {
                [
                    (format!("{name}.exp_avg"), moments.mean.clone()),
                    (format!("{name}.exp_avg_sq"), moments.mean_square.clone()),
                ]
            })
            .collect()
    }

    /// Takes over a state as [`AdamW::state`] gives it.
    ///
    /// # Errors
    /// Names of what is missing or of another shape; nothing is changed then.
    pub fn set_state(
        &mut self,
        parameters: &[Parameter],
        state: &HashMap<String, Tensor>,
    ) -> std::result::Result<(), Vec<String>> {
        let mut faults = Vec::new();
        let mut take = |name: String, like: &Tensor| match state.get(&name) {
            Some(tensor) if tensor.dims() == like.dims() => Some(tensor.clone()),
            Some(tensor) => {
                faults.push(format!("{name} has shape {:?}, expected {:?}", tensor.dims(), like.dims()));
                None
            }
            None => {
                faults.push(format!("{name} is missing"));
                None
            }
        };
        let taken: Option<Vec<Moments>> = parameters
            .iter()
            .map(|Parameter { name, var }| {
                let mean = take(format!("{name}.exp_avg"), var);
                let mean_square = take(format!("{name}.exp_avg_sq"), var);
                Some(Moments { mean: mean?, mean_square: mean_square? })
            })
            .collect();
        match taken {
            Some(moments) => {
                self.moments = moments;
                Ok(())
            }
            None => Err(faults),
        }
    }
}
