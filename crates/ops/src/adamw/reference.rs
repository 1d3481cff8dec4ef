use candle_core::{Result, Tensor};

use super::{Hyperparameters, Update};

/// The next value, mean and mean square of a parameter.
///
/// # Shapes
/// Any, the same for all.
///
/// # Errors
/// If a tensor operation fails.
pub fn adamw_update(
    value: &Tensor,
    gradient: &Tensor,
    mean: &Tensor,
    mean_square: &Tensor,
    decays: bool,
    update: &Update,
) -> Result<[Tensor; 3]> {
    let gradient = (gradient * f64::from(update.gradient_factor))?;
    clipped_update(value, &gradient, mean, mean_square, decays, update)
}

/// [`adamw_update`] by a gradient that has been multiplied by its factor.
pub(super) fn clipped_update(
    value: &Tensor,
    gradient: &Tensor,
    mean: &Tensor,
    mean_square: &Tensor,
    decays: bool,
    update: &Update,
) -> Result<[Tensor; 3]> {
    let MomentsAndStep { mean, mean_square, step } = moments_and_step(gradient, mean, mean_square, update)?;
    let value = ((value * update.decay(decays))? - step)?;
    Ok([value, mean, mean_square])
}

/// The next moments, and what is taken from the decayed value.
pub(super) struct MomentsAndStep {
    pub(super) mean: Tensor,
    pub(super) mean_square: Tensor,
    pub(super) step: Tensor,
}

/// All of [`clipped_update`] that does not depend on whether the parameter decays.
pub(super) fn moments_and_step(
    gradient: &Tensor,
    mean: &Tensor,
    mean_square: &Tensor,
    update: &Update,
) -> Result<MomentsAndStep> {
    let &Update { hyperparameters: Hyperparameters { beta1, beta2, eps, .. }, learning_rate, .. } = update;
    let mean = ((mean * beta1)? + (gradient * (1.0 - beta1))?)?;
    let mean_square = ((mean_square * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let root = ((&mean_square / update.square_correction())?.sqrt()? + eps)?;
    let step = ((&mean / &root)? * (learning_rate / update.mean_correction()))?;
    Ok(MomentsAndStep { mean, mean_square, step })
}
