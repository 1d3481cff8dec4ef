//! AdamW over flat buffers of `f32`.
//!
//! Multiplications and additions are rounded one by one at every SIMD level, in the order of
//! [`adamw_update`](super::adamw_update) in `f32`: both give the same bits. It waits for memory anyway.

use std::ops::Range;

use rayon::prelude::*;

use super::{Hyperparameters, Update};
use crate::bf16::{self, Noise};
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

/// Parameters, and moments in bfloat16, all of one length and in one order.
#[derive(Debug)]
pub struct Bf16State<'a> {
    /// The values.
    pub parameters: &'a mut [f32],
    /// m
    pub mean: &'a mut [u16],
    /// v
    pub mean_square: &'a mut [u16],
}

/// Elements whose moments are widened at once.
const WIDENED: usize = 1 << 10;

/// [`step_par`] with moments in bfloat16: the update is made in `f32`, and the moments that it leaves are rounded at random
/// by `noise`, a function of the update and of an element's place; the first element here is the buffer's `first`.
///
/// # Shapes
/// As for [`step`].
///
/// # Panics
/// As for [`step`].
pub fn step_bf16_par(
    state: Bf16State<'_>,
    gradients: &[f32],
    ranges: &[ParameterRange],
    update: &Update,
    noise: Noise,
    first: usize,
) {
    let Bf16State { parameters, mean, mean_square } = state;
    let factors = Factors::new(update);
    let lens = [parameters.len(), mean.len(), mean_square.len()];
    assert_eq!(lens, [gradients.len(); 3], "parameters and moments of {} gradients", gradients.len());
    for ParameterRange { range, decays } in ranges {
        let factors = factors.with_decay(update, *decays);
        parameters[range.clone()]
            .par_chunks_mut(WIDENED)
            .zip(mean[range.clone()].par_chunks_mut(WIDENED))
            .zip(mean_square[range.clone()].par_chunks_mut(WIDENED))
            .zip(gradients[range.clone()].par_chunks(WIDENED))
            .enumerate()
            .for_each(|(idx, (((parameters, mean), mean_square), gradients))| {
                let first = first + range.start + idx * WIDENED;
                let state = Bf16State { parameters, mean, mean_square };
                step_bf16_block(state, gradients, &factors, noise, first);
            });
    }
}

fn step_bf16_block(state: Bf16State<'_>, gradients: &[f32], factors: &Factors, noise: Noise, first: usize) {
    let Bf16State { parameters, mean, mean_square } = state;
    let n = gradients.len();
    let (mut wide_mean, mut wide_mean_square) = ([0.0; WIDENED], [0.0; WIDENED]);
    for (wide, narrow) in [(&mut wide_mean, &*mean), (&mut wide_mean_square, &*mean_square)] {
        wide.iter_mut().zip(narrow).for_each(|(wide, &narrow)| *wide = bf16::widen(narrow));
    }
    let state = State { parameters, mean: &mut wide_mean[..n], mean_square: &mut wide_mean_square[..n] };
    step_block(state, gradients, factors);
    let narrow = mean.iter_mut().zip(mean_square);
    let wide = wide_mean.iter().zip(&wide_mean_square).zip(noise.words(first..first + n));
    for ((mean, mean_square), ((&wide_mean, &wide_mean_square), word)) in narrow.zip(wide) {
        *mean = bf16::at_random(wide_mean, word as u16);
        *mean_square = bf16::at_random(wide_mean_square, (word >> 16) as u16);
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
        Self::new(update)
    }

    fn new(update: &Update) -> Self {
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
