//! Proof that every parameter receives a gradient.
//!
//! candle's fused normalizations, softmax and rotary embedding have no backward, and gradients that would pass
//! through them are silently absent. A model that uses one trains, badly. So no update is made before every
//! parameter has a gradient.
//!
//! Under autograd that is a gradient in the store. An explicit engine has a place for every gradient, whether or not
//! its backward pass reaches it. So before the first batch all places are set to −0, which every sum takes for zero;
//! a place that still holds nothing but −0 afterwards is one to which nothing was added.

use candle_core::{Result, Tensor};
use wattle_model::Parameter;

use crate::error::TrainError;

/// The gradients, if there is one for every parameter.
///
/// # Errors
/// If not; every parameter without one is named.
pub fn certify(
    parameters: &[Parameter],
    gradients: Vec<Option<Tensor>>,
) -> std::result::Result<Vec<Tensor>, TrainError> {
    let names: Vec<String> = parameters
        .iter()
        .zip(&gradients)
        .filter(|(_, gradient)| gradient.is_none())
        .map(|(parameter, _)| parameter.name.clone())
        .collect();
    refuse_unreached(names)?;
    Ok(gradients.into_iter().flatten().collect())
}

/// Refuses parameters that no gradient reached, by name.
///
/// # Errors
/// If there is one.
pub fn refuse_unreached(names: Vec<String>) -> std::result::Result<(), TrainError> {
    if names.is_empty() { Ok(()) } else { Err(TrainError::NoGradient { names }) }
}

/// Names of parameters whose gradient is zero in every element. It can be chance, so it is no error.
///
/// # Errors
/// If a tensor operation fails.
pub fn all_zero(parameters: &[Parameter], gradients: &[Tensor]) -> Result<Vec<String>> {
    if gradients.is_empty() {
        return Ok(Vec::new());
    }
    let largest = gradients.iter().map(|gradient| gradient.abs()?.max_all()).collect::<Result<Vec<_>>>()?;
    // One read for all: on a device each would wait for it.
    let largest = Tensor::stack(&largest, 0)?.to_vec1::<f32>()?;
    let zero = parameters.iter().zip(largest).filter(|(_, largest)| *largest == 0.0);
    Ok(zero.map(|(parameter, _)| parameter.name.clone()).collect())
}
