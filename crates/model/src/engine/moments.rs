//! The optimizer's moments: in which type they are kept, and that of a CPU's engine.

use std::borrow::Cow;
use std::ops::Range;

use wattle_ops::adamw::Update;
use wattle_ops::adamw::cpu::{self as adamw, Bf16State, ParameterRange, State};
use wattle_ops::bf16::{self, Noise};
use wattle_ops::board::Elem;
use wattle_ops::muon::cpu::Momentum;

use super::layout::{Layout, MeanSquares, within};
use super::ranges::Ranges;
use crate::copies::copy;

/// In which type moments are kept between two updates, which are made in `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moments {
    /// `f32`.
    #[default]
    F32,
    /// bfloat16, rounded at random: a function of the seed, the update and an element's place.
    Bf16 {
        /// The run's seed.
        seed: u64,
    },
}

impl Moments {
    /// Type of a moment.
    pub fn elem(self) -> Elem {
        match self {
            Self::F32 => Elem::F32,
            Self::Bf16 { .. } => Elem::Bf16,
        }
    }

    /// The seed that they are rounded by; 0 where they are not.
    pub(super) fn seed(self) -> u64 {
        match self {
            Self::F32 => 0,
            Self::Bf16 { seed } => seed,
        }
    }

    /// Bytes of `n` moments.
    pub(crate) fn bytes(self, n: u64) -> u64 {
        n.saturating_mul(self.elem().bytes() as u64)
    }
}

/// The moments of some elements of a flat buffer: the mean of gradients, which is Muon's momentum where Muon makes the
/// update, and the mean of squares of the others.
pub(super) struct FlatMoments {
    /// Which elements.
    own: Ranges,
    /// Which of them have the second moment.
    mean_squares: MeanSquares,
    values: Values,
}

enum Values {
    F32([Vec<f32>; 2]),
    Bf16([Vec<u16>; 2], u64),
}

/// One moment of one parameter.
#[derive(Clone, Copy)]
pub(super) enum MomentSlice<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl FlatMoments {
    /// Those of the elements in `own`, which lie as in `layout`.
    pub(super) fn zeros(moments: Moments, layout: &Layout, own: Ranges) -> Self {
        let mean_squares = layout.mean_squares().clone();
        let lens = [own.len(), own.iter().map(|range| mean_squares.range(range).len()).sum()];
        let values = match moments {
            Moments::F32 => Values::F32(lens.map(|len| vec![0.0; len])),
            Moments::Bf16 { seed } => Values::Bf16(lens.map(|len| vec![0; len]), seed),
        };
        Self { own, mean_squares, values }
    }

    /// Makes AdamW's update of the elements that have both moments here; `parameters` and `gradients` are the whole
    /// buffers.
    pub(super) fn update(
        &mut self,
        parameters: &mut [f32],
        gradients: &[f32],
        ranges: &[ParameterRange],
        update: &Update,
    ) {
        let parts: Vec<_> = self.own.iter().flat_map(|range| self.mean_squares.parts(range)).collect();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let first = part.start;
            let ranges: Vec<ParameterRange> = ranges
                .iter()
                .map(|ParameterRange { range, decays }| {
                    let own = within(range, &part);
                    ParameterRange { range: own.start - first..own.end - first, decays: *decays }
                })
                .collect();
            let [of_mean, of_mean_square] = self.places(&part);
            let (parameters, gradients) = (&mut parameters[part.clone()], &gradients[part]);
            match &mut self.values {
                Values::F32([mean, mean_square]) => {
                    let (mean, mean_square) = (&mut mean[of_mean], &mut mean_square[of_mean_square]);
                    adamw::step_par(State { parameters, mean, mean_square }, gradients, &ranges, update);
                }
                Values::Bf16([mean, mean_square], seed) => {
                    let (mean, mean_square) = (&mut mean[of_mean], &mut mean_square[of_mean_square]);
                    let noise = Noise::of_moments(*seed, update.step);
                    let state = Bf16State { parameters, mean, mean_square };
                    adamw::step_bf16_par(state, gradients, &ranges, update, noise, first);
                }
            }
        }
    }

    /// The momentum of the elements in `range`, for Muon's update number `step`.
    pub(super) fn momentum(&mut self, range: &Range<usize>, step: u64) -> Momentum<'_> {
        let [place, _] = self.places(range);
        match &mut self.values {
            Values::F32([momentum, _]) => Momentum::F32(&mut momentum[place]),
            Values::Bf16([momentum, _], seed) => Momentum::Bf16 {
                values: &mut momentum[place],
                noise: Noise::of_moments(*seed, step),
                first: range.start,
            },
        }
    }

    /// Where both moments of the elements in `range`, all of which must be neighbours here, lie in their buffers.
    fn places(&self, range: &Range<usize>) -> [Range<usize>; 2] {
        let squares = |range: &Range<usize>| self.mean_squares.range(range);
        let mut starts = [0; 2];
        for own in self.own.iter() {
            if own.start <= range.start && range.end <= own.end {
                let place = |start: usize, range: &Range<usize>, own: &Range<usize>| {
                    start + range.start - own.start..start + range.end - own.start
                };
                return [place(starts[0], range, own), place(starts[1], &squares(range), &squares(own))];
            }
            starts[0] += own.len();
            starts[1] += squares(own).len();
        }
        unreachable!("elements {range:?} are another process's")
    }

    /// The mean's, and the mean of squares', of the elements in `range`, all of which must be these. The second is empty
    /// where Muon makes the update.
    pub(super) fn of(&self, range: &Range<usize>) -> [MomentSlice<'_>; 2] {
        let [of_mean, of_mean_square] = self.places(range);
        match &self.values {
            Values::F32([mean, mean_square]) => {
                [MomentSlice::F32(&mean[of_mean]), MomentSlice::F32(&mean_square[of_mean_square])]
            }
            Values::Bf16([mean, mean_square], _) => {
                [MomentSlice::Bf16(&mean[of_mean]), MomentSlice::Bf16(&mean_square[of_mean_square])]
            }
        }
    }

    /// Takes over one of them, rounded to the nearest; of `values`, which are of the elements in `range`, those that are
    /// these.
    pub(super) fn set(&mut self, which: usize, range: &Range<usize>, values: &[f32]) {
        let own: Vec<_> =
            self.own.iter().map(|own| within(range, own)).filter(|own| !own.is_empty()).collect();
        for own in own {
            let values = &values[own.start - range.start..own.end - range.start];
            let places = self.places(&own)[which].clone();
            match &mut self.values {
                Values::F32(moments) => copy(&mut moments[which][places], values),
                Values::Bf16(moments, _) => {
                    let places = moments[which][places].iter_mut();
                    places.zip(values).for_each(|(place, &value)| *place = bf16::nearest(value));
                }
            }
        }
    }

    /// Copies one of them, widened.
    pub(super) fn copy_to(&self, which: usize, out: &mut [f32]) {
        match &self.values {
            Values::F32(moments) => copy(out, &moments[which]),
            Values::Bf16(moments, _) => widen_to(out, &moments[which]),
        }
    }

    /// Writes to all of it; values stay.
    pub(super) fn touch(&mut self) {
        match &mut self.values {
            // Adding +0 changes no moment: their first values are +0, and a mean of −0 stands for the same number.
            Values::F32(moments) => moments.iter_mut().flatten().for_each(|value| *value += 0.0),
            Values::Bf16(moments, _) => {
                moments.iter_mut().flatten().for_each(|value| *value = std::hint::black_box(*value));
            }
        }
    }

    /// Bytes that were allocated.
    pub(super) fn bytes(&self) -> u64 {
        let bytes: usize = match &self.values {
            Values::F32(moments) => moments.iter().map(|moment| moment.capacity() * size_of::<f32>()).sum(),
            Values::Bf16(moments, _) => {
                moments.iter().map(|moment| moment.capacity() * size_of::<u16>()).sum()
            }
        };
        bytes as u64
    }
}

impl<'a> MomentSlice<'a> {
    /// Copies it, widened.
    pub(super) fn copy_to(self, out: &mut [f32]) {
        match self {
            Self::F32(values) => copy(out, values),
            Self::Bf16(values) => widen_to(out, values),
        }
    }

    /// In `f32`.
    pub(super) fn values(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(values) => values.into(),
            Self::Bf16(values) => {
                let mut out = vec![0.0; values.len()];
                widen_to(&mut out, values);
                out.into()
            }
        }
    }

    pub(super) fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

fn widen_to(out: &mut [f32], values: &[u16]) {
    out.iter_mut().zip(values).for_each(|(out, &value)| *out = bf16::widen(value));
}
