//! Adam with decoupled weight decay.

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use wattle_model::Parameter;
use wattle_ops::adamw::Hyperparameters;

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
    hyperparameters: Hyperparameters,
    moments: Vec<Moments>,
}

struct Moments {
    mean: Tensor,
    mean_square: Tensor,
}

impl AdamW {
    /// An optimizer that has seen nothing yet.
    pub fn new(hyperparameters: Hyperparameters, parameters: &[Parameter]) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|p| Ok(Moments { mean: p.var.zeros_like()?, mean_square: p.var.zeros_like()? }))
            .collect::<Result<_>>()?;
        Ok(Self { hyperparameters, moments })
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
        let Hyperparameters { beta1, beta2, eps, weight_decay } = self.hyperparameters;
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

    /// The moments as named tensors, `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, PyTorch's names.
    pub fn moments(&self, parameters: &[Parameter]) -> Vec<(String, Tensor)> {
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

    /// Takes over moments as [`AdamW::moments`] gives them.
    ///
    /// # Errors
    /// If one is missing or of another shape; nothing is changed then.
    pub fn set_moments(&mut self, parameters: &[Parameter], moments: &HashMap<String, Tensor>) -> Result<()> {
        let take = |name: String, like: &Tensor| match moments.get(&name) {
            Some(tensor) if tensor.dims() == like.dims() => Ok(tensor.clone()),
            _ => candle_core::bail!("{name} is not among the moments, or has another shape"),
        };
        self.moments = parameters
            .iter()
            .map(|Parameter { name, var }| {
                let mean = take(format!("{name}.exp_avg"), var)?;
                let mean_square = take(format!("{name}.exp_avg_sq"), var)?;
                Ok(Moments { mean, mean_square })
            })
            .collect::<Result<_>>()?;
        Ok(())
    }
}
