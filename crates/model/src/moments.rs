//! An optimizer's moments as named tensors: `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, PyTorch's names.

use std::collections::HashMap;

use candle_core::Tensor;

use crate::differences::differences;
use crate::parameter::Parameter;

/// The names of the mean and the mean square of a parameter's gradient.
pub fn moment_names(parameter: &str) -> [String; 2] {
    ["exp_avg", "exp_avg_sq"].map(|moment| format!("{parameter}.{moment}"))
}

/// What is wrong with the moments of an optimizer for `parameters`, a clause each. They are named as
/// [`moment_names`] says, and have their parameter's shape.
pub fn moment_faults(parameters: &[Parameter], moments: &HashMap<String, Tensor>) -> Vec<String> {
    faults(parameters.iter().map(|Parameter { name, var }| (name.as_str(), var.dims())), moments)
}

/// Refuses moments that are not those of `parameters`.
///
/// # Errors
/// A sentence with every one of the [`moment_faults`].
pub fn check_moments(parameters: &[Parameter], moments: &HashMap<String, Tensor>) -> Result<(), String> {
    refuse(moment_faults(parameters, moments))
}

/// [`check_moments`] for parameters with these names and shapes.
pub(crate) fn check_moments_of<'a>(
    parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
    moments: &HashMap<String, Tensor>,
) -> Result<(), candle_core::Error> {
    refuse(faults(parameters, moments)).map_err(candle_core::Error::Msg)
}

fn faults<'a>(
    parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
    moments: &HashMap<String, Tensor>,
) -> Vec<String> {
    let expected = parameters.flat_map(|(name, dims)| moment_names(name).map(|moment| (moment, dims)));
    let got = moments.iter().map(|(name, tensor)| (name.as_str(), tensor.dims()));
    differences(expected, got, |_| None).faults()
}

fn refuse(faults: Vec<String>) -> Result<(), String> {
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!("these moments do not fit the model: {}", faults.join("; "))),
    }
}
