//! A flat buffer as the tensors of its layout.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use candle_core::Result;
use safetensors::{Dtype, View};

use super::layout::{Entry, Layout};
use super::moments::MomentSlice;
use crate::copies::{copy, overwrite, with_values};
use crate::error::ModelError;
use crate::hugging_face::{bytes_of, write_views};
use crate::parameter::Parameter;

/// The values of `parameters` in one buffer.
///
/// # Errors
/// If a tensor operation fails.
pub(crate) fn take(layout: &Layout, parameters: &[Parameter]) -> Result<Vec<f32>> {
    let mut buffer = vec![0.0; layout.len()];
    for (entry, parameter) in layout.entries().iter().zip(parameters) {
        with_values(&parameter.var, |values| copy(&mut buffer[entry.range.clone()], values))?;
    }
    Ok(buffer)
}

/// Gives `parameters` the values in `buffer`.
pub(crate) fn publish(buffer: &[f32], layout: &Layout, parameters: &[Parameter]) -> Result<()> {
    for (entry, Parameter { var, .. }) in layout.entries().iter().zip(parameters) {
        overwrite(var, slice(buffer, entry))?;
    }
    Ok(())
}

/// Writes the moments of each range of a flat buffer to a safetensors file under their
/// [names](crate::MatrixUpdate::moment_names). No more than one of them is copied at a time.
///
/// # Errors
/// If the file cannot be written; what was written of it is left for the caller to remove.
pub(crate) fn write_moments<'a>(
    path: &Path,
    layout: &'a Layout,
    moments_of: impl Fn(&Range<usize>) -> [MomentSlice<'a>; 2],
) -> std::result::Result<(), ModelError> {
    let mut moments = Vec::with_capacity(2 * layout.entries().len());
    for entry in layout.entries() {
        let views = moments_of(&entry.range).map(|values| FlatView { values, dims: &entry.dims });
        moments.extend(layout.matrices().moment_names(&entry.name, &entry.dims).into_iter().zip(views));
    }
    write_views(path, &moments)
}

/// The numbers of one parameter.
pub(crate) fn slice<'a>(buffer: &'a [f32], entry: &Entry) -> &'a [f32] {
    &buffer[entry.range.clone()]
}

/// Part of a buffer, as a file of tensors wants it.
struct FlatView<'a> {
    values: MomentSlice<'a>,
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
        match self.values {
            MomentSlice::F32(values) => bytes_of(values),
            MomentSlice::Bf16(_) => bytes_of(&self.values.values()).into_owned().into(),
        }
    }

    fn data_len(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}
