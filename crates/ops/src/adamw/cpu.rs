//! AdamW over flat buffers of `f32`.
//!
//! Multiplications and additions are rounded one by one at every SIMD level, in the order of
//! [`adamw_update`](super::adamw_update) in `f32`: both give the same bits. It waits for memory anyway.

use std::ops::Range;

use rayon::prelude::*;

use super::{Hyperparameters, Update};
use crate::simd::{Simd, dispatch};

/// Elements that one thread takes at once.
const BLOCK: usize = 1 << 14;

/// Neighbours in the flat buffers that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterRange {
    /// Where they lie.
    pub range: Range<usize>,
    /// Whether weight decay pulls at them.
    pub decays: bool,
}

/// Parameters and their moments, all of one length and in one order.
#[derive(Debug)]
pub struct State<'a> {
    /// The values.
    pub parameters: &'a mut [f32],
    /// m
    pub mean: &'a mut [f32],
    /// v
    pub mean_square: &'a mut [f32],
}

/// Makes one update of all that lies in `ranges`; what lies between them is left alone.
///
/// # Shapes
/// `gradients` and the three of `state` have the same length.
///
/// # Panics
/// If they have not, or a range ends after them.
pub fn step(state: State<'_>, gradients: &[f32], ranges: &[ParameterRange], update: &Update) {
    let factors = Factors::checked(&state, gradients, update);
    let State { parameters, mean, mean_square } = state;
    for ParameterRange { range, decays } in ranges {
        let state = State {
            parameters: &mut parameters[range.clone()],
            mean: &mut mean[range.clone()],
            mean_square: &mut mean_square[range.clone()],
        };
        step_block(state, &gradients[range.clone()], &factors.with_decay(update, *decays));
    }
}

/// [`step`] on rayon's threads. Elements do not depend on one another, so the result is the same.
///
/// # Shapes
/// As for [`step`].
///
/// # Panics
/// As for [`step`].
pub fn step_par(state: State<'_>, gradients: &[f32], ranges: &[ParameterRange], update: &Update) {
    let factors = Factors::checked(&state, gradients, update);
    let State { parameters, mean, mean_square } = state;
    for ParameterRange { range, decays } in ranges {
        let factors = factors.with_decay(update, *decays);
        parameters[range.clone()]
            .par_chunks_mut(BLOCK)
            .zip(mean[range.clone()].par_chunks_mut(BLOCK))
            .zip(mean_square[range.clone()].par_chunks_mut(BLOCK))
            .zip(gradients[range.clone()].par_chunks(BLOCK))
            .for_each(|(((parameters, mean), mean_square), gradients)| {
                step_block(State { parameters, mean, mean_square }, gradients, &factors);
            });
    }
}

/// What the update multiplies by, each rounded once.
#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    mean: [f32; 2],
    mean_square: [f32; 2],
    inverse_square_correction: f32,
    eps: f32,
    rate: f32,
    decay: f32,
}

impl Factors {
    fn checked(state: &State<'_>, gradients: &[f32], update: &Update) -> Self {
        let n = gradients.len();
        let lens = [state.parameters.len(), state.mean.len(), state.mean_square.len()];
        assert_eq!(lens, [n; 3], "parameters and moments of {n} gradients");
        let Hyperparameters { beta1, beta2, eps, .. } = update.hyperparameters;
        Self {
            gradient: update.gradient_factor,
            mean: [beta1 as f32, (1.0 - beta1) as f32],
            mean_square: [beta2 as f32, (1.0 - beta2) as f32],
            inverse_square_correction: (1.0 / update.square_correction()) as f32,
            eps: eps as f32,
            rate: (update.learning_rate / update.mean_correction()) as f32,
            decay: 1.0,
        }
    }

    fn with_decay(self, update: &Update, decays: bool) -> Self {
        Self { decay: update.decay(decays) as f32, ..self }
    }
}

fn step_block(state: State<'_>, gradients: &[f32], factors: &Factors) {
    dispatch!(step_kernel(state: State<'_>, gradients: &[f32], factors: &Factors));
}

#[inline(always)]
fn step_kernel<S: Simd>(state: State<'_>, gradients: &[f32], factors: &Factors) {
    let f = *factors;
    let moments = state.mean.iter_mut().zip(state.mean_square);
    for ((parameter, (mean, mean_square)), &gradient) in
        state.parameters.iter_mut().zip(moments).zip(gradients)
    {
        let gradient = gradient * f.gradient;
        *mean = *mean * f.mean[0] + gradient * f.mean[1];
        *mean_square = *mean_square * f.mean_square[0] + gradient * gradient * f.mean_square[1];
        let root = (*mean_square * f.inverse_square_correction).sqrt() + f.eps;
        *parameter = *parameter * f.decay - *mean / root * f.rate;
    }
}
