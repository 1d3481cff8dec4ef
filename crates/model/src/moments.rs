//! An optimizer's moments as named tensors, by PyTorch's names: `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of
//! AdamW, `<parameter>.momentum_buffer` of Muon.

use std::collections::HashMap;

use candle_core::Tensor;
use wattle_ops::muon;

use crate::differences::differences;
use crate::parameter::Parameter;

/// How the matrices of blocks are updated. All other parameters (tables, head, norms and biases) are AdamW's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum MatrixUpdate {
    /// By AdamW, which keeps a mean and a mean of squares.
    #[default]
    AdamW,
    /// By Muon, which keeps a momentum.
    Muon(muon::Hyperparameters),
}

/// Whether a parameter is a matrix of a block: it has two dimensions, and a part of its name between dots is the block's
/// number, as in `transformer.h.0.attn.c_attn.weight` or `model.layers.3.mlp.up_proj.weight`.
pub fn is_block_matrix(name: &str, dims: &[usize]) -> bool {
    dims.len() == 2 && block_of(name).is_some()
}

/// The block that a parameter belongs to: the first number between dots in its name.
pub(crate) fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

impl MatrixUpdate {
    /// Whether a parameter of this name and shape is updated by Muon.
    pub fn orthogonalizes(self, name: &str, dims: &[usize]) -> bool {
        self != Self::AdamW && is_block_matrix(name, dims)
    }

    /// The names of the moments of a parameter with this name and shape: of AdamW the mean and the mean square of its
    /// gradient, of Muon its momentum.
    pub fn moment_names(self, name: &str, dims: &[usize]) -> Vec<String> {
        let moments: &[&str] = match self.orthogonalizes(name, dims) {
            true => &["momentum_buffer"],
            false => &["exp_avg", "exp_avg_sq"],
        };
        moments.iter().map(|moment| format!("{name}.{moment}")).collect()
    }
}

/// What is wrong with the moments of an optimizer for `parameters`, a clause each. They are named as
/// [`MatrixUpdate::moment_names`] says, and have their parameter's shape.
pub fn moment_faults(
    parameters: &[Parameter],
    matrices: MatrixUpdate,
    moments: &HashMap<String, Tensor>,
) -> Vec<String> {
    let shapes = parameters.iter().map(|Parameter { name, var }| (name.as_str(), var.dims()));
    faults(shapes, matrices, moments)
}

/// Refuses moments that are not those of `parameters`.
///
/// # Errors
/// A sentence with every one of the [`moment_faults`].
pub fn check_moments(
    parameters: &[Parameter],
    matrices: MatrixUpdate,
    moments: &HashMap<String, Tensor>,
) -> Result<(), String> {
    refuse(moment_faults(parameters, matrices, moments))
}

/// [`check_moments`] for parameters with these names and shapes.
pub(crate) fn check_moments_of<'a>(
    parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
    matrices: MatrixUpdate,
    moments: &HashMap<String, Tensor>,
) -> Result<(), candle_core::Error> {
    refuse(faults(parameters, matrices, moments)).map_err(candle_core::Error::Msg)
}

fn faults<'a>(
    parameters: impl Iterator<Item = (&'a str, &'a [usize])>,
    matrices: MatrixUpdate,
    moments: &HashMap<String, Tensor>,
) -> Vec<String> {
    let names =
        |(name, dims)| matrices.moment_names(name, dims).into_iter().map(move |moment| (moment, dims));
    let expected = parameters.flat_map(names);
    let got = moments.iter().map(|(name, tensor)| (name.as_str(), tensor.dims()));
    differences(expected, got, |_| None).faults()
}

fn refuse(faults: Vec<String>) -> Result<(), String> {
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!("these moments do not fit the model: {}", faults.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_blocks_have_a_number_in_their_names() {
        let muon = muon::Hyperparameters { momentum: 0.95, nesterov: true, ns_steps: 5 };
        for (name, dims, is_matrix) in [
            ("transformer.h.0.attn.c_attn.weight", &[4, 12][..], true),
            ("model.layers.11.mlp.up_proj.weight", &[4, 12], true),
            ("transformer.h.0.attn.c_attn.bias", &[12], false),
            ("transformer.wte.weight", &[65, 4], false),
            ("lm_head.weight", &[65, 4], false),
            ("conv1.weight", &[4, 4], false),
            ("blocks.1.mixer", &[4, 4, 2], false),
        ] {
            assert_eq!(is_block_matrix(name, dims), is_matrix, "{name}");
            assert_eq!(MatrixUpdate::Muon(muon).moment_names(name, dims).len(), 2 - usize::from(is_matrix));
            assert_eq!(MatrixUpdate::AdamW.moment_names(name, dims).len(), 2);
        }
    }
}
