//! Weights, gradients and moments on a board.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use wattle_ops::bf16;
use wattle_ops::board::{Board, DeviceTensor, Elem, Ptr};

use super::DeviceEngineOptions;
use super::cutter::Cutter;
use super::error::EngineError;
use super::shards::{Shard, Shards, UpdatedBy};
use crate::copies::with_values;
use crate::differences::shape_fault;
use crate::engine::layout::{Entry, Layout};
use crate::moments::check_moments_of;
use crate::parameter::Parameter;

/// Where the flat buffers lie. Each has the places of one [`Layout`], or this rank's [`Shards`] of them alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// Master weights.
    pub(super) masters: Masters,
    /// The weights as passes read them: the masters, or a copy in the type of activations. Of everything.
    pub(super) working: DeviceTensor,
    /// The model's weights as passes read them, where adapters are trained in their place: all else is of those then.
    pub(super) frozen: Option<DeviceTensor>,
    /// Of everything.
    pub(super) gradients: Ptr<f32>,
    /// In `f32` or bfloat16. Of this rank's shards; Muon's momentum where Muon makes the update.
    pub(super) mean: DeviceTensor,
    /// The same, without the elements that Muon updates.
    pub(super) mean_square: DeviceTensor,
}

/// Master weights: of everything, or of this rank's shards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Masters {
    pub(super) at: Ptr<f32>,
    pub(super) are_whole: bool,
}

impl Masters {
    /// Where those of a shard lie.
    pub(super) fn of(&self, shard: &Shard) -> Ptr<f32> {
        self.at.add(if self.are_whole { shard.range.start } else { shard.start })
    }
}

impl State {
    /// Cuts buffers of the elements of `layout`, of which this rank keeps `shards`.
    pub(super) fn cut(
        cutter: &mut Cutter,
        layout: &Layout,
        shards: &Shards,
        options: &DeviceEngineOptions,
    ) -> Self {
        let DeviceEngineOptions { elem, moments, fp8, .. } = *options;
        // Codes of eight bits are made of whole masters.
        let are_whole = !shards.are_several() || elem == Elem::F32 || fp8.is_some();
        let (len, own_len) = (layout.len(), shards.own_len());
        let at = cutter.take_of(if are_whole { len } else { own_len });
        Self {
            masters: Masters { at, are_whole },
            working: if elem == Elem::F32 { at.into() } else { cutter.take(len, elem) },
            frozen: None,
            gradients: cutter.take_of(len),
            mean: cutter.take(own_len, moments.elem()),
            mean_square: cutter.take(shards.own_squares_len(), moments.elem()),
        }
    }

    /// The model's weights as passes read them.
    pub(super) fn weights(&self) -> DeviceTensor {
        self.frozen.unwrap_or(self.working)
    }

    /// Weights alone, as passes read them: other buffers have no length, nor have masters of another type.
    pub(super) fn cut_weights(cutter: &mut Cutter, len: usize, elem: Elem) -> Self {
        let working = cutter.take(len, elem);
        let at = if elem == Elem::F32 { Ptr::new(working.bytes()) } else { cutter.take_of(0) };
        let [mean, mean_square] = [(); 2].map(|()| cutter.take(0, Elem::F32));
        let masters = Masters { at, are_whole: elem == Elem::F32 };
        Self { masters, working, frozen: None, gradients: cutter.take_of(0), mean, mean_square }
    }
}

/// What the gradients of a first step show.
#[derive(Debug, Default)]
pub(super) struct FirstGradients {
    /// Parameters to whose gradient nothing was added.
    pub(super) unreached: Vec<String>,
    /// Parameters whose gradient is zero in every element.
    pub(super) zero: Vec<String>,
}

/// Sets all gradients to −0, which every sum takes for zero and which stays where nothing is added.
pub(super) fn mark_gradients(board: &dyn Board, state: &State, len: usize) -> Result<(), EngineError> {
    /// Elements that are written at once.
    const BLOCK: usize = 1 << 20;
    let block = vec![-0.0; BLOCK.min(len)];
    for start in (0..len).step_by(BLOCK) {
        write_f32(board, state.gradients.add(start), &block[..BLOCK.min(len - start)])?;
    }
    Ok(())
}

/// Looks at gradients that were accumulated on [`mark_gradients`], once all work before is done.
pub(super) fn first_gradients(
    board: &dyn Board,
    state: &State,
    layout: &Layout,
) -> Result<FirstGradients, EngineError> {
    let is_marked = |g: &f32| g.to_bits() == (-0.0f32).to_bits();
    let mut found = FirstGradients::default();
    for place in layout.entries() {
        let from = state.gradients.add(place.range.start);
        let gradient = read_f32(board, from, place.range.len())?;
        if gradient.iter().all(is_marked) {
            found.unreached.push(place.name.clone());
        }
        if gradient.iter().all(|&g| g == 0.0) {
            found.zero.push(place.name.clone());
        }
    }
    Ok(found)
}

/// Copies the values of `parameters` to the flat buffer `to`, each the nearest of its type.
pub(super) fn write_parameters(
    board: &dyn Board,
    to: DeviceTensor,
    layout: &Layout,
    parameters: &[Parameter],
) -> Result<(), EngineError> {
    let tensors = parameters.iter().map(|parameter| parameter.var.as_tensor());
    layout.entries().iter().zip(tensors).try_for_each(|(place, tensor)| write(board, to, place, tensor))
}

/// Gives `parameters` the values in the flat buffer `from`.
pub(super) fn read_parameters(
    board: &dyn Board,
    from: Ptr<f32>,
    layout: &Layout,
    parameters: &[Parameter],
) -> Result<(), EngineError> {
    for (place, Parameter { var, .. }) in layout.entries().iter().zip(parameters) {
        var.set(&read(board, from, place, var.device())?)?;
    }
    Ok(())
}

/// The values in the flat buffer `from` as tensors on the CPU, in the model's order.
pub(super) fn read_tensors(
    board: &dyn Board,
    from: Ptr<f32>,
    layout: &Layout,
) -> Result<Vec<Tensor>, EngineError> {
    layout.entries().iter().map(|place| read(board, from, place, &Device::Cpu)).collect()
}

/// One of the moments, 0 or 1, under its [name](crate::MatrixUpdate::moment_names), of all parameters that have it, from a
/// flat buffer of all parts.
pub(super) fn read_moment(
    board: &dyn Board,
    from: DeviceTensor,
    which: usize,
    layout: &Layout,
) -> Result<Vec<(String, Tensor)>, EngineError> {
    let mut moments = Vec::with_capacity(layout.entries().len());
    for place in layout.entries() {
        if let Some(name) = layout.matrices().moment_names(&place.name, &place.dims).get(which) {
            let at = from.add(place.range.start - layout.n_missing_before(which, place));
            let values = read_wide(board, at, place.range.len())?;
            moments.push((name.clone(), Tensor::from_vec(values, place.dims.as_slice(), &Device::Cpu)?));
        }
    }
    Ok(moments)
}

/// Takes over what is this rank's of `moments`, which are of everything.
pub(super) fn write_moments(
    board: &dyn Board,
    state: &State,
    layout: &Layout,
    shards: &Shards,
    moments: &HashMap<String, Tensor>,
) -> Result<(), EngineError> {
    check_moments_of(layout.shapes(), layout.matrices(), moments)?;
    for place in layout.entries() {
        let names = layout.matrices().moment_names(&place.name, &place.dims);
        let buffers = names.iter().zip([state.mean, state.mean_square]);
        for (which, (name, to)) in buffers.enumerate() {
            let start = |shard: &Shard| match (which, shard.updated_by) {
                (1, UpdatedBy::AdamW { squares }) => squares,
                _ => shard.start,
            };
            write_own(board, to, (shards, start), place, &moments[name])?;
        }
    }
    Ok(())
}

/// Copies what is this rank's of the values of `parameters` to its `masters`.
pub(super) fn write_masters(
    board: &dyn Board,
    masters: Masters,
    layout: &Layout,
    shards: &Shards,
    parameters: &[Parameter],
) -> Result<(), EngineError> {
    if masters.are_whole {
        return write_parameters(board, masters.at.into(), layout, parameters);
    }
    let tensors = parameters.iter().map(|parameter| parameter.var.as_tensor());
    let mut places = layout.entries().iter().zip(tensors);
    let start = |shard: &Shard| shard.start;
    places.try_for_each(|(place, tensor)| write_own(board, masters.at.into(), (shards, start), place, tensor))
}

/// Puts what is this rank's of a parameter's numbers to their places in `to`, where each of its shards starts as `start_of`
/// says.
fn write_own(
    board: &dyn Board,
    to: DeviceTensor,
    (shards, start_of): (&Shards, impl Fn(&Shard) -> usize),
    place: &Entry,
    tensor: &Tensor,
) -> Result<(), EngineError> {
    let first = place.range.start;
    with_values(checked(place, tensor)?, |values| {
        shards.own().try_for_each(|shard| {
            let range = &shard.range;
            let (from, end) = (range.start.max(first), range.end.min(place.range.end));
            match from < end {
                true => write_narrow(
                    board,
                    to.add(start_of(shard) + from - range.start),
                    &values[from - first..end - first],
                ),
                false => Ok(()),
            }
        })
    })?
}

/// Puts numbers at `to`, each the nearest of its type.
fn write_narrow(board: &dyn Board, to: DeviceTensor, values: &[f32]) -> Result<(), EngineError> {
    if to.elem() == Elem::F32 {
        return write_f32(board, Ptr::new(to.bytes()), values);
    }
    let narrow: Vec<u16> = values.iter().map(|&value| bf16::nearest(value)).collect();
    Ok(board.write(to.bytes(), bytemuck::cast_slice(&narrow))?)
}

/// `n` numbers at `from` in `f32`, once all work before is done.
fn read_wide(board: &dyn Board, from: DeviceTensor, n: usize) -> Result<Vec<f32>, EngineError> {
    let mut values = vec![0f32; n];
    read_wide_to(board, from, &mut values)?;
    Ok(values)
}

/// Fills `out` with the numbers at `from`, once all work before is done.
pub(super) fn read_wide_to(
    board: &dyn Board,
    from: DeviceTensor,
    out: &mut [f32],
) -> Result<(), EngineError> {
    let n = out.len();
    let halves = bytemuck::cast_slice_mut::<f32, u16>(out);
    if from.elem() == Elem::F32 {
        return Ok(board.read(from.bytes(), bytemuck::cast_slice_mut(halves))?);
    }
    // They come behind their places, and are widened from the first on, so that none is lost.
    board.read(from.bytes(), bytemuck::cast_slice_mut(&mut halves[n..]))?;
    for i in 0..n {
        let bits = bf16::widen(halves[n + i]).to_bits();
        let place = bytemuck::cast::<u32, [u16; 2]>(bits);
        halves[2 * i..2 * i + 2].copy_from_slice(&place);
    }
    Ok(())
}

fn write(board: &dyn Board, to: DeviceTensor, place: &Entry, tensor: &Tensor) -> Result<(), EngineError> {
    let at = to.add(place.range.start);
    with_values(checked(place, tensor)?, |values| write_narrow(board, at, values))?
}

/// A tensor of the shape of its parameter.
fn checked<'a>(place: &Entry, tensor: &'a Tensor) -> Result<&'a Tensor, EngineError> {
    match shape_fault(&place.name, tensor.dims(), &place.dims) {
        Some(fault) => Err(candle_core::Error::Msg(fault).into()),
        None => Ok(tensor),
    }
}

/// Puts numbers at `to`.
pub(super) fn write_f32(board: &dyn Board, to: Ptr<f32>, values: &[f32]) -> Result<(), EngineError> {
    Ok(board.write(to.bytes(), bytemuck::cast_slice(values))?)
}

fn read(board: &dyn Board, from: Ptr<f32>, place: &Entry, device: &Device) -> Result<Tensor, EngineError> {
    let values = read_f32(board, from.add(place.range.start), place.range.len())?;
    Ok(Tensor::from_vec(values, place.dims.as_slice(), device)?)
}

/// `n` numbers at `from`, once all work before is done.
pub(super) fn read_f32(board: &dyn Board, from: Ptr<f32>, n: usize) -> Result<Vec<f32>, EngineError> {
    let mut values = vec![0f32; n];
    board.read(from.bytes(), bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}
