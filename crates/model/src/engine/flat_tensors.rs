//! A flat buffer as the tensors of its layout.

use std::borrow::Cow;
use std::path::Path;

use candle_core::{CpuStorage, InplaceOp1, Layout as TensorLayout, Result, Tensor, bail};
use rayon::prelude::*;
use safetensors::{Dtype, View};

use super::layout::{Entry, Layout};
use crate::error::ModelError;
use crate::hugging_face::{bytes_of, write_views};
use crate::moments::moment_names;
use crate::parameter::Parameter;

/// Elements that one thread copies at once.
const BLOCK: usize = 1 << 18;

/// Copies on all threads.
pub(crate) fn copy(out: &mut [f32], from: &[f32]) {
    assert_eq!(out.len(), from.len(), "a copy is as long as what is copied");
    out.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)).for_each(|(out, from)| out.copy_from_slice(from));
}

/// Gives `parameters` the values in `buffer`.
pub(crate) fn publish(buffer: &[f32], layout: &Layout, parameters: &[Parameter]) -> Result<()> {
    for (entry, Parameter { var, .. }) in layout.entries().iter().zip(parameters) {
        let values = slice(buffer, entry);
        match var.device().is_cpu() {
            true => var.inplace_op1(&Overwrite(values))?,
            false => var.set(&Tensor::from_slice(values, entry.dims.as_slice(), var.device())?)?,
        }
    }
    Ok(())
}

/// Writes moments to a safetensors file under their [names](moment_names). No more than one of them is copied at a time.
///
/// # Errors
/// If the file cannot be written; what was written of it is left for the caller to remove.
pub(crate) fn write_moments(
    path: &Path,
    layout: &Layout,
    mean: &[f32],
    mean_square: &[f32],
) -> std::result::Result<(), ModelError> {
    let mut moments = Vec::with_capacity(2 * layout.entries().len());
    for entry in layout.entries() {
        let part = |buffer| FlatView { values: slice(buffer, entry), dims: &entry.dims };
        moments.extend(moment_names(&entry.name).into_iter().zip([part(mean), part(mean_square)]));
    }
    write_views(path, &moments)
}

/// The numbers of one parameter.
pub(crate) fn slice<'a>(buffer: &'a [f32], entry: &Entry) -> &'a [f32] {
    &buffer[entry.range.clone()]
}

/// Gives a tensor other values where it lies.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &TensorLayout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { bail!("the engine's parameters are f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("a parameter lies in order") };
        copy(&mut values[start..end], self.0);
        Ok(())
    }
}

/// Part of a buffer, as a file of tensors wants it.
struct FlatView<'a> {
    values: &'a [f32],
    dims: &'a [usize],
}

impl View for &FlatView<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.dims
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytes_of(self.values)
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}
