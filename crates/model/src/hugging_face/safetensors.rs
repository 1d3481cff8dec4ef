//! Tensors in and out of safetensors files.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use candle_core::safetensors::{Load, MmapedSafetensors};
use candle_core::{CpuStorage, Device, Error, Layout, Storage, StorageRef, Tensor};
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, View};
use wattle_guard::guard;

use super::stand_in::{stand_in, text_instead};
use crate::copies::copy;
use crate::error::ModelError;

/// A tensor as a file wants it. A copy of the largest would be the most memory that many a run ever has, so that its
/// bytes are taken where they lie, if they lie on the CPU and in order.
struct TensorBytes<'a> {
    tensor: &'a Tensor,
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl View for &TensorBytes<'_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype().into()
    }

    fn shape(&self) -> &[usize] {
        self.tensor.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match (&*self.storage, self.layout.contiguous_offsets()) {
            (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => bytes_of(&values[start..end]),
            _ => View::data(self.tensor),
        }
    }

    fn data_len(&self) -> usize {
        View::data_len(self.tensor)
    }
}

/// Numbers as files hold them.
pub(crate) fn bytes_of(values: &[f32]) -> Cow<'_, [u8]> {
    const { assert!(cfg!(target_endian = "little"), "safetensors files are little-endian") };
    Cow::Borrowed(bytemuck::cast_slice(values))
}

/// Writes tensors to a safetensors file, as PyTorch programs expect it.
///
/// # Errors
/// If the file cannot be written; what was written of it is left for the caller to remove.
pub fn write_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), ModelError> {
    let bytes = |tensor| {
        let (storage, layout) = Tensor::storage_and_layout(tensor);
        TensorBytes { tensor, storage, layout }
    };
    let views: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), bytes(tensor))).collect();
    write_views(path, &views)
}

/// As [`write_safetensors`], of whatever lies like tensors.
pub(crate) fn write_views<V>(path: &Path, tensors: &[(String, V)]) -> Result<(), ModelError>
where
    for<'a> &'a V: View,
{
    let tensors: BTreeMap<&str, &V> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    // transformers refuses a file that does not say which framework's tensors it holds.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let unwritable = |reason: String| ModelError::Unwritable { path: path.to_owned(), reason };
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| unwritable(e.to_string()))?;
    // safetensors creates its files readable by their owner alone, whatever the umask.
    match new_file_mode() {
        Some(mode) => std::fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|e| unwritable(e.to_string())),
        None => Ok(()),
    }
}

/// The mode of a new file under this process's umask, as the kernel states it: asking by `umask(2)` would change it
/// for other threads.
fn new_file_mode() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    Some(0o666 & !u32::from_str_radix(umask.trim(), 8).ok()?)
}

/// Reads every tensor of a safetensors file. It is mapped, and all threads copy from it.
///
/// # Errors
/// If it cannot be read or is not whole.
pub fn read_safetensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>, ModelError> {
    let mapped = map(path)?;
    read_guarded(path, || {
        let tensors = mapped.tensors();
        tensors.into_par_iter().map(|(name, view)| Ok((name, read_view(&view, device)?))).collect()
    })
}

/// Maps a safetensors file into memory.
pub(super) fn map(path: &Path) -> Result<MmapedSafetensors, ModelError> {
    read_guarded(path, || {
        // The library opens it by its name again, and would wait for a pipe.
        wattle_files::open(path)?;
        // SAFETY: a mapped file must not change while it is read. Programs that save weights write a new file
        // and rename it; whoever writes into one that is being loaded has to wait until it is.
        let tensors = unsafe { MmapedSafetensors::new(path) }?;
        // Whether each tensor lies in the file shows when it is looked at.
        tensors.tensors();
        Ok(tensors)
    })
}

/// A tensor of a mapped file.
fn read_view(view: &TensorView<'_>, device: &Device) -> Result<Tensor, Error> {
    match numbers(view) {
        Some(from) if device.is_cpu() => {
            // Zeros take no memory until they are written over, on all threads.
            let mut values = vec![0f32; from.len()];
            copy(&mut values, from);
            Tensor::from_vec(values, view.shape(), device)
        }
        _ => Load::load(view, device),
    }
}

/// The numbers of a tensor of `f32`, where they lie in order of their size.
pub(super) fn numbers<'a>(view: &TensorView<'a>) -> Option<&'a [f32]> {
    const { assert!(cfg!(target_endian = "little"), "safetensors files are little-endian") };
    if view.dtype() != Dtype::F32 {
        return None;
    }
    bytemuck::try_cast_slice(view.data()).ok()
}

/// What `read` reads of the safetensors file at `path`. Its offsets are sums that its reader does not check.
pub(super) fn read_guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, Error>) -> Result<T, ModelError> {
    let outcome = guard(read).unwrap_or_else(|panic| Err(Error::Msg(panic)));
    outcome.map_err(|error| unreadable(path, &error))
}

/// What is wrong with a file that is not of safetensors: what lies there instead, or else what the reader said.
fn unreadable(path: &Path, error: &Error) -> ModelError {
    let path = path.to_owned();
    match stand_in(&path).or_else(|| text_instead(&path)) {
        Some(reason) => ModelError::Directory { path, reason },
        None => {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            ModelError::Unreadable { path, reason }
        }
    }
}
